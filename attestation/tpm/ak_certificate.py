"""Certificates that a cloud or an attestation CA gives for an attestation key.

Rules: the TCG's AK certificate (TCG EK Credential Profile for TPM 2.0, version 2.5, section 3.4), as far as
Google's and Azure's certificates follow it:

- under a pinned root for attestation keys, valid, not revoked (``attestation.tpm.revocation``);
- no authority (basic constraints say so or are absent, as Azure's older ones), key usage: digital signature
  and nothing that encrypts or issues. That also keeps EK certificates out, which Google's authority issues
  as well;
- extended key usage, if there is one, holds 2.23.133.8.3 (AK certificate), or 2.23.133.8.1 (EK), which Google
  put into AK certificates of 2021: key usage tells the two apart;
- no critical extension besides these and the subject alternative name;
- Google's instance identity (OID 1.3.6.1.4.1.11129.2.1.21), if there, is well formed and of production.

Layout of the instance identity (DER; google/go-tpm-tools server/instance_info.go and its tests)::

    SEQUENCE { UTF8String zone, INTEGER project number, UTF8String project id, INTEGER instance id,
               UTF8String instance name, [0] SEQUENCE { [0] INTEGER security version,
               [1] BOOLEAN is production, more } OPTIONAL }
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from attestation.ek_certificate import EK_USAGE
from attestation.x509_chain import MALFORMED, load_certificate, refuse
from measurements.der import CONTEXT_0, INTEGER, SEQUENCE, Element, elements
from measurements.errors import FormatError

AK_USAGE = x509.ObjectIdentifier("2.23.133.8.3")
INSTANCE_IDENTITY = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.21")

_UTF8, _BOOLEAN, _CONTEXT_1, _TRUE = 0x0C, 0x01, 0xA1, b"\xff"
_IDENTITY = (
    ("gcp_zone", _UTF8),
    ("gcp_project_number", INTEGER),
    ("gcp_project_id", _UTF8),
    ("gcp_instance_id", INTEGER),
    ("gcp_instance_name", _UTF8),
)
_CRITICAL = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}


@lru_cache(maxsize=256)
def read_ak_certificate(der: bytes) -> Mapping[str, str]:
    """What a certificate says of its machine; raises ``CertificateError`` unless it is one for an attestation
    key. Chain, validity and key are for the caller.
    """
    certificate = load_certificate(der, what="the AK certificate")
    try:
        _check_usage(certificate)
        _check_extended_usage(certificate)
        subject = certificate.subject.rfc4514_string()
        extension = next((one for one in certificate.extensions if one.oid == INSTANCE_IDENTITY), None)
    except MALFORMED as error:
        refuse(f"the AK certificate is not readable: {error}")
    found = {"ak_subject": subject}
    if extension is not None and isinstance(extension.value, x509.UnrecognizedExtension):
        found |= instance_identity(extension.value.value)
    return found


def instance_identity(value: bytes) -> dict[str, str]:
    """Google's instance identity, by the names of details; raises ``CertificateError``."""
    try:
        outer = tuple(elements(value))
        if len(outer) != 1 or outer[0].tag != SEQUENCE:
            refuse("the AK certificate's instance identity is no sequence")
        fields = outer[0].children()
        found = {name: _text(fields, place, tag) for place, (name, tag) in enumerate(_IDENTITY)}
        _check_production(fields[len(_IDENTITY) :])
    except (FormatError, UnicodeDecodeError) as error:
        refuse(f"the AK certificate's instance identity is not readable: {error}")
    return found


def _text(fields: tuple[Element, ...], place: int, tag: int) -> str:
    if place >= len(fields) or fields[place].tag != tag or not fields[place].contents:
        refuse("the AK certificate's instance identity lacks a field")
    contents = fields[place].contents
    return contents.decode() if tag == _UTF8 else str(int.from_bytes(contents, "big", signed=True))


def _check_production(rest: tuple[Element, ...]) -> None:
    """Google's own test machines carry the same extension without this flag."""
    if len(rest) != 1 or rest[0].tag != CONTEXT_0:
        refuse("the AK certificate's instance identity lacks security properties")
    properties = rest[0].child(0, SEQUENCE).children()
    flags = [one for one in properties if one.tag == _CONTEXT_1]
    if len(flags) != 1 or flags[0].child(0, _BOOLEAN).contents != _TRUE:
        refuse("the AK certificate is not of a production machine")


def _check_usage(certificate: x509.Certificate) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        refuse("the AK certificate lacks a key usage")
    encrypts = usage.key_encipherment or usage.data_encipherment or usage.key_agreement
    if not usage.digital_signature or encrypts or usage.key_cert_sign or usage.crl_sign:
        refuse("the AK certificate's key usage is not that of an attestation key")
    constraints = [
        one.value for one in certificate.extensions if isinstance(one.value, x509.BasicConstraints)
    ]
    if any(one.ca for one in constraints):
        refuse("the AK certificate is an authority")
    if {one.oid for one in certificate.extensions if one.critical} - _CRITICAL:
        refuse("the AK certificate has a critical extension that is not known")


def _check_extended_usage(certificate: x509.Certificate) -> None:
    usages = [one.value for one in certificate.extensions if isinstance(one.value, x509.ExtendedKeyUsage)]
    for usage in usages:
        if AK_USAGE not in usage and EK_USAGE not in usage:
            refuse("the AK certificate's extended key usage is not that of an attestation key")
