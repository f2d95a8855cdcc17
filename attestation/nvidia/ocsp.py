"""Revocation by OCSP (RFC 6960): an answer for each certificate, signed by who may, good and in its window.

An answer may be signed by the issuer of the certificate in question, or by a responder whose certificate is
in the answer, is for OCSP signing, and was issued by that issuer or by an authority above it in the same
chain. Identifiers use SHA-2. Of several answers for one certificate the newest counts. A certificate on hold
is refused like any other that is revoked, and so is one of which the responder knows nothing.

Nonces do not count here: answers are collateral, which is fetched apart; their windows are what bounds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, OCSPExtensionOID

from attestation.platform_verification import Window
from attestation.x509_chain import (
    MALFORMED,
    CertificateError,
    Chain,
    build_chain,
    check_windows,
    common_name,
    is_usable_key,
)
from measurements.errors import RefusedError

MAX_ANSWER = 32 << 10
MAX_ANSWERS = 64
MAX_SPEAKING = 8
"""Most answers for one certificate: each costs a signature or two."""
_MAX_CERTIFICATES = 2
_MAX_SINGLE = 16
_SHA2 = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_RESPONDER_CRITICAL = {
    ExtensionOID.KEY_USAGE,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.EXTENDED_KEY_USAGE,
}


class RevocationError(RefusedError):
    """A certificate that is revoked, or of which nothing proves that it is not."""

    code = "ocsp"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Single:
    """What one answer says of one certificate, and the windows that its signature needs."""

    status: ocsp.OCSPCertStatus
    reason: x509.ReasonFlags | None
    window: Window
    responder: tuple[Window, ...]


def check_revocation(chain: Chain, answers: Iterable[bytes], *, first: int, now: int) -> tuple[Window, ...]:
    """Demand a good answer for each certificate of the chain from place ``first`` on, but not for the root.
    Returns the windows of the answers; raises ``KeyturnError``.
    """
    pool = tuple(dict.fromkeys(answers))
    if len(pool) > MAX_ANSWERS:
        _refuse(f"there are {len(pool)} OCSP answers, more than {MAX_ANSWERS}")
    windows: list[Window] = []
    for place in range(first, len(chain.ders) - 1):
        windows += _check_one(chain, place, pool, now)
    return tuple(windows)


def _check_one(chain: Chain, place: int, pool: Sequence[bytes], now: int) -> tuple[Window, ...]:
    name = common_name(chain.certificates[place])
    speaking = [answer for answer in pool if _speaks(answer, chain.ders, place)]
    if len(speaking) > MAX_SPEAKING:
        _refuse(f"{len(speaking)} OCSP answers speak of certificate {name}, more than {MAX_SPEAKING}")
    every = [one for answer in speaking for one in _singles(answer, chain.ders, place)]
    found = [one for one in every if one.window.start <= now]
    if not found:
        _refuse(f"no valid OCSP answer for certificate {name} is at hand")
    newest = max(found, key=lambda one: (one.window.start, one.status is not ocsp.OCSPCertStatus.GOOD))
    if newest.status is ocsp.OCSPCertStatus.REVOKED:
        if newest.reason is x509.ReasonFlags.certificate_hold:
            _refuse(f"certificate {name} is on hold: its issuer has suspended it (certificateHold)")
        _refuse(f"certificate {name} is revoked ({newest.reason.value if newest.reason else 'no reason'})")
    if newest.status is not ocsp.OCSPCertStatus.GOOD:
        _refuse(f"the OCSP responder does not know certificate {name}")
    check_windows((newest.window, *newest.responder), now)
    return (newest.window, *newest.responder)


@lru_cache(maxsize=512)
def _speaks(answer: bytes, ders: tuple[bytes, ...], place: int) -> bool:
    """Whether ``answer`` names the certificate at ``place``; costs no signature."""
    response = _load(answer)
    try:
        return response is not None and next(_matching(response, ders, place), None) is not None
    except MALFORMED:
        return False


@lru_cache(maxsize=512)
def _singles(answer: bytes, ders: tuple[bytes, ...], place: int) -> tuple[_Single, ...]:
    """What ``answer`` says, with a signature that counts, of the certificate at ``place``."""
    response = _load(answer)
    if response is None:
        return ()
    try:
        matching = tuple(_matching(response, ders, place))
        responder = _responder_windows(response, ders[place + 1 :]) if matching else None
        if responder is None:
            return ()
        return tuple(_single(one, ders[place], responder) for one in matching)
    except MALFORMED:
        return ()


@lru_cache(maxsize=128)
def _load(answer: bytes) -> ocsp.OCSPResponse | None:
    if len(answer) > MAX_ANSWER:
        return None
    try:
        response = ocsp.load_der_ocsp_response(answer)
        usable = (
            response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
            and response.public_bytes(Encoding.DER) == answer
            and len(response.certificates) <= _MAX_CERTIFICATES
            and all(one.oid == OCSPExtensionOID.NONCE or not one.critical for one in response.extensions)
        )
    except MALFORMED:
        return None
    return response if usable else None


def _matching(
    response: ocsp.OCSPResponse, ders: Sequence[bytes], place: int
) -> Iterator[ocsp.OCSPSingleResponse]:
    subject = x509.load_der_x509_certificate(ders[place])
    issuer = x509.load_der_x509_certificate(ders[place + 1])
    for count, one in enumerate(response.responses):
        if count == _MAX_SINGLE:
            return
        if one.serial_number != subject.serial_number or not isinstance(one.hash_algorithm, _SHA2):
            continue
        wanted = ocsp.OCSPRequestBuilder().add_certificate(subject, issuer, one.hash_algorithm).build()
        same_issuer = (
            one.issuer_name_hash == wanted.issuer_name_hash and one.issuer_key_hash == wanted.issuer_key_hash
        )
        if same_issuer and one.next_update_utc is not None:
            yield one


def _single(one: ocsp.OCSPSingleResponse, der: bytes, responder: tuple[Window, ...]) -> _Single:
    end = one.next_update_utc
    assert end is not None  # asked before
    revoked = one.certificate_status is ocsp.OCSPCertStatus.REVOKED
    return _Single(
        status=one.certificate_status,
        reason=one.revocation_reason if revoked else None,
        window=Window(
            name=f"OCSP answer for {common_name(x509.load_der_x509_certificate(der))}",
            start=int(one.this_update_utc.timestamp()),
            end=int(end.timestamp()),
        ),
        responder=responder,
    )


def _responder_windows(
    response: ocsp.OCSPResponse, authorities: Sequence[bytes]
) -> tuple[Window, ...] | None:
    """Windows of the certificates that sign the answer for the authorities; None if nobody does who may."""
    issuer = x509.load_der_x509_certificate(authorities[0])
    if _signed_by(response, issuer):
        return ()
    roots = frozenset({hashlib.sha256(authorities[-1]).digest()})
    for certificate in response.certificates:
        if not _signed_by(response, certificate) or not _may_answer(certificate):
            continue
        try:
            der = certificate.public_bytes(Encoding.DER)
            chain = build_chain(der, tuple(authorities), roots=roots, what="the OCSP responder")
        except CertificateError:
            continue
        return chain.windows[:1]
    return None


def _may_answer(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    critical = {one.oid for one in certificate.extensions if one.critical}
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage and critical <= _RESPONDER_CRITICAL


def _signed_by(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    """Whether ``signer`` is the responder that the answer names, and its key verifies."""
    key = signer.public_key()
    named = response.responder_name == signer.subject or (
        response.responder_key_hash is not None
        and response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(key).digest
    )
    algorithm = response.signature_hash_algorithm
    if not named or not isinstance(algorithm, _SHA2) or not is_usable_key(key):
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _refuse(reason: str) -> NoReturn:
    raise RevocationError(
        reason,
        subject="revocation",
        advice="fetch OCSP answers again (keyturn collateral fetch); a revoked device must not be used",
    )
