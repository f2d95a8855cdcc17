"""TCB states that no public vector has, by the generated PKI: what both we and dcap-qvl make of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation.policy import TcbStatus
from attestation.sim.pki import SimPki
from attestation.sim.plan import ADVISORY, OLD_MODULE_SVN, OLD_QE_SVN, QE_SVN, TEE_TCB_SVN, SimPlan, sim_plan
from attestation.sim.platform import SimPlatform
from attestation.sim.quote import QuoteShape, SimEnclave, sgx_quote, sim_domain, td_quote
from attestation.sim.tcb import IsvLevel, Tee
from measurements.tdx.quote import BodyType
from tests.attestation.sim.judged import every_kind, failed, found, policy_for, status_of, verify
from tests.support.sim_pki import NOW, library_verdict, pki, plan

LATER = ("INTEL-SA-00002",)
OLD = SimPlatform().components[0] - 1
"""SVN of the first SGX component at the plan's older level."""


def with_level(status: TcbStatus) -> SimPki:
    return pki(sim_plan(NOW, status=status, advisories=LATER))


def assert_revoked(made: SimPki, quote: bytes | None = None) -> None:
    """Refused as revoked, even by a policy that lists every status."""
    policy = policy_for(made, statuses=frozenset(TcbStatus))
    names = failed(made, quote, policy=policy)
    # dcap-qvl refuses what is revoked, so the comparison with it comes to no result.
    assert names in (["tcb-status"], ["library-agrees"])
    assert "Revoked" in found(verify(made, quote, policy=policy), names[0])


def with_module(status: TcbStatus, base: SimPlan | None = None) -> SimPki:
    """The machine's module is at its identity's second level, which has ``status``."""
    made = base or plan()
    (module,) = made.tcb_info.modules
    older = replace(module.levels[1], status=status, advisories=LATER)
    info = replace(made.tcb_info, modules=(replace(module, levels=(module.levels[0], older)),))
    return pki(replace(made, tcb_info=info))


def with_qe(status: TcbStatus, base: SimPlan | None = None) -> SimPki:
    """Quoting enclaves of the older SVN have ``status``."""
    made = base or plan()
    older = replace(made.qe_identity.levels[1], status=status, advisories=LATER)
    identity = replace(made.qe_identity, levels=(made.qe_identity.levels[0], older))
    return pki(replace(made, qe_identity=identity))


OLD_MODULE = bytes([OLD_MODULE_SVN]) + TEE_TCB_SVN[1:]
OLD_DOMAIN = replace(sim_domain(), tee_tcb_svn=OLD_MODULE)
OLD_QE = QuoteShape(qe_svn=OLD_QE_SVN)


KINDS = ("version 3, SGX", "version 4, TDX 1.0", "version 5, TDX 1.0", "version 5, TDX 1.5")


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_machine_passes_in_every_kind_of_quote(kind: str) -> None:
    quote = every_kind(pki())[kind]
    result = verify(pki(), quote)
    assert failed(pki(), quote) == []
    assert result.facts is not None
    assert result.facts.development
    assert result.facts.platform == "sim"
    assert result.facts.identity["ppid"] == SimPlatform().ppid.hex()


@pytest.mark.parametrize(
    "status",
    [
        TcbStatus.UP_TO_DATE,
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    ],
)
def test_the_level_of_the_platform_gives_the_status(status: TcbStatus) -> None:
    made = with_level(status)
    assert status_of(made) == status.value
    others = frozenset(TcbStatus) - {status}
    assert failed(made, policy=policy_for(made, statuses=others)) == ["tcb-status"]
    enclave = sgx_quote(made, SimEnclave(cpu_svn=made.plan.platform.cpu_svn))
    assert status_of(made, enclave) == status.value


def test_a_revoked_platform_is_refused_whatever_the_policy_says() -> None:
    assert_revoked(with_level(TcbStatus.REVOKED))


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        (TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE),
        (TcbStatus.SW_HARDENING_NEEDED, TcbStatus.OUT_OF_DATE),
        (TcbStatus.CONFIGURATION_NEEDED, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED),
    ],
)
def test_an_old_module_or_quoting_enclave_makes_the_platform_out_of_date(
    platform: TcbStatus, expected: TcbStatus
) -> None:
    base = sim_plan(NOW, status=platform)
    module = with_module(TcbStatus.OUT_OF_DATE, base)
    assert status_of(module, td_quote(module, OLD_DOMAIN)) == expected.value
    enclave = with_qe(TcbStatus.OUT_OF_DATE, base)
    assert status_of(enclave, td_quote(enclave, sim_domain(), shape=OLD_QE)) == expected.value
    assert status_of(enclave) == platform.value


def test_advisories_of_all_parts_come_together() -> None:
    made = with_qe(TcbStatus.OUT_OF_DATE, with_module(TcbStatus.OUT_OF_DATE).plan)
    facts = verify(made, td_quote(made, OLD_DOMAIN, shape=OLD_QE)).facts
    assert facts is not None
    assert facts.details["advisories"] == ", ".join(LATER)
    older = replace(sim_plan(NOW).platform, components=(OLD, *SimPlatform().components[1:]))
    machine = pki(plan(platform=older))
    facts = verify(machine, td_quote(machine, sim_domain(), shape=OLD_QE)).facts
    assert facts is not None
    assert facts.details["advisories"] == ADVISORY


def test_a_revoked_module_is_refused() -> None:
    made = with_module(TcbStatus.REVOKED)
    assert failed(made) == []
    assert_revoked(made, td_quote(made, OLD_DOMAIN))


