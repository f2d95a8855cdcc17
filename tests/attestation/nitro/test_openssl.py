"""Real Nitro documents: ``openssl`` finds the same chains and signatures good, at the same times."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from measurements.nitro.document import NitroDocument, parse_document
from tests.attestation.nitro.test_verify import TIMES, failures, verify
from tests.measurements.nitro.test_document import DEBUG, document_bytes
from tests.support.tools import require_tool
from tests.support.vectors import vector

pytestmark = pytest.mark.apt


def succeeds(folder: Path, *arguments: str) -> bool:
    command = [require_tool("openssl", package="openssl"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def chain_holds(folder: Path, document: NitroDocument, now: int) -> bool:
    root = vector("attestation/nitro/AWS_NitroEnclaves_Root-G1.pem")
    for name, ders in {"leaf": [document.certificate], "others": document.cabundle[1:]}.items():
        pem = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders]
        (folder / name).write_bytes(b"".join(pem))
    trusted = ["-no-CApath", "-no-CAstore", "-CAfile", str(root), "-untrusted", "others"]
    return succeeds(folder, "verify", *trusted, "-attime", str(now), "leaf")


def signature_holds(folder: Path, document: NitroDocument, payload: bytes) -> bool:
    message, key = document.message, x509.load_der_x509_certificate(document.certificate).public_key()
    r, s = (int.from_bytes(half, "big") for half in (message.signature[:48], message.signature[48:]))
    (folder / "key").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "signature").write_bytes(encode_dss_signature(r, s))
    (folder / "signed").write_bytes(cbor2.dumps(["Signature1", message.protected, b"", payload]))
    return succeeds(folder, "dgst", "-sha384", "-verify", "key", "-signature", "signature", "signed")


@pytest.mark.parametrize("name", TIMES)
def test_openssl_gives_the_same_answers(name: str, tmp_path: Path) -> None:
    data, now = document_bytes(name), TIMES[name]
    document = parse_document(data)
    end = verify(data, now=now).windows[0].end
    # In its last second a certificate is valid (RFC 5280, section 4.1.2.5), but not to openssl.
    for moment in (now, end - 1, end + 1, now - 86400):
        ours = "certificate-validity" not in failures(verify(data, now=moment))
        assert ours is chain_holds(tmp_path, document, moment) is (now <= moment <= end)
    payload = document.message.payload
    assert failures(verify(data, now=now)) == (["debug"] if name in DEBUG else [])
    assert signature_holds(tmp_path, document, payload)
    assert not signature_holds(tmp_path, document, payload[:-1] + b"\0")
