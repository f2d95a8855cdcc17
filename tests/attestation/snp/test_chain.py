"""Attacks on the chain: wrong roles, wrong roots, expired and revoked parts, lists that prove nothing."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.platform_verification import PlatformVerification
from attestation.policy import TrustAnchor
from attestation.snp.products import Product
from measurements.sev.report import SigningKey
from tests.support.policies import ANY, only
from tests.support.snp_cases import SnpCase, failed, good_case
from tests.support.snp_pki import CSP, DAY, NOW, LeafWishes, Levels, Made, Wishes, pki

GENOA = pki(Product.GENOA)
ASK, ASVK = GENOA.product.issuer_name(SigningKey.VCEK), GENOA.product.issuer_name(SigningKey.VLEK)


def with_parts(leaf: Made, *issuers: Made, case: SnpCase | None = None) -> SnpCase:
    return replace(case or good_case(), certificates=(leaf.der, *(one.der for one in issuers)))


def reason(found: PlatformVerification, name: str) -> str:
    return next(one.reason for group in found.groups for one in group.checks if one.name == name)


def test_vlek_under_the_ask_is_refused() -> None:
    leaf = GENOA.leaf(LeafWishes(kind=SigningKey.VLEK, issuer=ASK))
    case = good_case(Wishes(kind=SigningKey.VLEK))
    found = with_parts(leaf, GENOA.ask, GENOA.ark, case=case).verify()
    assert failed(found) == {"chain-roles"}
    assert "SEV-VLEK ← SEV-Genoa" in reason(found, "chain-roles")


def test_vcek_under_the_asvk_is_refused() -> None:
    leaf = GENOA.leaf(LeafWishes(issuer=ASVK))
    assert failed(with_parts(leaf, GENOA.asvk, GENOA.ark).verify()) == {"chain-roles"}


def test_vcek_of_the_root_itself_is_refused() -> None:
    leaf = GENOA.leaf(LeafWishes(issuer=GENOA.product.root_name))
    assert failed(with_parts(leaf, GENOA.ark).verify()) == {"chain-roles"}


def test_authority_of_another_name_is_refused() -> None:
    other = GENOA.authority("SEV-Rome", serial=0x20001)
    leaf = GENOA.leaf(LeafWishes(issuer="SEV-Rome"))
    assert failed(with_parts(leaf, other, GENOA.ark).verify()) == {"chain-roles"}


@pytest.mark.parametrize("case", ["sha256", "pkcs1"])
def test_other_signature_algorithms_are_refused(case: str) -> None:
    ask = (
        GENOA.authority(ASK, serial=0x10001, hash_algorithm=hashes.SHA256())
        if case == "sha256"
        else GENOA.authority(ASK, serial=0x10001, pss=False)
    )
    found = with_parts(GENOA.leaf(), ask, GENOA.ark).verify()
    assert failed(found) == {"chain-roles"}
    assert "RSASSA-PSS" in reason(found, "chain-roles")


def test_root_that_is_not_pinned_is_refused() -> None:
    case = good_case()
    unpinned = replace(case, policy=replace(case.policy, roots=()))
    assert failed(unpinned.verify()) == {"chain"}


def test_root_of_another_product_is_refused() -> None:
    """A product of the name Milan, all of whose certificates hang on the root that is pinned for Genoa."""
    case = good_case()
    anchor = replace(GENOA.anchor, purpose=Product.MILAN.purpose)
    assert failed(replace(case, policy=replace(case.policy, roots=(anchor,))).verify()) == {"chain"}


def test_certificate_of_another_product_for_an_old_report() -> None:
    """A report of version 2 does not name its CPU: the certificate decides, and its root has to fit."""
    case = good_case(Wishes(version=2))
    milan = pki(Product.MILAN)
    mixed = with_parts(milan.leaf(), milan.ask, milan.ark, case=case).demanding(chip_ids=ANY)
    assert failed(replace(mixed, crls=(milan.crl(),)).verify()) == {"key-chip", "report-signature"}


@pytest.mark.parametrize("part", ["leaf", "ask", "ark"])
@pytest.mark.parametrize("when", ["expired", "not valid yet"])
def test_each_part_must_be_valid_now(part: str, when: str) -> None:
    start = NOW - 400 * DAY if when == "expired" else NOW + DAY
    leaf, ask, ark = GENOA.leaf(), GENOA.ask, GENOA.ark
    policy = good_case().policy
    if part == "leaf":
        leaf = GENOA.leaf(LeafWishes(start=start, days=300))
    elif part == "ask":
        ask = GENOA.authority(ASK, serial=0x10001, start=start, days=300)
    else:
        ark = GENOA.authority(GENOA.product.root_name, serial=0x10000, start=start, days=300)
        policy = replace(policy, roots=(anchor_of(ark),))
    found = replace(with_parts(leaf, ask, ark), policy=policy).verify()
    assert failed(found) == {"chain-validity"}
    assert when in reason(found, "chain-validity")


def anchor_of(ark: Made) -> TrustAnchor:
    return replace(GENOA.anchor, fingerprint=hashlib.sha256(ark.der).digest())


@pytest.mark.parametrize("kind", [SigningKey.VCEK, SigningKey.VLEK])
def test_revoked_intermediate(kind: SigningKey) -> None:
    issuer = GENOA.asvk if kind is SigningKey.VLEK else GENOA.ask
    case = replace(good_case(Wishes(kind=kind)), crls=(GENOA.crl(issuer),))
    found = case.verify()
    assert failed(found) == {"crl"}
    assert "is revoked by ARK-Genoa" in reason(found, "crl")
    other = GENOA.ask if kind is SigningKey.VLEK else GENOA.asvk
    assert failed(replace(case, crls=(GENOA.crl(other),)).verify()) == set()


def test_revocation_is_final() -> None:
    """A newer list that does not name a certificate any more does not bring it back."""
    old = GENOA.crl(GENOA.ask, start=NOW - 800 * DAY)
    assert failed(replace(good_case(), crls=(GENOA.crl(), old)).verify()) == {"crl"}
    assert failed(replace(good_case(), crls=(old, GENOA.crl())).verify()) == {"crl"}


def test_revoked_root() -> None:
    assert failed(replace(good_case(), crls=(GENOA.crl(GENOA.ark),)).verify()) == {"crl"}


def test_revoked_leaf_if_its_issuer_may_sign_lists() -> None:
    ask = GENOA.authority(ASK, serial=0x10001, crl_sign=True)
    leaf = GENOA.leaf()
    case = replace(with_parts(leaf, ask, GENOA.ark), crls=(GENOA.crl(), GENOA.crl(leaf, issuer=ask)))
    assert failed(case.verify()) == {"crl"}
    assert failed(replace(case, crls=(GENOA.crl(), GENOA.crl(issuer=ask))).verify()) == set()
    not_allowed = replace(case, certificates=(leaf.der, GENOA.ask.der, GENOA.ark.der))
    assert failed(not_allowed.verify()) == set()


LISTS = {
    "absent": (),
    "of another product": (pki(Product.MILAN).crl(),),
    "of the intermediate": (GENOA.crl(issuer=GENOA.ask),),
    "expired": (GENOA.crl(start=NOW - 400 * DAY, days=300),),
    "of tomorrow": (GENOA.crl(start=NOW + DAY),),
    "with a critical extension": (GENOA.crl(critical=True),),
    "no list": (b"list", b"", GENOA.ask.der),
    "cut": (GENOA.crl()[:-1],),
    "with a byte more": (GENOA.crl() + b"\0",),
    "many": tuple(GENOA.crl(number=number) for number in range(65)),
}


@pytest.mark.parametrize("name", LISTS)
def test_without_a_list_that_holds_nothing_passes(name: str) -> None:
    assert failed(replace(good_case(), crls=LISTS[name]).verify()) == {"crl"}


def test_age_of_a_list_is_up_to_the_policy() -> None:
    case = replace(good_case(), crls=(GENOA.crl(start=NOW - 30 * DAY),))
    assert failed(case.demanding(max_crl_age=30 * DAY).verify()) == set()
    found = case.demanding(max_crl_age=30 * DAY - 1).verify()
    assert failed(found) == {"crl"}
    assert "by the policy is expired" in reason(found, "crl")
    fresh = replace(case, crls=(*case.crls, GENOA.crl()))
    assert failed(fresh.demanding(max_crl_age=2 * DAY).verify()) == set()


def test_list_of_today_and_one_of_tomorrow() -> None:
    case = replace(good_case(), crls=(GENOA.crl(start=NOW + DAY), GENOA.crl()))
    assert failed(case.verify()) == set()


def test_key_of_another_tcb_is_refused() -> None:
    leaf = GENOA.leaf(LeafWishes(levels=Levels(snp=25)))
    assert failed(with_parts(leaf, GENOA.ask, GENOA.ark).verify()) == {"key-tcb"}


def test_of_several_certificates_the_fitting_one_is_taken() -> None:
    good = good_case()
    others = [
        GENOA.leaf(LeafWishes(levels=Levels(snp=25))),
        GENOA.leaf(LeafWishes(extensions=(("4", bytes(64)),))),
        GENOA.leaf(LeafWishes(kind=SigningKey.VLEK)),
        GENOA.leaf(LeafWishes(extensions=(("1", None),))),
    ]
    mixed = (*(one.der for one in others), *good.certificates)
    assert failed(replace(good, certificates=mixed).verify()) == set()


def test_renewed_certificates_of_two_providers() -> None:
    """A newer VLEK that fits by its fields but has another key does not stand in the way of the right one."""
    case = good_case(Wishes(kind=SigningKey.VLEK))
    foreign = GENOA.leaf(LeafWishes(kind=SigningKey.VLEK, start=NOW - DAY, key_name="another"))
    assert failed(replace(case, certificates=(foreign.der, *case.certificates)).verify()) == set()


def test_critical_extension_of_a_leaf_is_refused() -> None:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    for more in ((usage, True), (x509.BasicConstraints(ca=True, path_length=None), False)):
        leaf = GENOA.leaf(LeafWishes(more=(more,)))
        assert failed(with_parts(leaf, GENOA.ask, GENOA.ark).verify()) == {"key-certificate"}
    plain = GENOA.leaf(LeafWishes(more=((usage, False),)))
    assert failed(with_parts(plain, GENOA.ask, GENOA.ark).verify()) == set()


def test_vlek_alone_cannot_stand_for_a_vcek() -> None:
    leaf = GENOA.leaf(LeafWishes(kind=SigningKey.VLEK))
    found = with_parts(leaf, GENOA.asvk, GENOA.ark).demanding(csp_ids=only(CSP)).verify()
    assert failed(found) == {"key-certificate"}
