"""Enclave image files as other tools make them: any version, sections in any order, signed.

Written from the specification (README.md of aws-nitro-enclaves-image-format), not with the product's writer.
"""

from __future__ import annotations

import datetime
import hashlib
import struct
import zlib
from collections.abc import Sequence

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA = 1, 2, 3, 4, 5
PARTS = (
    (KERNEL, b"kernel" * 50),
    (CMDLINE, b"reboot=k panic=30"),
    (METADATA, b'{"ImageName":"demo"}'),
    (RAMDISK, b"init" * 40),
    (RAMDISK, b"application" * 30),
)
"""The order of nitro-cli since 1.2.0."""


def eif_file(
    parts: Sequence[tuple[int, bytes]] = PARTS, *, version: int = 4, flags: int = 0, cpus: int = 2
) -> bytes:
    """The file with ``parts`` (type and data of each section)."""
    offsets, body = [], b""
    for kind, data in parts:
        offsets.append(548 + len(body))
        body += struct.pack(">HHQ", kind, 0, len(data)) + data
    sizes = [len(data) for _, data in parts]
    unused = [0] * (32 - len(parts))
    header = b".eif" + struct.pack(">HHQQHH", version, flags, 512 << 20, cpus, 0, len(parts))
    header += struct.pack(">64QI", *offsets, *unused, *sizes, *unused, 0)
    return header + struct.pack(">I", zlib.crc32(header + body)) + body


def pcr(*contents: bytes) -> bytes:
    """A register over the concatenation of ``contents``."""
    return hashlib.sha384(bytes(48) + hashlib.sha384(b"".join(contents)).digest()).digest()


def certificate_for(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A self-signed certificate."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "enclave signer")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=365))
        .sign(key, hashes.SHA384())
    )


def cose_sign1(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    """A message in the form of aws-nitro-enclaves-cose, by a key on P-256, P-384 or P-521."""
    algorithm, hashing = {
        256: (-7, hashes.SHA256()),
        384: (-35, hashes.SHA384()),
        521: (-36, hashes.SHA512()),
    }[key.curve.key_size]
    protected = cbor2.dumps({1: algorithm})
    signature = key.sign(cbor2.dumps(["Signature1", protected, b"", payload]), ec.ECDSA(hashing))
    size = (key.curve.key_size + 7) // 8
    raw = b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(signature))
    return cbor2.dumps([protected, {}, payload, raw])


def signature_section(
    key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, pcr0: bytes, *, index: int = 0
) -> bytes:
    """The data of a signature section over ``pcr0``."""
    payload = cbor2.dumps({"register_index": index, "register_value": list(pcr0)})
    pem = certificate.public_bytes(Encoding.PEM)
    signature = cose_sign1(key, payload)
    return cbor2.dumps([{"signing_certificate": list(pem), "signature": list(signature)}])
