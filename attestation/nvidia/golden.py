"""Compares a device's measurements with the manifests of its driver and its VBIOS.

NVIDIA's verifiers (nvtrust verifier.py, attestation-sdk gpu/verify.cpp) compare the active measurements of
both manifests, refuse manifests that are active at the same index, and pass over index 35 where the report
says that the video decoder NVDEC0 is disabled. The same is done here, and one thing more: a measurement that
is not zero and that no manifest covers is a difference. NVIDIA's example policies that let single indices
differ (7 in its SDK, 9 for a cloud's firmware) have no counterpart: a difference is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attestation.nvidia.device import Architecture, Device
from attestation.nvidia.rim import MAX_MANIFESTS, Manifest, load_manifest, named_by
from attestation.nvidia.spdm import Opaque, SpdmReport
from attestation.nvidia.xml_signature import refuse
from attestation.x509_chain import check_windows
from measurements.errors import KeyturnError

MAX_FITTING = 4
"""Most manifests for one driver or VBIOS: each costs the verification of signed XML."""
NVDEC_INDEX = 35
NVDEC_ENABLED = 0xAA
NVDEC_DISABLED = 0x55


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One measurement that is not as it must be; ``expected`` is empty where no manifest speaks of it."""

    index: int
    name: str
    expected: tuple[bytes, ...]
    found: bytes | None

    def __str__(self) -> str:
        found = "absent" if self.found is None else self.found.hex()
        if not self.expected:
            return f"measurement {self.index} is {found} and in no manifest"
        expected = " or ".join(one.hex() for one in self.expected)
        return f"measurement {self.index} ({self.name}) is {found}, not {expected}"


def find_manifest(
    version: str,
    device: Device,
    report: SpdmReport,
    manifests: Iterable[bytes],
    *,
    pool: Iterable[bytes],
    roots: frozenset[bytes],
    now: int,
) -> Manifest:
    """The manifest of this chip and version of driver or VBIOS: of several that are valid now, the one that
    comes nearest to the report. Raises ``KeyturnError`` that says why none fits.
    """
    candidates = tuple(dict.fromkeys(manifests))
    if len(candidates) > MAX_MANIFESTS:
        refuse(f"is one of {len(candidates)}, more than {MAX_MANIFESTS}")
    problems: list[str] = []
    wanted: list[bytes] = []
    for data in candidates:
        try:
            if _is_for(data, version, device):
                wanted.append(data)
        except KeyturnError as error:
            problems.append(f"{error.subject}: {error.reason}")
    if len(wanted) > MAX_FITTING:
        refuse(f"for {device.chip} {version} is one of {len(wanted)}, more than {MAX_FITTING}")
    fitting: list[Manifest] = []
    for data in wanted:
        try:
            one = load_manifest(data, pool, roots)
            check_windows(one.chain.windows, now)
        except KeyturnError as error:
            problems.append(f"{error.subject}: {error.reason}")
        else:
            fitting.append(one)
    if not fitting:
        why = f" ({'; '.join(dict.fromkeys(problems))})" if problems else ""
        refuse(f"for {device.chip} {version} is not at hand or cannot be used{why}")
    return min(fitting, key=lambda one: len(_own_differences(report, one, skipped=frozenset())))


def _is_for(data: bytes, version: str, device: Device) -> bool:
    of_version, product = named_by(data)
    same_chip = product.replace("_", "") == device.chip.replace("_", "")
    return of_version.upper() == version.upper() and same_chip


def shared_indices(manifests: Sequence[Manifest]) -> tuple[int, ...]:
    """Indices at which more than one manifest is active."""
    every = [index for one in manifests for index in one.golden]
    return tuple(sorted(index for index in set(every) if every.count(index) > 1))


def differences(
    report: SpdmReport, architecture: Architecture, manifests: Sequence[Manifest]
) -> tuple[Difference, ...]:
    """Every measurement that differs, by index. Raises ``SignedXmlError`` for a report that does not say
    whether index 35 counts.
    """
    skipped = _skipped(report, architecture)
    covered = {index for one in manifests for index in one.golden} | skipped
    found = [one for manifest in manifests for one in _own_differences(report, manifest, skipped=skipped)]
    found += [
        Difference(index=index, name="", expected=(), found=value)
        for index, value in report.measurements.items()
        if index not in covered and any(value)
    ]
    return tuple(sorted(found, key=lambda one: one.index))


def _own_differences(report: SpdmReport, manifest: Manifest, *, skipped: frozenset[int]) -> list[Difference]:
    return [
        Difference(
            index=index, name=golden.name, expected=golden.values, found=report.measurements.get(index)
        )
        for index, golden in manifest.golden.items()
        if index not in skipped and report.measurements.get(index) not in golden.values
    ]


def _skipped(report: SpdmReport, architecture: Architecture) -> frozenset[int]:
    if architecture is Architecture.LS10:
        return frozenset()
    status = report.number(Opaque.NVDEC0_STATUS)
    if status not in (NVDEC_ENABLED, NVDEC_DISABLED):
        refuse("cannot be compared: the report does not say whether NVDEC0 is enabled")
    return frozenset({NVDEC_INDEX}) if status == NVDEC_DISABLED else frozenset()
