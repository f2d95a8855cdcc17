"""SMBIOS tables: parsing, blanking, and what is refused."""

from __future__ import annotations

import hashlib
from uuid import UUID

import pytest

from measurements.errors import FormatError
from measurements.firmware_volume import FirmwareVolume
from measurements.ovmf import Firmware
from measurements.smbios import (
    Structure,
    blanked,
    measured_after_separators,
    measured_tables,
    parse_structures,
)

# QEMU 7.2's table for a q35 machine with 1 GiB and one processor, and the digest that edk2 2026.08 measured.
OFFERED = (
    bytes.fromhex("011b00010102030000000000000000000000000000000000060000")
    + b"QEMU\0Standard PC (Q35 + ICH9, 2009)\0pc-q35-7.2\0\0"
    + bytes.fromhex("03160003010102000003030302000000000000000000")
    + b"QEMU\0pc-q35-7.2\0\0"
    + bytes.fromhex("042a000401030102b10f0600fdfbcb0f03000000d007d0074101ffffffffffff00000001010102000100")
    + b"CPU 0\0QEMU\0pc-q35-7.2\0\0"
    + bytes.fromhex(
        "1017001001030600001000feff01000000000000000000"
        "0000"
        "112800110010feffffffffff00040900010007020000000200000000000000000000000000000000"
    )
    + b"DIMM 0\0QEMU\0\0"
    + bytes.fromhex(
        "131f001300000000ffff0f0000100100000000000000000000000000000000"
        "0000"
        "200b002000000000000000"
        "0000"
        "7f04007f"
        "0000"
    )
)
BIOS = Structure(
    fields=bytes.fromhex("001a0000010200e803000800000000000000001c0000ffff0000"),
    strings=(b"Debian distribution of EDK II", b"2026.08+ds-2", b"09/26/2026"),
)
MEASURED = "29d64a8528fa699d3a55029f3f0194bac98625b44ac57de92f9e2f099dadeede"


def test_digest_of_a_real_boot() -> None:
    assert hashlib.sha256(measured_tables(OFFERED, BIOS)).hexdigest() == MEASURED


def test_structures_encode_as_they_were() -> None:
    assert b"".join(structure.encode() for structure in parse_structures(OFFERED)) == OFFERED


def test_serial_numbers_are_blanked() -> None:
    fields = bytearray(0x1B)
    fields[:4], fields[7] = b"\x01\x1b\0\x01", 2
    fields[8:24] = b"u" * 16
    result = blanked(Structure(fields=bytes(fields), strings=(b"maker", b"S3RIAL")))
    assert result.strings == (b"maker", b"      ")
    assert result.fields[7:24] == bytes(17)


def test_memory_is_not_blanked() -> None:
    more = OFFERED.replace(bytes.fromhex("ffff0f00"), bytes.fromhex("ffff1f00"))
    assert measured_tables(more, BIOS) != measured_tables(OFFERED, BIOS)


def test_structure_that_the_machine_should_not_have() -> None:
    with pytest.raises(FormatError, match="type 9"):
        blanked(Structure(fields=b"\x09\x05\0\0\x01", strings=(b"x",)))


def test_the_host_s_own_strings_are_measured_as_zeros_of_their_length() -> None:
    def digested(text: bytes) -> bytes:
        own = Structure(fields=b"\x0b\x05\0\x0e\x01", strings=(text,))
        return measured_tables(own.encode() + OFFERED, BIOS)

    assert digested(b"secret").startswith(b"\x0b\x05\0\x0e" + bytes(9) + OFFERED[:4])
    assert digested(b"secret") == digested(b"public")
    assert digested(b"secret") != digested(b"secrets")


@pytest.mark.parametrize("data", [b"\x01", b"\x01\x1b\0\0", b"\x01\x02\0\0\0\0", OFFERED[:-1]])
def test_damaged_tables_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="cut short"):
        list(parse_structures(data))


@pytest.mark.parametrize(
    ("modules", "late"), [(("VariableRuntimeDxe",), False), (("VariableSmmRuntimeDxe",), True)]
)
def test_builds_with_protected_variables_measure_it_last(modules: tuple[str, ...], late: bool) -> None:
    volume = FirmwareVolume(data=b"", name=None, files_at=0)
    files = {UUID(int=number): name for number, name in enumerate((*modules, "SmbiosMeasurementDxe"))}
    firmware = Firmware(
        name="test.fd", sha256="0" * 64, pei=volume, dxe=volume, pei_modules=(), dxe_files=files
    )
    assert measured_after_separators(firmware) is late
