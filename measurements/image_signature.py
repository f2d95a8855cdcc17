"""Signatures on PE images, and which entry of ``db`` a UEFI firmware accepts them by.

Layout (Microsoft PE Format, "The Attribute Certificate Table"): entries ``u32 length | u16 revision 0x0200 |
u16 type 2 | PKCS #7 SignedData (DER)``, each padded to 8 bytes. The signed content is
``SpcIndirectDataContent`` ("Windows Authenticode Portable Executable Signature Format"), whose digest is the
Authenticode digest of the image.

The search order is edk2's (``DxeImageVerificationHandler``): per signature the certificates of ``db`` in
their order, each as trust anchor of the signer's chain (also of a part of it), then the image's digest.
The cryptographic checks are those of ``cryptography``; this module only finds the bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from measurements import der
from measurements.errors import FormatError
from measurements.events import Bank
from measurements.pe import authenticode_digest, parse_pe
from measurements.signature_list import SHA256, X509, X509_SHA256, X509_SHA384, X509_SHA512, Signature

OID_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_DIGESTS: dict[bytes, tuple[Bank, hashes.HashAlgorithm]] = {
    bytes.fromhex("608648016503040201"): (Bank.SHA256, hashes.SHA256()),
    bytes.fromhex("608648016503040202"): (Bank.SHA384, hashes.SHA384()),
}
_CERTIFICATE_HASHES = {X509_SHA256: "sha256", X509_SHA384: "sha384", X509_SHA512: "sha512"}
_SIGNED_DATA = (0x0200, 0x0002)
_MAX_CHAIN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSignature:
    """One verified signature: ``chain`` starts at the signer."""

    bank: Bank
    chain: tuple[x509.Certificate, ...]


def authority_of(
    image: bytes, *, db: Sequence[Signature], dbx: Sequence[Signature], subject: str
) -> Signature:
    """The entry of ``db`` by which firmware accepts ``image``; raises ``FormatError`` if there is none."""
    digest = authenticode_digest(image, Bank.SHA256, subject=subject)
    _check_forbidden(digest, dbx, subject)
    for signature in image_signatures(image, subject=subject):
        if _forbidden_chain(signature.chain, dbx):
            raise _refused("is signed with a certificate that dbx forbids", subject)
        for entry in db:
            if entry.kind == X509 and _anchors(_certificate(entry.content), signature.chain):
                return entry
    for entry in db:
        if entry.kind == SHA256 and entry.content == digest:
            return entry
    raise _refused("has no signature and no digest that db accepts", subject)


def image_signatures(image: bytes, *, subject: str) -> Iterator[ImageSignature]:
    """The signatures of ``image`` that are over its bytes; raises ``FormatError`` for any that is not."""
    entry = parse_pe(image, subject=subject).certificate_entry
    if entry is None or not entry.table_size:
        return
    table = image[entry.table_offset : entry.table_offset + entry.table_size]
    while table:
        if len(table) < 8:
            raise FormatError("has a cut certificate table", subject=subject, advice="sign the image again")
        length, revision, kind = struct.unpack_from("<IHH", table)
        if not 8 <= length <= len(table) or (revision, kind) != _SIGNED_DATA:
            raise FormatError(
                "has a malformed certificate entry", subject=subject, advice="sign the image again"
            )
        yield _verified(table[8:length], image, subject)
        table = table[(length + 7) & ~7 :]


def _verified(pkcs7: bytes, image: bytes, subject: str) -> ImageSignature:
    """Check one ``SignedData``: content digest, signed attributes, and the signer's signature."""
    signed = der.read_element(pkcs7).child(1, der.CONTEXT_0).child(0, der.SEQUENCE)
    content = signed.child(2, der.SEQUENCE).child(1, der.CONTEXT_0).child(0, der.SEQUENCE)
    certificates = [_certificate(element.encoded) for element in signed.child(3, der.CONTEXT_0).children()]
    signer_info = signed.children()[-1].child(0, der.SEQUENCE)
    algorithm, claimed = content.child(1, der.SEQUENCE).children()
    bank, scheme = _digest_algorithm(algorithm, subject)
    if claimed.contents != authenticode_digest(image, bank, subject=subject):
        raise _refused("has a signature over other bytes", subject)
    attributes = signer_info.child(3, der.CONTEXT_0)
    if _message_digest(attributes) != hashlib.new(bank.value, content.contents).digest():
        raise _refused("has a signature whose signed attributes do not match its content", subject)
    signer = _signer(signer_info, certificates, subject)
    to_be_signed = bytes([der.SET]) + attributes.encoded[1:]
    _check_signature(signer, signer_info.child(5, der.OCTET_STRING).contents, to_be_signed, scheme, subject)
    return ImageSignature(bank=bank, chain=_chain(signer, certificates))


