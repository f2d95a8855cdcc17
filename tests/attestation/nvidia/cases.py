"""A good case of GPU evidence, and ways to ask for its verdict."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform, GpuPart
from attestation.nvidia.binding import gpu_report_data
from attestation.nvidia.verify import verify_gpus
from attestation.platform_verification import PlatformFacts, PlatformVerification
from attestation.policy import GpuPolicy, Policy
from attestation.verdict import Check
from attestation.verdict_tree import NOT_CHECKED
from tests.support.nvidia_pki import DRIVER, NONCE, NOW, VBIOS, answers, gpu, gpu_pki, manifests, part
from tests.support.policies import NONE, only, permissive_policy

STRICT = GpuPolicy(
    count=1,
    architectures=only("HOPPER"),
    driver_versions=only(DRIVER),
    vbios_versions=only(VBIOS),
    rims=True,
    ocsp=True,
    bound=True,
)


@cache
def good_part() -> GpuPart:
    """Evidence of the first device; always the same."""
    return part()


@cache
def good_collateral() -> Collateral:
    """Manifests and answers for it."""
    return Collateral(rims=manifests(), ocsp=answers(gpu()))


def policy_of(section: GpuPolicy | None) -> Policy:
    """A policy with this section, and the roots of the test PKI."""
    base = permissive_policy(EvidencePlatform.TDX, gpu=True, roots=gpu_pki().anchors)
    return replace(base, gpu=section, report_data=NONE)


@dataclass(kw_only=True)
class Case:
    """Everything that a verdict on GPUs depends on; good as it stands."""

    parts: tuple[GpuPart, ...] = field(default_factory=lambda: (good_part(),))
    collateral: Collateral = field(default_factory=good_collateral)
    policy: GpuPolicy | None = STRICT
    now: int = NOW
    report_data: bytes | None = None
    """Of the CPU; by default what binds the parts."""
    cpu: bool = True

    def verify(self) -> PlatformVerification:
        nonce = self.parts[0].nonce if self.parts else NONCE
        data = gpu_report_data(self.parts, nonce) if self.report_data is None else self.report_data
        facts = PlatformFacts(
            platform=EvidencePlatform.TDX,
            development=False,
            report_data=data,
            registers={},
            identity={},
            details={},
        )
        policy = policy_of(self.policy)
        return verify_gpus(
            EvidenceContainer(platform=EvidencePlatform.TDX, report=b"", gpus=self.parts),
            collateral=self.collateral,
            anchors=anchors_for(policy),
            policy=policy,
            now=self.now,
            cpu=facts if self.cpu else None,
        )

    def failed(self) -> dict[str, Check]:
        """The checks that were made and failed, by name. No facts may come with any."""
        verdict = self.verify()
        failures = {
            check.name: check
            for group in verdict.groups
            for check in group.checks
            if not check.passed and check.found != NOT_CHECKED
        }
        assert verdict.passed is not bool(failures)
        assert (verdict.facts is None) is bool(failures)
        return failures
