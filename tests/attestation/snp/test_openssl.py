"""A second opinion: what ``openssl`` says of chains, revocation lists and signatures is what we say."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.snp.chain import signed_by
from attestation.snp.endorsement_key import read_endorsement_key
from attestation.snp.products import Product
from attestation.x509_chain import CertificateError, build_chain, common_name, load_certificate
from measurements.sev.report import SIGNED_SIZE, SigningKey, parse_report
from tests.support.snp_cases import SnpCase, failed, good_case, pem, roots
from tests.support.snp_pki import DAY, NOW, Wishes, pki
from tests.support.tools import require_tool
from tests.support.vectors import vector


def openssl(*arguments: str | Path, data: bytes = b"") -> bool:
    command = [require_tool("openssl", package="openssl"), *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=False).returncode == 0


def write_pem(path: Path, *ders: bytes) -> Path:
    path.write_bytes(b"".join(load_certificate(der).public_bytes(Encoding.PEM) for der in ders))
    return path


def openssl_verify(folder: Path, leaf: bytes, intermediates: tuple[bytes, ...], root: bytes) -> bool:
    return openssl(
        *("verify", "-no_check_time", "-CAfile", write_pem(folder / "root.pem", root)),
        *("-untrusted", write_pem(folder / "intermediates.pem", *intermediates)),
        write_pem(folder / "leaf.pem", leaf),
    )


def raw(name: str) -> bytes:
    return vector(f"attestation/snp/{name}").read_bytes()


LEAVES = [
    "trustee-vcek.der",
    "trustee-vcek-invalid-legacy.der",
    "trustee-vcek-invalid-new.der",
    "trustee-vlek.der",
    "go-sev-guest-vcek.der",
    "virtee-vcek-milan.der",
    "virtee-vcek-turin.der",
    "azure-vcek-genoa.pem",
    "dstack-vcek.pem",
]


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize("name", LEAVES)
def test_chains_of_real_certificates(tmp_path: Path, name: str, product: Product) -> None:
    leaf = pem(name)[0] if name.endswith(".pem") else raw(name)
    ask, ark, asvk = roots(product.value)
    try:
        build_chain(leaf, (ask, ark, asvk), roots=frozenset([_fingerprint(ark)]), what="the certificate")
        ours = True
    except CertificateError:
        ours = False
    assert ours == openssl_verify(tmp_path, leaf, (ask, asvk), ark)
    assert ours == (common_name(load_certificate(ask)).endswith(_product(name)) and "invalid" not in name)


def _product(name: str) -> str:
    return next((one.label for one in Product if one.value in name), Product.MILAN.label)


def _fingerprint(der: bytes) -> bytes:
    return hashlib.sha256(der).digest()


REPORTS = [
    ("trustee-report.bin", 0, "trustee-vcek.der", True),
    ("trustee-report.bin", 0, "trustee-vcek-invalid-new.der", False),
    ("trustee-vlek-report.bin", 0, "trustee-vlek.der", True),
    ("go-sev-guest-report.bin", 0, "go-sev-guest-vcek.der", True),
    ("azure-hcl-report.bin", 32, "azure-vcek.pem", True),
    ("azure-hcl-report.bin", 32, "azure-vcek-genoa.pem", False),
    ("dstack-versioned-attestation.bin", 4, "dstack-vcek.pem", True),
]


@pytest.mark.parametrize(("name", "offset", "certificate", "good"), REPORTS)
def test_signatures_of_real_reports(
    tmp_path: Path, name: str, offset: int, certificate: str, good: bool
) -> None:
    data = raw(name)[offset : offset + 1184]
    key = read_endorsement_key(pem(certificate)[0] if certificate.endswith(".pem") else raw(certificate))
    report = parse_report(data)
    (tmp_path / "key.pem").write_bytes(
        key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "signature").write_bytes(encode_dss_signature(*report.signature))
    theirs = openssl(
        *("dgst", "-sha384", "-verify", tmp_path / "key.pem", "-signature", tmp_path / "signature"),
        data=data[:SIGNED_SIZE],
    )
    assert signed_by(data, report, key.public_key) == theirs == good


def openssl_with_lists(folder: Path, case: SnpCase) -> bool:
    """The issuer of the leaf against the root's list; openssl would ask for one of the ASK for the leaf."""
    _leaf, issuer, root = case.certificates
    (folder / "list.der").write_bytes(case.crls[0])
    assert openssl("crl", "-inform", "DER", "-in", folder / "list.der", "-out", folder / "list.pem")
    return openssl(
        *("verify", "-attime", str(case.now), "-crl_check", "-CRLfile", folder / "list.pem"),
        *("-CAfile", write_pem(folder / "root.pem", root), write_pem(folder / "issuer.pem", issuer)),
    )


@pytest.mark.parametrize("kind", [SigningKey.VCEK, SigningKey.VLEK])
def test_revocation_lists(tmp_path: Path, kind: SigningKey) -> None:
    made = pki(Product.GENOA)
    good = good_case(Wishes(kind=kind))
    lists = {
        "good": made.crl(),
        "revoked ASK": made.crl(made.ask),
        "revoked ASVK": made.crl(made.asvk),
        "expired": made.crl(start=NOW - 400 * DAY, days=300),
        "of tomorrow": made.crl(start=NOW + DAY),
        "of another root": pki(Product.MILAN).crl(),
    }
    outcomes = {}
    for name, crl in lists.items():
        case = replace(good, crls=(crl,))
        ours = "crl" not in failed(case.verify())
        assert ours == openssl_with_lists(tmp_path, case), name
        outcomes[name] = ours
    passing = {"good", "revoked ASVK" if kind is SigningKey.VCEK else "revoked ASK"}
    assert {name for name, ours in outcomes.items() if ours} == passing
