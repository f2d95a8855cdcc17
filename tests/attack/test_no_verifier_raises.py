"""Verifiers refuse, and never raise: evidence and collateral of every platform, changed in every part, under
any policy and at any time. Forecast, JSON and page of the verdict do not raise either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import cache, partial
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from attestation.anchors import Anchors, vendor_anchors
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform, TpmPart
from attestation.evidence_verdict import EvidenceVerdict
from attestation.forecast import forecast
from attestation.policy import Policy
from attestation.verify import verify_evidence
from tests.attack.test_mixed_machines import beside, quoting
from tests.attestation.test_policy_enforced import domain, enclave, gpu, nitro, tdx, tpm, vcek, vlek
from tests.attestation.tpm.test_generated_azure import Machine, machine
from tests.support.policies import NONE, permissive_policy
from tests.support.policy_strategies import policies
from tests.support.tpm_containers import REPORT_DATA
from tests.support.whole_cases import WholeCase

azure: Callable[[], Machine] = cache(machine)
MOMENTS = st.sampled_from([0, -1, 1 << 31, 253_402_300_799, 253_402_300_800, 1 << 64, -(1 << 64)])


def both() -> WholeCase:
    return beside(REPORT_DATA, quoting(REPORT_DATA))


CASES: list[Callable[[], WholeCase | Machine]] = [
    tdx,
    domain,
    enclave,
    vcek,
    vlek,
    tpm,
    nitro,
    gpu,
    azure,
    cache(both),
]


@cache
def bits() -> tuple[bytes, ...]:
    """Every part of every case, to be put where it does not belong."""
    found: dict[bytes, None] = {}
    for case in CASES:
        for one in (case().evidence, case().collateral):
            found |= dict.fromkeys(_leaves(one))
    return tuple(found)


def _leaves(value: Any) -> list[bytes]:
    if isinstance(value, bytes):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        return [leaf for one in fields(value) for leaf in _leaves(getattr(value, one.name))]
    if isinstance(value, tuple):
        return [leaf for one in value for leaf in _leaves(one)]
    return []


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    how = draw(st.integers(0, 6))
    if how == 0:
        return draw(st.binary(max_size=64))
    if how == 1:
        return draw(st.sampled_from(bits()))
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    if how == 2:
        return data[:place]
    if how == 3:
        return data + draw(st.binary(min_size=1, max_size=8))
    if how == 4:
        return data[:place] + draw(st.sampled_from([b"\xff" * 4, bytes(4)])) + data[place + 4 :]
    patch = draw(st.binary(min_size=1, max_size=2))
    return data[:place] + patch + data[place + len(patch) :]


def changed_text(text: str) -> st.SearchStrategy[str]:
    place = st.integers(0, len(text))
    pieces = st.sampled_from(["", "\ud800", "\0", "{", '"', "[", "9" * 30, "1e9", "é", "null", "-"])
    return st.tuples(place, pieces, st.integers(0, 3)).map(
        lambda one: text[: one[0]] + one[1] + text[one[0] + one[2] :]
    )


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """``value`` with one thing in it that is another."""
    if isinstance(value, bytes):
        return draw(changed_bytes(value))
    if isinstance(value, Enum):
        return draw(st.sampled_from(list(type(value))))
    if isinstance(value, str):
        return draw(changed_text(value))
    if is_dataclass(value) and not isinstance(value, type):
        name = draw(st.sampled_from([one.name for one in fields(value)]))
        if name == "tpm" and isinstance(value, EvidenceContainer):
            return replace(value, tpm=draw(changed_part(value.tpm)))
        return replace(value, **{name: draw(changed(getattr(value, name)))})
    if isinstance(value, tuple):
        return draw(changed_tuple(value))
    if isinstance(value, Mapping):
        return draw(changed_mapping(value))
    if value is None:
        return draw(st.none() | st.sampled_from(bits()))
    return value


@st.composite
def changed_part(draw: st.DrawFn, part: TpmPart | None) -> TpmPart | None:
    others = [case().evidence.tpm for case in (tpm, azure)]
    if part is None or draw(st.booleans()):
        return draw(st.sampled_from([None, *others]))
    found: TpmPart = draw(changed(part))
    return found


@st.composite
def changed_tuple(draw: st.DrawFn, value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        return value
    place = draw(st.integers(0, len(value) - 1))
    how = draw(st.integers(0, 3))
    if how == 0:
        return value[:place] + value[place + 1 :]
    if how == 1:
        return (*value, value[place])
    if how == 2:
        return tuple(reversed(value))
    return (*value[:place], draw(changed(value[place])), *value[place + 1 :])


@st.composite
def changed_mapping(draw: st.DrawFn, value: Mapping[Any, Any]) -> dict[Any, Any]:
    found = dict(value)
    if found:
        key = draw(st.sampled_from(list(found)))
        content = found.pop(key)
        if draw(st.booleans()):
            found[key] = draw(changed(content))
        elif draw(st.booleans()):
            found[draw(st.sampled_from(["md5", "", 0, 99, -1]))] = content
    return found


def severe(policy: Policy) -> Policy:
    return replace(policy, report_data=NONE, app_hashes=NONE)


def anything(policy: Policy, evidence: EvidenceContainer) -> Policy:
    """Everything that any platform's evidence may be, in the parts that are there."""
    left_out = {EvidencePlatform.TPM} if evidence.tpm is None else set()
    named = [one for one in EvidencePlatform if one not in left_out]
    every = permissive_policy(named[0], *named[1:], gpu=bool(evidence.gpus), roots=policy.roots)
    return replace(
        every, tpm=every.tpm and (policy.tpm or every.tpm), gpu=every.gpu and (policy.gpu or every.gpu)
    )


def judge(
    evidence: EvidenceContainer, policy: Policy, roots: Anchors, collateral: Collateral, now: int
) -> EvidenceVerdict:
    return verify_evidence(evidence, collateral=collateral, anchors=roots, policy=policy, now=now)


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(data=st.data())
def test_nothing_that_is_sent_makes_a_verifier_raise(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(CASES))()
    evidence, collateral = case.evidence, case.collateral
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            evidence = data.draw(changed(evidence))
        else:
            collateral = data.draw(changed(collateral))
    way = data.draw(st.integers(0, 4))
    policy = [case.policy, case.policy, anything(case.policy, evidence), severe(case.policy)][min(way, 3)]
    if way == 4:
        policy = replace(data.draw(policies()), roots=case.policy.roots)
    now = data.draw(st.just(case.now) | st.just(case.now) | MOMENTS)
    roots = Anchors(anchors=(*vendor_anchors(), *case.policy.roots))
    evaluate = partial(judge, evidence, policy, roots)
    verdict = evaluate(collateral, now)
    assert bool(verdict.facts) is verdict.passed
    if now == case.now and data.draw(st.integers(0, 9)) == 0:
        ahead = forecast(
            verdict, collateral=evidence.collateral.joined(collateral), policy=policy, evaluate=evaluate
        )
        assert (ahead.valid_until is None) or verdict.passed
