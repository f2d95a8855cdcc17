"""Every key of the policy's section for DCAP, each at its edge, by the generated PKI."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attestation.policy import Allowed, GraceWindow, Measurements, MeasurementSet, TcbStatus
from attestation.sim.pki import SimPki
from attestation.sim.plan import OLD_QE_SVN, sim_plan
from attestation.sim.platform import SimPlatform
from attestation.sim.quote import SEPT_VE_DISABLE, QuoteShape, SimEnclave, sgx_quote, sim_domain, td_quote
from attestation.sim.tcb import DAY
from measurements.tdx.quote import BodyType, TdBody
from tests.attestation.sim.judged import failed, found, policy_for, verify
from tests.support.policies import ANY, NONE, only
from tests.support.sim_pki import NOW, pki, plan

SERVICE = b"\x07" * 48
MIGRATABLE = bytes(a | b for a, b in zip(SEPT_VE_DISABLE, (1 << 29).to_bytes(8, "little"), strict=True))
OUT_OF_DATE = frozenset({TcbStatus.OUT_OF_DATE})
UP_TO_DATE = frozenset({TcbStatus.UP_TO_DATE})


def failed_with(made: SimPki, quote: bytes | None = None, *, now: int = NOW, **changes: Any) -> list[str]:
    return failed(made, quote, policy=policy_for(made, **changes), now=now)


def with_attributes(*bits: int) -> TdBody:
    value = int.from_bytes(SEPT_VE_DISABLE, "little")
    for bit in bits:
        value ^= 1 << bit
    return replace(sim_domain(), td_attributes=value.to_bytes(8, "little"))


@pytest.mark.parametrize(("floor", "wanted"), [(20, []), (21, ["evaluation-number"])])
def test_the_floor_of_the_evaluation_number(floor: int, wanted: list[str]) -> None:
    assert failed_with(pki(), min_evaluation_number=floor) == wanted


def test_the_lower_of_the_two_evaluation_numbers_counts() -> None:
    for change in ("tcb_info", "qe_identity"):
        part = replace(getattr(plan(), change), evaluation_number=19)
        made = pki(plan(**{change: part}))
        assert failed_with(made, min_evaluation_number=19) == []
        assert failed_with(made, min_evaluation_number=20) == ["evaluation-number"]


def test_the_floor_of_the_tcb_date() -> None:
    date = plan().tcb_info.levels[0].date
    assert failed_with(pki(), min_tcb_date=date) == []
    assert failed_with(pki(), min_tcb_date=date + 1) == ["tcb-date"]


def test_the_date_of_an_old_quoting_enclave_counts() -> None:
    date = plan().qe_identity.levels[1].date
    quote = td_quote(pki(), sim_domain(), shape=QuoteShape(qe_svn=OLD_QE_SVN))
    assert failed_with(pki(), quote, min_tcb_date=date) == []
    assert failed_with(pki(), quote, min_tcb_date=date + 1) == ["tcb-date"]


def test_a_grace_window_ends_after_its_last_second() -> None:
    made = pki(sim_plan(NOW, status=TcbStatus.OUT_OF_DATE))
    grace = (GraceWindow(statuses=OUT_OF_DATE, until=NOW + DAY),)
    for now, wanted in ((NOW, []), (NOW + DAY, []), (NOW + DAY + 1, ["tcb-status"])):
        assert failed_with(made, now=now, statuses=UP_TO_DATE, grace=grace) == wanted
    assert "any more" in found(
        verify(made, policy=policy_for(made, statuses=UP_TO_DATE, grace=grace), now=NOW + 2 * DAY),
        "tcb-status",
    )


def test_a_grace_window_is_for_its_statuses_alone() -> None:
    made = pki(sim_plan(NOW, status=TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED))
    grace = (GraceWindow(statuses=OUT_OF_DATE, until=NOW + DAY),)
    assert failed_with(made, statuses=UP_TO_DATE, grace=grace) == ["tcb-status"]
    both = (*grace, GraceWindow(statuses=frozenset({TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED}), until=NOW))
    assert failed_with(made, statuses=UP_TO_DATE, grace=both) == []


def test_no_grace_window_accepts_what_is_revoked() -> None:
    made = pki(sim_plan(NOW, status=TcbStatus.REVOKED))
    everything = frozenset(TcbStatus)
    grace = (GraceWindow(statuses=everything, until=NOW + DAY),)
    assert failed_with(made, statuses=everything, grace=grace) != []


def test_no_status_at_all_means_none() -> None:
    assert failed_with(pki(), statuses=frozenset()) == ["tcb-status"]


@pytest.mark.parametrize(
    ("accepted", "denied", "wanted"),
    [
        (ANY, (), []),
        (NONE, (), ["advisories"]),
        (only("INTEL-SA-00001", "INTEL-SA-00002"), (), []),
        (only("INTEL-SA-00001"), (), ["advisories"]),
        (ANY, ("INTEL-SA-00002",), ["advisories"]),
        (only("INTEL-SA-00001", "INTEL-SA-00002"), ("INTEL-SA-00001",), ["advisories"]),
        (ANY, ("INTEL-SA-00003",), []),
    ],
)
def test_advisories_are_accepted_and_denied(
    accepted: Allowed, denied: tuple[str, ...], wanted: list[str]
) -> None:
    made = pki(sim_plan(NOW, advisories=("INTEL-SA-00001", "INTEL-SA-00002")))
    lists: dict[str, Any] = {"advisories_accepted": accepted, "advisories_denied": frozenset(denied)}
    assert failed_with(made, **lists) == wanted


@pytest.mark.parametrize(
    ("key", "check", "value"),
    [
        ("ppids", "ppid", SimPlatform().ppid),
        ("platform_instances", "platform-instance", SimPlatform().platform_instance),
        ("fmspcs", "fmspc-allowed", SimPlatform().fmspc),
    ],
)
def test_lists_of_machines(key: str, check: str, value: bytes) -> None:
    other = bytes(len(value)).hex()
    outcomes: list[tuple[Allowed, list[str]]] = [
        (only(value.hex()), []),
        (only(other, value.hex()), []),
        (only(other), [check]),
        (NONE, [check]),
    ]
    for allowed, wanted in outcomes:
        changes: dict[str, Any] = {key: allowed}
        assert failed_with(pki(), **changes) == wanted


def test_a_platform_without_an_instance_is_on_no_list() -> None:
    made = pki(plan(processor_ca=True))
    assert failed_with(made) == []
    assert failed_with(made, platform_instances=only("", "none", bytes(16).hex())) == ["platform-instance"]


@pytest.mark.parametrize("flag", ["dynamic_platform", "cached_keys", "smt"])
def test_each_flag_is_decided_by_itself(flag: str) -> None:
    switched_on: dict[str, Any] = {flag: True}
    refused: dict[str, Any] = {flag: False}
    others: dict[str, Any] = dict.fromkeys({"dynamic_platform", "cached_keys", "smt"} - {flag}, False)
    made = pki(plan(platform=replace(SimPlatform(), **switched_on)))
    assert failed_with(made) == []
    assert failed_with(made, **refused) == [flag.replace("_", "-")]
    assert failed_with(made, **others) == []
    assert failed_with(pki(), **refused) == []


def test_what_a_platform_does_not_say_is_refused_unless_allowed() -> None:
    made = pki(plan(processor_ca=True))
    flags: dict[str, Any] = {"dynamic_platform": False, "cached_keys": False, "smt": False}
    assert failed_with(made, **flags) == ["dynamic-platform", "cached-keys", "smt"]
    assert "unknown" in found(verify(made, policy=policy_for(made, **flags)), "smt")


def test_a_migratable_domain_only_where_the_policy_allows_it() -> None:
    quote = td_quote(pki(), replace(sim_domain(), td_attributes=MIGRATABLE))
    assert failed_with(pki(), quote, migratable=True) == []
    assert failed_with(pki(), quote, migratable=False) == ["migratable"]


def test_a_bound_service_domain_only_where_the_policy_lists_it() -> None:
    body = replace(sim_domain(version=BodyType.TDX_1_5), mrservicetd=SERVICE)
    quote = td_quote(pki(), body, version=5)
    assert failed_with(pki(), quote, service_tds=only(SERVICE.hex())) == []
    assert failed_with(pki(), quote, service_tds=only(bytes(48).hex())) == ["service-td"]
    assert failed_with(pki(), quote, service_tds=NONE) == ["service-td"]
    unbound = td_quote(pki(), sim_domain(version=BodyType.TDX_1_5), version=5)
    assert failed_with(pki(), unbound, service_tds=NONE) == []


@pytest.mark.parametrize("bit", range(8))
def test_no_policy_allows_debug_or_profiling(bit: int) -> None:
    assert failed_with(pki(), td_quote(pki(), with_attributes(bit))) == ["debug"]


@pytest.mark.parametrize("bit", [8, 15, 23, 26, 32, 61])
def test_no_policy_allows_reserved_attributes(bit: int) -> None:
    assert failed_with(pki(), td_quote(pki(), with_attributes(bit))) == ["reserved-attributes"]


def test_no_policy_allows_a_domain_without_sept_ve_disable() -> None:
    assert failed_with(pki(), td_quote(pki(), with_attributes(28))) == ["sept-ve-disable"]


def test_no_policy_allows_an_enclave_under_debug() -> None:
    enclave = SimEnclave(cpu_svn=SimPlatform().cpu_svn, attributes=b"\x07" + bytes(15))
    assert failed_with(pki(), sgx_quote(pki(), enclave)) == ["debug"]


def test_measurement_sets_hold_as_a_whole() -> None:
    rtmrs = (b"\x02" * 48, bytes(48), bytes(48), bytes(48))
    body = replace(sim_domain(), mrtd=b"\x01" * 48, rtmrs=rtmrs)
    quote = td_quote(pki(), body)

    def sets(*registers: dict[str, bytes]) -> Measurements:
        named = (MeasurementSet(name=f"set {number}", registers=one) for number, one in enumerate(registers))
        return Measurements(sets=tuple(named))

    good, half = {"mrtd": b"\x01" * 48, "rtmr0": b"\x02" * 48}, {"mrtd": b"\x01" * 48, "rtmr0": bytes(48)}
    assert failed_with(pki(), quote, measurements=sets(good)) == []
    assert failed_with(pki(), quote, measurements=sets(half, good)) == []
    assert failed_with(pki(), quote, measurements=sets(half, {"mrtd": bytes(48), "rtmr0": b"\x02" * 48})) == [
        "measurements"
    ]
    assert failed_with(pki(), quote, measurements=sets({"mrtd": b"\x01" * 48, "pcr0": bytes(48)})) == [
        "measurements"
    ]
    assert failed_with(pki(), quote, measurements=Measurements(sets=())) == ["measurements"]


def test_report_data_is_that_of_the_policy() -> None:
    data = bytes(range(64))
    quote = td_quote(pki(), sim_domain(report_data=data))
    base = policy_for(pki())
    assert failed(pki(), quote, policy=replace(base, report_data=only(data.hex()))) == []
    for other in (only(bytes(64).hex()), only(data[:32].hex()), NONE):
        assert failed(pki(), quote, policy=replace(base, report_data=other)) == ["report-data"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    made = pki(plan(platform=replace(SimPlatform(), smt=True, dynamic_platform=True)))
    names = failed_with(
        made,
        min_evaluation_number=99,
        min_tcb_date=NOW,
        statuses=frozenset(),
        ppids=NONE,
        smt=False,
        dynamic_platform=False,
        measurements=Measurements(sets=()),
    )
    assert names == [
        "evaluation-number",
        "tcb-status",
        "tcb-date",
        "ppid",
        "dynamic-platform",
        "smt",
        "measurements",
    ]
