"""QEMU's ACPI tables as a blob, and the loader script and RSDP that follow from it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.acpi_blob import (
    HEADER_SIZE,
    LOADER,
    RSDP,
    TABLES,
    TPM_LOG,
    AcpiTable,
    allocated_files,
    clear_pcat_compat,
    derive_files,
    derive_loader,
    derive_rsdp,
    parse_tables,
)
from measurements.errors import FormatError
from tests.support.vectors import vector

FIXTURES = "tdx-platform/virtee-tdx-measure-fixtures"
BLOB_SIZE = 0x20000


def make_table(signature: str, body: bytes) -> bytes:
    """A table with zero checksum."""
    length = HEADER_SIZE + len(body)
    return (
        signature.encode() + struct.pack("<IBB6s8sI4sI", length, 1, 0, b"BOCHS ", b"BXPC", 1, b"", 1) + body
    )


def make_blob(*others: bytes, listed: bool = True) -> bytes:
    """A small blob: FACS, DSDT, FACP, ``others``, RSDT."""
    facs = b"FACS" + struct.pack("<I", 64) + bytes(56)
    dsdt = make_table("DSDT", b"AML")
    fixed = bytearray(244 - HEADER_SIZE)
    struct.pack_into("<II", fixed, 0, 0, 64)
    struct.pack_into("<Q", fixed, 140 - HEADER_SIZE, 64)
    parts = [facs, dsdt, make_table("FACP", bytes(fixed)), *others]
    offsets = [sum(map(len, parts[:index])) for index in range(2, len(parts))]
    parts.append(make_table("RSDT", struct.pack(f"<{len(offsets)}I", *offsets) if listed else b""))
    return b"".join(parts).ljust(BLOB_SIZE, b"\0")


def tpm2_table() -> bytes:
    return make_table("TPM2", bytes(28) + struct.pack("<IQ", 1 << 16, 0))


BLOB = make_blob(make_table("APIC", bytes(8)), tpm2_table(), make_table("SRAT", bytes(40)))
USED = len(BLOB.rstrip(b"\0"))


@pytest.mark.parametrize(
    ("name", "signatures", "rsdt"),
    [
        ("canonical-defaults", "FACS DSDT FACP APIC MCFG WAET RSDT", 8942),
        ("q35-with-hpet", "FACS DSDT FACP APIC HPET MCFG WAET RSDT", 9583),
        ("runtime-capture", "FACS DSDT FACP APIC HPET MCFG WAET RSDT", 9617),
    ],
)
def test_tables_of_real_machines(name: str, signatures: str, rsdt: int) -> None:
    blob = vector(f"{FIXTURES}/{name}/acpi_tables.bin").read_bytes()
    tables = parse_tables(blob)
    assert [table.signature for table in tables] == signatures.split()
    assert all(blob[table.offset :].startswith(table.content) for table in tables)
    assert derive_rsdp(blob) == b"RSD PTR \0BOCHS \0" + struct.pack("<I", rsdt)
    loader = derive_loader(blob)
    assert len(loader) == 4096
    assert list(allocated_files(loader)) == [RSDP, TABLES]
    # Three pointers of FACP, one per table that RSDT lists, one of RSDP; a sum for all but FACS, and of RSDP.
    commands = [command for (command,) in struct.iter_unpack("<I124x", loader)]
    assert commands.count(2) == 3 + (len(tables) - 3) + 1
    assert commands.count(3) == len(tables) - 1 + 1


def test_a_tpm_adds_its_log() -> None:
    files = derive_files(BLOB)
    assert [name for name, _ in files.files] == [RSDP, TPM_LOG, TABLES]
    assert dict(files.files)[TPM_LOG] == bytes(65536)
    assert files.tables == BLOB
    assert list(allocated_files(files.loader)) == [RSDP, TPM_LOG, TABLES]
    table = next(table for table in parse_tables(BLOB) if table.signature == "TPM2")
    pointer = struct.pack("<I56s56sIB", 2, TABLES.encode(), TPM_LOG.encode(), table.offset + 68, 8)
    assert pointer in files.loader


def test_many_tables_make_a_longer_script() -> None:
    few, many = (make_blob(*[make_table("SRAT", b"")] * count) for count in (2, 20))
    assert (len(derive_loader(few)), len(derive_loader(many))) == (4096, 8192)


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"", "size that is a multiple"),
        (BLOB[:-1], "size that is a multiple"),
        (bytes(BLOB_SIZE), "FACS and DSDT"),
        (BLOB[:USED].ljust(64 * BLOB_SIZE + BLOB_SIZE, b"\0"), "size that is a multiple"),
        (make_blob(listed=False), "offset of every table"),
        (make_blob(make_table("FACP", bytes(208))), "table FACP once"),
        (make_blob(make_table("APIC", b""))[:-1] + b"x", "zeros after the last table"),
        (make_blob(make_table("\u0001PIC", b"")), "signature of a table"),
        (make_blob(make_table("TPM2", bytes(28) + struct.pack("<IQ", 1 << 15, 0))), "TPM log of 65536"),
        (make_blob(make_table("TPM2", b"")), "TPM log of 65536"),
        (make_blob(make_table("SSDT", b"")), "machine with table SSDT does not follow"),
        (make_blob(make_table("ABCD", b"")), "machine with table ABCD does not follow"),
        ((make_table("SRAT", b"") * 300).ljust(BLOB_SIZE, b"\0"), "at most 256 tables"),
    ],
)
def test_blobs_that_are_refused(blob: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        derive_files(blob, subject="file")
    assert caught.value.subject.startswith("file")


def test_tables_linked_by_a_firmware_are_refused() -> None:
    linked = bytearray(BLOB)
    linked[64 + 9] = 7
    with pytest.raises(FormatError, match="expected no checksum"):
        parse_tables(bytes(linked))


def test_length_bomb() -> None:
    bomb = BLOB[:68] + b"\xff\xff\xff\xff" + BLOB[72:]
    with pytest.raises(FormatError, match="stays in the blob"):
        parse_tables(bomb)


@given(st.integers(0, USED // 4))
def test_truncated_blob_is_refused(words: int) -> None:
    cut = BLOB[: words * 4].ljust(BLOB_SIZE, b"\0")
    if cut != BLOB:
        with pytest.raises(FormatError):
            derive_files(cut)


@given(st.binary(max_size=200), st.integers(0, USED))
def test_foreign_bytes_give_files_or_one_error(noise: bytes, at: int) -> None:
    blob = (BLOB[:at] + noise + BLOB[at + len(noise) :])[:BLOB_SIZE]
    try:
        files = derive_files(blob)
    except FormatError:
        return
    assert files.tables == blob
    assert len(files.loader) % 4096 == 0


@given(st.sampled_from(parse_tables(BLOB)), st.integers(0, 7), st.integers(1, 255))
def test_a_flipped_byte_of_a_header_is_refused(table: AcpiTable, at: int, change: int) -> None:
    flipped = bytearray(BLOB)
    flipped[table.offset + at] ^= change
    with pytest.raises(FormatError):
        derive_files(bytes(flipped))


def test_a_missing_interrupt_controller_is_one_flag() -> None:
    old = make_blob(make_table("APIC", bytes((0, 0, 0xE0, 0xFE, 5, 0, 0, 0))))
    new = clear_pcat_compat(old)
    assert [(a, b) for a, b in zip(old, new, strict=True) if a != b] == [(5, 4)]
    assert clear_pcat_compat(new) == new
    for wrong in (
        make_blob(),
        make_blob(make_table("APIC", b"")),
        make_blob(*[make_table("APIC", bytes(8))] * 2),
    ):
        with pytest.raises(FormatError, match="one table APIC"):
            clear_pcat_compat(wrong)


def test_allocations_of_a_loader_script() -> None:
    command = struct.pack("<I56sIB63x", 1, b"etc/acpi/rsdp", 16, 2)
    other = struct.pack("<I124x", 2)
    assert list(allocated_files(command + other + bytes(256))) == ["etc/acpi/rsdp"]
    with pytest.raises(FormatError, match=LOADER):
        list(allocated_files(command[:-1]))
