"""Certificate chains in PEM, in their one form: whole, in order, each with a given name.

The form (RFC 7468, section 3, as Intel's services and quoting enclaves write it): blocks of base64 in lines
of 64 characters, each line ended by a line feed, nothing between the blocks or after them; in a quote one
zero byte may end the text. So there is one text for a chain, and a changed byte is another chain.
"""

from __future__ import annotations

import base64
from enum import Enum
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from attestation.x509_chain import (
    MAX_CERTIFICATE,
    Chain,
    build_chain,
    common_name,
    load_pem_certificates,
    refuse,
)

ROOT_NAME = "Intel SGX Root CA"
CA_NAMES = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")
PCK_NAME = "Intel SGX PCK Certificate"
TCB_SIGNING_NAME = "Intel SGX TCB Signing"

_LINE = 64
_CRITICAL = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
_MAX_TEXT = 3 * 2 * MAX_CERTIFICATE


class Role(Enum):
    """What the first certificate of a chain is for."""

    END_ENTITY = "an end entity that signs"
    AUTHORITY = "an authority that signs revocation lists"


def read_chain(text: bytes, *, what: str, count: int) -> tuple[bytes, ...]:
    """DER of exactly ``count`` certificates; raises ``CertificateError`` unless ``text`` is their one
    form.
    """
    if len(text) > _MAX_TEXT:
        refuse(f"{what} has {len(text)} bytes, at most {_MAX_TEXT} are read")
    found = load_pem_certificates(text, what=what)
    if len(found) != count:
        refuse(f"{what} has {len(found)} certificates, {count} expected")
    if text.removesuffix(b"\0") != b"".join(_block(der) for der in found):
        refuse(f"{what} is not PEM in its one form: lines of {_LINE} characters, line feeds, nothing else")
    return found


@lru_cache(maxsize=64)
def named_chain(
    text: bytes, names: tuple[tuple[str, ...], ...], roots: frozenset[bytes], *, what: str, role: Role
) -> Chain:
    """The chain that ``text`` is, from leaf to root. Raises ``CertificateError`` unless it has exactly one
    certificate for each of ``names`` (alternatives for the common name), in their order, the last one's
    fingerprint is in ``roots``, and the first has a key on P-256 and ``role``.
    """
    ders = read_chain(text, what=what, count=len(names))
    chain = build_chain(ders[0], ders[1:], roots=roots, what=what)
    if chain.ders != ders:
        refuse(f"{what} has certificates that are no part of it, or in another order")
    for certificate, allowed in zip(chain.certificates, names, strict=True):
        name = common_name(certificate)
        if name not in allowed:
            refuse(f"{what} has a certificate of {name or 'nobody'} in the place of {' or '.join(allowed)}")
    if not _plays(chain.leaf, role):
        refuse(f"{what} does not begin with {role.value}, with a key on P-256")
    return chain


def _plays(certificate: x509.Certificate, role: Role) -> bool:
    key = certificate.public_key()
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    critical = {one.oid for one in certificate.extensions if one.critical}
    authority = role is Role.AUTHORITY
    return (
        isinstance(key, ec.EllipticCurvePublicKey)
        and isinstance(key.curve, ec.SECP256R1)
        and constraints.ca is authority
        and (usage.crl_sign if authority else usage.digital_signature)
        and critical <= _CRITICAL
    )


def _block(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[place : place + _LINE] for place in range(0, len(text), _LINE)]
    return b"-----BEGIN CERTIFICATE-----\n" + b"\n".join(lines) + b"\n-----END CERTIFICATE-----\n"
