"""Real DCAP quotes with collateral and known verdicts (``attestation/dcap/cases.json`` of the vectors)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import dcap_qvl

from attestation.anchors import anchors_for
from attestation.collateral import Collateral, DcapCollateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.dcap.verify import verify_dcap
from attestation.platform_verification import PlatformVerification
from attestation.policy import DcapPolicy, Policy
from attestation.verdict import Check
from attestation.verdict_tree import NOT_CHECKED
from tests.support.policies import permissive_dcap, permissive_policy
from tests.support.vectors import vector

FOLDER = "attestation/dcap"
TDX_V4 = "dcap-qvl-tdx-quote-48cf@2025-06-19"
TDX_V4_LATER = "dcap-qvl-tdx-quote-48cf@2026-10-08"
SGX_V3 = "dcap-qvl-sgx-quote@2025-06-19"
_BINARY = {"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"}
_HEADER, _BODIES = 48, {3: 384, 4: 584}


@dataclass(frozen=True, kw_only=True, slots=True)
class DcapCase:
    """One quote, one set of collateral, one moment. ``stored`` is the quote as its source has it, ``quote``
    without what follows it there.
    """

    id: str
    platform: EvidencePlatform
    stored: bytes
    quote: bytes
    collateral: DcapCollateral
    now: int
    expect: Mapping[str, Any]

    def policy(self, **changes: Any) -> Policy:
        """A permissive policy; ``changes`` are of the platform's section."""
        section: DcapPolicy = replace(permissive_dcap(), **changes)
        given: dict[str, Any] = {self.platform.value: section}
        return replace(permissive_policy(self.platform), **given)

    def verify(self, policy: Policy | None = None, **changes: Any) -> PlatformVerification:
        """The verdict; ``changes`` are of the case."""
        case = replace(self, **changes)
        used = policy or case.policy()
        return verify_dcap(
            EvidenceContainer(platform=case.platform, report=case.quote),
            collateral=Collateral(dcap=(case.collateral,)),
            anchors=anchors_for(used),
            policy=used,
            now=case.now,
        )

    def library(self) -> Any:
        """What dcap-qvl alone says; raises ``ValueError`` for a refusal."""
        given = {one.name: getattr(self.collateral, one.name) for one in fields(DcapCollateral)}
        return dcap_qvl.verify(self.quote, dcap_qvl.QuoteCollateralV3(**given), self.now)


@cache
def cases() -> Mapping[str, DcapCase]:
    """All cases by their id."""
    rows = json.loads(vector(f"{FOLDER}/cases.json").read_text())["cases"]
    return {row["id"]: _case(row) for row in rows}


def case(identifier: str) -> DcapCase:
    """One case."""
    return cases()[identifier]


def extended_case() -> DcapCase:
    """dcap-qvl's own sample of an extended body, up to date for the month from 2026-10-08 on. It is in the
    table of vectors, not among the cases.
    """
    stored = vector(f"{FOLDER}/quotes/dcap-qvl-tdx-quote-td15ex.bin").read_bytes()
    document = json.loads(vector(f"{FOLDER}/collateral/dcap-qvl-tdx-quote-td15ex.json").read_text())
    return DcapCase(
        id="dcap-qvl-tdx-quote-td15ex",
        platform=EvidencePlatform.TDX,
        stored=stored,
        quote=stored,
        collateral=_collateral(document),
        now=1_791_500_000,
        expect={"ok": True, "status": "UpToDate"},
    )


def whole_quote(stored: bytes) -> bytes:
    """The quote at the front of ``stored``, by its own lengths."""
    version = int.from_bytes(stored[:2], "little")
    end = _HEADER + _BODIES.get(version, 6 + int.from_bytes(stored[50:54], "little"))
    return stored[: end + 4 + int.from_bytes(stored[end : end + 4], "little")]


def failed_checks(result: PlatformVerification) -> list[Check]:
    """Checks that were made and failed. A verdict has facts if and only if there are none."""
    found = [
        check
        for group in result.groups
        for check in group.checks
        if not check.passed and check.found != NOT_CHECKED
    ]
    assert result.passed == (result.facts is not None) == (not found)
    return found


def failed_names(result: PlatformVerification) -> list[str]:
    """Their names."""
    return [check.name for check in failed_checks(result)]


def _case(row: Mapping[str, Any]) -> DcapCase:
    stored = vector(f"{FOLDER}/{row['quote']}").read_bytes()
    document = json.loads(vector(f"{FOLDER}/{row['collateral']}").read_text())
    return DcapCase(
        id=row["id"],
        platform=EvidencePlatform(row["tee"].lower()),
        stored=stored,
        quote=whole_quote(stored),
        collateral=_collateral(document),
        now=row["now"],
        expect=row["expect"],
    )


def _collateral(document: Mapping[str, str]) -> DcapCollateral:
    """A set out of the form that dcap-qvl writes; the PCK's chain comes with the quote."""
    parts: dict[str, Any] = {
        one.name: bytes.fromhex(document[one.name]) if one.name in _BINARY else document[one.name]
        for one in fields(DcapCollateral)
    }
    return DcapCollateral(**parts)
