"""Verdicts made by hand, for what shows or forecasts them."""

from __future__ import annotations

from dataclasses import replace

from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.evidence_verdict import EvidenceVerdict
from attestation.platform_verification import ChainLink, Component, PlatformFacts, Window
from attestation.verdict import Check
from attestation.verdict_tree import Group
from tests.support.policies import permissive_policy

NOW = 1_780_000_000


def check(name: str, *, passed: bool = True, text: str = "as expected") -> Check:
    if passed:
        return Check(name=name, passed=True, expected=text, found=text)
    return Check(
        name=name, passed=False, expected="good", found=text, reason=f"{name}: {text}", advice="mend it"
    )


def verdict_of(
    *checks: Check,
    now: int = NOW,
    windows: tuple[Window, ...] = (),
    chain: tuple[ChainLink, ...] = (),
    policy_name: str = "test",
    development: bool = False,
) -> EvidenceVerdict:
    return EvidenceVerdict(
        groups=(Group(name="quote", title="the quote", checks=checks),),
        facts=(
            PlatformFacts(
                platform=EvidencePlatform.TDX,
                development=development,
                report_data=bytes(64),
                registers={"mrtd": b"\x11" * 48},
                identity={"ppid": "22" * 16},
                details={"status": policy_name},
            ),
        ),
        evidence=EvidenceContainer(platform=EvidencePlatform.TDX, report=b"quote"),
        policy=replace(permissive_policy(EvidencePlatform.TDX), name=policy_name),
        development=development,
        now=now,
        windows=windows,
        components=(Component(name="sgx 3", have=2, need=5),),
        chain=chain,
        versions=(("dcap-qvl", "0.7.0"),),
    )