def test_a_revoked_quoting_enclave_is_refused() -> None:
    made = with_qe(TcbStatus.REVOKED)
    assert failed(made) == []
    assert_revoked(made, td_quote(made, sim_domain(), shape=OLD_QE))


def relaunch_quote(made: SimPki, launch: bytes, current: bytes) -> bytes:
    body = replace(sim_domain(version=BodyType.TDX_1_5), tee_tcb_svn=launch, tee_tcb_svn_2=current)
    return td_quote(made, body, version=5)


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        (TcbStatus.UP_TO_DATE, TcbStatus.TD_RELAUNCH_ADVISED),
        (TcbStatus.SW_HARDENING_NEEDED, TcbStatus.TD_RELAUNCH_ADVISED),
        (TcbStatus.CONFIGURATION_NEEDED, TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED),
        (TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED),
    ],
)
def test_a_domain_from_before_an_update_of_the_module_is_advised_to_relaunch(
    platform: TcbStatus, expected: TcbStatus
) -> None:
    made = with_module(TcbStatus.OUT_OF_DATE, sim_plan(NOW, status=platform))
    quote = relaunch_quote(made, OLD_MODULE, TEE_TCB_SVN)
    assert status_of(made, quote) == expected.value
    assert library_verdict(quote, made.dcap(), made.root).status == expected.value
    strict = policy_for(made, statuses=frozenset({TcbStatus.UP_TO_DATE, platform}))
    assert failed(made, quote, policy=strict) == ["tcb-status"]


def test_a_domain_on_a_host_that_is_still_out_of_date_is_out_of_date() -> None:
    made = with_module(TcbStatus.OUT_OF_DATE)
    assert status_of(made, relaunch_quote(made, OLD_MODULE, OLD_MODULE)) == "OutOfDate"
    assert status_of(made, relaunch_quote(made, TEE_TCB_SVN, TEE_TCB_SVN)) == "UpToDate"


def test_a_module_that_is_revoked_now_counts_whatever_the_domain_was_launched_with() -> None:
    made = with_module(TcbStatus.REVOKED)
    assert_revoked(made, relaunch_quote(made, TEE_TCB_SVN, OLD_MODULE))


@pytest.mark.parametrize(
    ("component", "name"), [(0, "SGX component 1"), (7, "SGX component 8"), (None, "PCE SVN")]
)
def test_a_platform_below_every_level_is_told_what_is_short(component: int | None, name: str) -> None:
    base = plan()
    wanted = base.tcb_info
    svns = list(base.platform.components)
    if component is None:
        machine = replace(base.platform, pce_svn=base.platform.pce_svn - 2)
    else:
        svns[component] = 0
        machine = replace(base.platform, components=tuple(svns))
    made = pki(plan(platform=machine, tcb_info=wanted))
    assert failed(made) == ["tcb-level"]
    assert f"{name} is" in found(verify(made), "tcb-level")


def test_have_and_need_name_the_newest_level() -> None:
    base = plan()
    machine = replace(base.platform, components=(OLD, *base.platform.components[1:]))
    made = pki(plan(platform=machine))
    short = [one for one in verify(made).components if one.short]
    assert [(one.have, one.need) for one in short] == [(OLD, OLD + 1)]
    assert status_of(made) == "OutOfDate"


@pytest.mark.parametrize(
    ("svn", "name"),
    [
        (bytes([0, 1, 4]), "TDX_01 module's SVN"),
        (bytes([5, 2, 4]), "TDX_02"),
        (bytes([5, 1, 2]), "TDX component 3"),
    ],
)
def test_a_module_of_no_known_version_or_level_is_refused(svn: bytes, name: str) -> None:
    body = replace(sim_domain(), tee_tcb_svn=svn.ljust(16, b"\0"))
    names = failed(pki(), td_quote(pki(), body))
    assert names in (["tcb-level"], ["tdx-module"])
    assert name in found(verify(pki(), td_quote(pki(), body)), names[0])


def test_a_module_that_is_not_of_its_identity_is_refused() -> None:
    signer = replace(sim_domain(), mrsignerseam=b"\x01" * 48)
    assert failed(pki(), td_quote(pki(), signer)) == ["tdx-module"]
    attributes = replace(sim_domain(), seam_attributes=b"\x01" + bytes(7))
    assert failed(pki(), td_quote(pki(), attributes)) == ["seam-attributes"]


def test_a_quoting_enclave_below_every_level_is_refused() -> None:
    quote = td_quote(pki(), sim_domain(), shape=QuoteShape(qe_svn=OLD_QE_SVN - 1))
    assert failed(pki(), quote) == ["tcb-level"]
    assert "quoting enclave's SVN" in found(verify(pki(), quote), "tcb-level")


def test_levels_of_the_quoting_enclave_count_from_the_newest() -> None:
    first = IsvLevel(isv_svn=QE_SVN + 1, date=NOW, status=TcbStatus.UP_TO_DATE)
    base = plan()
    made = pki(replace(base, qe_identity=replace(base.qe_identity, levels=(first, *base.qe_identity.levels))))
    assert status_of(made) == "UpToDate"


def test_collateral_of_enclaves_is_none_for_domains() -> None:
    assert failed(pki(), collateral=pki().dcap(Tee.SGX)) == ["collateral-found"]
    assert failed(pki(), every_kind(pki())["version 3, SGX"], collateral=pki().dcap(Tee.TDX)) == [
        "collateral-found"
    ]
