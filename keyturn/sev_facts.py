"""What ``keyturn sev show`` says of a report, a firmware image or an IGVM file."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING

from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from measurements.sev.igvm import IgvmFile
    from measurements.sev.ovmf_metadata import Area, SevImage
    from measurements.sev.report import SnpReport

REPORT_SIZE = 1184

_HCL_MAGIC = b"HCLA"
_HCL_HEADER = 32
_IGVM_MAGIC = b"IGVM"

Facts = dict[str, object]


def facts_of(data: bytes, *, name: str) -> Facts:
    """What there is to say of the bytes of a file; what it is shows in its own bytes.

    A report may lie in the blob of Azure's paravisor (``HCLA``). Raises the error of the format that it is
    taken for.
    """
    if data[:4] == _IGVM_MAGIC:
        from measurements.sev.igvm import parse_igvm

        return igvm_facts(parse_igvm(data, name=name))
    wrapped = data[:4] == _HCL_MAGIC
    if wrapped:
        data = data[_HCL_HEADER : _HCL_HEADER + REPORT_SIZE]
    if wrapped or len(data) == REPORT_SIZE:
        from measurements.sev.report import parse_report

        return report_facts(parse_report(data, name=name))
    from measurements.sev.ovmf_metadata import parse_sev_image

    return firmware_facts(parse_sev_image(data, name=name))


def report_facts(report: SnpReport) -> Facts:
    """The fields of a report, in the order of its layout; its signature is not checked."""
    from measurements.sev.guest_policy import PolicyFlag
    from measurements.sev.report import PlatformInfo

    cpu = report.cpu
    return {
        "kind": "SNP attestation report, signature not checked",
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": f"{report.policy:#x}",
        "policy_flags": _names(PolicyFlag, report.policy),
        "abi_at_least": f"{report.policy >> 8 & 0xFF}.{report.policy & 0xFF}",
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "vmpl": report.vmpl,
        "current_tcb": str(report.current_tcb),
        "platform_info": f"{report.platform_info:#x}",
        "platform_flags": _names(PlatformInfo, report.platform_info),
        "author_key_enabled": report.author_key_enabled,
        "chip_key_masked": report.chip_key_masked,
        "signing_key": report.signing_key.name.lower(),
        "report_data": report.report_data.hex(),
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "reported_tcb": str(report.reported_tcb),
        "cpu": cpu.name if cpu else None,
        "chip_id": report.chip_id.hex(),
        "committed_tcb": str(report.committed_tcb),
        "current_firmware": str(report.current_firmware),
        "committed_firmware": str(report.committed_firmware),
        "launch_tcb": str(report.launch_tcb),
        "launch_mitigations": report.launch_mitigations,
        "current_mitigations": report.current_mitigations,
    }


def firmware_facts(firmware: SevImage) -> Facts:
    """What a firmware image says about SEV, and the digest after its pages."""
    import hashlib

    from measurements.sev.launch_digest import firmware_digest

    sections = [f"{part.kind.name} {part.size:#x} bytes at {part.gpa:#x}" for part in firmware.sections]
    eip = firmware.reset_eip
    facts: Facts = {
        "kind": "firmware for SEV" if firmware.svsm_entry is None else "SVSM, which lies below a firmware",
        "sha256": hashlib.sha256(firmware.image).hexdigest(),
        "size": len(firmware.image),
        "snp_sections": sections,
        "kernel_hashes": _place(firmware.hash_table),
        "secret": _place(firmware.secret),
        "processors_start_at": None if eip is None else f"{eip:#x}",
    }
    if firmware.svsm_entry is None:
        facts |= {"address": f"{firmware.gpa:#x}", "snp_firmware_digest": firmware_digest(firmware).hex()}
    return facts


def _place(area: Area | None) -> str | None:
    return f"{area.size:#x} bytes at {area.gpa:#x}" if area else None


def igvm_facts(file: IgvmFile) -> Facts:
    """The platforms of an IGVM file, its launch digest if it is one for SNP, and its ID block."""
    from collections import Counter

    from measurements.sev.igvm import PlatformType
    from measurements.sev.igvm_launch import Loader, predict_igvm, snp_part

    known = {kind.value: kind.name.lower() for kind in PlatformType}
    facts: Facts = {
        "kind": f"IGVM file of version {file.version}",
        "platforms": [known.get(platform.platform, str(platform.platform)) for platform in file.platforms],
        "headers": dict(sorted(Counter(header.kind.name.lower() for header in file.headers).items())),
    }
    if not any(platform.platform == PlatformType.SEV_SNP for platform in file.platforms):
        return facts
    measurement = predict_igvm(file, loader=Loader.FILE).registers["measurement"]["sha384"]
    facts |= {"policy": f"{snp_part(file).policy:#x}", "measurement": measurement.hex()}
    return facts | _id_block_facts(file, measurement)


def _id_block_facts(file: IgvmFile, measurement: bytes) -> Facts:
    from measurements.sev.id_block import check_id_block
    from measurements.sev.igvm_id_block import igvm_id_block

    found = igvm_id_block(file)
    if found is None:
        return {"id_block": None}
    block, authentication = found
    try:
        check_id_block(block, authentication)
        signatures = "good"
    except KeyturnError as error:
        signatures = str(error)
    return {
        "id_block": block.launch_digest.hex(),
        "id_block_names_this_file": block.launch_digest == measurement,
        "id_block_signatures": signatures,
        "id_key_digest": authentication.id_key_digest.hex(),
        "author_key_digest": authentication.author_key_digest.hex(),
    }


def _names(flags: type[IntFlag], word: int) -> list[str]:
    """Names of the bits that are set."""
    return [str(flag.name) for flag in flags if flag & word]
