"""Unified kernel images, as other programs see them, and everything that must not become one."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pefile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_builder.uki import SectionName, StubRoomError, UkiError, UkiSection, build_uki
from measurements.errors import FormatError, KeyturnError
from measurements.events import Bank, extend
from measurements.pe import authenticode_digest, parse_pe, section_data, stub_version
from tests.support.debian_packages import debian_package
from tests.support.pe_images import installed_stub, synthetic_pe, synthetic_stub
from tests.support.secure_boot_keys import make_key, sign_image
from tests.support.tools import require_tool

KERNEL = synthetic_pe([(".text", b"\x90" * 5000)])
CONTENT = {
    SectionName.OSREL: b"ID=keyturn\nVERSION_ID=1\n",
    SectionName.CMDLINE: b"console=ttyS0 panic=-1",
    SectionName.UNAME: b"6.12.0-cloud",
    SectionName.INITRD: b"070701" * 1000,
    SectionName.LINUX: KERNEL,
}
TIME_STAMP_AT = 0x40 + 8


def sections(**changed: bytes | None) -> list[UkiSection]:
    """The usual sections; ``changed`` replaces the data of some by their name without the dot, ``None``
    leaves one out.
    """
    contents = CONTENT | {SectionName(f".{name}"): data for name, data in changed.items()}
    return [UkiSection(name=name, data=data) for name, data in contents.items() if data is not None]


@pytest.fixture(params=["installed", "synthetic"])
def stub(request: pytest.FixtureRequest) -> bytes:
    """A stub to build on."""
    return installed_stub() if request.param == "installed" else synthetic_stub()


def test_sections_come_back_in_order_and_whole(stub: bytes) -> None:
    uki = build_uki(stub, sections())
    pe = parse_pe(uki)
    own = [section.name for section in parse_pe(stub).sections]
    added = [".osrel", ".cmdline", ".uname", ".initrd", ".linux"]
    assert [section.name for section in pe.sections] == own + added
    for name, data in CONTENT.items():
        assert section_data(pe, uki, name) == data
    assert stub_version(uki) == stub_version(stub)
    for section in parse_pe(stub).sections:
        assert section in pe.sections


def test_order_of_the_request_makes_no_difference(stub: bytes) -> None:
    assert build_uki(stub, sections()) == build_uki(stub, list(reversed(sections())))


def test_headers_are_those_of_a_fresh_image(stub: bytes) -> None:
    uki = pefile.PE(data=build_uki(stub, sections()), fast_load=True)
    before = pefile.PE(data=stub, fast_load=True)
    assert uki.FILE_HEADER.TimeDateStamp == 0
    assert uki.FILE_HEADER.PointerToSymbolTable == uki.FILE_HEADER.NumberOfSymbols == 0
    assert uki.OPTIONAL_HEADER.CheckSum == 0
    assert uki.OPTIONAL_HEADER.AddressOfEntryPoint == before.OPTIONAL_HEADER.AddressOfEntryPoint
    last = uki.sections[-1]
    alignment = uki.OPTIONAL_HEADER.SectionAlignment
    end = last.VirtualAddress + last.Misc_VirtualSize
    assert uki.OPTIONAL_HEADER.SizeOfImage == -(-end // alignment) * alignment
    added = uki.sections[len(before.sections) :]
    grown = uki.OPTIONAL_HEADER.SizeOfInitializedData - before.OPTIONAL_HEADER.SizeOfInitializedData
    assert grown == sum(section.SizeOfRawData for section in added)
    for section in added:
        assert section.Characteristics == 0x40000040
        assert section.VirtualAddress % alignment == 0
        assert section.PointerToRawData % uki.OPTIONAL_HEADER.FileAlignment == 0
    for section, following in zip(uki.sections, uki.sections[1:], strict=False):
        assert section.VirtualAddress + section.Misc_VirtualSize <= following.VirtualAddress


def test_pefile_finds_nothing_new_to_warn_of(stub: bytes) -> None:
    uki, before = pefile.PE(data=build_uki(stub, sections())), pefile.PE(data=stub)
    warnings = set(uki.get_warnings()) - set(before.get_warnings())
    assert not [warning for warning in warnings if "of the file's contents" not in warning]


def test_length_leaves_signing_tools_nothing_to_pad(stub: bytes, tmp_path: Path) -> None:
    unsigned, signed = tmp_path / "uki.efi", tmp_path / "signed.efi"
    unsigned.write_bytes(build_uki(stub, sections()))
    assert unsigned.stat().st_size % 512 == 0
    sign_image(make_key(tmp_path, "key"), unsigned, signed)
    for bank in Bank:
        digests = {authenticode_digest(path.read_bytes(), bank) for path in (unsigned, signed)}
        assert len(digests) == 1


def test_build_date_of_the_stub_makes_no_difference() -> None:
    stub = synthetic_stub()
    later = bytearray(stub)
    struct.pack_into("<I", later, TIME_STAMP_AT, 0x60000000)
    struct.pack_into("<I", later, parse_pe(stub).checksum_offset, 1)
    assert build_uki(bytes(later), sections()) == build_uki(stub, sections())


def test_objdump_lists_the_sections(stub: bytes, tmp_path: Path) -> None:
    objdump = require_tool("objdump", package="binutils")
    path = tmp_path / "uki.efi"
    path.write_bytes(build_uki(stub, sections()))
    output = subprocess.run([objdump, "-h", str(path)], check=True, capture_output=True, text=True)
    assert output.stderr == ""
    listed = {line.split()[1]: line.split() for line in output.stdout.splitlines() if " ." in line}
    pe = parse_pe(path.read_bytes())
    base = pefile.PE(str(path), fast_load=True).OPTIONAL_HEADER.ImageBase
    assert list(listed) == [section.name for section in pe.sections]
    for section in pe.sections:
        _, _, size, address, _, offset, *_ = listed[section.name]
        assert (int(size, 16), int(offset, 16)) == (section.virtual_size, section.raw_offset)
        assert int(address, 16) == base + section.virtual_address


@pytest.mark.network
def test_ukify_reads_every_section(stub: bytes, tmp_path: Path) -> None:
    # Debian 12 has no ukify, so it is Debian 13's on every machine.
    ukify = str(debian_package("systemd-ukify") / "usr/bin/ukify")
    path = tmp_path / "uki.efi"
    path.write_bytes(build_uki(stub, sections()))
    command = [sys.executable, ukify, "--json=short", "inspect", str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    listed = json.loads(output)
    for name, data in CONTENT.items():
        assert listed[name]["size"] == len(data)
        assert listed[name]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("bank", list(Bank))
def test_systemd_measure_computes_the_same_pcr_11(bank: Bank, tmp_path: Path) -> None:
    measure = require_tool("systemd-measure", package="systemd")
    uki = build_uki(installed_stub(), sections(uname=None))
    command = [measure, "calculate", "--json=short", "--phase=", f"--bank={bank.value}"]
    for name in (SectionName.LINUX, SectionName.OSREL, SectionName.CMDLINE, SectionName.INITRD):
        path = tmp_path / name
        path.write_bytes(CONTENT[name])
        command.append(f"--{name.removeprefix('.')}={path}")
    calculated = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    register = bytes(bank.size)
    pe = parse_pe(uki)
    for name in (SectionName.LINUX, SectionName.OSREL, SectionName.CMDLINE, SectionName.INITRD):
        for measured in (name.encode() + b"\0", section_data(pe, uki, name)):
            register = extend(register, hashlib.new(bank.value, measured).digest(), bank=bank)
    assert calculated[bank.value][0]["hash"] == register.hex()


def test_symbol_table_of_an_old_stub_is_left_out() -> None:
    stub = synthetic_stub()
    with_symbols = bytearray(stub + b"symbol" * 100)
    struct.pack_into("<II", with_symbols, TIME_STAMP_AT + 4, len(stub), 33)
    assert build_uki(bytes(with_symbols), sections()) == build_uki(stub, sections())


def test_other_bytes_behind_a_stub_are_refused() -> None:
    with pytest.raises(FormatError, match="not a symbol table"):
        build_uki(synthetic_stub() + bytes(600), sections())


def test_stub_without_room_for_the_sections_is_refused() -> None:
    table_end = parse_pe(synthetic_stub()).section_table_offset + 3 * 40
    build_uki(synthetic_stub(header_size=table_end + 5 * 40), sections())
    with pytest.raises(StubRoomError, match=r"stub without room for sections: 5 wanted, 4 free") as caught:
        build_uki(synthetic_stub(header_size=table_end + 5 * 40 - 1), sections())
    assert caught.value.code == "stub-room"
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("stub", "reason"),
    [
        (b"", "MZ"),
        (b"#!/bin/sh\n", "MZ"),
        (KERNEL, "sections .sdmagic"),
        (synthetic_stub()[:2000], "passes the end"),
    ],
)
def test_what_is_no_systemd_stub_is_refused(stub: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        build_uki(stub, sections())
    assert caught.value.subject == "UKI stub"


def test_signed_stub_is_refused(tmp_path: Path) -> None:
    unsigned, signed = tmp_path / "stub", tmp_path / "signed"
    unsigned.write_bytes(synthetic_stub())
    sign_image(make_key(tmp_path, "key"), unsigned, signed)
    with pytest.raises(FormatError, match="is signed"):
        build_uki(signed.read_bytes(), sections())


@pytest.mark.parametrize("alignment", [0, 1, 256, 513, 1 << 17, 1 << 31])
def test_stub_with_bad_alignment_is_refused(alignment: int) -> None:
    stub = bytearray(synthetic_stub())
    struct.pack_into("<I", stub, 0x40 + 24 + 36, alignment)
    with pytest.raises(FormatError, match="alignment"):
        build_uki(bytes(stub), sections())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"cmdline": b"a=b\0c=d"}, r"\.cmdline: has the byte 0x00"),
        ({"cmdline": b"a=b\n"}, r"\.cmdline: has the byte 0x0a"),
        ({"cmdline": b"a=\x7f"}, r"\.cmdline: has the byte 0x7f"),
        ({"cmdline": "a=ü".encode()}, r"\.cmdline: has the byte 0xc3"),
        ({"cmdline": b" a=b"}, r"\.cmdline: starts or ends with blanks"),
        ({"cmdline": b"a=b "}, r"\.cmdline: starts or ends with blanks"),
        ({"cmdline": b"a" * 2048}, r"\.cmdline: has 2048 bytes"),
        ({"cmdline": b""}, r"\.cmdline: is empty"),
        ({"cmdline": None}, r"\.cmdline: is missing"),
        ({"linux": None}, r"\.linux: is missing"),
        ({"uname": b"6.12\0"}, r"\.uname: has the byte 0x00"),
        ({"initrd": b""}, r"\.initrd: is empty"),
        (
            {"linux": synthetic_pe([(".text", b"x")], machine=0xAA64)},
            r"\.linux: is a kernel for another machine",
        ),
    ],
)
def test_sections_that_would_not_arrive_as_they_are_refused(
    changed: dict[str, bytes | None], reason: str
) -> None:
    with pytest.raises(UkiError, match=reason):
        build_uki(synthetic_stub(), sections(**changed))


def test_kernel_without_efi_stub_is_refused() -> None:
    with pytest.raises(FormatError, match=r"\.linux: does not start with MZ"):
        build_uki(synthetic_stub(), sections(linux=b"\x7fELF"))


def test_longest_command_line_is_taken() -> None:
    uki = build_uki(synthetic_stub(), sections(cmdline=b"a" * 2047))
    assert section_data(parse_pe(uki), uki, ".cmdline") == b"a" * 2047


def test_image_of_4_gib_is_refused() -> None:
    stub = bytearray(synthetic_stub())
    struct.pack_into("<I", stub, parse_pe(bytes(stub)).section_table_offset + 12, 0xFFFF_0000)
    with pytest.raises(UkiError, match="would end at"):
        build_uki(bytes(stub), sections())


def test_stub_with_a_section_in_its_headers_is_refused() -> None:
    stub = bytearray(synthetic_stub())
    struct.pack_into("<I", stub, parse_pe(bytes(stub)).section_table_offset + 20, 512)
    with pytest.raises(FormatError, match="inside its headers"):
        build_uki(bytes(stub), sections())


def test_repeated_sections_are_refused() -> None:
    with pytest.raises(UkiError, match=r"\.osrel: occurs 2 times"):
        build_uki(synthetic_stub(), [*sections(), UkiSection(name=SectionName.OSREL, data=b"x")])


def test_stub_that_already_has_a_section_is_refused() -> None:
    with pytest.raises(UkiError, match="occurs 2 times"):
        build_uki(build_uki(synthetic_stub(), sections()), sections())


@given(
    st.dictionaries(
        st.sampled_from([SectionName.OSREL, SectionName.UCODE, SectionName.INITRD]),
        st.binary(min_size=1, max_size=2000),
    )
)
def test_any_content_comes_back(contents: dict[SectionName, bytes]) -> None:
    fixed = [UkiSection(name=name, data=CONTENT[name]) for name in (SectionName.CMDLINE, SectionName.LINUX)]
    uki = build_uki(synthetic_stub(), [*fixed, *(UkiSection(name=n, data=d) for n, d in contents.items())])
    pe = parse_pe(uki)
    assert {name: section_data(pe, uki, name) for name in contents} == contents
    assert len(uki) % 512 == 0


@settings(max_examples=300)
@given(st.integers(0x40, 0x1C0), st.binary(min_size=1, max_size=4))
def test_changed_stubs_are_refused_or_give_whole_sections(at: int, value: bytes) -> None:
    stub = bytearray(synthetic_stub())
    stub[at : at + len(value)] = value
    try:
        uki = build_uki(bytes(stub), sections())
    except KeyturnError:
        return
    pe = parse_pe(uki)
    assert {name: section_data(pe, uki, name) for name in CONTENT} == CONTENT
