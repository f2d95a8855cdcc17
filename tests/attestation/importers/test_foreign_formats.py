"""Formats of which no vector is at hand, by their descriptions: SNP reports in JSON, CoCo, configfs-tsm."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from attestation.container import EvidencePlatform, LogFormat
from attestation.container_codec import encode_container
from attestation.importers import EvidenceImportError, SideFile, import_evidence
from attestation.snp.certificate_table import TableEntry
from measurements.errors import KeyturnError
from measurements.sev.report import parse_report
from tests.support.foreign_evidence import quote, snp_fields, snp_json
from tests.support.vectors import vector

REPORTS = ("attestation/snp/trustee-report.bin", "attestation/snp/trustee-vlek-report.bin")


def table(entries: dict[TableEntry, bytes]) -> bytes:
    """A certificate table (GHCB specification, 4.1.8.1)."""
    at = 24 * (len(entries) + 1)
    head, body = b"", b""
    for entry, content in entries.items():
        head += (
            entry.value.bytes + (at + len(body)).to_bytes(4, "little") + len(content).to_bytes(4, "little")
        )
        body += content
    return head + bytes(24) + body


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("name", REPORTS)
def test_the_bytes_of_a_report_come_back_from_its_json(name: str, new: bool) -> None:
    report = vector(name).read_bytes()
    assert import_evidence(snp_json(report, new=new)).report == report


def test_a_tcb_with_an_fmc_is_laid_out_as_turin_has_it() -> None:
    report = bytearray(vector(REPORTS[0]).read_bytes())
    report[0], report[0x188] = 3, 0x1A
    for at in (0x38, 0x180, 0x1E0, 0x1F0):
        report[at : at + 8] = bytes((1, 2, 3, 4, 0, 0, 0, 77))
    found = import_evidence(snp_json(bytes(report), new=True, turin=True)).report
    assert found == bytes(report)
    assert parse_report(found).reported_tcb.fmc == 1


def test_certificates_and_lists_come_along() -> None:
    chain = [
        {"cert_type": "VCEK", "data": [1, 2]},
        {"cert_type": "CRL", "data": [3]},
        {"cert_type": {"OTHER": "00"}, "data": [4]},
    ]
    found = import_evidence(snp_json(bytes(1184), chain=chain))
    assert (found.certificates, found.collateral.crls) == ((b"\x01\x02",), (b"\x03",))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("version", 1 << 32, "version is not a number of 4 bytes"),
        ("version", True, "version is not a number"),
        ("version", None, "version is not a number"),
        ("measurement", [0] * 47, "measurement has 47 bytes"),
        ("measurement", [256] * 48, "is not a list of bytes"),
        ("measurement", "00", "is not a list of bytes"),
        ("surplus", 1, "key 'surplus' is unknown"),
        ("current_tcb", {"bootloader": 1}, "key tee is missing"),
        ("current_tcb", {"bootloader": 1, "tee": 0, "snp": 0, "microcode": 999}, "is not a list of bytes"),
        ("signature", {"r": []}, "key s is missing"),
        ("_reserved_4", [1] * 168, "contradicts another field"),
    ],
)
def test_a_field_that_is_not_right_is_named(key: str, value: Any, reason: str) -> None:
    fields = snp_fields(bytes(1184)) | {"launch_mit_vector": 2, key: value}
    data = json.dumps({"attestation_report": fields, "cert_chain": None}).encode()
    with pytest.raises(EvidenceImportError, match=reason):
        import_evidence(data)


def test_a_report_without_a_field_is_refused() -> None:
    fields = snp_fields(bytes(1184))
    del fields["chip_id"]
    with pytest.raises(EvidenceImportError, match="key chip_id is missing"):
        import_evidence(json.dumps({"attestation_report": fields}).encode())


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_cocos_evidence_of_a_trust_domain() -> None:
    document: dict[str, Any] = {"quote": encoded(quote()), "cc_eventlog": encoded(b"log")}
    found = import_evidence(json.dumps(document).encode())
    assert (found.platform, found.report) == (EvidencePlatform.TDX, quote())
    assert [(log.format, log.data) for log in found.logs] == [(LogFormat.CCEL, b"log")]
    document["cc_eventlog"] = None
    assert import_evidence(json.dumps(document).encode()).logs == ()
    enclave = vector("attestation/dcap/quotes/automata-dcap-attestation-quote-sgx.bin").read_bytes()
    assert import_evidence(json.dumps({"quote": encoded(enclave)}).encode()).platform is EvidencePlatform.SGX


def test_evidence_that_no_hardware_made_is_refused() -> None:
    with pytest.raises(EvidenceImportError, match="sample attester"):
        import_evidence(b'{"svn":"1","report_data":"AAAA"}')


def test_configfs_tsm_brings_certificates() -> None:
    report = vector(REPORTS[0]).read_bytes()
    auxblob = table({TableEntry.VCEK: b"leaf", TableEntry.CRL: b"list"}) + bytes(64)
    files = {SideFile.AUXBLOB: auxblob, SideFile.PROVIDER: b"sev_guest\n"}
    found = import_evidence(report, files=files)
    assert (found.certificates, found.collateral.crls) == ((b"leaf",), (b"list",))
    extended = import_evidence(report + auxblob)
    assert (extended.origin, extended.certificates) == ("snp-extended-report", (b"leaf",))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({SideFile.PROVIDER: b"sev_guest"}, "of tdx"),
        ({SideFile.PROVIDER: b"\xff"}, "of tdx"),
        ({SideFile.AUXBLOB: b"1"}, "goes with an SNP report"),
    ],
)
def test_files_of_another_platform_are_refused(files: dict[SideFile, bytes], reason: str) -> None:
    with pytest.raises(EvidenceImportError, match=reason):
        import_evidence(quote(), files=files)
    assert import_evidence(quote(), files={SideFile.AUXBLOB: b"", SideFile.PROVIDER: b"tdx_guest"})


@pytest.mark.parametrize("cut", range(0, 1300, 13))
def test_a_cut_table_is_refused(cut: int) -> None:
    whole = bytes(4) + table({TableEntry.VCEK: b"\x01" * 1200})
    with pytest.raises(KeyturnError):
        import_evidence(vector(REPORTS[0]).read_bytes() + whole[4 : 4 + cut] + b"\x01")


def test_a_document_beside_is_not_replaced() -> None:
    first = import_evidence(quote(), files={SideFile.SHAPE: b"{}", SideFile.REFERENCE: b"{}"})
    assert (first.shape, first.reference) == (b"{}", b"{}")
    with pytest.raises(EvidenceImportError, match="has a shape already"):
        import_evidence(encode_container(first), files={SideFile.SHAPE: b"{}"})
