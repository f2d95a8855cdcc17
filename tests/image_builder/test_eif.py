"""Enclave image files: the reference layout byte by byte, reading back, and files that are not right."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_builder.eif import EifDescription, EifError, write_eif
from image_builder.tree import BytesContent, Content
from measurements.errors import FormatError
from measurements.nitro.eif import HEADER_SIZE, Eif, EifSectionType, read_eif

KERNEL = bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS" + bytes(1000)
COMMAND_LINE = "reboot=k panic=30 console=ttyS0"
RAMDISKS = (b"bootstrap" * 100, b"application" * 100)
DESCRIPTION = EifDescription(
    name="demo", version="1.0", operating_system="debian 13", kernel_release="6.12.0"
)
CRC_AT = HEADER_SIZE - 4


def write(
    *,
    kernel: bytes = KERNEL,
    command_line: str = COMMAND_LINE,
    ramdisks: tuple[bytes, ...] = RAMDISKS,
    memory: int = 1 << 30,
) -> tuple[bytes, Eif]:
    """An enclave image file and what its writer says about it."""
    stream = io.BytesIO()
    written = write_eif(
        stream,
        kernel=BytesContent(kernel),
        command_line=command_line,
        ramdisks=[BytesContent(ramdisk) for ramdisk in ramdisks],
        description=DESCRIPTION,
        memory=memory,
    )
    return stream.getvalue(), written


def repaired(data: bytearray) -> bytes:
    """``data`` with a correct checksum."""
    crc = zlib.crc32(data[HEADER_SIZE:], zlib.crc32(data[:CRC_AT]))
    struct.pack_into(">I", data, CRC_AT, crc)
    return bytes(data)


def changed(layout: str, at: int, value: int) -> bytes:
    """The usual file with ``value`` at ``at`` and a correct checksum."""
    data = bytearray(write()[0])
    struct.pack_into(layout, data, at, value)
    return repaired(data)


def test_every_byte_is_where_the_reference_layout_says() -> None:
    data, _ = write()
    assert HEADER_SIZE == 548
    assert data[:4] == b".eif"
    assert struct.unpack_from(">HHQQHH", data, 4) == (4, 0, 1 << 30, 2, 0, 5)
    offsets = struct.unpack_from(">32Q", data, 28)
    sizes = struct.unpack_from(">32Q", data, 28 + 256)
    assert struct.unpack_from(">I", data, 540) == (0,)
    assert offsets[5:] == sizes[5:] == (0,) * 27
    parts = []
    at = 548
    for offset, size in zip(offsets[:5], sizes[:5], strict=True):
        assert offset == at
        kind, flags, own_size = struct.unpack_from(">HHQ", data, at)
        assert (flags, own_size) == (0, size)
        parts.append((kind, data[at + 12 : at + 12 + size]))
        at += 12 + size
    assert at == len(data)
    assert [kind for kind, _ in parts] == [1, 2, 5, 3, 3]
    kernel, command_line, metadata, *ramdisks = (part for _, part in parts)
    assert (kernel, command_line, tuple(ramdisks)) == (KERNEL, COMMAND_LINE.encode(), RAMDISKS)
    assert struct.unpack_from(">I", data, 544)[0] == zlib.crc32(data[:544] + data[548:])
    assert json.loads(metadata)["ImageName"] == "demo"


def test_metadata_has_every_field_that_nitro_tools_require() -> None:
    data, written = write()
    section = written.sections[2]
    metadata = json.loads(data[section.offset : section.offset + section.size])
    assert metadata == {
        "ImageName": "demo",
        "ImageVersion": "1.0",
        "BuildMetadata": {
            "BuildTime": "1970-01-01T00:00:00+00:00",
            "BuildTool": "keyturn",
            "BuildToolVersion": "1",
            "OperatingSystem": "debian 13",
            "KernelVersion": "6.12.0",
        },
        "DockerInfo": {},
        "CustomMetadata": {},
    }


def test_reader_gives_back_what_was_written() -> None:
    data, written = write(memory=512 << 20)
    assert read_eif(data) == read_eif(memoryview(data)) == written
    assert (written.memory, written.cpus, written.arm64) == (512 << 20, 2, False)
    for section, part in zip(written.sections, [KERNEL, COMMAND_LINE.encode(), None, *RAMDISKS], strict=True):
        assert part is None or data[section.offset : section.offset + section.size] == part


def test_arm64_flag_and_signature_are_read() -> None:
    data = bytearray(write()[0])
    struct.pack_into(">HHQQHH", data, 4, 4, 1, 0, 0, 0, 6)
    struct.pack_into(">Q", data, 28 + 5 * 8, len(data))
    struct.pack_into(">Q", data, 28 + 256 + 5 * 8, 3)
    data += struct.pack(">HHQ", 4, 0, 3) + b"sig"
    eif = read_eif(repaired(data))
    assert eif.arm64
    assert eif.sections[-1].kind is EifSectionType.SIGNATURE


def test_same_parts_make_the_same_file() -> None:
    assert write()[0] == write()[0]


def test_writer_leaves_the_stream_at_the_end() -> None:
    stream = io.BytesIO()
    kernel, ramdisk = BytesContent(KERNEL), BytesContent(b"x")
    eif = write_eif(stream, kernel=kernel, command_line="a", ramdisks=[ramdisk], description=DESCRIPTION)
    assert stream.tell() == eif.size == len(stream.getvalue())


@pytest.mark.parametrize("at", [5, 12, 543, 544, 548, 700, -1])
def test_a_flipped_byte_is_refused(at: int) -> None:
    data = bytearray(write()[0])
    data[at] ^= 1
    with pytest.raises(FormatError):
        read_eif(bytes(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "its header alone takes 548"),
        (write()[0][:547], "its header alone takes 548"),
        (changed(">I", 0, 0x2E656967), "version 2, 3 or 4"),
        (changed(">H", 4, 3), "of version 3 has 1 METADATA sections"),
        (changed(">H", 4, 5), "version 2, 3 or 4"),
        (changed(">H", 6, 2), "does not allow"),
        (changed(">H", 24, 1), "does not allow"),
        (changed(">H", 26, 33), "does not allow"),
        (changed(">I", 540, 1), "does not allow"),
        (changed(">H", 26, 4), "sections that it does not have"),
        (changed(">H", 26, 6), "at byte 0, not"),
        (changed(">Q", 28, 549), "at byte 549, not 548"),
        (changed(">Q", 28 + 256, 1), "bad section header at byte 548"),
        (changed(">Q", 28 + 256, 1 << 63), "ends inside the section at byte 548"),
        (changed(">Q", 28 + 256 + 32, 1 << 40), "ends inside the section"),
        (changed(">H", 548, 6), "bad section header at byte 548"),
        (changed(">H", 548, 0), "bad section header at byte 548"),
        (changed(">H", 550, 1), "bad section header at byte 548"),
        (changed(">H", 548, 3), "has 0 KERNEL sections"),
        (repaired(bytearray(write()[0] + b"x")), "bytes after its last section"),
    ],
)
def test_files_that_are_not_right_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read_eif(data)


def test_file_without_sections_is_refused() -> None:
    data = bytearray(write()[0][:HEADER_SIZE])
    data[26:544] = bytes(518)
    with pytest.raises(FormatError, match="has 0 KERNEL sections"):
        read_eif(repaired(data))


@pytest.mark.parametrize(
    ("writing", "reason"),
    [
        (lambda: write(kernel=b"\x7fELF" + bytes(2000)), "not a bzImage"),
        (lambda: write(kernel=b""), "not a bzImage"),
        (lambda: write(command_line=""), "has 0 bytes"),
        (lambda: write(command_line="a" * 2048), "has 2048 bytes"),
        (lambda: write(command_line="a\0b"), "not printable"),
        (lambda: write(command_line="a\n"), "not printable"),
        (lambda: write(command_line="ü"), "not printable"),
        (lambda: write(ramdisks=()), "there are 0 of them"),
        (lambda: write(ramdisks=(b"x",) * 30), "there are 30 of them"),
    ],
)
def test_parts_that_make_no_enclave_are_refused(writing: Callable[[], object], reason: str) -> None:
    with pytest.raises(EifError, match=reason):
        writing()


def test_most_ramdisks_and_the_longest_command_line_are_taken() -> None:
    data, _ = write(ramdisks=(b"x",) * 29, command_line="a" * 2047)
    assert len(read_eif(data).sections) == 32


def test_content_that_changes_its_size_is_refused() -> None:
    class Growing:
        size = 1

        def chunks(self) -> Iterator[bytes]:
            yield b"more"

    ramdisk: Content = Growing()
    kernel = BytesContent(KERNEL)
    with pytest.raises(EifError, match="gave 4 bytes, not its 1"):
        write_eif(io.BytesIO(), kernel=kernel, command_line="a", ramdisks=[ramdisk], description=DESCRIPTION)


@given(st.binary(max_size=700))
def test_garbage_gives_only_format_errors(data: bytes) -> None:
    with suppress(FormatError):
        read_eif(data)


@settings(max_examples=200)
@given(st.integers(0, 1200), st.binary(min_size=1, max_size=10))
def test_changed_files_give_only_format_errors(at: int, value: bytes) -> None:
    data = bytearray(write()[0])
    data[at : at + len(value)] = value
    with suppress(FormatError):
        read_eif(repaired(data))
