"""The keys of a policy: for each field of the model the kind of its value (``attestation.policy_kinds``).

``docs/formats.md``, "Policy", lists them. A test compares this module with the model, field by field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attestation.container import EvidencePlatform
from attestation.policy import (
    AkProof,
    DcapPolicy,
    Environment,
    GpuPolicy,
    GraceWindow,
    NitroPolicy,
    Policy,
    RootPurpose,
    SnpFloor,
    SnpPolicy,
    TcbStatus,
    TpmPolicy,
    TrustAnchor,
)
from attestation.policy_kinds import (
    LINE,
    NAME,
    AllowedOf,
    Choice,
    Day,
    Duration,
    Flag,
    Form,
    Hex,
    Kind,
    Listed,
    Moment,
    Number,
    Octets,
    Sequence,
    Table,
    Text,
    WrongValueError,
)
from attestation.policy_measurements import REGISTERS, MeasurementsOf, Names
from measurements.canonical import Json

PRODUCTS = ("milan", "genoa", "turin")
PLATFORM_INFO = ("ecc", "tsme", "rapl-disabled", "ciphertext-hiding", "alias-check")
GUEST_POLICY = ("single-socket", "aes-256-xts", "rapl-disabled", "ciphertext-hiding", "page-swap-disabled")
BANKS = ("sha256", "sha384")
LAST_PCR = 23
LARGEST_REPORT_DATA = 512
"""Bytes: a Nitro document's user data, the longest of them."""

_WORD = Text(re.compile(r"[!-~]{1,128}"), "a word of printable ASCII characters")
_ADVISORY = Text(re.compile(r"INTEL-[A-Z]{2,8}-[0-9]{5}"), "an advisory such as INTEL-SA-00837")
_BYTE, _U32 = Number(0, 255), Number(0, (1 << 32) - 1)
_STATUSES = Listed(
    Choice(
        [status for status in TcbStatus if status is not TcbStatus.REVOKED],
        never={TcbStatus.REVOKED: "is always refused, and no status of a policy"},
    )
)


class FloorsOf(Kind):
    """Lowest security patch levels by product."""

    def read(self, value: object, form: Form) -> Mapping[str, SnpFloor]:
        found: Mapping[str, SnpFloor] = _FLOORS.read(value, form)
        return found

    def write(self, value: Any) -> Json:
        return {product: _FLOOR_KINDS[product].write(floor) for product, floor in value.items()}


_SPLS = {"boot_loader": _BYTE, "tee": _BYTE, "snp": _BYTE, "microcode": _BYTE}
_FLOOR_KINDS = {
    "milan": Table(model=SnpFloor, keys=_SPLS),
    "genoa": Table(model=SnpFloor, keys=_SPLS),
    "turin": Table(model=SnpFloor, keys={"fmc": _BYTE, **_SPLS}),
}
_FLOORS = Table(model=dict, keys=_FLOOR_KINDS, optional=PRODUCTS)

_GRACE = Table(model=GraceWindow, keys={"statuses": _STATUSES, "until": Moment(last=True)})


def _dcap(platform: EvidencePlatform) -> Table:
    return Table(
        model=DcapPolicy,
        keys={
            "statuses": _STATUSES,
            "grace": Sequence(_GRACE),
            "min_tcb_date": Moment(last=False),
            "min_evaluation_number": _U32,
            "max_collateral_age": Duration(),
            "advisories_accepted": AllowedOf(_ADVISORY),
            "advisories_denied": Listed(_ADVISORY),
            "dynamic_platform": Flag(),
            "cached_keys": Flag(),
            "smt": Flag(),
            "migratable": Flag(),
            "ppids": AllowedOf(Hex(16, 16)),
            "platform_instances": AllowedOf(Hex(16, 16)),
            "fmspcs": AllowedOf(Hex(6, 6)),
            "service_tds": AllowedOf(Hex(48, 48)),
            "measurements": MeasurementsOf(platform, REGISTERS[platform]),
        },
    )


