"""What ``keyturn firmware show`` says of a firmware file: for TPM systems, for trust domains, for SEV guests.

Each platform has its own table; one that the file is not for says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from measurements.errors import KeyturnError

Facts = dict[str, object]


def firmware_facts(data: bytes, *, name: str) -> dict[str, Facts]:
    """Facts by what they are about: ``file``, ``tpm``, ``tdx``, ``sev``."""
    return {
        "file": _file(data, name),
        "tpm": _attempt(_tpm, data, name),
        "tdx": _attempt(_tdx, data, name),
        "sev": _attempt(_sev, data, name),
    }


def usable(facts: dict[str, Facts]) -> bool:
    """Whether any platform can use the file."""
    return any("unusable" not in part for about, part in facts.items() if about != "file")


def _attempt(work: Callable[[bytes, str], Facts], data: bytes, name: str) -> Facts:
    try:
        return work(data, name)
    except KeyturnError as problem:
        return {"unusable": problem.reason}


def _file(data: bytes, name: str) -> Facts:
    from measurements.firmware_catalogue import catalogue

    digest = hashlib.sha256(data).hexdigest()
    known = catalogue().files.get(digest)
    facts: Facts = {"name": name, "size": len(data), "sha256": digest}
    if known is None:
        return {**facts, "known": "no"}
    return {
        **facts,
        "known": f"{known.file} of {known.package}, {known.distribution}",
        "build": known.build,
        "proof": known.proof.value,
    }


def _tpm(data: bytes, name: str) -> Facts:
    from measurements.acpi_tables import measures_acpi
    from measurements.ovmf import parse_firmware, version_text
    from measurements.pcr0 import needs_dry_boot
    from measurements.shape import MachineShape
    from measurements.smbios import measures_smbios

    firmware = parse_firmware(data, name=name)
    return {
        "version": version_text(firmware),
        "secure_boot": firmware.secure_boot_supported,
        "measures_acpi": measures_acpi(firmware),
        "measures_smbios": measures_smbios(firmware),
        "dry_boot_with_smm": needs_dry_boot(firmware, MachineShape(smm=True)),
    }


def _tdx(data: bytes, name: str) -> Facts:
    from measurements.tdx.mrtd import PageOrder, compute_mrtd
    from measurements.tdx.tdvf import parse_tdvf

    tdvf = parse_tdvf(data, name=name)
    orders = (PageOrder.SINGLE_PASS, PageOrder.TWO_PASS)
    return {
        **_release(data, name),
        **{f"section {index}": section.words() for index, section in enumerate(tdvf.sections)},
        **{f"mrtd, {order.value}": compute_mrtd(tdvf, order=order).value.hex() for order in orders},
    }


def _release(data: bytes, name: str) -> Facts:
    from measurements.tdx.predict import TdxFirmware

    try:
        firmware = TdxFirmware.parse(data, name=name)
    except KeyturnError as problem:
        return {"rtmrs": f"not predicted: {problem.reason}"}
    release = firmware.build.release
    if release.unsupported or not firmware.facts.measures:
        return {
            "edk2": release.name,
            "rtmrs": f"not predicted: {release.unsupported or 'it measures nothing'}",
        }
    return {"edk2": release.name, "rtmrs": "predicted", "proof of the order": release.proof.value}


def _sev(data: bytes, name: str) -> Facts:
    from keyturn.sev_facts import facts_of

    return facts_of(data, name=name)