def _digest_algorithm(element: der.Element, subject: str) -> tuple[Bank, hashes.HashAlgorithm]:
    found = _DIGESTS.get(element.child(0, der.OBJECT_IDENTIFIER).contents)
    if found is None:
        raise _refused("has a signature with a hash other than SHA-256 and SHA-384", subject)
    return found


def _message_digest(attributes: der.Element) -> bytes | None:
    for attribute in attributes.children():
        if attribute.child(0, der.OBJECT_IDENTIFIER).contents == OID_MESSAGE_DIGEST:
            return attribute.child(1, der.SET).child(0, der.OCTET_STRING).contents
    return None


def _signer(
    signer_info: der.Element, certificates: Sequence[x509.Certificate], subject: str
) -> x509.Certificate:
    """The certificate that the signer names by issuer and serial number."""
    name, serial = signer_info.child(1, der.SEQUENCE).children()
    number = int.from_bytes(serial.contents, "big", signed=True)
    for certificate in certificates:
        if certificate.serial_number == number and certificate.issuer.public_bytes() == name.encoded:
            return certificate
    raise _refused("has a signature without its signer's certificate", subject)


def _check_signature(
    signer: x509.Certificate, signature: bytes, data: bytes, scheme: hashes.HashAlgorithm, subject: str
) -> None:
    key = signer.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), scheme)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(scheme))
        else:
            raise _refused("is signed with a key that is neither RSA nor ECDSA", subject)
    except InvalidSignature as error:
        raise _refused("has a wrong signature", subject) from error


def _chain(
    signer: x509.Certificate, certificates: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """The signer and its issuers, as far as the signature brings them."""
    chain = [signer]
    while len(chain) < _MAX_CHAIN:
        issuer = next((c for c in certificates if c not in chain and _issued(c, chain[-1])), None)
        if issuer is None:
            break
        chain.append(issuer)
    return tuple(chain)


def _anchors(anchor: x509.Certificate, chain: Sequence[x509.Certificate]) -> bool:
    """Whether ``anchor`` is in the chain or issued a certificate of it."""
    return any(anchor == certificate or _issued(anchor, certificate) for certificate in chain)


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_forbidden(digest: bytes, dbx: Sequence[Signature], subject: str) -> None:
    if any(entry.kind == SHA256 and entry.content == digest for entry in dbx):
        raise _refused("has a digest that dbx forbids", subject)


def _forbidden_chain(chain: Sequence[x509.Certificate], dbx: Sequence[Signature]) -> bool:
    for entry in dbx:
        if entry.kind == X509 and _anchors(_certificate(entry.content), chain):
            return True
        name = _CERTIFICATE_HASHES.get(entry.kind)
        if name is None:
            continue
        size = hashlib.new(name).digest_size
        if any(hashlib.new(name, c.tbs_certificate_bytes).digest() == entry.content[:size] for c in chain):
            return True
    return False


def _certificate(encoded: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(encoded)
    except ValueError as error:
        raise FormatError(
            "is not an X.509 certificate in DER", subject="certificate", advice="enrol the keys anew"
        ) from error


def _refused(reason: str, subject: str) -> FormatError:
    return FormatError(
        f"{reason}, so that this firmware refuses to start it",
        subject=subject,
        advice="sign the image with a key that db holds, or use a variable store without Secure Boot",
    )