_SNP = Table(
    model=SnpPolicy,
    keys={
        "floors": FloorsOf(),
        "vlek": Flag(),
        "chip_ids": AllowedOf(Hex(64, 64), both=True),
        "csp_ids": AllowedOf(_WORD, both=True),
        "vmpls": Listed(Number(0, 3)),
        "smt": Flag(),
        "migration_agent": Flag(),
        "provisional_firmware": Flag(),
        "min_guest_svn": _U32,
        "required_platform_info": Listed(Names(PLATFORM_INFO)),
        "required_guest_policy": Listed(Names(GUEST_POLICY)),
        "id_keys": AllowedOf(Hex(48, 48)),
        "author_keys": AllowedOf(Hex(48, 48)),
        "max_crl_age": Duration(),
        "measurements": MeasurementsOf(EvidencePlatform.SNP, REGISTERS[EvidencePlatform.SNP]),
    },
)
_TPM = Table(
    model=TpmPolicy,
    keys={
        "ak_proofs": Listed(Choice(tuple(AkProof))),
        "banks": Listed(Names(BANKS)),
        "pcrs": Listed(Number(0, LAST_PCR)),
        "event_log": Flag(),
        "activation_secrets": AllowedOf(Hex(32, 32), any_allowed=False),
        "platform_ids": AllowedOf(Hex(32, 32)),
        "measurements": MeasurementsOf(EvidencePlatform.TPM, REGISTERS[EvidencePlatform.TPM]),
    },
)
_NITRO = Table(
    model=NitroPolicy,
    keys={
        "max_age": Duration(),
        "module_ids": AllowedOf(_WORD),
        "measurements": MeasurementsOf(EvidencePlatform.NITRO, REGISTERS[EvidencePlatform.NITRO]),
    },
)
_GPU = Table(
    model=GpuPolicy,
    keys={
        "count": Number(1, 64),
        "architectures": AllowedOf(_WORD),
        "driver_versions": AllowedOf(_WORD),
        "vbios_versions": AllowedOf(_WORD),
        "rims": Flag(),
        "ocsp": Flag(),
        "bound": Flag(),
    },
)
_ROOT = Table(
    model=TrustAnchor,
    keys={
        "purpose": Choice(tuple(RootPurpose)),
        "fingerprint": Octets(32),
        "subject": LINE,
        "source": LINE,
        "date": Day(),
    },
)


def _check(read: Mapping[str, Any], form: Form) -> None:
    """What only the whole policy shows."""
    sections = {one for one in EvidencePlatform if one.value in read}
    for platform in sorted(read["platforms"] - sections):
        raise WrongValueError(
            f"allows {platform}, but there is no section [{platform}]",
            f"write the section, or leave {platform} out of platforms",
            ("platforms",),
        )
    for platform in sorted(sections - read["platforms"] - {EvidencePlatform.TPM}):
        raise WrongValueError(
            f"platforms does not list {platform}", "list it, or remove the section", (platform.value,)
        )
    if read["environment"] is Environment.DEV:
        return
    if EvidencePlatform.SIM in sections:
        raise WrongValueError(
            "simulated TEEs protect nothing, and only a policy for development may allow them",
            'remove the section, or write environment = "dev"',
            (EvidencePlatform.SIM.value,),
        )
    for index, root in enumerate(read.get("roots", ())):
        if root.purpose is RootPurpose.SIM:
            raise WrongValueError(
                "the root of simulated TEEs is only for policies of development",
                'remove the root, or write environment = "dev"',
                ("roots", str(index), "purpose"),
            )


SECTIONS: Mapping[str, Table] = {
    "tdx": _dcap(EvidencePlatform.TDX),
    "sgx": _dcap(EvidencePlatform.SGX),
    "sim": _dcap(EvidencePlatform.SIM),
    "snp": _SNP,
    "tpm": _TPM,
    "nitro": _NITRO,
    "gpu": _GPU,
}
"""One for each platform, and one for GPUs; each may be absent as a whole."""

POLICY = Table(
    model=Policy,
    keys={
        "name": NAME,
        "environment": Choice(tuple(Environment)),
        "platforms": Listed(Choice(tuple(EvidencePlatform))),
        "report_data": AllowedOf(Hex(1, LARGEST_REPORT_DATA)),
        "app_hashes": AllowedOf(Hex(32, 32)),
        **SECTIONS,
        "roots": Sequence(_ROOT),
    },
    optional=(*SECTIONS, "roots"),
    check=_check,
)
"""The whole policy without the mark of its version."""
