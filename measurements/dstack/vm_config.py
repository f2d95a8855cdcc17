"""``vm_config``: what dstack's host says that it chose for a VM.

JSON (``dstack/dstack-types/src/lib.rs``, ``VmConfig``). **The host writes it and nothing measures it**: it
says what to compute, and the quote then tells whether that was true. Keys that are not known are refused,
because each can change the machine. ``qemu_single_pass_add_pages`` means the opposite of its name: ``true``
is the order in two passes (``dstack-mr/src/machine.rs`` hands it to ``two_pass_add_pages``).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

from measurements.dstack.boot_log import OvmfVariant
from measurements.dstack.errors import DstackInputError
from measurements.dstack.json_documents import (
    boolean,
    closed_object,
    integer,
    octets,
    parse_document,
    refuse,
    text,
)
from measurements.dstack.runtime_events import HASH_SIZE
from measurements.tdx.mrtd import PageOrder

SUBJECT = "vm_config"
MAX_DOCUMENT = 4 << 20
DEFAULT_QEMU = (9, 1, 0)
MAX_DEVICES = 64

_QEMU = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})")
_REQUIRED = frozenset({"os_image_hash", "cpu_count", "memory_size"})
_OPTIONAL = frozenset(
    {
        "spec_version",
        "qemu_single_pass_add_pages",
        "pic",
        "qemu_version",
        "pci_hole64_size",
        "hugepages",
        "num_gpus",
        "num_nvswitches",
        "num_nics",
        "num_verity_volumes",
        "swtpm",
        "hotplug_off",
        "image",
        "host_share_mode",
        "ovmf_variant",
        "tdx_attestation_variant",
        "tdx_measurement",
        "sev_snp_measurement",
        "mr_config",
    }
)
_SHARE_MODES = ("", "9p", "vvfat", "vhd")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementDocument:
    """A measurement document with the ``sha256sum.txt`` that names it, as they were sent."""

    measurement: bytes
    checksum_file: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpLaunch:
    """What an SEV-SNP guest was launched with, beside its measurement document."""

    document: MeasurementDocument
    vcpus: int
    vcpu_type: str
    guest_features: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VmConfig:
    """The fields; sizes in bytes. ``qemu`` is the version, or dstack's default where none is named."""

    os_image_hash: bytes
    cpus: int
    memory: int
    qemu: tuple[int, int, int]
    page_order: PageOrder
    pic: bool
    pci_hole64: int
    hugepages: bool
    gpus: int
    nvswitches: int
    nics: int
    verity_volumes: int
    swtpm: bool
    hotplug_off: bool
    share_mode: str
    image: str | None
    lite: bool
    tdx: MeasurementDocument | None
    snp: SnpLaunch | None
    mr_config: bytes | None


def parse_vm_config(data: bytes) -> VmConfig:
    """Read the document; raises ``DstackFormatError``, and ``DstackInputError`` for QEMU before 8.0."""
    fields = closed_object(
        parse_document(data, subject=SUBJECT, limit=MAX_DOCUMENT),
        required=_REQUIRED,
        optional=_OPTIONAL,
        subject=SUBJECT,
    )
    if integer(fields.get("spec_version", 1), subject=f"{SUBJECT}, spec_version") != 1:
        refuse(SUBJECT, f"has spec_version {fields['spec_version']}, not 1")
    if fields.get("ovmf_variant", OvmfVariant.PRE202505.value) != OvmfVariant.PRE202505.value:
        refuse(SUBJECT, f"has the firmware layout {fields['ovmf_variant']!r}")
    variant = fields.get("tdx_attestation_variant", "legacy")
    if variant not in ("legacy", "lite"):
        refuse(SUBJECT, f"has the attestation variant {variant!r}")
    share_mode = fields.get("host_share_mode", "")
    if share_mode not in _SHARE_MODES:
        refuse(SUBJECT, f"has the share mode {share_mode!r}")
    qemu = _qemu(fields)
    old = qemu < (9, 0, 0)
    two_pass = _switch(fields, "qemu_single_pass_add_pages", default=old)
    return VmConfig(
        os_image_hash=octets(
            fields["os_image_hash"], subject=f"{SUBJECT}, os_image_hash", sizes=(HASH_SIZE,)
        ),
        cpus=_count(fields, "cpu_count", lowest=1, highest=4096),
        memory=integer(
            fields["memory_size"], subject=f"{SUBJECT}, memory_size", lowest=1 << 20, highest=1 << 52
        ),
        qemu=qemu,
        page_order=PageOrder.TWO_PASS if two_pass else PageOrder.SINGLE_PASS,
        pic=_switch(fields, "pic", default=old),
        pci_hole64=integer(fields.get("pci_hole64_size", 0), subject=f"{SUBJECT}, pci_hole64_size"),
        hugepages=_switch(fields, "hugepages"),
        gpus=_count(fields, "num_gpus"),
        nvswitches=_count(fields, "num_nvswitches"),
        nics=_count(fields, "num_nics", default=1),
        verity_volumes=_count(fields, "num_verity_volumes"),
        swtpm=_switch(fields, "swtpm"),
        hotplug_off=_switch(fields, "hotplug_off"),
        share_mode=str(share_mode),
        image=text(fields["image"], subject=f"{SUBJECT}, image") if "image" in fields else None,
        lite=variant == "lite",
        tdx=_tdx_document(fields),
        snp=_snp_launch(fields),
        mr_config=_utf8(fields, "mr_config"),
    )


