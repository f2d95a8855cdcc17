"""Every key of every section of a policy, on every platform that it is for: one good case, of which the key
alone is changed, must fail in the check that enforces it and in no other.

A key that no row is about fails ``test_every_key_has_a_row``, so no key can be added without its check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest

from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.nvidia.binding import gpu_report_data
from attestation.policy import (
    DcapPolicy,
    GpuPolicy,
    GraceWindow,
    Measurements,
    MeasurementSet,
    NitroPolicy,
    Policy,
    SnpFloor,
    SnpPolicy,
    TcbStatus,
    TpmPolicy,
)
from attestation.sim.pki import make_pki
from attestation.sim.plan import sim_plan
from attestation.sim.platform import SimPlatform
from attestation.sim.quote import SEPT_VE_DISABLE, SimEnclave, sgx_quote, sim_domain, td_quote
from measurements.sev.report import SigningKey
from measurements.tdx.quote import BodyType
from tests.attestation.nvidia.cases import STRICT, good_collateral, good_part
from tests.support.nitro_pki import ENCLAVE, NitroPki
from tests.support.nitro_pki import NOW as NITRO_NOW
from tests.support.nvidia_pki import NONCE, gpu_pki
from tests.support.nvidia_pki import NOW as GPU_NOW
from tests.support.policies import NONE, only, permissive_policy
from tests.support.sim_pki import NOW as SIM_NOW
from tests.support.sim_pki import keys
from tests.support.snp_cases import good_case
from tests.support.snp_pki import Levels, Wishes
from tests.support.whole_cases import WholeCase, dstack_case, tpm_case

OTHER = Measurements(sets=(MeasurementSet(name="other", registers={"none such": b"\1"}),))
NO_MACHINE = Measurements(sets=())
EMPTY_SET = Measurements(sets=(MeasurementSet(name="empty", registers={}),))
SERVICE = b"\7" * 48
ATTRIBUTES = (int.from_bytes(SEPT_VE_DISABLE, "little") | 1 << 29).to_bytes(8, "little")
ADVISORY = "INTEL-SA-00001"
DAY = 86400


@cache
def tdx() -> WholeCase:
    return dstack_case()


def _simulated(quote: bytes, made: Any) -> WholeCase:
    policy = permissive_policy(EvidencePlatform.SIM, roots=[made.anchor()])
    return WholeCase(
        evidence=EvidenceContainer(platform=EvidencePlatform.SIM, report=quote),
        collateral=made.collateral(),
        policy=policy,
        now=SIM_NOW,
    )


MACHINE = SimPlatform(dynamic_platform=True, cached_keys=True, smt=True)
PLAN = sim_plan(SIM_NOW, status=TcbStatus.CONFIGURATION_NEEDED, advisories=(ADVISORY,), platform=MACHINE)
LAST = GraceWindow(statuses=frozenset({TcbStatus.CONFIGURATION_NEEDED}), until=SIM_NOW)


@cache
def domain() -> WholeCase:
    """A domain with all that a policy can refuse: advised against, movable, served, in every mode; its status
    is accepted for this one second more.
    """
    made = make_pki(PLAN, keys())
    body = replace(sim_domain(version=BodyType.TDX_1_5), td_attributes=ATTRIBUTES, mrservicetd=SERVICE)
    case = _simulated(td_quote(made, body, version=5), made)
    return changed(case, "sim", statuses=frozenset(), grace=(LAST,))


@cache
def enclave() -> WholeCase:
    made = make_pki(PLAN, keys())
    return _simulated(sgx_quote(made, SimEnclave(cpu_svn=MACHINE.cpu_svn)), made)


@cache
def vcek() -> WholeCase:
    """A machine with SMT and a migration agent, on firmware that is not committed."""
    newer = Levels(snp=25)
    return _snp(
        Wishes(
            policy=0x30000 | 55 | 1 << 8 | 1 << 18,
            platform_info=0b1,
            current=newer,
            id_key_digest=b"\1" * 48,
        )
    )


@cache
def vlek() -> WholeCase:
    """A provider's key on a machine that says which chip it has."""
    return changed(_snp(Wishes(kind=SigningKey.VLEK, chip_id=b"\5" * 64)), "snp", chip_ids=only("05" * 64))


def _snp(wishes: Wishes) -> WholeCase:
    case = good_case(wishes)
    evidence = EvidenceContainer(
        platform=EvidencePlatform.SNP, report=case.report, certificates=case.certificates
    )
    collateral = Collateral(crls=case.crls)
    return WholeCase(evidence=evidence, collateral=collateral, policy=case.policy, now=case.now)


