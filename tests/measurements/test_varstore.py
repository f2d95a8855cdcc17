"""The variable store parser against virt-firmware, and against bad bytes."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.efi_variable import GLOBAL_VARIABLE, EfiVariable, parse_variable_data
from measurements.errors import FormatError
from measurements.signature_list import SHA256, X509, Signature, parse_signature_lists, write_signature_list
from measurements.varstore import STORE_GUID, VOLUME_GUID, parse_variable_store

FOLDER = Path("/usr/share/OVMF")
STORES = ("OVMF_VARS_4M.fd", "OVMF_VARS_4M.ms.fd", "OVMF_VARS_4M.snakeoil.fd", "OVMF_VARS.fd")


def installed_store(name: str) -> bytes:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not installed (package ovmf)")
    return path.read_bytes()


@pytest.mark.apt
@pytest.mark.parametrize("name", STORES)
def test_variables_equal_those_that_virt_firmware_finds(name: str, tmp_path: Path) -> None:
    installed_store(name)
    listing = tmp_path / "variables.json"
    tool = Path(sys.executable).with_name("virt-fw-vars")
    command: list[str | Path] = [tool, "-i", FOLDER / name, "--output-json", listing]
    subprocess.run(command, check=True, capture_output=True)
    theirs = {
        (entry["name"], UUID(entry["guid"]), bytes.fromhex(entry["data"]))
        for entry in json.loads(listing.read_text())["variables"]
    }
    ours = parse_variable_store(installed_store(name)).variables
    assert {(v.name, v.vendor, v.data) for v in ours} == theirs


def variable(name: str, data: bytes, *, state: int = 0x3F) -> bytes:
    raw_name = (name + "\0").encode("utf-16-le")
    header = struct.pack(
        "<HBBIQ16sIII16s",
        0x55AA,
        state,
        0,
        7,
        0,
        bytes(16),
        0,
        len(raw_name),
        len(data),
        GLOBAL_VARIABLE.bytes_le,
    )
    whole = header + raw_name + data
    return whole + b"\xff" * (-len(whole) % 4)


def store(*variables: bytes, size: int = 4096) -> bytes:
    """A variable store volume with a right checksum."""
    area = b"".join(variables)
    header = bytearray(
        struct.pack("<16s16sQ4sIHHHBB", bytes(16), VOLUME_GUID.bytes_le, size, b"_FVH", 0, 72, 0, 0, 0, 2)
        + struct.pack("<IIII", 1, size, 0, 0)
    )
    checksum = -sum(struct.unpack("<36H", header)) & 0xFFFF
    header[50:52] = struct.pack("<H", checksum)
    head = struct.pack("<16sIBBHI", STORE_GUID.bytes_le, size - 72, 0x5A, 0xFE, 0, 0)
    return (bytes(header) + head + area).ljust(size, b"\xff")


def test_the_valid_variable_wins_over_the_one_in_transition() -> None:
    old, new = variable("Same", b"old", state=0x3E), variable("Same", b"new")
    for parts in ((old, new), (new, old)):
        assert parse_variable_store(store(*parts)).get("Same", GLOBAL_VARIABLE) == b"new"


def test_a_variable_in_transition_counts_if_there_is_no_other() -> None:
    parsed = parse_variable_store(store(variable("Only", b"old", state=0x3E)))
    assert parsed.get("Only", GLOBAL_VARIABLE) == b"old"


@pytest.mark.parametrize("state", [0x3D, 0x3C, 0x7F, 0xFF, 0x00])
def test_deleted_and_unfinished_variables_do_not_exist(state: int) -> None:
    parsed = parse_variable_store(store(variable("Gone", b"data", state=state), variable("Kept", b"x")))
    assert [v.name for v in parsed.variables] == ["Kept"]


def test_a_variable_past_the_end_is_refused() -> None:
    bomb = bytearray(variable("Bomb", b"data"))
    bomb[40:44] = struct.pack("<I", 0xFFFFFFF0)
    with pytest.raises(FormatError, match="passes the end"):
        parse_variable_store(store(bytes(bomb)))


def test_a_wrong_checksum_is_refused() -> None:
    broken = bytearray(store())
    broken[44] ^= 1
    with pytest.raises(FormatError, match="checksum"):
        parse_variable_store(bytes(broken))


@pytest.mark.parametrize("data", [b"", bytes(72), b"MZ" + bytes(600000), b"\xff" * 4096])
def test_files_that_are_no_store_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse_variable_store(data)
    assert "OVMF_VARS" in caught.value.advice


@given(st.data())
def test_mutated_stores_raise_format_errors_only(data: st.DataObject) -> None:
    whole = bytearray(store(variable("A", b"1"), variable("B", b"22"), size=512))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(52, 240))] = data.draw(st.integers(0, 255))
    try:
        parsed = parse_variable_store(bytes(whole))
    except FormatError:
        return
    assert len(parsed.variables) <= 8


def test_signature_lists_come_back() -> None:
    owner = UUID(int=5)
    entries = [
        Signature(kind=X509, owner=owner, content=b"certificate"),
        Signature(kind=SHA256, owner=owner, content=bytes(32)),
    ]
    assert list(parse_signature_lists(write_signature_list(entries))) == entries


@given(st.binary(max_size=200))
def test_arbitrary_signature_lists_raise_format_errors_only(data: bytes) -> None:
    try:
        entries = parse_signature_lists(data)
    except FormatError:
        return
    assert sum(len(entry.content) + 16 for entry in entries) <= len(data)


@given(
    st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=20),
    st.uuids(),
    st.binary(max_size=50),
)
def test_measured_variables_come_back(name: str, vendor: UUID, data: bytes) -> None:
    made = EfiVariable(name=name, vendor=vendor, data=data)
    assert parse_variable_data(made.measured_bytes()) == made


@given(st.binary(max_size=80))
def test_arbitrary_variable_data_raises_format_errors_only(data: bytes) -> None:
    try:
        parsed = parse_variable_data(data)
    except FormatError:
        return
    assert parsed.measured_bytes() == data
