"""Fuzz target: DCAP quotes, through the whole verifier under a simulated root."""

from __future__ import annotations

import contextlib
from functools import cache

from attestation.anchors import Anchors, anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.dcap.quote import parse_dcap_quote
from attestation.dcap.verify import verify_dcap
from attestation.policy import Policy
from attestation.sim.quote import SimEnclave, sgx_quote, sim_domain, td_quote
from measurements.errors import KeyturnError
from measurements.tdx.quote import BodyType
from tests.support.policies import permissive_policy
from tests.support.sim_pki import NOW, pki
from tests.support.vectors import vectors_folder

NAME = "dcap-quote"

_REAL = (
    "dcap-qvl-sgx-quote.bin",
    "automata-dcap-attestation-tdx-quote-5.bin",
    "oasis-quote-v3-certtype3-eppid.bin",
    "oasis-core-quote-v4-tdx-ecdsa-p256.bin",
)


@cache
def _generated() -> tuple[bytes, ...]:
    return (
        sgx_quote(pki(), SimEnclave(cpu_svn=pki().plan.platform.cpu_svn)),
        td_quote(pki(), sim_domain()),
        td_quote(pki(), sim_domain(version=BodyType.TDX_1_5), version=5),
    )


@cache
def _given() -> tuple[Policy, Anchors, Collateral]:
    policy = permissive_policy(EvidencePlatform.SIM, roots=[pki().anchor()])
    return policy, anchors_for(policy), pki().collateral()


def seeds() -> list[bytes]:
    """Generated quotes of every version, and real ones."""
    folder = vectors_folder()
    paths = [folder / "attestation/dcap/quotes" / name for name in _REAL] if folder else []
    return [*_generated(), *(path.read_bytes() for path in paths if path.exists())]


def target(data: bytes) -> None:
    """No input raises, what can be read is all of the input, and only what the enclave signed is accepted."""
    with contextlib.suppress(KeyturnError):
        quote = parse_dcap_quote(data)
        assert data.startswith(quote.signed + (len(data) - len(quote.signed) - 4).to_bytes(4, "little"))
        assert data.endswith(quote.certification_data)
    policy, anchors, collateral = _given()
    result = verify_dcap(
        EvidenceContainer(platform=EvidencePlatform.SIM, report=data),
        collateral=collateral,
        anchors=anchors,
        policy=policy,
        now=NOW,
    )
    assert result.passed == (result.facts is not None)
    if result.passed:
        signed = parse_dcap_quote(data).signed
        assert signed in {parse_dcap_quote(one).signed for one in _generated()}