@cache
def tpm() -> WholeCase:
    return tpm_case(3)


@cache
def nitro() -> WholeCase:
    made = NitroPki(module=ENCLAVE)
    policy = permissive_policy(EvidencePlatform.NITRO, roots=[made.anchor])
    evidence = EvidenceContainer(platform=EvidencePlatform.NITRO, report=made.document())
    return WholeCase(evidence=evidence, collateral=Collateral(), policy=policy, now=NITRO_NOW + 60)


@cache
def gpu() -> WholeCase:
    """A GPU beside a simulated domain whose report data binds it."""
    made = make_pki(sim_plan(GPU_NOW), keys())
    parts = (good_part(),)
    quote = td_quote(made, sim_domain(report_data=gpu_report_data(parts, NONCE)))
    policy = permissive_policy(EvidencePlatform.SIM, roots=[made.anchor(), *gpu_pki().anchors])
    return WholeCase(
        evidence=EvidenceContainer(platform=EvidencePlatform.SIM, report=quote, gpus=parts),
        collateral=made.collateral().joined(good_collateral()),
        policy=replace(policy, gpu=STRICT),
        now=GPU_NOW,
    )


Row = tuple[str, Any, str]

DCAP_ROWS: tuple[Row, ...] = (
    ("min_tcb_date", SIM_NOW, "tcb-date"),
    ("min_evaluation_number", 10_000, "evaluation-number"),
    ("max_collateral_age", DAY - 1, "collateral-age"),
    ("max_collateral_age", 0, "collateral-age"),
    ("advisories_accepted", only("INTEL-SA-00002"), "advisories"),
    ("advisories_accepted", NONE, "advisories"),
    ("advisories_denied", frozenset({ADVISORY}), "advisories"),
    ("dynamic_platform", False, "dynamic-platform"),
    ("cached_keys", False, "cached-keys"),
    ("smt", False, "smt"),
    ("ppids", only("00" * 16), "ppid"),
    ("ppids", NONE, "ppid"),
    ("platform_instances", only("00" * 16), "platform-instance"),
    ("platform_instances", NONE, "platform-instance"),
    ("fmspcs", only("00" * 6), "fmspc-allowed"),
    ("fmspcs", NONE, "fmspc-allowed"),
    ("measurements", OTHER, "measurements"),
    ("measurements", NO_MACHINE, "measurements"),
    ("measurements", EMPTY_SET, "measurements"),
)
ENCLAVE_ROWS: tuple[Row, ...] = (
    ("statuses", frozenset({TcbStatus.OUT_OF_DATE}), "tcb-status"),
    ("statuses", frozenset({TcbStatus.REVOKED}), "tcb-status"),
    ("statuses", frozenset(), "tcb-status"),
)
DOMAIN_ROWS: tuple[Row, ...] = (
    ("grace", (), "tcb-status"),
    ("grace", (replace(LAST, until=SIM_NOW - 1),), "tcb-status"),
    ("grace", (replace(LAST, statuses=frozenset()),), "tcb-status"),
    ("migratable", False, "migratable"),
    ("service_tds", only("00" * 48), "service-td"),
    ("service_tds", NONE, "service-td"),
)
FLOOR = SnpFloor(boot_loader=0, tee=0, snp=0, microcode=0)
SNP_ROWS: tuple[Row, ...] = (
    ("floors", {}, "product-allowed"),
    ("floors", {"milan": FLOOR, "turin": replace(FLOOR, fmc=0)}, "product-allowed"),
    ("vmpls", frozenset({1, 2, 3}), "vmpl"),
    ("vmpls", frozenset(), "vmpl"),
    ("min_guest_svn", 4, "guest-svn"),
    ("required_platform_info", frozenset({"tsme"}), "required-platform-info"),
    ("required_platform_info", frozenset({"no such bit"}), "required-platform-info"),
    ("required_guest_policy", frozenset({"single-socket"}), "required-guest-policy"),
    ("required_guest_policy", frozenset({"no such bit"}), "required-guest-policy"),
    ("id_keys", only("00" * 47), "id-key"),
    ("id_keys", NONE, "id-key"),
    ("author_keys", only("11" * 48), "author-key"),
    ("author_keys", NONE, "author-key"),
    ("max_crl_age", DAY - 1, "crl"),
    ("max_crl_age", 0, "crl"),
    ("measurements", OTHER, "measurements"),
    ("measurements", NO_MACHINE, "measurements"),
    ("measurements", EMPTY_SET, "measurements"),
)
VCEK_ROWS: tuple[Row, ...] = (
    ("chip_ids", only("00" * 64), "chip-id"),
    ("chip_ids", NONE, "chip-id"),
    ("smt", False, "smt"),
    ("migration_agent", False, "migration-agent"),
    ("provisional_firmware", False, "provisional-firmware"),
)
VLEK_ROWS: tuple[Row, ...] = (
    ("vlek", False, "vlek"),
    ("csp_ids", only("other.example"), "csp-id"),
    ("csp_ids", NONE, "csp-id"),
    ("chip_ids", NONE, "chip-id"),
)
TPM_ROWS: tuple[Row, ...] = (
    ("ak_proofs", frozenset(), "ak-proof"),
    ("pcrs", frozenset({23}), "pcr-coverage"),
    ("banks", frozenset({"sha512"}), "pcr-coverage"),
    ("activation_secrets", only("00" * 32), "credential-activation"),
    ("activation_secrets", NONE, "credential-activation"),
    ("platform_ids", only("00" * 32), "platform-id"),
    ("platform_ids", NONE, "platform-id"),
    ("measurements", OTHER, "measurements"),
    ("measurements", NO_MACHINE, "measurements"),
    ("measurements", EMPTY_SET, "measurements"),
)
NITRO_ROWS: tuple[Row, ...] = (
    ("max_age", 59, "document-age"),
    ("max_age", 0, "document-age"),
    ("module_ids", only("i-other"), "module-id"),
    ("module_ids", NONE, "module-id"),
    ("measurements", OTHER, "measurements"),
    ("measurements", NO_MACHINE, "measurements"),
    ("measurements", EMPTY_SET, "measurements"),
)
GPU_ROWS: tuple[Row, ...] = (
    ("count", 2, "gpu-count"),
    ("architectures", only("BLACKWELL"), "gpu0-architecture"),
    ("architectures", NONE, "gpu0-architecture"),
    ("driver_versions", only("1"), "gpu0-driver"),
    ("driver_versions", NONE, "gpu0-driver"),
    ("vbios_versions", only("1"), "gpu0-vbios"),
    ("vbios_versions", NONE, "gpu0-vbios"),
)
Case = Callable[[], WholeCase]
TABLE: Mapping[str, tuple[str, Case, tuple[Row, ...]]] = {
    "domain": ("sim", domain, DCAP_ROWS + DOMAIN_ROWS),
    "enclave": ("sim", enclave, DCAP_ROWS + ENCLAVE_ROWS),
    "vcek": ("snp", vcek, SNP_ROWS + VCEK_ROWS),
    "vlek": ("snp", vlek, SNP_ROWS + VLEK_ROWS),
    "tpm": ("tpm", tpm, TPM_ROWS),
    "nitro": ("nitro", nitro, NITRO_ROWS),
    "gpu": ("gpu", gpu, GPU_ROWS),
}
ROWS = [
    pytest.param(section, case, *row, id=f"{name}-{row[0]}-{number}")
    for name, (section, case, rows) in TABLE.items()
    for number, row in enumerate(rows)
]


