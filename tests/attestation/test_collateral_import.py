"""Collateral from files of any maker: what is recognised, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral import Collateral, DcapCollateral
from attestation.collateral_bundle import MAX_BUNDLE, MAX_ITEMS, encode_bundle
from attestation.collateral_import import MAX_JSON, CollateralImportError, import_collateral
from attestation.sim.pki import make_pki, new_keys
from attestation.sim.plan import sim_plan
from attestation.x509_chain import load_pem_certificates
from measurements.errors import KeyturnError
from tests.support.revocation_lists import certificate, ocsp_answer, revocation_list
from tests.support.vectors import vector

NOW = 1_781_000_000
SET = make_pki(sim_plan(NOW), new_keys()).collateral().dcap[0]
CERTIFICATE = certificate("ARK-Milan", NOW)
LIST = revocation_list("ARK-Milan", NOW)
RIM = b'<?xml version="1.0"?><s:SoftwareIdentity xmlns:s="x" name="GH100" version="1"></s:SoftwareIdentity>'


def dcap_json(one: DcapCollateral = SET, **changes: Any) -> dict[str, Any]:
    document = {
        "pck_crl_issuer_chain": one.pck_crl_issuer_chain,
        "root_ca_crl": one.root_ca_crl.hex(),
        "pck_crl": one.pck_crl.hex(),
        "tcb_info_issuer_chain": one.tcb_info_issuer_chain,
        "tcb_info": one.tcb_info,
        "tcb_info_signature": one.tcb_info_signature.hex(),
        "qe_identity_issuer_chain": one.qe_identity_issuer_chain,
        "qe_identity": one.qe_identity,
        "qe_identity_signature": one.qe_identity_signature.hex(),
    }
    return {**document, **changes}


def pem_of(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def pem_of_list(der: bytes) -> bytes:
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)


def test_a_bundle() -> None:
    collateral = Collateral(dcap=(SET,), crls=(LIST,))
    assert import_collateral(encode_bundle(collateral)) == collateral


@pytest.mark.parametrize("more", [{}, {"pck_certificate_chain": None}, {"pck_certificate_chain": "PEM"}])
def test_a_set_in_json(more: dict[str, Any]) -> None:
    data = json.dumps(dcap_json(**more), indent=1).encode()
    assert import_collateral(data) == Collateral(dcap=(SET,))


def test_pem_of_certificates_and_lists_in_any_order() -> None:
    other = revocation_list("ARK-Genoa", NOW)
    data = pem_of_list(LIST) + pem_of(CERTIFICATE) + pem_of_list(other) + b"\n"
    assert import_collateral(data) == Collateral(certificates=(CERTIFICATE,), crls=(LIST, other))


def test_der() -> None:
    answer = ocsp_answer(NOW)
    assert import_collateral(CERTIFICATE) == Collateral(certificates=(CERTIFICATE,))
    assert import_collateral(LIST) == Collateral(crls=(LIST,))
    assert import_collateral(answer) == Collateral(ocsp=(answer,))


@pytest.mark.parametrize("write", [bytes.hex, lambda data: data.hex().upper() + "\n"])
def test_a_list_in_hex(write: Any) -> None:
    assert import_collateral(write(LIST).encode()) == Collateral(crls=(LIST,))


def test_a_manifest_as_xml_and_as_the_service_gives_it() -> None:
    answer = {
        "id": "NV_GPU_DRIVER_GH100_1",
        "rim": base64.b64encode(RIM).decode(),
        "sha256": "x",
        "last_updated": "2026-01-01T00:00:00",
        "rim_format": "TCG",
        "request_id": "1",
    }
    assert import_collateral(RIM) == Collateral(rims=(RIM,))
    assert import_collateral(json.dumps(answer).encode()) == Collateral(rims=(RIM,))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "none of the known forms"),
        (b"<html><body>Sign in</body></html>", "no SWID tag"),
        (b"<!DOCTYPE x><SoftwareIdentity name='x'/>", "document type"),
        (b'{"tcbInfo": {}, "signature": ""}', "JSON of another kind"),
        (b"[]", "none of the known forms"),
        (json.dumps(dcap_json(more=1)).encode(), "unknown key more"),
        (json.dumps({"tcb_info": "x"}).encode(), "lacks pck_crl"),
        (json.dumps(dcap_json(pck_crl="xx")).encode(), "pck_crl that is not hexadecimal"),
        (json.dumps(dcap_json(pck_crl="")).encode(), "pck_crl that is not hexadecimal"),
        (json.dumps(dcap_json(pck_crl="0")).encode(), "pck_crl that is not hexadecimal"),
        (json.dumps(dcap_json(tcb_info=7)).encode(), "tcb_info that is no text"),
        (json.dumps(dcap_json(tcb_info_signature="00")).encode(), "not 64 to 64"),
        (json.dumps({"rim": "!"}).encode(), "not base64"),
        (json.dumps({"rim": base64.b64encode(b"<html/>").decode()}).encode(), "no SWID tag"),
        (json.dumps({"rim": "", "more": 1}).encode(), "no answer of the RIM service"),
        (b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", "nothing between them"),
        (pem_of(CERTIFICATE) + b"text" + pem_of(CERTIFICATE), "nothing between them"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "no revocation list"),
        (b"-----BEGIN X509 CRL-----\n", "no revocation list"),
        (CERTIFICATE + b"\0", "no certificate, revocation list or OCSP answer"),
        (LIST[:-1], "no certificate, revocation list or OCSP answer"),
        (b"30" * 20, "holds no revocation list"),
        (bytes(MAX_BUNDLE + 1), "larger than"),
        (b"{" + b" " * MAX_JSON, "JSON of more than"),
    ],
)
def test_anything_else_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(KeyturnError, match=reason) as refused:
        import_collateral(data, subject="file.bin")
    assert refused.value.subject.startswith("file.bin")


def test_too_many_lists_are_refused_in_little_time() -> None:
    data = pem_of_list(LIST) * 4000
    started = time.process_time()
    with pytest.raises(CollateralImportError, match=f"more than {MAX_ITEMS}"):
        import_collateral(data)
    assert time.process_time() - started < 2


@given(st.binary(max_size=200))
def test_garbage_gives_only_refusals(data: bytes) -> None:
    with contextlib.suppress(KeyturnError):
        import_collateral(data)


@given(st.integers(0, len(CERTIFICATE) - 1), st.integers(1, 255))
def test_changed_certificates_give_only_refusals_or_themselves(place: int, change: int) -> None:
    data = bytearray(CERTIFICATE)
    data[place] ^= change
    with contextlib.suppress(KeyturnError):
        assert import_collateral(bytes(data)) == Collateral(certificates=(bytes(data),))


def test_what_stands_twice_is_taken_once() -> None:
    assert import_collateral(pem_of(CERTIFICATE) * 2) == Collateral(certificates=(CERTIFICATE,))


@pytest.mark.parametrize(
    "name",
    [
        "sgx-00a067110000-20250619-processor-f935e37b5b07ad6f.json",
        "tdx-90c06f000000-20260608-platform-96f0ebac908dc114.json",
        "tdx-b0c06f000000-20261008-platform-ce0a97d4ec0ac114.json",
    ],
)
def test_real_sets_keep_the_signed_text(name: str) -> None:
    data = vector(f"attestation/dcap/collateral/{name}").read_bytes()
    document = json.loads(data)
    (found,) = import_collateral(data).dcap
    assert found.tcb_info == document["tcb_info"]
    assert found.tcb_info_issuer_chain == document["tcb_info_issuer_chain"]
    assert found.tcb_info_signature.hex() == document["tcb_info_signature"]
    assert dcap_json(found) == document


@pytest.mark.parametrize(
    ("name", "count"),
    [("snp/milan_ask_ark_asvk.pem", 3), ("snp/trustee-vcek.der", 1), ("nvidia/rim_root.crt", 1)],
)
def test_real_certificates(name: str, count: int) -> None:
    found = import_collateral(vector(f"attestation/{name}").read_bytes())
    assert len(found.certificates) == count
    assert replace(found, certificates=()) == Collateral()


def test_a_real_manifest() -> None:
    data = vector("attestation/nvidia/vbios_rim_1010_0200_882_96005E0001.swidtag").read_bytes()
    assert import_collateral(data) == Collateral(rims=(data,))


def test_chains_are_those_of_the_pki() -> None:
    assert len(load_pem_certificates(SET.tcb_info_issuer_chain.encode())) == 2
