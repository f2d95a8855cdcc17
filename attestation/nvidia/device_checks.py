"""The checks on one GPU or switch; ``attestation.nvidia.verify`` has the table of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version

from attestation.container import GpuPart
from attestation.nvidia.device import Architecture, Device, load_device, signs
from attestation.nvidia.golden import differences, find_manifest, shared_indices
from attestation.nvidia.ocsp import check_revocation
from attestation.nvidia.rim import Manifest
from attestation.nvidia.spdm import Opaque, SpdmReport, parse_report
from attestation.platform_verification import Window
from attestation.policy import GpuPolicy
from attestation.verdict import CheckFailedError, CheckList
from attestation.verdict_tree import Group, group_of
from attestation.x509_chain import check_windows
from measurements.errors import KeyturnError, RefusedError

CHECKS = (
    "report-form",
    "certificates",
    "validity",
    "report-signature",
    "nonce",
    "firmware",
    "architecture",
    "driver",
    "vbios",
    "revocation",
    "driver-manifest",
    "vbios-manifest",
    "manifests",
    "measurements",
)

_NOT_DEMANDED = "not demanded"
_AGAIN = "take evidence of the device again"
_MODES = {0: "multi-GPU passthrough", 1: "single-GPU passthrough", 2: "protected PCIe"}
_PROTECTED_PCIE = {0xAA: "on", 0x55: "off"}


class DifferenceError(RefusedError):
    """Measurements or manifests that are not as they must be."""

    code = "gpu-measurements"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What a device is verified with: candidates of certificates, manifests and OCSP answers, fingerprints of
    trusted roots, the time.
    """

    pool: tuple[bytes, ...]
    rims: tuple[bytes, ...]
    ocsp: tuple[bytes, ...]
    device_roots: frozenset[bytes]
    rim_roots: frozenset[bytes]
    now: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceOutcome:
    """What came of one device. ``device`` is there if its certificates hold."""

    name: str
    group: Group
    device: Device | None
    windows: tuple[Window, ...]
    details: Mapping[str, str]
    versions: tuple[tuple[str, str], ...]

    @property
    def identity(self) -> str:
        """``NVIDIA:GH100:48B02DF44660DA06``; empty if unknown."""
        return f"NVIDIA:{self.device.chip}:{self.device.device_id}" if self.device else ""


@dataclass(kw_only=True, slots=True)
class _Work:
    """One verification under way."""

    part: GpuPart
    name: str
    inputs: Inputs
    policy: GpuPolicy
    checks: CheckList = field(default_factory=CheckList)
    device: Device | None = None
    windows: list[Window] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)

    def check(self, name: str) -> str:
        return f"{self.name}-{name}"

    @contextmanager
    def noted(self, name: str, *, expected: str) -> Iterator[None]:
        """One check that passes unless the block raises an error of ours; it does not end the list."""
        try:
            yield
        except KeyturnError as error:
            reason = f"{error.subject}: {error.reason}"
            self.note(name, False, expected=expected, found=error.reason, reason=reason, advice=error.advice)
        else:
            self.note(name, True, expected=expected, found="as expected")

    def note(
        self, name: str, condition: bool, *, expected: str, found: str, reason: str = "", advice: str = ""
    ) -> None:
        self.checks.note(
            self.check(name), condition, expected=expected, found=found, reason=reason, advice=advice
        )


def verify_device(part: GpuPart, name: str, inputs: Inputs, policy: GpuPolicy) -> DeviceOutcome:
    """Make all checks on one device; never raises for bad evidence."""
    work = _Work(part=part, name=name, inputs=inputs, policy=policy)
    with suppress(CheckFailedError):
        _verify(work)
    names = [work.check(one) for one in CHECKS]
    return DeviceOutcome(
        name=name,
        group=group_of(name, f"GPU or switch {name.removeprefix('gpu')}", names, work.checks.verdict()),
        device=work.device,
        windows=tuple(work.windows),
        details=work.details,
        versions=_versions() if policy.rims else (),
    )


def _verify(work: _Work) -> None:
    inputs, checks = work.inputs, work.checks
    with checks.step(work.check("report-form"), expected="a whole SPDM report"):
        report = parse_report(work.part.report)
        driver, vbios = report.driver_version, report.vbios_version
    with checks.step(work.check("certificates"), expected="a chain to NVIDIA's root for devices"):
        device = load_device(work.part.certificates, inputs.pool, inputs.device_roots)
    work.device = device
    work.windows += device.chain.windows
    with checks.step(work.check("validity"), expected="certificates that are valid now"):
        check_windows(device.chain.windows, inputs.now)
    signed = signs(device, report.signed, report.signature)
    checks.require(
        work.check("report-signature"),
        signed,
        expected="a report that the device's key signed",
        found="as expected" if signed else "another signature",
        reason="the report was changed, or another device made it",
        advice=_AGAIN,
    )
    _check_report(work, report, device)
    _check_versions(work, device, driver, vbios)
    _check_revocation(work, device)
    _check_measurements(work, report, device, driver, vbios)
    work.details |= _details(report, device, driver, vbios)