def failed(case: WholeCase) -> set[str]:
    verdict = case.verify()
    found = {check.name for check in verdict.tree.failures}
    assert verdict.passed is not bool(found)
    assert bool(verdict.facts) is verdict.passed
    return found


def changed(case: WholeCase, section: str, **changes: Any) -> WholeCase:
    values: dict[str, Any] = {section: replace(getattr(case.policy, section), **changes)}
    return replace(case, policy=replace(case.policy, **values))


@pytest.mark.parametrize("case", [tdx, *(case for _, case, _ in TABLE.values())])
def test_the_cases_pass_as_they_stand(case: Case) -> None:
    assert failed(case()) == set()


@pytest.mark.parametrize(("section", "case", "key", "value", "check"), ROWS)
def test_a_key_is_enforced(section: str, case: Case, key: str, value: Any, check: str) -> None:
    assert failed(changed(case(), section, **{key: value})) == {check}


def test_every_key_has_a_row() -> None:
    """What evidence must bring is below."""
    brought = {"event_log", "rims", "ocsp", "bound"}
    for section, model in (
        ("sim", DcapPolicy),
        ("snp", SnpPolicy),
        ("tpm", TpmPolicy),
        ("nitro", NitroPolicy),
        ("gpu", GpuPolicy),
    ):
        rows = {row[0] for name, _, more in TABLE.values() if name == section for row in more}
        assert rows | brought >= {one.name for one in fields(model)}, section


