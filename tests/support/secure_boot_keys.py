"""Own Secure Boot keys for tests: made by ``cryptography``, enrolled by virt-firmware."""

from __future__ import annotations

import datetime
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.support.tools import require_tool

OWNER = "5c4b1e6e-2f5d-4d0a-9d9c-6f2f6f0f4b11"


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A key with its self-signed certificate, as files."""

    certificate: Path
    private_key: Path

    def certificate_der(self) -> bytes:
        loaded = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return loaded.public_bytes(serialization.Encoding.DER)


def make_key(folder: Path, name: str) -> SigningKey:
    """A fresh RSA key and certificate."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"keyturn test {name}")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=20000))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    made = SigningKey(certificate=folder / f"{name}.pem", private_key=folder / f"{name}.key")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return made


def sign_image(key: SigningKey, image: Path, signed: Path) -> Path:
    """A copy of the PE file ``image`` with a signature by ``key``."""
    tool = require_tool("osslsigncode", package="osslsigncode")
    command: list[str | Path] = [
        tool,
        "sign",
        "-certs",
        key.certificate,
        "-key",
        key.private_key,
        "-h",
        "sha256",
    ]
    subprocess.run([*command, "-in", image, "-out", signed], check=True, capture_output=True)
    return signed


def enrol(
    template: Path, store: Path, *, platform: SigningKey, exchange: SigningKey, db: list[SigningKey]
) -> Path:
    """A copy of the variable store ``template`` with own keys and Secure Boot on."""
    tool = Path(sys.executable).with_name("virt-fw-vars")
    command: list[str | Path] = [tool, "-i", template, "-o", store, "--sb"]
    command += ["--set-pk", OWNER, platform.certificate, "--add-kek", OWNER, exchange.certificate]
    for key in db:
        command += ["--add-db", OWNER, key.certificate]
    subprocess.run(command, check=True, capture_output=True)
    return store
