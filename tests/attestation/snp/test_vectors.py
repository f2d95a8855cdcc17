"""Real reports and certificates: each has the outcome that its source states. AMD's revocation lists are not
public in any repository, so a good one fails in exactly that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from attestation.policy import SnpFloor
from attestation.snp.chain import signed_by
from attestation.snp.endorsement_key import read_endorsement_key
from attestation.snp.products import Product
from attestation.x509_chain import build_chain, load_pem_certificates
from measurements.sev.report import SigningKey, TcbVersion, parse_report
from tests.support.policies import ANY, only
from tests.support.snp_cases import SnpCase, failed, made_checks, pem, real_case, roots
from tests.support.vectors import vector

AWS = "cc-us-east-2.amazonaws.com"
IN_2025 = int(datetime(2025, 6, 1, tzinfo=UTC).timestamp())
IN_2026 = int(datetime(2026, 11, 30, tzinfo=UTC).timestamp())


def raw(name: str) -> bytes:
    return vector(f"attestation/snp/{name}").read_bytes()


def trustee(vcek: str = "trustee-vcek.der") -> SnpCase:
    return real_case(raw("trustee-report.bin"), (raw(vcek), *roots("milan")), now=IN_2025)


def trustee_vlek() -> SnpCase:
    certificates = (raw("trustee-vlek.der"), *roots("milan"))
    return real_case(raw("trustee-vlek-report.bin"), certificates, now=IN_2025).demanding(csp_ids=only(AWS))


def go_sev_guest() -> SnpCase:
    certificates = (raw("go-sev-guest-vcek.der"), *roots("milan"))
    return real_case(raw("go-sev-guest-report.bin"), certificates, now=IN_2025)


def virtee() -> SnpCase:
    report = bytes.fromhex(raw("virtee-report-milan.hex").decode())
    return real_case(report, (raw("virtee-vcek-milan.der"), *roots("milan")), now=IN_2025)


def azure(*, genoa_key: bool = False) -> SnpCase:
    report = raw("azure-hcl-report.bin")[32 : 32 + 1184]
    key = (*pem("azure-vcek-genoa.pem"), *roots("genoa")) if genoa_key else pem("azure-vcek.pem")
    return real_case(report, key, now=IN_2025)


def azure_genoa() -> SnpCase:
    evidence = json.loads(raw("azure-evidence-genoa.json"))
    key = load_pem_certificates(evidence["vcek"].encode())
    return real_case(bytes(evidence["report"])[32 : 32 + 1184], (*key, *roots("genoa")), now=IN_2025)


def dstack() -> SnpCase:
    report = raw("dstack-versioned-attestation.bin")[4 : 4 + 1184]
    certificates = (*pem("dstack-vcek.pem"), *pem("dstack-ask.pem"), *roots("milan"))
    return real_case(report, certificates, now=IN_2026)


GOOD: list[tuple[Callable[[], SnpCase], Product]] = [
    (trustee, Product.MILAN),
    (trustee_vlek, Product.MILAN),
    (virtee, Product.MILAN),
    (azure, Product.MILAN),
    (azure_genoa, Product.GENOA),
    (dstack, Product.MILAN),
]


@pytest.mark.parametrize(("case", "product"), GOOD)
def test_good_report_lacks_only_a_list(case: Callable[[], SnpCase], product: Product) -> None:
    found = case().verify()
    assert failed(found) == {"crl"}
    assert not found.passed
    assert found.facts is None
    (crl,) = [check for group in found.groups for check in group.checks if check.name == "crl"]
    assert f"no revocation list of {product.root_name}" in crl.reason
    assert "keyturn collateral fetch" in crl.advice
    assert f"https://kdsintf.amd.com/{'vlek' if case is trustee_vlek else 'vcek'}/v1/{product.label}/crl" in (
        crl.advice
    )
    assert [link.issuer for link in found.chain][-1] == product.root_name


def test_every_check_is_made_for_a_good_report() -> None:
    found = trustee().verify()
    assert made_checks(found) == {check.name for group in found.groups for check in group.checks}


@pytest.mark.parametrize("vcek", ["trustee-vcek-invalid-legacy.der", "trustee-vcek-invalid-new.der"])
def test_wrong_vcek_is_refused(vcek: str) -> None:
    case = trustee(vcek)
    assert failed(case.verify()) == {"chain"}
    key = read_endorsement_key(raw(vcek))
    assert not signed_by(case.report, parse_report(case.report), key.public_key)


def test_right_vcek_is_found_among_wrong_ones() -> None:
    case = trustee()
    wrong = (raw("trustee-vcek-invalid-legacy.der"), raw("virtee-vcek-milan.der"), raw("trustee-vlek.der"))
    mixed = real_case(case.report, (*wrong, *case.certificates), now=IN_2025)
    assert failed(mixed.verify()) == {"crl"}


def test_debug_guest_is_refused_though_its_signature_holds() -> None:
    assert failed(go_sev_guest().verify()) == {"crl", "debug"}


def test_old_firmware_is_below_a_floor() -> None:
    floor = SnpFloor(boot_loader=4, tee=0, snp=24, microcode=213)
    found = virtee().demanding(floors={"milan": floor}).verify()
    assert failed(found) == {"crl", "reported-tcb", "committed-tcb", "launch-tcb", "current-tcb"}
    short = {one.name: (one.have, one.need) for one in found.components if one.short}
    assert short["committed snp"] == (8, 24)
    assert short["launch microcode"] == (115, 213)
    assert "committed tee" not in short


def test_genoa_key_for_a_milan_report_is_refused() -> None:
    found = azure(genoa_key=True).verify()
    assert failed(found) == {"crl", "key-tcb", "key-chip", "report-signature"}


def test_genoa_key_for_a_report_that_names_its_cpu_is_refused() -> None:
    case = dstack()
    mixed = real_case(case.report, (*pem("azure-vcek-genoa.pem"), *roots("genoa", "milan")), now=IN_2026)
    assert failed(mixed.verify()) == {"product"}


def test_reported_below_committed_is_provisional() -> None:
    found = dstack().demanding(provisional_firmware=False).verify()
    assert failed(found) == {"crl", "provisional-firmware"}
    (check,) = [one for group in found.groups for one in group.checks if one.name == "provisional-firmware"]
    assert check.found == "reported TCB boot loader 4, tee 0, snp 23, microcode 213"


def test_vlek_of_milan_needs_its_provider_by_name() -> None:
    assert failed(trustee_vlek().demanding(csp_ids=ANY).verify()) >= {"csp-id"}
    assert failed(trustee_vlek().demanding(csp_ids=only("other.example")).verify()) >= {"csp-id", "chip-id"}
    assert failed(trustee_vlek().demanding(vlek=False).verify()) == {"crl", "vlek"}


def test_vlek_runs_out() -> None:
    case = trustee_vlek()
    later = real_case(case.report, case.certificates, now=IN_2026).demanding(csp_ids=only(AWS))
    assert failed(later.verify()) == {"crl", "chain-validity"}


def test_milan_is_refused_where_any_chip_is_allowed() -> None:
    assert failed(trustee().demanding(chip_ids=ANY).verify()) == {"crl", "chip-id"}


def test_certificate_of_turin_is_read_and_chains() -> None:
    der = raw("virtee-vcek-turin.der")
    key = read_endorsement_key(der)
    assert (key.kind, key.product, key.product_name) == (SigningKey.VCEK, Product.TURIN, "Turin")
    assert key.tcb == TcbVersion(fmc=0, boot_loader=0, tee=0, snp=0, microcode=9)
    assert key.hardware_id == bytes.fromhex("1e550a8ee5cf9f4d")
    pinned = frozenset([bytes.fromhex("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a")])
    chain = build_chain(der, roots("turin"), roots=pinned, what="the VCEK")
    assert [link.subject for link in chain.links] == ["SEV-VCEK", "SEV-Turin", "ARK-Turin"]


def test_roots_of_other_products_do_not_serve() -> None:
    case = azure_genoa()
    without = real_case(case.report, (case.certificates[0], *roots("milan", "turin")), now=IN_2025)
    assert failed(without.verify()) == {"chain"}