def test_the_sections_of_dcap_are_one_model() -> None:
    kinds = {one.name: one.type for one in fields(Policy)}
    assert kinds["tdx"] == kinds["sgx"] == kinds["sim"]


REAL_ROWS = [  # this machine has no advisories, and none of the modes
    row
    for row in (*DCAP_ROWS, ENCLAVE_ROWS[0])
    if row[1] is not False and not row[0].startswith("advisories")
]


@pytest.mark.parametrize(("key", "value", "check"), REAL_ROWS, ids=lambda one: str(one)[:20])
def test_real_domains_are_held_against_their_own_section(key: str, value: Any, check: str) -> None:
    assert check in failed(changed(tdx(), "tdx", **{key: value}))


FLOORS = [
    (kind, level)
    for kind in ("reported", "committed", "launch", "current")
    for level in ("boot_loader", "tee", "snp", "microcode")
]


@pytest.mark.parametrize(("kind", "level"), FLOORS)
def test_each_level_of_each_tcb_has_its_floor(kind: str, level: str) -> None:
    """One level of one TCB below its floor, which all others reach."""
    levels = Levels(boot_loader=9, tee=9, snp=9, microcode=9)
    short = replace(levels, **{level: 8})
    tcbs: dict[str, Any] = {
        one: short if one == kind else levels for one in ("reported", "committed", "launch", "current")
    }
    floor = SnpFloor(boot_loader=9, tee=9, snp=9, microcode=9)
    case = _snp(Wishes(**tcbs))
    assert failed(case) == set()
    assert failed(changed(case, "snp", floors={"genoa": floor})) == {f"{kind}-tcb"}


def test_evidence_must_bring_the_log_that_is_demanded() -> None:
    silent = replace(tpm(), evidence=replace(tpm().evidence, logs=()))
    assert failed(changed(tpm(), "tpm", event_log=True)) == set()
    assert failed(silent) == set()
    assert failed(changed(silent, "tpm", event_log=True)) == {"event-log-present"}


@pytest.mark.parametrize(
    ("key", "change", "checks"),
    [
        ("rims", {"rims": ()}, {"gpu0-driver-manifest", "gpu0-vbios-manifest"}),
        ("ocsp", {"ocsp": ()}, {"gpu0-revocation", "gpu0-manifests"}),
    ],
)
def test_gpus_must_bring_what_is_demanded(key: str, change: dict[str, Any], checks: set[str]) -> None:
    case = replace(gpu(), collateral=replace(gpu().collateral, **change))
    assert failed(case) == checks
    assert failed(changed(case, "gpu", **{key: False})) == set()


def test_gpus_of_another_machine() -> None:
    """The same device's evidence, beside a CPU that does not vouch for it."""
    made = make_pki(sim_plan(GPU_NOW), keys())
    policy = replace(gpu().policy, roots=(made.anchor(), *gpu_pki().anchors))
    evidence = replace(gpu().evidence, report=td_quote(made, sim_domain(report_data=NONCE + bytes(32))))
    collateral = made.collateral().joined(good_collateral())
    case = replace(gpu(), evidence=evidence, policy=policy, collateral=collateral)
    assert failed(case) == {"gpu-binding"}
    assert failed(changed(case, "gpu", bound=False)) == set()


EVERY = [tdx, domain, enclave, vcek, vlek, tpm, nitro, gpu]


@pytest.mark.parametrize("case", EVERY)
def test_report_data_is_enforced_everywhere(case: Case) -> None:
    for allowed in (NONE, only("00"), only("00" * 63), only("")):
        found = failed(replace(case(), policy=replace(case().policy, report_data=allowed)))
        assert found - {"gpu-binding"} == {"report-data"}  # GPUs are bound by verified report data only


@pytest.mark.parametrize("case", EVERY)
def test_app_hashes_are_enforced_everywhere(case: Case) -> None:
    for allowed in (NONE, only("00" * 32), only("")):
        assert failed(replace(case(), policy=replace(case().policy, app_hashes=allowed))) == {"app-hash"}


@pytest.mark.parametrize("case", [domain, enclave, vcek, vlek, tpm, nitro])
def test_no_root_no_trust(case: Case) -> None:
    found = failed(replace(case(), policy=replace(case().policy, roots=())))
    assert found & {"pck-chain", "chain", "ek-chain", "certificate-chain"}