def _check_report(work: _Work, report: SpdmReport, device: Device) -> None:
    work.checks.equal(
        work.check("nonce"),
        expected=work.part.nonce,
        found=report.nonce,
        reason="the report answers another request",
        advice=_AGAIN,
    )
    named = report.opaque.get(Opaque.FWID)
    work.checks.require(
        work.check("firmware"),
        named is None or named == device.fwid,
        expected=device.fwid.hex(),
        found="not named in the report" if named is None else named.hex() or "nothing",
        reason="the report names other firmware than the certificate of its key",
        advice=_AGAIN,
    )


def _check_versions(work: _Work, device: Device, driver: str, vbios: str) -> None:
    policy = work.policy
    claimed, actual = work.part.architecture, device.architecture.value
    work.note(
        "architecture",
        claimed == actual and policy.architectures.holds(actual),
        expected=f"{claimed[:40]}, as claimed; allowed: {policy.architectures}",
        found=f"{actual} ({device.chip})",
        reason="the device is another than the evidence claims, or than the policy allows",
        advice="use a device of an allowed architecture, or list it in gpu.architectures",
    )
    switch = device.architecture is Architecture.LS10
    work.note(
        "driver",
        not driver if switch else bool(driver) and policy.driver_versions.holds(driver),
        expected="no driver on a switch" if switch else f"allowed: {policy.driver_versions}",
        found=driver or "none",
        reason="the driver's version is not allowed",
        advice="install an allowed driver, or list the version in gpu.driver_versions",
    )
    work.note(
        "vbios",
        policy.vbios_versions.holds(vbios),
        expected=f"allowed: {policy.vbios_versions}",
        found=vbios,
        reason="the VBIOS's version is not allowed",
        advice="update the VBIOS, or list the version in gpu.vbios_versions",
    )


def _check_revocation(work: _Work, device: Device) -> None:
    if not work.policy.ocsp:
        work.note("revocation", True, expected=_NOT_DEMANDED, found=_NOT_DEMANDED)
        return
    with work.noted("revocation", expected="good OCSP answers for the device's certificates"):
        work.windows += check_revocation(device.chain, work.inputs.ocsp, first=1, now=work.inputs.now)


def _check_measurements(work: _Work, report: SpdmReport, device: Device, driver: str, vbios: str) -> None:
    if not work.policy.rims:
        for name in CHECKS[CHECKS.index("driver-manifest") :]:
            work.note(name, True, expected=_NOT_DEMANDED, found=_NOT_DEMANDED)
        return
    manifests = []
    if device.architecture is Architecture.LS10:
        work.note("driver-manifest", True, expected="none for a switch", found="as expected")
    else:
        manifests.append(_manifest(work, "driver-manifest", driver, report, device))
    manifests.append(_manifest(work, "vbios-manifest", vbios, report, device))
    usable = [one for one in manifests if one is not None]
    if len(usable) < len(manifests):
        raise CheckFailedError("manifests")
    _check_manifests(work, usable)
    with work.checks.step(work.check("measurements"), expected="measurements as in the manifests"):
        _require_same(report, device, usable)


def _manifest(
    work: _Work, check: str, of_version: str, report: SpdmReport, device: Device
) -> Manifest | None:
    found = None
    with work.noted(check, expected=f"a signed manifest of {device.chip} {of_version or '(no version)'}"):
        found = find_manifest(
            of_version,
            device,
            report,
            work.inputs.rims,
            pool=work.inputs.pool,
            roots=work.inputs.rim_roots,
            now=work.inputs.now,
        )
        work.windows += found.chain.windows
    return found


def _check_manifests(work: _Work, manifests: list[Manifest]) -> None:
    with work.noted("manifests", expected="manifests of valid signers that speak of different measurements"):
        shared = shared_indices(manifests)
        if shared:
            raise DifferenceError(
                f"both speak of measurement {', '.join(map(str, shared))}",
                subject="manifests",
                advice="fetch the manifests of this driver and this VBIOS again",
            )
        if work.policy.ocsp:
            for one in manifests:
                work.windows += check_revocation(one.chain, work.inputs.ocsp, first=0, now=work.inputs.now)


def _require_same(report: SpdmReport, device: Device, manifests: list[Manifest]) -> None:
    different = differences(report, device.architecture, manifests)
    if different:
        raise DifferenceError(
            "; ".join(map(str, different)),
            subject="measurements",
            advice="install a released driver and VBIOS, and fetch their manifests",
        )


def _details(report: SpdmReport, device: Device, driver: str, vbios: str) -> dict[str, str]:
    details = {
        "architecture": device.architecture.value,
        "chip": device.chip,
        "model": device.model,
        "vbios": vbios,
        "fwid": device.fwid.hex(),
        "board": "_".join(
            report.opaque.get(one, b"").rstrip(b"\0").decode("ascii", "replace")
            for one in (Opaque.PROJECT, Opaque.PROJECT_SKU, Opaque.CHIP_SKU)
        ).strip("_"),
    }
    if driver:
        details["driver"] = driver
    mode = report.number(Opaque.FEATURE_FLAG)
    if mode is not None:
        details["mode"] = _MODES.get(mode, f"unknown ({mode})")
    protected = report.number(Opaque.PROTECTED_PCIE_STATUS)
    if protected is not None:
        details["protected_pcie"] = _PROTECTED_PCIE.get(protected, f"unknown ({protected:#x})")
    return details


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return (("signxml", version("signxml")), ("lxml", version("lxml")))