def _qemu(fields: Mapping[str, object]) -> tuple[int, int, int]:
    value = fields.get("qemu_version")
    if value is None:
        return DEFAULT_QEMU
    match = _QEMU.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        refuse(SUBJECT, f"qemu_version is {value!r}, not three numbers")
    major, minor, patch = (int(part) for part in match.groups())
    if major < 8:
        raise DstackInputError(
            f"names QEMU {value}, and dstack supports none before 8.0.0",
            subject=SUBJECT,
            advice="use the vm_config of the deployment's own host",
        )
    return major, minor, patch


def _tdx_document(fields: Mapping[str, object]) -> MeasurementDocument | None:
    if "tdx_measurement" not in fields:
        return None
    return _document(fields["tdx_measurement"], f"{SUBJECT}, tdx_measurement", frozenset())


def _snp_launch(fields: Mapping[str, object]) -> SnpLaunch | None:
    """The value is a text that holds JSON again."""
    encoded = _utf8(fields, "sev_snp_measurement")
    if encoded is None:
        return None
    subject = f"{SUBJECT}, sev_snp_measurement"
    value = parse_document(encoded, subject=subject, limit=MAX_DOCUMENT)
    launch = frozenset({"vcpus", "vcpu_type", "guest_features"})
    document = _document(value, subject, launch)
    inner = closed_object(value, required=launch, optional=_DOCUMENT, subject=subject)
    return SnpLaunch(
        document=document,
        vcpus=integer(inner["vcpus"], subject=f"{subject}, vcpus", lowest=1, highest=4096),
        vcpu_type=text(inner["vcpu_type"], subject=f"{subject}, vcpu_type"),
        guest_features=integer(inner["guest_features"], subject=f"{subject}, guest_features"),
    )


_DOCUMENT = frozenset({"measurement", "checksum_file"})


def _document(value: object, subject: str, more: frozenset[str]) -> MeasurementDocument:
    fields = closed_object(value, required=_DOCUMENT | more, optional=frozenset(), subject=subject)
    return MeasurementDocument(
        measurement=_base64(fields["measurement"], f"{subject}, measurement"),
        checksum_file=_base64(fields["checksum_file"], f"{subject}, checksum_file"),
    )


def _base64(value: object, subject: str) -> bytes:
    try:
        return base64.b64decode(text(value, subject=subject), validate=True)
    except (binascii.Error, ValueError) as error:
        refuse(subject, f"is not base64: {error}")


def _utf8(fields: Mapping[str, object], key: str) -> bytes | None:
    if key not in fields:
        return None
    return text(fields[key], subject=f"{SUBJECT}, {key}").encode("utf-8")


def _switch(fields: Mapping[str, object], key: str, *, default: bool = False) -> bool:
    return boolean(fields.get(key, default), subject=f"{SUBJECT}, {key}")


def _count(
    fields: Mapping[str, object],
    key: str,
    *,
    default: int = 0,
    lowest: int = 0,
    highest: int = MAX_DEVICES,
) -> int:
    return integer(fields.get(key, default), subject=f"{SUBJECT}, {key}", lowest=lowest, highest=highest)
