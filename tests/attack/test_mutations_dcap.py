"""Flip, cut, extend and swap every part of good DCAP evidence: the verdict never stays good.

No byte is exempt: PEM, DER and JSON are accepted in one form only, and every part of collateral is used. A
signature (r, s) has a second valid value, (r, n - s), which no single changed byte makes of it; it says the
same about the same bytes. The policy is permissive, so that nothing but the evidence refuses a change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest

from attestation.anchors import anchors_for
from attestation.collateral import Collateral, DcapCollateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.dcap.quote import parse_dcap_quote
from attestation.dcap.verify import verify_dcap
from attestation.policy import Policy
from attestation.sim.quote import sim_domain, td_quote
from attestation.sim.tcb import Tee
from measurements.tdx.quote import BodyType
from tests.support.dcap_cases import SGX_V3, TDX_V4, TDX_V4_LATER, case
from tests.support.policies import permissive_policy
from tests.support.sim_pki import NOW, pki

TEXTS = {
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
}
PARTS = [one.name for one in fields(DcapCollateral)]
SIGNED_ALONE = {"root_ca_crl", "pck_crl", *(one for one in PARTS if one.endswith("issuer_chain"))}
"""Parts that are signed on their own: another one of the same signer that holds now may take their place."""
NAMES = ["TDX in version 4", "TDX 1.5 in version 5", "SGX in version 3"]
MOST = 1_200
"""Bytes of one part that are flipped, spread over all of it; fewer in a larger part."""


class Good:
    """Good evidence, and whether it stays so when one of its parts is another."""

    def __init__(self, quote: bytes, collateral: DcapCollateral, policy: Policy, now: int) -> None:
        self.quote, self.collateral, self._policy, self._now = quote, collateral, policy, now
        (self._platform,) = policy.platforms
        assert self.passes()

    def passes(self, quote: bytes | None = None, **parts: Any) -> bool:
        result = verify_dcap(
            EvidenceContainer(platform=self._platform, report=self.quote if quote is None else quote),
            collateral=Collateral(dcap=(replace(self.collateral, **parts),)),
            anchors=anchors_for(self._policy),
            policy=self._policy,
            now=self._now,
        )
        assert result.passed == (result.facts is not None)
        return result.passed


@cache
def good(name: str) -> Good:
    if name == "TDX 1.5 in version 5":
        policy = permissive_policy(EvidencePlatform.SIM, roots=[pki().anchor()])
        quote = td_quote(pki(), sim_domain(version=BodyType.TDX_1_5), version=5)
        return Good(quote, pki().dcap(Tee.TDX), policy, NOW)
    one = case(TDX_V4 if name == "TDX in version 4" else SGX_V3)
    return Good(one.quote, one.collateral, one.policy(), one.now)


def places(size: int, most: int = MOST) -> Iterator[int]:
    """Up to about ``most`` places, the same in every run; the step is odd, so that every bit is flipped."""
    step = max(1, size // most) | 1
    return iter(range(0, size, step))


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]


@pytest.mark.parametrize("name", NAMES)
def test_no_flipped_byte_of_a_quote_is_accepted(name: str) -> None:
    whole = good(name)
    chain = whole.quote.index(b"-----BEGIN")
    signed = [place for place in places(chain, chain) if whole.passes(flipped(whole.quote, place))]
    certificates = [
        chain + place
        for place in places(len(whole.quote) - chain)
        if whole.passes(flipped(whole.quote, chain + place))
    ]
    assert signed + certificates == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", PARTS)
def test_no_flipped_byte_of_collateral_is_accepted(name: str, part: str) -> None:
    whole = good(name)
    value = getattr(whole.collateral, part)
    data = value.encode() if isinstance(value, str) else value
    kept = []
    for place in places(len(data), MOST // 5):
        changed: Any = flipped(data, place)
        if isinstance(value, str):
            changed = value[:place] + chr(ord(value[place]) ^ (1 << place % 7)) + value[place + 1 :]
        if whole.passes(**{part: changed}):
            kept.append(place)
    assert kept == []


@pytest.mark.parametrize("name", NAMES)
def test_no_cut_or_extended_quote_is_accepted(name: str) -> None:
    whole = good(name)
    assert not any(whole.passes(whole.quote[:size]) for size in range(len(whole.quote)))
    for more in (b"\0", bytes(100), b"\n", whole.quote):
        assert not whole.passes(whole.quote + more)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", PARTS)
def test_no_cut_or_extended_collateral_is_accepted(name: str, part: str) -> None:
    whole = good(name)
    value = getattr(whole.collateral, part)
    for size in places(len(value), 100):
        assert not whole.passes(**{part: value[:size]})
    more: list[Any] = ["\0\0", " ", "\n", value] if part in TEXTS else [b"\0", b"\n", value]
    for one in more:
        assert not whole.passes(**{part: value + one})
        if part in TEXTS:
            assert not whole.passes(**{part: one + value})


@pytest.mark.parametrize("other", [SGX_V3, TDX_V4_LATER])
@pytest.mark.parametrize("part", PARTS)
def test_no_part_of_other_collateral_takes_its_place(part: str, other: str) -> None:
    whole, given = good("TDX in version 4"), case(other).collateral
    same = getattr(given, part) == getattr(whole.collateral, part)
    if whole.passes(**{part: getattr(given, part)}):
        assert same or part in SIGNED_ALONE
    for name in ("tcb_info", "qe_identity"):
        signed = {key: getattr(given, key) for key in PARTS if key.startswith(name)}
        assert not whole.passes(**signed)


@pytest.mark.parametrize("part", PARTS)
def test_no_part_under_another_root_takes_its_place(part: str) -> None:
    real, simulated = good("TDX in version 4"), good("TDX 1.5 in version 5")
    assert not real.passes(**{part: getattr(simulated.collateral, part)})
    assert not simulated.passes(**{part: getattr(real.collateral, part)})


def test_no_part_of_another_quote_takes_its_place() -> None:
    whole, other = good("TDX in version 4"), case("dcap-qvl-quote-hex@2025-09-02").quote
    mine, theirs = parse_dcap_quote(whole.quote), parse_dcap_quote(other)
    names = (
        "signed",
        "signature",
        "attestation_key",
        "qe_report",
        "qe_report_signature",
        "qe_authentication",
    )
    for name in names:
        old, new = getattr(mine, name), getattr(theirs, name)
        assert len(old) == len(new)
        assert whole.quote.count(old) == 1
        if old != new:
            assert not whole.passes(whole.quote.replace(old, new))
    chain = theirs.certification_data
    assert len(chain) == len(mine.certification_data)
    assert not whole.passes(whole.quote.replace(mine.certification_data, chain))
    assert not whole.passes(other)
