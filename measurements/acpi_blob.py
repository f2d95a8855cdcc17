"""QEMU's ACPI tables as one blob, and the two other files that follow from it.

``etc/acpi/tables`` is a sequence of tables (ACPI 6.5, section 5.2.6; little endian): 4 bytes signature, u32
length with the header, u8 revision, u8 checksum (at 9), 6 bytes OEM id, 8 bytes OEM table id, u32 OEM
revision, 4 bytes creator, u32 creator revision. The FACS is no such table: signature, length 64, fields. The
blob is filled up with zeros. Pointers between tables hold offsets in the blob and checksums are zero, because
firmware links the tables as the loader script says.

``etc/table-loader`` (QEMU's hw/acpi/bios-linker-loader.c) is commands of 128 bytes, filled up with zeros to
4096: u32 command, then 1 allocate: 56 bytes file, u32 alignment, u8 zone (1 high, 2 below 1 MiB); 2 add
pointer: 56 bytes file, 56 bytes file that it points into, u32 offset, u8 size; 3 add checksum: 56 bytes file,
u32 offset of the result, u32 start, u32 length. Allocations come first, the last one made at the front; then
each table's commands in the order of the tables (QEMU's hw/i386/acpi-build.c and hw/acpi/aml-build.c).

``etc/acpi/rsdp`` is 20 bytes: ``RSD PTR ``, u8 checksum, ``BOCHS ``, u8 revision 0, u32 offset of the RSDT.

With a TPM 2 there is a third file, ``etc/tpm/log``: 65,536 zeros, to which table ``TPM2`` points.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from measurements.errors import FormatError

LOADER = "etc/table-loader"
TABLES = "etc/acpi/tables"
RSDP = "etc/acpi/rsdp"
TPM_LOG = "etc/tpm/log"

TPM_LOG_SIZE = 1 << 16
HEADER_SIZE, FACS_SIZE, RSDP_SIZE = 36, 64, 20
MAX_BLOB = 8 << 20
MAX_TABLES = 256

_COMMAND_SIZE, _LOADER_UNIT, _BLOB_UNIT = 128, 0x1000, 0x20000
_ALLOCATE, _ADD_POINTER, _ADD_CHECKSUM = 1, 2, 3
_HIGH, _LOW = 1, 2
_CHECKSUM_AT = 9
_NAMED = struct.Struct("<I56s")
_FACP_FACS, _FACP_DSDT, _FACP_DSDT64, _FACP_SIZE = 36, 40, 140, 148
_APIC_FLAGS, _PCAT_COMPAT = 40, 1
_TPM2_LOG_SIZE, _TPM2_LOG, _TPM2_SIZE = 64, 68, 76

_WITHOUT_POINTERS = frozenset(
    ["APIC", "DMAR", "ERST", "HMAT", "HPET", "IVRS", "MCFG", "SLIT", "SRAT", "VIOT", "WAET"]
)
"""Tables that QEMU makes complete: they need a checksum only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AcpiFiles:
    """The loader script and the files that it allocates, in the order in which firmware measures them."""

    loader: bytes
    files: tuple[tuple[str, bytes], ...]

    @property
    def tables(self) -> bytes:
        """The blob of tables."""
        return dict(self.files)[TABLES]


@dataclass(frozen=True, kw_only=True, slots=True)
class AcpiTable:
    """One table in the blob: 4 characters of signature, offset in the blob, bytes with its header."""

    signature: str
    offset: int
    content: bytes

    @property
    def length(self) -> int:
        """Its size in bytes."""
        return len(self.content)

    def read_u32(self, offset: int) -> int:
        """The little-endian number at ``offset`` in the table."""
        return int.from_bytes(self.content[offset : offset + 4], "little")


def parse_tables(blob: bytes, *, subject: str = TABLES) -> tuple[AcpiTable, ...]:
    """The tables of a blob that is not linked yet, in their order; the RSDT is the last.

    Raises ``FormatError`` where tables do not follow each other, are linked already or point elsewhere.
    """
    if not blob or len(blob) > MAX_BLOB or len(blob) % _BLOB_UNIT:
        raise _bad(subject, len(blob), f"expected a size that is a multiple of {_BLOB_UNIT:#x}")
    tables = tuple(_walk(blob, subject))
    _check_structure(tables, subject)
    return tables


