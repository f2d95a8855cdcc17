"""Kept ACPI files: used when everything is the same, made anew when anything is not."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements import acpi_cache
from measurements.acpi_blob import LOADER, RSDP, TABLES, AcpiFiles
from measurements.acpi_cache import (
    MAX_CONTENT,
    cache_key,
    cached_dump,
    decode_entry,
    encode_entry,
)
from measurements.acpi_dump import AcpiDump, AcpiMethod
from measurements.qemu import QemuProgram
from measurements.qemu_args import DryBootFirmware
from measurements.shape import MachineShape
from measurements.shape_devices import ExtraDevice

KEY = "0" * 64
FILES = AcpiFiles(loader=bytes(4096), files=((RSDP, b"RSD PTR " + bytes(12)), (TABLES, bytes(1 << 17))))
DUMP = AcpiDump(
    files=FILES,
    qemu_version="7.2.0",
    method=AcpiMethod.IDLE,
    firmware="OVMF.fd",
    items={"bootorder": b"x", "etc/e820": bytes(20)},
)
ENTRY = encode_entry(DUMP, key=KEY)


@pytest.fixture
def qemu(tmp_path: Path) -> QemuProgram:
    program = tmp_path / "qemu-system-x86_64"
    program.write_bytes(b"program")
    return QemuProgram(command=(str(program),))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[MachineShape]:
    """The shapes that were really read."""
    shapes: list[MachineShape] = []

    def acpi_dump(shape: MachineShape, *_: object, **__: object) -> AcpiDump:
        shapes.append(shape)
        return DUMP

    monkeypatch.setattr(acpi_cache, "acpi_dump", acpi_dump)
    return shapes


def test_the_second_dump_comes_from_the_cache(
    tmp_path: Path, qemu: QemuProgram, runs: list[MachineShape]
) -> None:
    folder = tmp_path / "cache"
    for shape in (MachineShape(), MachineShape(), MachineShape(cpus=2), MachineShape(cpus=2)):
        assert cached_dump(shape, qemu, folder=folder) == DUMP
    assert runs == [MachineShape(), MachineShape(cpus=2)]
    entries = {path.name for path in folder.iterdir() if not path.name.startswith("program-")}
    assert entries == {cache_key(shape, qemu) for shape in runs}


def test_replaced_devices_are_told_from_the_cache_too(
    tmp_path: Path, qemu: QemuProgram, runs: list[MachineShape]
) -> None:
    vsock = MachineShape(devices=(ExtraDevice(model="vhost-vsock-pci"),))
    plain = MachineShape(devices=(ExtraDevice(model="virtio-rng-pci", options=(("disable-legacy", "on"),)),))
    assert cache_key(vsock, qemu) == cache_key(plain, qemu)
    cached_dump(plain, qemu, folder=tmp_path / "cache")
    assert len(cached_dump(vsock, qemu, folder=tmp_path / "cache").replaced) == 1
    assert cached_dump(plain, qemu, folder=tmp_path / "cache").replaced == ()
    assert len(runs) == 1


def test_everything_that_matters_is_in_the_key(tmp_path: Path, qemu: QemuProgram) -> None:
    code, variables = tmp_path / "code.fd", tmp_path / "vars.fd"
    code.write_bytes(b"1")
    variables.write_bytes(b"2")
    firmware = DryBootFirmware(code=code, variables=variables)
    shape = MachineShape()
    keys = [
        cache_key(shape, qemu),
        cache_key(MachineShape(memory_mib=1024), qemu),
        cache_key(shape, qemu, method=AcpiMethod.IDLE),
        cache_key(shape, qemu, firmware=firmware),
        cache_key(shape, qemu, firmware=replace(firmware, variables=None)),
    ]
    code.write_bytes(b"11")
    keys.append(cache_key(shape, qemu, firmware=firmware))
    variables.write_bytes(b"22")
    keys.append(cache_key(shape, qemu, firmware=firmware))
    qemu.binary.write_bytes(b"another program")
    keys.append(cache_key(shape, qemu))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("damage", [b"", ENTRY[:-1], ENTRY[:50], b"\0" * 100, ENTRY + b"x"])
def test_a_damaged_entry_is_made_anew(
    tmp_path: Path, qemu: QemuProgram, runs: list[MachineShape], damage: bytes
) -> None:
    path = tmp_path / cache_key(MachineShape(), qemu)
    path.write_bytes(damage)
    assert cached_dump(MachineShape(), qemu, folder=tmp_path) == DUMP
    assert cached_dump(MachineShape(), qemu, folder=tmp_path) == DUMP
    assert len(runs) == 1


def test_without_a_place_the_dump_is_given_all_the_same(
    tmp_path: Path, qemu: QemuProgram, runs: list[MachineShape]
) -> None:
    folder = tmp_path / "file"
    folder.write_bytes(b"")
    assert cached_dump(MachineShape(), qemu, folder=folder / "below") == DUMP
    assert len(runs) == 1


def test_the_digest_of_a_program_is_remembered_for_its_state(
    tmp_path: Path, qemu: QemuProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    really = acpi_cache._file_sha256

    def file_sha256(path: Path) -> str:
        hashed.append(path)
        return really(path)

    monkeypatch.setattr(acpi_cache, "_file_sha256", file_sha256)
    memory = tmp_path / "memory"
    keys = [cache_key(MachineShape(), qemu, memory=memory) for _ in range(3)]
    assert len(hashed) == 1
    assert set(keys) == {cache_key(MachineShape(), qemu)}
    hashed.clear()
    (note,) = memory.iterdir()
    forged = json.loads(note.read_text())
    for wrong in (
        b"",
        b"[]",
        b"{}",
        json.dumps([*forged[:-1], "x"]).encode(),
        json.dumps(forged[1:]).encode(),
    ):
        note.write_bytes(wrong)
        assert cache_key(MachineShape(), qemu, memory=memory) == keys[0]
    assert len(hashed) == 5
    qemu.binary.write_bytes(b"PROGRAM")  # of the same size
    assert cache_key(MachineShape(), qemu, memory=memory) != keys[0]
    assert cache_key(MachineShape(), qemu, memory=tmp_path / "program" / "x") != keys[0]


def test_a_kept_dump_needs_nothing_that_runs_qemu() -> None:
    heavy = {"subprocess", "socket", "measurements.ovmf", "measurements.qemu"}
    program = f"import sys, measurements.acpi_cache\nprint(*sorted(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_entry_reads_back() -> None:
    assert decode_entry(ENTRY, key=KEY) == DUMP
    assert decode_entry(ENTRY, key=KEY, replaced=("x",)) == replace(DUMP, replaced=("x",))
    assert decode_entry(ENTRY, key="1" * 64) is None


@given(st.integers(0, len(ENTRY) - 1), st.integers(1, 255))
def test_a_flipped_byte_spoils_an_entry(at: int, change: int) -> None:
    flipped = bytearray(ENTRY)
    flipped[at] ^= change
    assert decode_entry(bytes(flipped), key=KEY) is None


@given(st.binary(max_size=300))
def test_foreign_bytes_are_no_entry(data: bytes) -> None:
    assert decode_entry(data, key=KEY) is None


def test_an_entry_that_unpacks_without_end() -> None:
    bomb = AcpiFiles(loader=b"", files=((TABLES, bytes(MAX_CONTENT + 1)),))
    data = encode_entry(replace(DUMP, files=bomb), key=KEY)
    assert len(data) < MAX_CONTENT // 100
    assert decode_entry(data, key=KEY) is None
    assert zlib.decompress(data.split(b"\n", 3)[3])[:1] == b"\0"
    assert LOADER.encode() in data
