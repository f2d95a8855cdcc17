"""Real evidence of every source is imported, as what it is."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from attestation.container_codec import decode_container, encode_container
from attestation.container_json import container_json
from attestation.importers import EvidenceImportError, SideFile, import_evidence
from measurements.errors import KeyturnError
from tests.support.azure_evidence import azure_container
from tests.support.evidence_vectors import EVIDENCE, GPUS, QUOTES, REFUSED, Imported
from tests.support.vectors import vector

TRUSTEE = "attestation/snp/trustee-report.bin"
WRITINGS = {
    "hex": lambda data: data.hex().encode(),
    "hex with 0x": lambda data: b"0x" + data.hex().encode(),
    "upper-case hex with blanks": lambda data: data.hex(" ").upper().encode() + b"\n",
    "base64": base64.b64encode,
    "base64 in lines": base64.encodebytes,
}


@pytest.mark.parametrize("case", EVIDENCE, ids=lambda case: case.name)
def test_a_vector_is_imported_as_what_it_is(case: Imported) -> None:
    data = vector(case.name).read_bytes()
    found = import_evidence(data)
    assert (found.platform, found.origin, len(found.report)) == (case.platform, case.origin, case.report)
    assert len(found.certificates) == case.certificates
    assert tuple(log.format for log in found.logs) == case.logs
    assert (found.shape is not None) is case.shape
    if case.bank is None:
        assert found.tpm is None
    else:
        assert found.tpm is not None
        assert {bank: sorted(registers) for bank, registers in found.tpm.pcrs.items()} == {
            case.bank: list(range(24))
        }
    assert import_evidence(encode_container(found)) == found
    assert import_evidence(container_json(found)) == found


@pytest.mark.parametrize("case", QUOTES, ids=lambda case: case.name)
def test_a_quote_keeps_its_bytes_and_loses_only_zeros(case: Imported) -> None:
    data = vector(case.name).read_bytes()
    report = import_evidence(data).report
    assert data == report + bytes(len(data) - len(report))


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS.keys())
@pytest.mark.parametrize("name", [TRUSTEE, QUOTES[0].name, "attestation/nitro/evervault-valid.bin"])
def test_bytes_may_be_written_as_text(name: str, writing: object) -> None:
    assert callable(writing)
    data = vector(name).read_bytes()
    assert import_evidence(writing(data)) == import_evidence(data)


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_what_is_no_evidence_is_refused_with_a_reason(name: str, reason: str) -> None:
    with pytest.raises(KeyturnError, match=reason):
        import_evidence(vector(name).read_bytes())


@pytest.mark.parametrize(("name", "certificates", "count"), GPUS)
def test_evidence_of_gpus_goes_beside_that_of_the_cpu(
    name: str, certificates: str | None, count: int
) -> None:
    files = {SideFile.GPU: vector(name).read_bytes()}
    if certificates is not None:
        files[SideFile.GPU_CERTIFICATES] = vector(certificates).read_bytes()
    found = import_evidence(vector(TRUSTEE).read_bytes(), files=files)
    assert len(found.gpus) == count
    assert decode_container(encode_container(found)) == found


def test_a_quote_of_azures_tpm_takes_its_key_from_the_hcl_report() -> None:
    quote = vector("attestation/tpm/azure-tpm-quote-v1.json").read_bytes()
    hcl = vector("attestation/snp/azure-hcl-report.bin").read_bytes()
    found = import_evidence(quote, files={SideFile.HCL_REPORT: hcl})
    assert found.tpm is not None
    assert found.tpm.hcl_report == hcl
    assert found.report == import_evidence(hcl).report
    domain = vector("attestation/tpm/azure-tdx-hcl-report.bin").read_bytes()
    with pytest.raises(EvidenceImportError, match="give the trust domain's quote"):
        import_evidence(quote, files={SideFile.HCL_REPORT: domain})
    td_quote = vector("attestation/dcap/quotes/trustee-az-td-quote.bin").read_bytes()
    both = import_evidence(quote, files={SideFile.HCL_REPORT: domain, SideFile.TD_QUOTE: td_quote})
    assert both.report == import_evidence(td_quote).report


@pytest.mark.parametrize(
    "name",
    [
        "attestation/snp/azure-evidence-v1.json",
        "attestation/snp/azure-evidence-genoa.json",
        "azure-vtpm/az-tdx-vtpm/evidence-v0.json",
    ],
)
def test_azures_parts_are_those_that_its_verifier_is_tested_with(name: str) -> None:
    found, expected = import_evidence(vector(name).read_bytes()), azure_container(name)
    assert found.tpm == expected.tpm
    assert expected.report.startswith(found.report)


def side(**names: str) -> Mapping[SideFile, bytes]:
    return {SideFile[name.upper()]: vector(path).read_bytes() for name, path in names.items()}


def test_certificates_and_collateral_go_beside() -> None:
    report = vector(TRUSTEE).read_bytes()
    chain = import_evidence(report, files=side(certificates="attestation/snp/milan_ask_ark_asvk.pem"))
    leaf = import_evidence(report, files=side(certificates="attestation/snp/trustee-vcek.der"))
    assert (len(chain.certificates), len(leaf.certificates)) == (3, 1)
    root = import_evidence(report, files=side(collateral="attestation/snp/milan_ask_ark_asvk.pem"))
    assert len(root.collateral.certificates) == 3
    with pytest.raises(KeyturnError, match="is no X"):
        import_evidence(report, files={SideFile.CERTIFICATES: b"\x30\x03\x02\x01\x01"})


def test_a_log_goes_beside_once() -> None:
    log = vector("tdx-ccel-logs/trustee/CCEL_data").read_bytes()
    quote = vector(QUOTES[0].name).read_bytes()
    found = import_evidence(quote, files={SideFile.CCEL_LOG: log})
    assert found.logs[0].data == log
    with pytest.raises(EvidenceImportError, match="has a ccel log already"):
        import_evidence(encode_container(found), files={SideFile.CCEL_LOG: log})
