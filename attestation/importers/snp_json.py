"""The JSON in which the virtee/sev crate writes an SEV-SNP report, made into the report's 1184 bytes again.

Source: src/firmware/guest/types/snp.rs of the crate: older versions write reserved fields,
``_author_key_en`` for the key information and versions as six numbers; newer ones ``key_info``, CPUID fields
or null, versions as objects, mitigation vectors or null. Offsets are those of AMD 56860, table
"ATTESTATION_REPORT". Numbers are little endian; a TCB version is an object of its parts, whose place depends
on whether it has an FMC (Turin).
"""

from __future__ import annotations

from collections.abc import Mapping

from attestation.importers.source import closed, octet_list, refuse
from measurements.sev.report import REPORT_SIZE

_WHAT = "SNP report in JSON"
_NUMBERS = {
    "version": (0x00, 4),
    "guest_svn": (0x04, 4),
    "policy": (0x08, 8),
    "vmpl": (0x30, 4),
    "sig_algo": (0x34, 4),
    "plat_info": (0x40, 8),
    "_author_key_en": (0x48, 4),
    "key_info": (0x48, 4),
    "_reserved_0": (0x4C, 4),
    "cpuid_fam_id": (0x188, 1),
    "cpuid_mod_id": (0x189, 1),
    "cpuid_step": (0x18A, 1),
    "current_build": (0x1E8, 1),
    "current_minor": (0x1E9, 1),
    "current_major": (0x1EA, 1),
    "_reserved_2": (0x1EB, 1),
    "committed_build": (0x1EC, 1),
    "committed_minor": (0x1ED, 1),
    "committed_major": (0x1EE, 1),
    "_reserved_3": (0x1EF, 1),
    "launch_mit_vector": (0x1F8, 8),
    "current_mit_vector": (0x200, 8),
}
_OCTETS = {
    "family_id": (0x10, 16),
    "image_id": (0x20, 16),
    "report_data": (0x50, 64),
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "_reserved_1": (0x188, 24),
    "chip_id": (0x1A0, 64),
    "_reserved_4": (0x1F8, 168),
}
_TCBS = {"current_tcb": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0}
_VERSIONS = {"current": 0x1E8, "committed": 0x1EC}
_NULLABLE = {"cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "launch_mit_vector", "current_mit_vector"}
_REQUIRED = (
    "version guest_svn policy family_id image_id vmpl sig_algo current_tcb plat_info report_data measurement "
    "host_data id_key_digest author_key_digest report_id report_id_ma reported_tcb chip_id committed_tcb "
    "launch_tcb signature"
)
_SIGNATURE = 0x2A0
_HALF = 72
_RESERVED = 368


def report_bytes(value: object) -> bytes:
    """The report; raises ``EvidenceImportError``."""
    fields = closed(value, _REQUIRED, " ".join([*_NUMBERS, *_OCTETS, *_VERSIONS]), what=_WHAT)
    report = _Report()
    for key, found in fields.items():
        if key in _NUMBERS:
            if found is not None or key not in _NULLABLE:
                report.number(*_NUMBERS[key], found, key)
        elif key in _OCTETS:
            report.octets(*_OCTETS[key], found, key)
        elif key in _TCBS:
            report.octets(_TCBS[key], 8, list(_tcb(found, key)), key)
        elif key in _VERSIONS:
            parts = closed(found, "major minor build", what=f"{_WHAT}, {key}")
            for offset, part in enumerate(("build", "minor", "major")):
                report.number(_VERSIONS[key] + offset, 1, parts[part], f"{key}.{part}")
    signature = closed(fields["signature"], "r s", "_reserved", what=f"{_WHAT}, signature")
    report.octets(_SIGNATURE, _HALF, signature["r"], "signature.r")
    report.octets(_SIGNATURE + _HALF, _HALF, signature["s"], "signature.s")
    if "_reserved" in signature:
        report.octets(_SIGNATURE + 2 * _HALF, _RESERVED, signature["_reserved"], "signature._reserved")
    return report.whole()


class _Report:
    """The bytes, written field by field; no two fields may say different things about one byte."""

    def __init__(self) -> None:
        self._data = bytearray(REPORT_SIZE)

    def number(self, at: int, size: int, value: object, key: str) -> None:
        if type(value) is not int or not 0 <= value < 1 << 8 * size:
            refuse(f"{key} is not a number of {size} bytes", what=_WHAT)
        self._write(at, value.to_bytes(size, "little"), key)

    def octets(self, at: int, size: int, value: object, key: str) -> None:
        data = octet_list(value, what=f"{_WHAT}, {key}")
        if len(data) != size:
            refuse(f"{key} has {len(data)} bytes, not {size}", what=_WHAT)
        self._write(at, data, key)

    def whole(self) -> bytes:
        return bytes(self._data)

    def _write(self, at: int, data: bytes, key: str) -> None:
        before = self._data[at : at + len(data)]
        if any(before) and any(data) and before != data:
            refuse(f"{key} contradicts another field", what=_WHAT)
        if any(data):
            self._data[at : at + len(data)] = data


def _tcb(value: object, key: str) -> bytes:
    """The eight bytes of a TCB version."""
    what = f"{_WHAT}, {key}"
    fields = closed(value, "bootloader tee snp microcode", "fmc _reserved", what=what)
    parts = [fields[name] for name in ("bootloader", "tee", "snp", "microcode")]
    if fields.get("fmc") is not None:
        boot_loader, tee, snp, microcode = octet_list(parts, what=what)
        return octet_list([fields["fmc"]], what=what) + bytes((boot_loader, tee, snp, 0, 0, 0, microcode))
    boot_loader, tee, snp, microcode = octet_list(parts, what=what)
    reserved = octet_list(fields.get("_reserved", [0, 0, 0, 0]), what=what)
    if len(reserved) != 4:
        refuse("has other than four reserved bytes", what=what)
    return bytes((boot_loader, tee)) + reserved + bytes((snp, microcode))


def known_keys() -> Mapping[str, int]:
    """Where each key's bytes are, for tests."""
    fields = {**{key: at for key, (at, _) in {**_NUMBERS, **_OCTETS}.items()}, **_TCBS, **_VERSIONS}
    return {**fields, "signature": _SIGNATURE}