def derive_files(blob: bytes, *, subject: str = TABLES) -> AcpiFiles:
    """All files of the machine that has ``blob``; raises ``FormatError`` where they do not follow from it."""
    tables = parse_tables(blob, subject=subject)
    files = [(RSDP, _rsdp(tables)), (TABLES, blob)]
    if _one(tables, "TPM2") is not None:
        files.insert(1, (TPM_LOG, bytes(TPM_LOG_SIZE)))
    return AcpiFiles(loader=_loader(tables, subject), files=tuple(files))


def derive_loader(blob: bytes, *, subject: str = TABLES) -> bytes:
    """``etc/table-loader`` of the machine that has ``blob``; raises ``FormatError``."""
    return derive_files(blob, subject=subject).loader


def derive_rsdp(blob: bytes, *, subject: str = TABLES) -> bytes:
    """``etc/acpi/rsdp`` of the machine that has ``blob``; raises ``FormatError``."""
    return _rsdp(parse_tables(blob, subject=subject))


def clear_pcat_compat(blob: bytes, *, subject: str = TABLES) -> bytes:
    """``blob`` of a QEMU whose table ``APIC`` tells that there is no legacy interrupt controller.

    With ``pic=off`` QEMU clears the flag PCAT_COMPAT (u32 flags at 40, bit 0; ACPI 6.5, section 5.2.12) from
    9.1 on (commit 292dd287e78e); so do earlier ones with patches for trust domains. Plain ones leave it set.
    """
    found = [table for table in parse_tables(blob, subject=subject) if table.signature == "APIC"]
    if len(found) != 1 or found[0].length < _APIC_FLAGS + 4:
        raise _bad(subject, 0, "expected one table APIC with flags")
    place = found[0].offset + _APIC_FLAGS
    return blob[:place] + bytes((blob[place] & ~_PCAT_COMPAT,)) + blob[place + 1 :]


def allocated_files(loader: bytes) -> Iterator[str]:
    """Names of the files that a loader script allocates, in order; raises ``FormatError``."""
    if len(loader) % _COMMAND_SIZE:
        raise FormatError(
            "is not a whole number of commands", subject=LOADER, advice="check the QEMU program"
        )
    for position in range(0, len(loader), _COMMAND_SIZE):
        command, name = _NAMED.unpack_from(loader, position)
        if command == _ALLOCATE:
            yield name.rstrip(b"\0").decode("ascii", "replace")


def _walk(blob: bytes, subject: str) -> Iterator[AcpiTable]:
    position = 0
    for _ in range(MAX_TABLES):
        signature = blob[position : position + 4]
        if not signature.strip(b"\0"):
            if any(blob[position:]):
                raise _bad(subject, position, "expected zeros after the last table")
            return
        if not (len(signature) == 4 and signature.isalnum() and signature.isascii()):
            raise _bad(subject, position, "expected the signature of a table")
        length = int.from_bytes(blob[position + 4 : position + 8], "little")
        least = FACS_SIZE if signature == b"FACS" else HEADER_SIZE
        if not least <= length <= len(blob) - position:
            raise _bad(subject, position + 4, f"expected a length from {least} that stays in the blob")
        table = AcpiTable(
            signature=signature.decode("ascii"),
            offset=position,
            content=blob[position : position + length],
        )
        if table.signature != "FACS" and table.content[_CHECKSUM_AT]:
            raise _bad(subject, position + _CHECKSUM_AT, "expected no checksum: firmware sums tables up")
        yield table
        position += length
    raise _bad(subject, position, f"expected at most {MAX_TABLES} tables")


def _check_structure(tables: Sequence[AcpiTable], subject: str) -> None:
    """The tables that others point to are there once, in QEMU's order, and every pointer is an offset."""
    if [table.signature for table in tables[:2]] != ["FACS", "DSDT"]:
        raise _bad(subject, 0, "expected tables FACS and DSDT at the start")
    if tables[-1].signature != "RSDT":
        raise _bad(subject, tables[-1].offset, "expected the RSDT as the last table")
    for signature in ("FACS", "DSDT", "FACP", "RSDT", "TPM2"):
        _one(tables, signature, subject=subject)
    facs, dsdt, fixed = tables[0], tables[1], _one(tables, "FACP", subject=subject)
    if fixed is None or fixed.length < _FACP_SIZE:
        raise _bad(
            subject, dsdt.offset + dsdt.length, f"expected one table FACP of {_FACP_SIZE} bytes or more"
        )
    pointers = [(_FACP_FACS, facs), (_FACP_DSDT, dsdt), (_FACP_DSDT64, dsdt)]
    if any(fixed.read_u32(at) != target.offset for at, target in pointers):
        raise _bad(subject, fixed.offset, "expected pointers of FACP that are offsets of FACS and DSDT")
    root, listed = tables[-1], _listed(tables)
    expected = struct.pack(f"<{len(listed)}I", *(table.offset for table in listed))
    if root.content[HEADER_SIZE:] != expected:
        raise _bad(subject, root.offset + HEADER_SIZE, "expected the offset of every table in the RSDT")


