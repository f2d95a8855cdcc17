"""Nitro documents of a generated PKI with the structure of AWS's: what no public document has, can be tried.

Root, zone authority, instance authority, and the document's certificate, all P-384.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.policy import RootPurpose, TrustAnchor
from tests.support.paper_tpm import key_usage

NOW = int(datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp())
INSTANCE = "i-0123456789abcdef0"
ENCLAVE = f"{INSTANCE}-enc0123456789abcdef"
NITROTPM = f"{INSTANCE}-tpm0123456789abcdef"

Change = Callable[[dict[str, Any]], object]


class NitroPki:
    """One PKI. ``leaf_life`` and ``lives`` are seconds of validity from an hour before ``NOW``."""

    def __init__(
        self,
        *,
        module: str = ENCLAVE,
        leaf_usage: x509.KeyUsage | None = None,
        leaf_curve: ec.EllipticCurve | None = None,
        leaf_ca: bool = False,
        leaf_name: str | None = None,
        leaf_extension: x509.ExtensionType | None = None,
        leaf_life: int = 3 * 3600,
        issuer_life: int = 20 * 86400,
        issuer_ca: bool = True,
    ) -> None:
        self.module = module
        self.root_key, root = self._authority("aws.nitro-enclaves test", None, None, 10 * 365 * 86400, True)
        zone_key, zone = self._authority(
            "zone.us-east-1.aws.nitro-enclaves", self.root_key, root, issuer_life, issuer_ca
        )
        host_key, host = self._authority(
            f"{INSTANCE}.us-east-1.aws.nitro-enclaves", zone_key, zone, 86400, True
        )
        self.leaf_key = ec.generate_private_key(leaf_curve or ec.SECP384R1())
        name = leaf_name or f"{module}.us-east-1.aws"
        builder = _builder(name, host.subject, self.leaf_key.public_key(), leaf_life)
        builder = builder.add_extension(x509.BasicConstraints(ca=leaf_ca, path_length=None), True)
        usage = leaf_usage or key_usage(digital_signature=True, content_commitment=True)
        builder = builder.add_extension(usage, False)
        if leaf_extension is not None:
            builder = builder.add_extension(leaf_extension, True)
        leaf = builder.sign(host_key, hashes.SHA384())
        self.leaf = leaf.public_bytes(Encoding.DER)
        self.bundle = [one.public_bytes(Encoding.DER) for one in (root, zone, host)]

    def _authority(
        self,
        name: str,
        issuer_key: ec.EllipticCurvePrivateKey | None,
        issuer: x509.Certificate | None,
        life: int,
        ca: bool,
    ) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP384R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(name, issuer.subject if issuer else subject, key.public_key(), life)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
        builder = builder.add_extension(key_usage(key_cert_sign=True), True)
        return key, builder.sign(issuer_key or key, hashes.SHA384())

    @property
    def anchor(self) -> TrustAnchor:
        """The root, for a policy."""
        return TrustAnchor(
            purpose=RootPurpose.AWS_NITRO,
            fingerprint=hashlib.sha256(self.bundle[0]).digest(),
            subject="CN=aws.nitro-enclaves test",
            source="tests",
            date="2026-06-01",
        )

    def document(self, change: Change = dict, *, algorithm: int = -35, **fields: Any) -> bytes:
        """A signed document of this module; ``fields`` replace its own, then ``change`` may do anything."""
        tpm = "-tpm" in self.module
        payload: dict[str, Any] = {
            "module_id": self.module,
            "digest": "SHA384",
            "timestamp": NOW * 1000,
            "nitrotpm_pcrs" if tpm else "pcrs": registers(),
            "certificate": self.leaf,
            "cabundle": self.bundle,
            "public_key": None,
            "user_data": b"request",
            "nonce": None,
        }
        payload |= fields
        change(payload)
        return self.sign(cbor2.dumps(payload), algorithm=algorithm)

    def sign(self, payload: bytes, *, algorithm: int = -35) -> bytes:
        """COSE_Sign1 of any payload."""
        protected = cbor2.dumps({1: algorithm})
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        digest = {-7: hashes.SHA256(), -35: hashes.SHA384(), -36: hashes.SHA512()}[algorithm]
        size = (self.leaf_key.key_size + 7) // 8
        numbers = decode_dss_signature(self.leaf_key.sign(signed, ec.ECDSA(digest)))
        signature = b"".join(number.to_bytes(size, "big") for number in numbers)
        return cbor2.dumps([protected, {}, payload, signature])


def registers(values: Mapping[int, bytes] | None = None) -> dict[int, bytes]:
    """Sixteen registers, each with its number's digest unless given."""
    own = {number: hashlib.sha384(b"%d" % number).digest() for number in range(16)}
    return own | dict(values or {})


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: int
) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(NOW - 3600, tz=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(seconds=life))
    )
