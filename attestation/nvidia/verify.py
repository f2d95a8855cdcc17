"""Verification of GPUs and NVSwitches beside a CPU's evidence.

First each device, in a group ``gpu0``, ``gpu1``…, whose checks begin with that name:

=====================  ===================================================================================
``…-report-form``      a whole report of known form (``spdm``)
``…-certificates``     its certificates chain to a pinned root for devices and name a device (``device``)
``…-validity``         all of them are valid now
``…-report-signature`` the device's key signed the report
``…-nonce``            the report is the answer to the nonce of the evidence
``…-firmware``         the firmware that the report names, if it does, is the one of its certificate
``…-architecture``     the chip is what the evidence claims, and allowed
``…-driver``           the driver's version is allowed (a switch has none)
``…-vbios``            the version of VBIOS or switch BIOS is allowed
``…-revocation``       OCSP: good answers for all certificates but the root and the one that the device made
``…-driver-manifest``  NVIDIA's signed manifest of this driver is at hand (``rim``)
``…-vbios-manifest``   that of this VBIOS is
``…-manifests``        their signers are not revoked (if OCSP is demanded), and they do not contradict
``…-measurements``     every measurement is as the manifests say (``golden``)
=====================  ===================================================================================

then the devices together, in the group ``gpus``:

=====================  ===================================================================================
``gpu-allowed``        the policy has a section on GPUs
``gpu-count``          there are exactly as many as it says
``gpu-one-nonce``      all were asked for the same nonce of 32 bytes
``gpu-binding``        the CPU's report data binds them (``binding``); where the policy does not demand that,
                       its list of report data allows the nonce
``gpu-distinct``       no device is there twice
=====================  ===================================================================================

What the policy does not demand passes as ``not demanded``. NVIDIA's responder cannot know the first
certificate of a chain, which the device makes itself, so OCSP begins at the second (as in nvtrust). Secure
boot and debug state are no fields of a report: they show in the measurements and in the firmware's flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from attestation.anchors import Anchors
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, GpuPart
from attestation.nvidia.binding import binds
from attestation.nvidia.device import Device
from attestation.nvidia.device_checks import DeviceOutcome, Inputs, verify_device
from attestation.nvidia.spdm import NONCE_SIZE
from attestation.platform_verification import (
    ChainLink,
    PlatformFacts,
    PlatformVerification,
    Window,
)
from attestation.policy import Policy, RootPurpose
from attestation.verdict import CheckFailedError, CheckList
from attestation.verdict_tree import Group, group_of

MAX_DEVICES = 32
SET_CHECKS = ("gpu-allowed", "gpu-count", "gpu-one-nonce", "gpu-binding", "gpu-distinct")

_MOST_SHOWN = 8
"""Of more devices than the policy counts, so many are looked at, so that a person sees what they are."""
_AGAIN = "take evidence of all GPUs again, with one nonce"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Set:
    """The devices of one machine, with what came of each."""

    parts: tuple[GpuPart, ...]
    outcomes: tuple[DeviceOutcome, ...]

    @property
    def nonce(self) -> bytes:
        return self.parts[0].nonce if self.parts else b""

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(one.device for one in self.outcomes if one.device is not None)


def verify_gpus(
    evidence: EvidenceContainer,
    *,
    collateral: Collateral,
    anchors: Anchors,
    policy: Policy,
    now: int,
    cpu: PlatformFacts | None,
) -> PlatformVerification:
    """Verify the GPUs of ``evidence``. ``cpu`` is what its verified CPU evidence says, None if that failed.
    The facts' report data is the nonce of the devices; registers they have none.
    """
    together = evidence.collateral.joined(collateral)
    inputs = Inputs(
        pool=tuple(dict.fromkeys((*evidence.certificates, *together.certificates))),
        rims=together.rims,
        ocsp=together.ocsp,
        device_roots=anchors.fingerprints(RootPurpose.NVIDIA_DEVICE),
        rim_roots=anchors.fingerprints(RootPurpose.NVIDIA_RIM),
        now=now,
    )
    section = policy.gpu
    most = min(MAX_DEVICES, max(section.count, _MOST_SHOWN)) if section is not None else 0
    parts = evidence.gpus[:most]
    outcomes = tuple(
        verify_device(part, f"gpu{place}", inputs, section)
        for place, part in enumerate(parts)
        if section is not None
    )
    found = _Set(parts=evidence.gpus, outcomes=outcomes)
    groups = (*(one.group for one in outcomes), _set_group(found, policy, cpu))
    passed = all(group.passed for group in groups)
    return PlatformVerification(
        groups=groups,
        facts=_facts(evidence, found, cpu) if passed else None,
        windows=_once([window for one in outcomes for window in one.windows]),
        chain=tuple(dict.fromkeys(link for one in outcomes for link in _links(one))),
        versions=tuple(dict.fromkeys(version for one in outcomes for version in one.versions)),
    )


def _set_group(found: _Set, policy: Policy, cpu: PlatformFacts | None) -> Group:
    checks = CheckList()
    with suppress(CheckFailedError):
        _check_set(checks, found, policy, cpu)
    return group_of("gpus", "The GPUs together", SET_CHECKS, checks.verdict())


def _check_set(checks: CheckList, found: _Set, policy: Policy, cpu: PlatformFacts | None) -> None:
    section = policy.gpu
    checks.require(
        "gpu-allowed",
        section is not None,
        expected="a policy with a section [gpu]",
        found="none" if section is None else "as expected",
        reason="the policy does not speak of GPUs",
        advice="add a section [gpu], or leave GPUs out of the evidence",
    )
    assert section is not None  # required above
    count = len(found.parts)
    checks.note(
        "gpu-count",
        count == section.count and count <= MAX_DEVICES,
        expected=str(section.count),
        found=str(count),
        reason="the machine shows another number of GPUs and switches than the policy says",
        advice="take evidence of every GPU and switch, or correct gpu.count",
    )
    nonces = {part.nonce for part in found.parts}
    checks.note(
        "gpu-one-nonce",
        all(len(nonce) == NONCE_SIZE and any(nonce) for nonce in nonces) and len(nonces) <= 1,
        expected="one nonce of 32 bytes that are not all zero",
        found=", ".join(sorted(nonce.hex()[:80] or "nothing" for nonce in nonces)) or "no device",
        reason="the devices were asked at different times, or without a nonce",
        advice=_AGAIN,
    )
    _check_binding(checks, found, policy, cpu, bound=section.bound)
    _check_distinct(checks, found)


def _check_binding(
    checks: CheckList, found: _Set, policy: Policy, cpu: PlatformFacts | None, *, bound: bool
) -> None:
    if not found.parts:
        expected = "no device, so nothing to bind"
        checks.note("gpu-binding", True, expected=expected, found="as expected", reason="", advice="")
        return
    if bound:
        checks.note(
            "gpu-binding",
            cpu is not None and binds(cpu.report_data, found.parts, found.nonce),
            expected="report data of the CPU that is the GPUs' nonce and the digest of their evidence",
            found="no verified evidence of the CPU"
            if cpu is None
            else cpu.report_data.hex()[:160] or "nothing",
            reason="nothing proves that these GPUs are in this machine",
            advice="quote with report data made by keyturn from the GPU evidence, or set gpu.bound openly",
        )
        return
    checks.note(
        "gpu-binding",
        policy.report_data.holds(found.nonce.hex()),
        expected=f"a nonce that the policy allows: {policy.report_data}",
        found=found.nonce.hex()[:80] or "nothing",
        reason="the GPUs are not bound to the CPU's evidence, and their nonce is none of the policy's",
        advice="list the nonce in report_data, or demand gpu.bound",
    )


def _check_distinct(checks: CheckList, found: _Set) -> None:
    devices = found.devices
    names = [f"{one.chip}:{one.device_id}" for one in devices]
    keys = [one.chain.ders[1] if len(one.chain.ders) > 2 else one.chain.ders[0] for one in devices]
    twice = sorted({name for name in names if names.count(name) > 1})
    checks.note(
        "gpu-distinct",
        not twice and len(set(keys)) == len(keys) == len(found.parts),
        expected=f"{len(found.parts)} different devices",
        found=", ".join(twice) + " twice" if twice else f"{len(set(keys))} that could be told apart",
        reason="one device stands for more than one, or some could not be identified",
        advice=_AGAIN,
    )


def _facts(evidence: EvidenceContainer, found: _Set, cpu: PlatformFacts | None) -> PlatformFacts:
    identity: dict[str, str] = {}
    details: dict[str, str] = {}
    for place, one in enumerate(found.outcomes):
        identity |= {f"gpu{place}": one.identity}
        details |= {f"gpu{place}_{key}": value for key, value in one.details.items()}
    return PlatformFacts(
        platform=evidence.platform,
        development=cpu is not None and cpu.development,
        report_data=found.nonce,
        registers={},
        identity=identity,
        details=details,
    )


def _links(outcome: DeviceOutcome) -> Sequence[ChainLink]:
    if outcome.device is None:
        return ()
    links = outcome.device.chain.links
    report = ChainLink(subject=f"report of {outcome.name}", issuer=links[0].subject, detail=outcome.identity)
    return (report, *links)


def _once(windows: Sequence[Window]) -> tuple[Window, ...]:
    return tuple(dict.fromkeys(windows))