def _listed(tables: Sequence[AcpiTable]) -> list[AcpiTable]:
    return [table for table in tables if table.signature not in ("FACS", "DSDT", "RSDT")]


def _one(tables: Sequence[AcpiTable], signature: str, *, subject: str = TABLES) -> AcpiTable | None:
    found = [table for table in tables if table.signature == signature]
    if len(found) > 1:
        raise _bad(subject, found[1].offset, f"expected table {signature} once")
    return found[0] if found else None


def _rsdp(tables: Sequence[AcpiTable]) -> bytes:
    return b"RSD PTR " + b"\0" + b"BOCHS " + b"\0" + struct.pack("<I", tables[-1].offset)


def _loader(tables: Sequence[AcpiTable], subject: str) -> bytes:
    commands = [_allocate(RSDP, alignment=16, zone=_LOW)]
    if _one(tables, "TPM2") is not None:
        commands.append(_allocate(TPM_LOG, alignment=1, zone=_HIGH))
    commands.append(_allocate(TABLES, alignment=64, zone=_HIGH))
    for table in tables:
        if table.signature != "FACS":
            commands += _pointers(table, tables, subject)
            commands.append(_checksum(TABLES, result=table.offset + _CHECKSUM_AT, of=table))
    commands.append(_pointer(RSDP, TABLES, offset=16, size=4))
    commands.append(_command(_ADD_CHECKSUM, RSDP, struct.pack("<III", 8, 0, RSDP_SIZE)))
    script = b"".join(commands)
    return script + bytes(-len(script) % _LOADER_UNIT)


def _pointers(table: AcpiTable, tables: Sequence[AcpiTable], subject: str) -> Iterator[bytes]:
    """Commands for the pointers in ``table``; raises ``FormatError`` for one that may have others."""
    if table.signature == "FACP":
        for at, size in ((_FACP_FACS, 4), (_FACP_DSDT, 4), (_FACP_DSDT64, 8)):
            yield _pointer(TABLES, TABLES, offset=table.offset + at, size=size)
    elif table.signature == "RSDT":
        for index in range(len(_listed(tables))):
            yield _pointer(TABLES, TABLES, offset=table.offset + HEADER_SIZE + 4 * index, size=4)
    elif table.signature == "TPM2":
        if table.length < _TPM2_SIZE or table.read_u32(_TPM2_LOG_SIZE) != TPM_LOG_SIZE:
            raise _bad(subject, table.offset + _TPM2_LOG_SIZE, f"expected a TPM log of {TPM_LOG_SIZE} bytes")
        yield _pointer(TABLES, TPM_LOG, offset=table.offset + _TPM2_LOG, size=8)
    elif table.signature not in _WITHOUT_POINTERS and table.signature != "DSDT":
        raise FormatError(
            f"the loader of a machine with table {table.signature} does not follow from its tables",
            subject=f"{subject} at {table.offset:#x}",
            advice="leave out the device that brings this table, or take all files from QEMU",
        )


def _allocate(file: str, *, alignment: int, zone: int) -> bytes:
    return _command(_ALLOCATE, file, struct.pack("<IB", alignment, zone))


def _pointer(file: str, target: str, *, offset: int, size: int) -> bytes:
    return _command(_ADD_POINTER, file, struct.pack("<56sIB", target.encode("ascii"), offset, size))


def _checksum(file: str, *, result: int, of: AcpiTable) -> bytes:
    return _command(_ADD_CHECKSUM, file, struct.pack("<III", result, of.offset, of.length))


def _command(kind: int, file: str, rest: bytes) -> bytes:
    return (_NAMED.pack(kind, file.encode("ascii")) + rest).ljust(_COMMAND_SIZE, b"\0")


def _bad(subject: str, offset: int, expectation: str) -> FormatError:
    return FormatError(
        f"at {offset:#x}: {expectation}",
        subject=subject,
        advice="give the file etc/acpi/tables as QEMU offers it to firmware, not linked tables of a guest",
    )
