"""Collateral from files of any maker, recognised by content.

=============================  =========================================================================
content                        what it is
=============================  =========================================================================
CBOR map                       a bundle of keyturn (``attestation.collateral_bundle``)
JSON with ``tcb_info``         one DCAP set as dcap-qvl writes it (``QuoteCollateralV3``): texts, binary
                               values in hex; ``pck_certificate_chain`` beside it is passed over, since
                               the quote has it
JSON with ``rim``              an answer of NVIDIA's RIM service (``/v1/rim/{id}``): SWID XML in base64
PEM                            certificates and revocation lists, in any order
DER                            a certificate, a revocation list or an OCSP answer
XML                            a reference manifest (SWID tag, ISO/IEC 19770-2)
hexadecimal digits             a revocation list in DER, as a PCCS writes the root's
=============================  =========================================================================

Whatever is here is unverified; verifiers check signatures. Anything else is refused with the list of forms.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.collateral import Collateral, DcapCollateral
from attestation.collateral_bundle import (
    MAX_BUNDLE,
    MAX_ITEMS,
    collateral_document,
    decode_bundle,
    parse_collateral_document,
)
from attestation.collateral_summary import rim_name
from attestation.x509_chain import MALFORMED, CertificateError, load_pem_certificates
from measurements.canonical import parse_json
from measurements.errors import FormatError
from measurements.json_text import MAX_MARKS

FORMS = (
    "a keyturn bundle, JSON of a DCAP set or of the RIM service, PEM or DER of certificates, revocation "
    "lists and OCSP answers, SWID XML"
)
MAX_JSON = 4 << 20
_BUNDLE = 0xA7
"""The first byte of a bundle: a map of seven."""
_DER_SEQUENCE = 0x30
_BLANKS = b" \t\r\n"
_DIGITS = b"0123456789abcdefABCDEF"
_CRL_BEGIN, _CRL_END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
_HEX_KEYS = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
_TEXT_KEYS = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
)
_PASSED_OVER = {"pck_certificate_chain"}
_RIM_KEYS = {"id", "rim", "sha256", "last_updated", "rim_format", "request_id"}


class CollateralImportError(FormatError):
    """A file that is none of the known forms, or not a whole one."""

    code = "collateral-import"


def import_collateral(data: bytes, *, subject: str = "collateral file") -> Collateral:
    """Everything in one file; raises ``CollateralImportError`` or the error of the form that it is of."""
    if len(data) > MAX_BUNDLE:
        _refuse(subject, f"is larger than {MAX_BUNDLE} bytes")
    if data[:1] == bytes([_BUNDLE]):
        return decode_bundle(data, subject=subject)
    return _within_limits(_read(data, subject), subject)


def _read(data: bytes, subject: str) -> Collateral:
    start = data.lstrip(_BLANKS)
    if data[:1] == bytes([_DER_SEQUENCE]) and from_hex(data.strip(_BLANKS)) is None:
        return _from_der(data, subject)
    if start.startswith(b"{"):
        return _from_json(data, subject)
    if start.startswith(b"-----BEGIN "):
        return _from_pem(data, subject)
    if start.startswith((b"<", b"\xef\xbb\xbf<")):
        return _from_xml(data, subject)
    if (octets := from_hex(data.strip(_BLANKS))) is not None:
        return Collateral(crls=(_crl(octets, subject),))
    raise _error(subject, f"is none of the known forms: {FORMS}")


def _within_limits(collateral: Collateral, subject: str) -> Collateral:
    """``collateral``, if a bundle may hold it."""
    return parse_collateral_document(collateral_document(collateral), subject)


def _from_der(data: bytes, subject: str) -> Collateral:
    try:
        return Collateral(certificates=(_exact(x509.load_der_x509_certificate(data), data, subject),))
    except MALFORMED:
        pass
    try:
        return Collateral(crls=(_exact(x509.load_der_x509_crl(data), data, subject),))
    except MALFORMED:
        pass
    try:
        return Collateral(ocsp=(_exact(ocsp.load_der_ocsp_response(data), data, subject),))
    except MALFORMED:
        _refuse(subject, "is DER, but no certificate, revocation list or OCSP answer")


def _crl(data: bytes, subject: str) -> bytes:
    try:
        return _exact(x509.load_der_x509_crl(data), data, subject)
    except MALFORMED as error:
        _refuse(subject, f"holds no revocation list: {error}")


def _exact(
    found: x509.Certificate | x509.CertificateRevocationList | ocsp.OCSPResponse, data: bytes, subject: str
) -> bytes:
    if found.public_bytes(Encoding.DER) != data:
        _refuse(subject, "has bytes that belong to nothing")
    return data


def _from_pem(data: bytes, subject: str) -> Collateral:
    certificates = bytearray()
    crls: list[bytes] = []
    rest = data
    while (place := rest.find(_CRL_BEGIN)) >= 0:
        certificates += rest[:place]
        block, mark, rest = rest[place:].partition(_CRL_END)
        if len(crls) == MAX_ITEMS:
            _refuse(subject, f"has more than {MAX_ITEMS} revocation lists")
        try:
            crls.append(x509.load_pem_x509_crl(block + mark + b"\n").public_bytes(Encoding.DER))
        except MALFORMED as error:
            _refuse(subject, f"holds a block that is no revocation list: {error}")
    certificates += rest
    try:
        ders = load_pem_certificates(bytes(certificates)) if certificates.strip(_BLANKS) else ()
    except CertificateError as error:
        _refuse(subject, error.reason)
    return Collateral(certificates=ders, crls=tuple(crls))


def _from_xml(data: bytes, subject: str) -> Collateral:
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        _refuse(subject, "is XML with a document type, which a manifest never has")
    if rim_name(data) is None:
        _refuse(subject, "is XML, but no SWID tag")
    return Collateral(rims=(data,))


def _from_json(data: bytes, subject: str) -> Collateral:
    if len(data) > MAX_JSON:
        _refuse(subject, f"is JSON of more than {MAX_JSON} bytes")
    document = parse_json(data, subject=subject, marks=MAX_MARKS)
    if isinstance(document, dict) and "tcb_info" in document:
        return Collateral(dcap=(_dcap_set(document, subject),))
    if isinstance(document, dict) and "rim" in document:
        return Collateral(rims=(rim_of_answer(document, subject),))
    raise _error(subject, f"is JSON of another kind; known are: {FORMS}")


def _dcap_set(document: dict[str, Any], subject: str) -> DcapCollateral:
    keys = {*_HEX_KEYS, *_TEXT_KEYS}
    missing = sorted(keys - set(document))
    unknown = sorted(set(document) - keys - _PASSED_OVER)
    if missing or unknown:
        _refuse(subject, f"lacks {missing[0]}" if missing else f"has the unknown key {unknown[0]}")
    for key in keys:
        if not isinstance(document[key], str):
            _refuse(subject, f"has a {key} that is no text")
    data = {key: _unhex(document[key], subject, key) for key in _HEX_KEYS}
    return DcapCollateral(
        pck_crl_issuer_chain=document["pck_crl_issuer_chain"],
        root_ca_crl=data["root_ca_crl"],
        pck_crl=data["pck_crl"],
        tcb_info_issuer_chain=document["tcb_info_issuer_chain"],
        tcb_info=document["tcb_info"],
        tcb_info_signature=data["tcb_info_signature"],
        qe_identity_issuer_chain=document["qe_identity_issuer_chain"],
        qe_identity=document["qe_identity"],
        qe_identity_signature=data["qe_identity_signature"],
    )


def _unhex(text: str, subject: str, key: str) -> bytes:
    octets = from_hex(text.encode())
    if octets is None:
        _refuse(subject, f"has a {key} that is not hexadecimal digits")
    return octets


def from_hex(digits: bytes) -> bytes | None:
    """What hexadecimal digits stand for; None for anything else and for none at all."""
    if not digits or len(digits) % 2 or digits.translate(None, _DIGITS):
        return None
    return binascii.unhexlify(digits)


def rim_of_answer(document: dict[str, Any], subject: str) -> bytes:
    """The manifest in an answer of the RIM service; raises ``CollateralImportError``."""
    text = document.get("rim")
    if not isinstance(text, str) or not set(document) <= _RIM_KEYS:
        _refuse(subject, "is no answer of the RIM service")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _refuse(subject, "has a rim that is not base64")
    if rim_name(data) is None:
        _refuse(subject, "has a rim that is no SWID tag")
    return data


def _refuse(subject: str, reason: str) -> NoReturn:
    raise _error(subject, reason)


def _error(subject: str, reason: str) -> CollateralImportError:
    return CollateralImportError(reason, subject=subject, advice=f"give {FORMS}")
