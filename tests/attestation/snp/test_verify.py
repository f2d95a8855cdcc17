"""Generated reports: all versions, products and keys pass, and each single thing that is wrong is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation.collateral import Collateral
from attestation.container import EvidencePlatform
from attestation.policy import Measurements, MeasurementSet, SnpFloor
from attestation.snp.products import Product
from measurements.sev.report import SigningKey
from tests.support.policies import ANY, NONE, only, permissive_policy
from tests.support.snp_cases import SnpCase, failed, good_case, made_checks
from tests.support.snp_pki import CSP, DAY, NOW, Levels, Wishes, chip_of, levels_of, pki

DIGEST = bytes(range(48))
HIGH = Levels(boot_loader=5, tee=1, snp=25, microcode=220)
LOW = Levels(boot_loader=4, tee=1, snp=23, microcode=219)
FLOORS = {
    "milan": SnpFloor(boot_loader=4, tee=1, snp=24, microcode=219),
    "genoa": SnpFloor(boot_loader=4, tee=1, snp=24, microcode=219),
    "turin": SnpFloor(boot_loader=4, tee=1, snp=24, microcode=219, fmc=1),
}


@pytest.mark.parametrize("kind", [SigningKey.VCEK, SigningKey.VLEK])
@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize("product", Product)
def test_good_reports_pass(product: Product, version: int, kind: SigningKey) -> None:
    case = good_case(Wishes(product=product, version=version, kind=kind)).demanding(floors=FLOORS)
    found = case.verify()
    if product is Product.TURIN and version == 2:
        assert failed(found) == {"report-form"}
        return
    assert failed(found) == set()
    assert found.passed
    facts = found.facts
    assert facts is not None
    assert not facts.development
    assert facts.details["product"] == product.value
    chip = {"chip_id": chip_of(product).hex()}
    assert facts.identity == (chip if kind is SigningKey.VCEK else {"csp_id": CSP})
    assert facts.registers["guest_policy"].hex() == "0000000000030137"
    assert facts.registers["measurement"] == Wishes().measurement
    assert facts.report_data == Wishes().report_data
    assert ("launch_mitigations" in facts.details) == (version == 5)


def test_turin_in_a_report_that_does_not_name_it() -> None:
    """Its TCB can look like one of the older layout; the certificate tells."""
    levels = replace(levels_of(Product.TURIN), tee=0, snp=0)
    wishes = Wishes(
        product=Product.TURIN, version=2, reported=levels, committed=levels, launch=levels, current=levels
    )
    assert failed(good_case(wishes).verify()) == {"product"}


def test_what_hangs_on_what() -> None:
    found = good_case().demanding(floors=FLOORS, max_crl_age=30 * DAY).verify()
    assert [(one.subject, one.issuer) for one in found.chain] == [
        ("attestation report", "SEV-VCEK"),
        ("SEV-VCEK", "SEV-Genoa"),
        ("SEV-Genoa", "ARK-Genoa"),
        ("ARK-Genoa", "ARK-Genoa"),
        ("revocation list of ARK-Genoa", "ARK-Genoa"),
    ]
    ends = {one.name: one.end for one in found.windows}
    assert ends["revocation list of ARK-Genoa"] == NOW + 364 * DAY
    assert ends["age of the revocation list of ARK-Genoa by the policy"] == NOW + 29 * DAY
    assert {one.name for one in found.components} == {
        f"{kind} {part}"
        for kind in ("reported", "committed", "launch", "current")
        for part in ("boot loader", "tee", "snp", "microcode")
    }
    assert dict(found.versions).keys() == {"cryptography"}


WRONG_REPORTS = {
    "debug guest": (Wishes(policy=0x30137 | 1 << 19), "debug"),
    "guest on CXL memory": (Wishes(policy=0x30137 | 1 << 21), "cxl"),
    "guest policy without bit 17": (Wishes(policy=0x10137), "guest-policy"),
    "guest policy with an undefined bit": (Wishes(policy=0x30137 | 1 << 40), "guest-policy"),
    "guest policy of a newer ABI": (Wishes(policy=0x30138), "guest-policy"),
    "guest policy of a newer major ABI": (Wishes(policy=0x30200), "guest-policy"),
    "undefined platform info": (Wishes(platform_info=0b1100101), "platform-info"),
    "report asked for by the host": (Wishes(vmpl=0xFFFFFFFF), "vmpl"),
    "author key without its bit": (Wishes(author_key_digest=DIGEST), "author-key"),
    "bit of an author key without one": (Wishes(key_bits=1), "author-key"),
    "chip of another certificate": (Wishes(chip_id=bytes(63) + b"\1"), "key-chip"),
    "unknown CPU": (Wishes(cpu=(25, 0x30, 0)), "product"),
    "CPU of a later line": (Wishes(cpu=(26, 0x50, 0)), "report-form"),
    "CPU of another product": (Wishes(cpu=(25, 1, 1)), "product"),
    "masked signing": (Wishes(key_bits=2), "signing-key"),
    "unsigned": (Wishes(kind=SigningKey.NONE), "signing-key"),
    "version 4": (Wishes(version=4), "report-form"),
    "version 6": (Wishes(version=6), "report-form"),
    "other algorithm": (Wishes(algorithm=2), "report-form"),
    "reserved key info": (Wishes(key_bits=1 << 5), "report-form"),
}


@pytest.mark.parametrize("name", WRONG_REPORTS)
def test_signed_reports_that_no_policy_allows(name: str) -> None:
    wishes, check = WRONG_REPORTS[name]
    case = good_case(replace(wishes, kind=SigningKey.VCEK))
    case = replace(case, report=good_case(wishes).report).demanding(chip_ids=ANY)
    assert failed(case.verify()) == {check}


def _platform(*names: str) -> dict[str, object]:
    return {"required_platform_info": frozenset(names)}


def _guest(*names: str) -> dict[str, object]:
    return {"required_guest_policy": frozenset(names)}


DEMANDS: dict[str, tuple[Wishes, dict[str, object], str]] = {
    "vmpl": (Wishes(vmpl=1), {"vmpls": frozenset([0, 2, 3])}, "vmpl"),
    "no vmpl": (Wishes(), {"vmpls": frozenset()}, "vmpl"),
    "guest svn": (Wishes(guest_svn=3), {"min_guest_svn": 4}, "guest-svn"),
    "agent in guest policy": (Wishes(policy=0x70137), {"migration_agent": False}, "migration-agent"),
    "agent's report id": (Wishes(report_id_ma=bytes(32)), {"migration_agent": False}, "migration-agent"),
    "SMT on": (Wishes(policy=0x20137), {"smt": False}, "smt"),
    "SMT allowed": (Wishes(platform_info=0), {"smt": False}, "smt"),
    "alias check": (Wishes(platform_info=0), _platform("alias-check"), "required-platform-info"),
    "unknown platform info": (Wishes(), _platform("tio"), "required-platform-info"),
    "ciphertext hiding": (Wishes(), _guest("ciphertext-hiding"), "required-guest-policy"),
    "id key": (Wishes(), {"id_keys": only(DIGEST.hex())}, "id-key"),
    "no id key": (Wishes(), {"id_keys": NONE}, "id-key"),
    "author key": (Wishes(), {"author_keys": only(DIGEST.hex())}, "author-key"),
    "chip": (Wishes(), {"chip_ids": only("00" * 63 + "01")}, "chip-id"),
    "no product": (Wishes(), {"floors": {"turin": FLOORS["turin"]}}, "product-allowed"),
    "a measured guest": (Wishes(), {"measurements": Measurements(sets=())}, "measurements"),
}


@pytest.mark.parametrize("name", DEMANDS)
def test_each_demand_of_a_policy(name: str) -> None:
    wishes, demands, check = DEMANDS[name]
    assert failed(good_case(wishes).verify()) == set()
    assert failed(good_case(wishes).demanding(**demands).verify()) == {check}


def test_demands_that_are_met() -> None:
    wishes = Wishes(
        policy=0x20137 | 0b111101 << 20 & ~(1 << 21),
        platform_info=0b111110,
        id_key_digest=DIGEST,
        author_key_digest=DIGEST,
        key_bits=1,
    )
    measured = MeasurementSet(name="a", registers={"measurement": wishes.measurement})
    case = good_case(wishes).demanding(
        smt=False,
        migration_agent=False,
        provisional_firmware=False,
        vlek=False,
        vmpls=frozenset([0]),
        min_guest_svn=3,
        required_platform_info=frozenset(
            ["ecc", "tsme", "rapl-disabled", "ciphertext-hiding", "alias-check"]
        ),
        required_guest_policy=frozenset(
            ["single-socket", "aes-256-xts", "rapl-disabled", "ciphertext-hiding", "page-swap-disabled"]
        ),
        id_keys=only(DIGEST.hex()),
        author_keys=only(DIGEST.hex()),
        floors=FLOORS,
        max_crl_age=DAY,
        measurements=Measurements(sets=(measured,)),
    )
    case = replace(case, policy=replace(case.policy, report_data=only(wishes.report_data.hex())))
    assert failed(case.verify()) == set()
    other = replace(case, policy=replace(case.policy, report_data=only("00" * 64)))
    assert failed(other.verify()) == {"report-data"}


@pytest.mark.parametrize(
    ("kind", "wishes"),
    [
        ("committed", Wishes(committed=LOW)),
        ("launch", Wishes(launch=LOW)),
        ("current", Wishes(current=LOW)),
    ],
)
def test_each_tcb_must_reach_the_floor(kind: str, wishes: Wishes) -> None:
    case = good_case(wishes).demanding(floors=FLOORS)
    found = case.verify()
    assert failed(found) == {f"{kind}-tcb"}
    assert [(one.name, one.have, one.need) for one in found.components if one.short] == [
        (f"{kind} snp", 23, 24)
    ]


def test_key_of_a_low_reported_tcb_is_refused() -> None:
    """Whoever broke old firmware has the keys of its version, and can write any other TCB in a report."""
    case = good_case(Wishes(reported=LOW)).demanding(floors=FLOORS)
    assert failed(case.verify()) == {"reported-tcb"}


def test_floor_of_the_fmc() -> None:
    old = replace(levels_of(Product.TURIN), fmc=0)
    case = good_case(Wishes(product=Product.TURIN, committed=old)).demanding(floors=FLOORS)
    assert failed(case.verify()) == {"committed-tcb"}


@pytest.mark.parametrize(("product", "floor"), [(Product.TURIN, "genoa"), (Product.GENOA, "turin")])
def test_floor_of_another_layout_is_never_met(product: Product, floor: str) -> None:
    case = good_case(Wishes(product=product)).demanding(floors={product.value: FLOORS[floor]})
    assert failed(case.verify()) == {"reported-tcb", "committed-tcb", "launch-tcb", "current-tcb"}


PROVISIONAL = {
    "current TCB": Wishes(current=HIGH),
    "reported TCB": Wishes(reported=LOW),
    "committed TCB": Wishes(committed=HIGH),
    "firmware": Wishes(firmware=(30, 55, 1)),
}


@pytest.mark.parametrize("name", PROVISIONAL)
def test_provisional_firmware(name: str) -> None:
    case = good_case(PROVISIONAL[name])
    assert failed(case.verify()) == set()
    assert failed(case.demanding(provisional_firmware=False).verify()) == {"provisional-firmware"}


def test_everything_that_is_wrong_is_said_at_once() -> None:
    wishes = Wishes(policy=0x30137 | 1 << 19, vmpl=2, guest_svn=0, platform_info=1 << 20, committed=LOW)
    case = good_case(wishes).demanding(
        floors=FLOORS, vmpls=frozenset([0]), min_guest_svn=1, chip_ids=NONE, id_keys=NONE
    )
    assert failed(replace(case, crls=()).verify()) == {
        *("crl", "chip-id", "vmpl", "debug", "platform-info", "guest-svn", "id-key", "committed-tcb"),
    }


def test_other_evidence_and_policies_are_refused() -> None:
    case = good_case()
    assert failed(replace(case, platform=EvidencePlatform.TDX).verify()) == {"policy-section"}
    without = replace(case, policy=permissive_policy(EvidencePlatform.NITRO))
    found = without.verify()
    assert failed(found) == {"policy-section"}
    assert made_checks(found) == {"policy-section"}


def carried(case: SnpCase) -> SnpCase:
    return replace(case, certificates=(), carried=case.certificates)


def test_certificates_and_lists_may_be_in_the_evidence() -> None:
    case = good_case()
    assert failed(carried(case).verify()) == set()
    embedded = Collateral(certificates=case.certificates, crls=case.crls)
    assert failed(replace(case, certificates=(), crls=(), embedded=embedded).verify()) == set()


def test_without_certificates_it_says_what_to_fetch() -> None:
    found = replace(good_case(), certificates=()).verify()
    assert failed(found) == {"key-certificate"}
    (check,) = [one for group in found.groups for one in group.checks if one.name == "key-certificate"]
    assert "snp 24" in check.advice
    assert "keyturn collateral fetch" in check.advice
    made = pki(Product.GENOA)
    alone = replace(good_case(), certificates=(made.leaf().der,)).verify()
    assert failed(alone) == {"chain"}


def test_too_many_certificates_are_not_looked_at() -> None:
    case = good_case()
    many = tuple(b"certificate %d" % index for index in range(65))
    assert failed(replace(case, certificates=many + case.certificates).verify()) == {"key-certificate"}
