"""PE images: digests against signatures and other programs, and every way in which headers can lie."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pefile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virt.peutils.pesign import pe_authenticode_hash

from measurements.errors import FormatError
from measurements.events import Bank
from measurements.pe import authenticode_digest, parse_pe, section_data, stub_version
from tests.support.debian_packages import debian_package
from tests.support.pe_images import installed_stub, synthetic_pe, synthetic_stub
from tests.support.secure_boot_keys import make_key, sign_image
from tests.support.tools import require_tool
from tests.support.vectors import vector

SECTIONS = [(".text", random.Random(1).randbytes(700)), (".data", b"\x17" * 512), (".empty", b"")]
PE_AT = 0x40
COFF_AT = PE_AT + 4
OPTIONAL_AT = COFF_AT + 20
DIRECTORIES_AT = OPTIONAL_AT + 112
CERTIFICATES_AT = DIRECTORIES_AT + 4 * 8
TABLE_AT = OPTIONAL_AT + 112 + 16 * 8


def patched(image: bytes, layout: str, at: int, *values: int) -> bytes:
    """``image`` with ``values`` packed at ``at``."""
    data = bytearray(image)
    struct.pack_into(layout, data, at, *values)
    return bytes(data)


def variants() -> dict[str, bytes]:
    """Images of every shape, all of a length that is a multiple of 8, so that padding makes no difference."""
    return {
        "plain": synthetic_pe(SECTIONS),
        "table not in file order": synthetic_pe(SECTIONS, reverse_table=True),
        "bytes after the sections": synthetic_pe(SECTIONS, trailing=b"trailing" * 9),
        "PE32": synthetic_pe(SECTIONS, pe32=True),
        "stub": installed_stub()[: -(len(installed_stub()) % 8) or None],
    }


@pytest.mark.parametrize(
    "shape", ["plain", "table not in file order", "bytes after the sections", "PE32", "stub"]
)
@pytest.mark.parametrize("bank", list(Bank))
def test_virt_firmware_computes_the_same_digest(shape: str, bank: Bank) -> None:
    image = variants()[shape]
    expected = pe_authenticode_hash(pefile.PE(data=image, fast_load=True), bank.value)
    assert authenticode_digest(image, bank) == expected


@pytest.mark.parametrize("shape", ["plain", "PE32", "stub"])
def test_pesign_computes_the_same_digest(shape: str, tmp_path: Path) -> None:
    pesign = require_tool("pesign", package="pesign")
    path = tmp_path / "image.efi"
    path.write_bytes(variants()[shape])
    command = [pesign, "--hash", "--digest_type=sha256", "--in", str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert authenticode_digest(path.read_bytes(), Bank.SHA256).hex() in output


def test_signing_keeps_the_digest_and_states_it(tmp_path: Path) -> None:
    path, signed = tmp_path / "image.efi", tmp_path / "signed.efi"
    path.write_bytes(synthetic_pe(SECTIONS))
    sign_image(make_key(tmp_path, "key"), path, signed)
    digest = authenticode_digest(path.read_bytes(), Bank.SHA256)
    assert authenticode_digest(signed.read_bytes(), Bank.SHA256) == digest
    assert digest in certificates(signed.read_bytes())


def test_osslsigncode_computes_the_same_digest(tmp_path: Path) -> None:
    osslsigncode = require_tool("osslsigncode", package="osslsigncode")
    path, signed = tmp_path / "image.efi", tmp_path / "signed.efi"
    path.write_bytes(synthetic_pe(SECTIONS))
    key = make_key(tmp_path, "key")
    files = [
        "-certs",
        str(key.certificate),
        "-key",
        str(key.private_key),
        "-in",
        str(path),
        "-out",
        str(signed),
    ]
    subprocess.run([osslsigncode, "sign", "-h", "sha384", *files], check=True, capture_output=True)
    command = [osslsigncode, "verify", "-CAfile", str(key.certificate), "-in", str(signed)]
    output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    expected = authenticode_digest(path.read_bytes(), Bank.SHA384).hex()
    assert f"calculated message digest : {expected}" in output.lower()


def certificates(image: bytes) -> bytes:
    """The certificate table of a signed image."""
    entry = parse_pe(image).certificate_entry
    assert entry is not None
    assert entry.table_size
    return image[entry.table_offset : entry.table_offset + entry.table_size]


def test_firmware_does_not_pad_but_signing_tools_do() -> None:
    unsigned = vector("pe/kairos/fbx64.efi").read_bytes()
    signed = vector("pe/kairos/fbx64.signed.efi").read_bytes()
    stated = authenticode_digest(signed, Bank.SHA256)
    assert len(unsigned) % 8 == 7
    assert stated in certificates(signed)
    assert authenticode_digest(unsigned, Bank.SHA256) != stated
    assert authenticode_digest(unsigned + b"\0", Bank.SHA256) == stated


def test_digest_of_the_td_shim_payload() -> None:
    digest = authenticode_digest(vector("pe/td-shim/td-payload.efi").read_bytes(), Bank.SHA384)
    assert digest.hex().startswith("a319c2cd790a1792e98dacbf5fb89c498136f9f90bf988046acc9833b93e07d0")


@pytest.mark.network
@pytest.mark.parametrize("package", ["grub-efi-amd64-signed", "fwupd-amd64-signed", "shim-signed"])
def test_signed_distribution_images_state_their_digest(package: str) -> None:
    known = json.loads(vector("pe/debian_ubuntu_authenticode.json").read_text())
    by_file = {entry["file_sha256"]: entry["authenticode"] for entry in known.values()}
    files = debian_package(package, suite="bookworm")
    images = [path for path in files.rglob("*.signed") if path.is_file()]
    assert images
    for image in images:
        data = image.read_bytes()
        digest = authenticode_digest(data, Bank.SHA256)
        assert digest in certificates(data)
        assert (
            by_file.get(hashlib.sha256(data).hexdigest(), {"sha256": digest.hex()})["sha256"] == digest.hex()
        )


def test_trailing_bytes_start_at_the_sum_of_sizes() -> None:
    image = synthetic_pe([(".one", b"1" * 512), (".two", b"2" * 512)], trailing=b"3" * 16)
    gap = patched(image[:1536] + b"gap!" * 128 + image[1536:], "<I", TABLE_AT + 40 + 20, 2048)
    pe = parse_pe(gap)
    assert [section.raw_offset for section in pe.sections] == [1024, 2048]
    pieces = [gap[: pe.checksum_offset], gap[pe.checksum_offset + 4 : CERTIFICATES_AT]]
    pieces += [gap[CERTIFICATES_AT + 8 : 1024], b"1" * 512, b"2" * 512, gap[2048:]]
    assert authenticode_digest(gap, Bank.SHA256) == hashlib.sha256(b"".join(pieces)).digest()


def test_bytes_that_signing_changes_are_left_out() -> None:
    image = synthetic_pe(SECTIONS, certificates=b"signature" * 8)
    digest = authenticode_digest(image, Bank.SHA256)
    checksum = patched(image, "<I", parse_pe(image).checksum_offset, 0)
    other = image[:-72] + b"SIGNATURE" * 8
    entry = patched(image, "<I", CERTIFICATES_AT, len(image) - 80)
    for changed in (checksum, other, entry):
        assert authenticode_digest(changed, Bank.SHA256) == digest


def test_every_other_byte_counts() -> None:
    image = synthetic_pe(SECTIONS, trailing=b"end", certificates=b"signature" * 8)
    pe = parse_pe(image)
    digest = authenticode_digest(image, Bank.SHA384)
    for at in [
        *range(TABLE_AT, TABLE_AT + 8),
        *range(pe.size_of_headers, len(image) - 72),
        2,
        OPTIONAL_AT + 70,
    ]:
        changed = patched(image, "<B", at, image[at] ^ 0x20)
        assert authenticode_digest(changed, Bank.SHA384) != digest, at


def test_all_headers_but_the_checksum_count_without_a_certificate_directory() -> None:
    image = synthetic_pe(SECTIONS, directories=4)
    pe = parse_pe(image)
    assert pe.certificate_entry is None
    covered = image[: pe.checksum_offset] + image[pe.checksum_offset + 4 :]
    assert authenticode_digest(image, Bank.SHA256) == hashlib.sha256(covered).digest()


def test_parsed_headers_equal_those_of_pefile() -> None:
    data = installed_stub()
    mine, other = parse_pe(data), pefile.PE(data=data, fast_load=True)
    assert mine.machine == other.FILE_HEADER.Machine
    assert mine.time_stamp == other.FILE_HEADER.TimeDateStamp
    assert mine.section_alignment == other.OPTIONAL_HEADER.SectionAlignment
    assert mine.file_alignment == other.OPTIONAL_HEADER.FileAlignment
    assert mine.size_of_initialised_data == other.OPTIONAL_HEADER.SizeOfInitializedData
    assert mine.size_of_image == other.OPTIONAL_HEADER.SizeOfImage
    assert mine.size_of_headers == other.OPTIONAL_HEADER.SizeOfHeaders
    assert mine.checksum_offset == other.OPTIONAL_HEADER.get_field_absolute_offset("CheckSum")
    assert mine.section_table_offset == other.sections[0].get_file_offset()
    for section, expected in zip(mine.sections, other.sections, strict=True):
        assert section.name == expected.Name.rstrip(b"\0").decode()
        assert section.virtual_size == expected.Misc_VirtualSize
        assert section.virtual_address == expected.VirtualAddress
        assert section.raw_size == expected.SizeOfRawData
        assert section.raw_offset == expected.PointerToRawData
        assert section.characteristics == expected.Characteristics


def test_section_data_is_what_is_in_memory() -> None:
    image = synthetic_pe([(".one", b"abc"), (".two", b"d" * 513), (".full", b"e" * 512)])
    pe = parse_pe(image)
    assert section_data(pe, image, ".one") == b"abc"
    assert section_data(pe, image, ".two") == b"d" * 513
    assert section_data(pe, image, ".full") == b"e" * 512
    assert section_data(pe, memoryview(image), ".one") == b"abc"


@pytest.mark.parametrize(
    ("sections", "reason"),
    [([(".one", b"x")], "has 0 sections .two"), ([(".two", b"x"), (".two", b"y")], "has 2 sections .two")],
)
def test_section_data_needs_exactly_one(sections: list[tuple[str, bytes]], reason: str) -> None:
    image = synthetic_pe(sections)
    with pytest.raises(FormatError, match=reason):
        section_data(parse_pe(image), image, ".two")


def test_section_larger_in_memory_is_refused() -> None:
    image = patched(synthetic_pe([(".bss", b"x")]), "<I", TABLE_AT + 8, 0xFFFFFFFF)
    with pytest.raises(FormatError, match="larger in memory"):
        section_data(parse_pe(image), image, ".bss")


def test_stub_version() -> None:
    version = stub_version(synthetic_stub())
    assert (version.major, version.text) == (257, "257.13-1~deb13u1")


def test_stub_version_of_the_installed_stub() -> None:
    package = ["dpkg-query", "--show", "--showformat=${Version}", "systemd-boot-efi"]
    query = subprocess.run(package, check=False, capture_output=True, text=True)
    if query.returncode:
        pytest.skip("systemd-boot-efi does not come from a Debian package here")
    assert stub_version(installed_stub()).text == query.stdout


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"#### LoaderInfo: systemd-boot 257 ####",
        b"#### LoaderInfo: systemd-stub  ####",
        b"#### LoaderInfo: systemd-stub 257 ####x",
        b"x#### LoaderInfo: systemd-stub 257 ####",
        b"#### LoaderInfo: systemd-stub 99999999999999999999 ####",
    ],
)
def test_other_images_have_no_stub_version(text: bytes) -> None:
    with pytest.raises(FormatError, match="sdmagic"):
        stub_version(synthetic_pe([(".sdmagic", text)]))


@pytest.mark.parametrize(
    ("at", "layout", "value", "reason"),
    [
        (0, "<H", 0, "MZ"),
        (0x3C, "<I", 0xFFFFFFFF, "ends inside the PE signature"),
        (PE_AT, "<H", 0, "no PE signature"),
        (COFF_AT + 2, "<H", 0xFFFF, "section table passes"),
        (COFF_AT + 16, "<H", 0xFFFF, "optional header"),
        (COFF_AT + 16, "<H", 20, "cut short"),
        (COFF_AT + 16, "<H", 0, "cut short"),
        (OPTIONAL_AT, "<H", 0x107, "neither PE32"),
        (OPTIONAL_AT + 60, "<I", 100, "section table passes"),
        (OPTIONAL_AT + 60, "<I", 0x7FFFFFFF, "SizeOfHeaders passes"),
        (DIRECTORIES_AT - 4, "<I", 17, "data directories pass"),
        (DIRECTORIES_AT - 4, "<I", 0xFFFFFFFF, "data directories pass"),
        (CERTIFICATES_AT + 4, "<I", 0xFFFFFFFF, "certificate table passes"),
        (TABLE_AT + 16, "<I", 0xFFFFFFFF, "section 0 passes"),
        (TABLE_AT + 20, "<I", 0xFFFFFFFF, "section 0 passes"),
    ],
)
def test_headers_that_lie_are_refused(at: int, layout: str, value: int, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_pe(patched(synthetic_pe(SECTIONS), layout, at, value))


def test_certificate_table_over_sections_is_refused() -> None:
    image = patched(synthetic_pe(SECTIONS), "<II", CERTIFICATES_AT, 0, 1024)
    with pytest.raises(FormatError, match="overlap"):
        authenticode_digest(image, Bank.SHA256)


def test_every_truncation_of_the_headers_is_refused() -> None:
    image = synthetic_pe(SECTIONS)
    for length in range(parse_pe(image).size_of_headers):
        with pytest.raises(FormatError):
            parse_pe(image[:length])


def examine(data: bytes) -> None:
    """Use everything that reads ``data``; only ``FormatError`` may come out."""
    with suppress(FormatError):
        authenticode_digest(data, Bank.SHA256)
    with suppress(FormatError):
        stub_version(data)


@given(st.binary(max_size=400))
def test_garbage_gives_only_format_errors(data: bytes) -> None:
    examine(data)
    examine(b"MZ" + bytes(0x3A) + struct.pack("<I", PE_AT) + b"PE\0\0" + data)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, TABLE_AT + 130), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6
    )
)
def test_changed_headers_give_only_format_errors(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(synthetic_stub())
    for at, value in changes:
        data[at : at + len(value)] = value
    examine(bytes(data))
