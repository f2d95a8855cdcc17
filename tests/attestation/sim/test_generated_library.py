"""The generated PKI as dcap-qvl sees it: a second reader of the same formats, which nobody here wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from attestation.policy import TcbStatus
from attestation.sim.pki import ORGANISATION, SimPki, make_pki, new_keys, pem
from attestation.sim.plan import CERTIFICATES, Part, sim_plan
from attestation.sim.quote import QuoteShape, SimEnclave, sgx_quote, sim_domain, td_quote
from attestation.sim.tcb import DAY, Tee
from measurements.tdx.quote import BodyType, parse_quote
from tests.support.sim_pki import NOW, keys, library_verdict, pki, plan, with_window

REPORT_DATA = bytes(range(64))


def quotes(of: SimPki) -> dict[str, tuple[Tee, bytes]]:
    later = sim_domain(report_data=REPORT_DATA, version=BodyType.TDX_1_5)
    enclave = SimEnclave(cpu_svn=of.plan.platform.cpu_svn, report_data=REPORT_DATA)
    domain = sim_domain(report_data=REPORT_DATA)
    return {
        "version 3, SGX": (Tee.SGX, sgx_quote(of, enclave)),
        "version 4, TDX 1.0": (Tee.TDX, td_quote(of, domain)),
        "version 5, TDX 1.0": (Tee.TDX, td_quote(of, domain, version=5)),
        "version 5, TDX 1.5": (Tee.TDX, td_quote(of, later, version=5)),
    }


@pytest.mark.parametrize("processor_ca", [False, True])
def test_the_library_accepts_every_kind_of_quote(processor_ca: bool) -> None:
    made = pki(plan(processor_ca=processor_ca))
    for name, (tee, quote) in quotes(made).items():
        verdict = library_verdict(quote, made.dcap(tee), made.root)
        assert (verdict.status, verdict.advisory_ids) == ("UpToDate", []), name
        assert verdict.ppid == made.plan.platform.ppid


def test_the_parser_of_quotes_reads_the_same_fields() -> None:
    domain = sim_domain(report_data=REPORT_DATA, version=BodyType.TDX_1_5)
    assert parse_quote(td_quote(pki(), domain, version=5)).body == domain


@pytest.mark.parametrize("status", [one for one in TcbStatus if "Relaunch" not in one.value])
def test_the_library_reports_the_status_of_the_level(status: TcbStatus) -> None:
    made = pki(sim_plan(NOW, status=status, advisories=("INTEL-SA-00001",)))
    quote = td_quote(made, sim_domain())
    if status is TcbStatus.REVOKED:
        with pytest.raises(ValueError, match="TCB status is invalid: Revoked"):
            library_verdict(quote, made.dcap(), made.root)
        return
    verdict = library_verdict(quote, made.dcap(), made.root)
    assert (verdict.status, verdict.advisory_ids) == (status.value, ["INTEL-SA-00001"])


@pytest.mark.parametrize("part", [Part.CA, Part.PCK, Part.TCB_SIGNING])
def test_the_library_refuses_what_is_revoked(part: Part) -> None:
    made = pki(plan(revoked=frozenset({part})))
    with pytest.raises(ValueError, match=r"CertRevoked|revoked"):
        library_verdict(td_quote(made, sim_domain()), made.dcap(), made.root)


@pytest.mark.parametrize("part", [one for one in Part if one is not Part.ROOT])
def test_the_library_refuses_what_is_expired(part: Part) -> None:
    made = pki(with_window(part, NOW - 2 * DAY, NOW - DAY))
    with pytest.raises(ValueError, match=r"expired|too old|Expired"):
        library_verdict(td_quote(made, sim_domain()), made.dcap(), made.root)


@pytest.mark.parametrize("part", [one for one in Part if one is not Part.ROOT])
def test_the_library_refuses_what_is_not_valid_yet_but_not_a_list(part: Part) -> None:
    made = pki(with_window(part, NOW + DAY, NOW + 2 * DAY))
    if part in (Part.ROOT_CRL, Part.PCK_CRL):
        assert library_verdict(td_quote(made, sim_domain()), made.dcap(), made.root).status == "UpToDate"
        return
    with pytest.raises(ValueError, match=r"in the future|NotValidYet|not valid"):
        library_verdict(td_quote(made, sim_domain()), made.dcap(), made.root)


def test_the_library_refuses_another_root() -> None:
    made, foreign = pki(), make_pki(plan(), new_keys())
    with pytest.raises(ValueError, match=r"UnknownIssuer|InvalidSignature|root"):
        library_verdict(td_quote(made, sim_domain()), made.dcap(), foreign.root)


def test_the_library_refuses_the_report_of_another_quoting_enclave() -> None:
    quote = td_quote(pki(), sim_domain(), shape=QuoteShape(qe_mrsigner=bytes(32)))
    with pytest.raises(ValueError, match="MRSIGNER"):
        library_verdict(quote, pki().dcap(), pki().root)


def test_every_certificate_says_that_it_is_for_development() -> None:
    for part in CERTIFICATES:
        certificate = x509.load_der_x509_certificate(pki().certificates[part])
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
        assert [one.value for one in names] == [ORGANISATION]
    assert "for development only" in pki().anchor().subject


def test_openssl_verifies_the_chains(tmp_path: Path) -> None:
    made = pki()
    for name, part in (("root", Part.ROOT), ("ca", Part.CA), ("pck", Part.PCK), ("tcb", Part.TCB_SIGNING)):
        (tmp_path / f"{name}.pem").write_text(pem(made.certificates[part]))
    command = ["openssl", "verify", "-x509_strict", "-attime", str(NOW), "-CAfile", "root.pem"]
    for rest in (["-untrusted", "ca.pem", "pck.pem"], ["tcb.pem"]):
        done = subprocess.run([*command, *rest], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_plan_and_keys_give_one_pki() -> None:
    first, second = make_pki(plan(), keys()), make_pki(plan(), keys())
    assert first == second
    assert first.collateral() == second.collateral()
    assert td_quote(first, sim_domain()) == td_quote(second, sim_domain())
