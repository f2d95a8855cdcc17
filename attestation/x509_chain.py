"""X.509 certificates, chains and revocation lists: one strict way for all platforms.

A certificate counts only in its one encoding: DER of version 3 whose algorithm identifiers agree and whose
signature leaves no bits unused, so that a changed byte is another certificate. A chain goes from a leaf over
certificates out of a pool to a root with a pinned fingerprint. Required of each issuer (RFC 5280, section
6.1): an authority (basic constraints) that may sign certificates (key usage), within its path length, whose
name is the issuer's and whose key verifies; no critical extension besides those two; a hash of SHA-256 or
better; an RSA key of 2048 bits or more or a curve P-256, P-384 or P-521. A root counts by its bytes.

Chains do not depend on the time and are kept; validity is asked for with ``check_windows``.

A revocation list counts if it is of the issuer by name and signature, has no critical extension and no
entries that stand for other issuers; its window is asked for in the same way.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from attestation.limited_cache import limited_cache
from attestation.platform_verification import ChainLink, Window
from measurements.errors import RefusedError

MAX_CERTIFICATE = 16 << 10
MAX_CRL = 1 << 20
MAX_POOL = 64
"""Most certificates among which issuers are looked for."""
MAX_NAMESAKES = 6
"""Most certificates of one issuer's name whose keys are tried, since each costs a signature."""
MAX_DEPTH = 8
"""Most certificates in a chain, leaf and root included."""

MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.AttributeNotFound,
)
"""What ``cryptography`` raises, some of it late, for certificates that it cannot read."""

_CA_CRITICAL = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192
_MAX_EXPONENT_BITS = 32

# AMD gives the keys of its chips certificates with serial number 0, of which the library warns on each use.
warnings.filterwarnings("ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning)


class CertificateError(RefusedError):
    """A certificate, chain or revocation list that proves nothing."""

    code = "certificate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Certificates from the leaf to the root, with their DER; ``fingerprint`` is SHA-256 of the root."""

    certificates: tuple[x509.Certificate, ...]
    ders: tuple[bytes, ...]
    windows: tuple[Window, ...]
    links: tuple[ChainLink, ...]
    fingerprint: bytes

    @property
    def leaf(self) -> x509.Certificate:
        """The end entity."""
        return self.certificates[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class RevocationList:
    """A list whose signature holds; serial numbers as integers."""

    serials: frozenset[int]
    number: int | None
    window: Window


@lru_cache(maxsize=256)
def load_certificate(der: bytes, *, what: str = "the certificate") -> x509.Certificate:
    """Read one certificate; raises ``CertificateError``."""
    if len(der) > MAX_CERTIFICATE:
        refuse(f"{what} is larger than {MAX_CERTIFICATE} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        strict = (
            certificate.version is x509.Version.v3
            and der.endswith(b"\0" + certificate.signature)
            and certificate.public_bytes(Encoding.DER) == der
        )
        for _ in _late_parts(certificate):
            pass
    except MALFORMED as error:
        refuse(f"{what} is no X.509 certificate: {error}")
    if not strict:
        refuse(f"{what} is no X.509 certificate of version 3 in its one encoding")
    return certificate


def _late_parts(certificate: x509.Certificate) -> Iterator[object]:
    """What the library reads only when it is asked for, so that nothing fails later."""
    yield certificate.subject.public_bytes(), certificate.issuer.public_bytes()
    yield certificate.extensions, certificate.signature_hash_algorithm
    yield certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.serial_number


def load_pem_certificates(text: bytes, *, what: str = "the chain") -> tuple[bytes, ...]:
    """DER of the certificates in PEM, in their order; raises ``CertificateError``. Bytes between the blocks
    are only white space or zero.
    """
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    found: list[bytes] = []
    rest = text
    while rest.strip(b"\0\r\n\t "):
        head, mark, rest = rest.partition(end)
        if not mark or not head.lstrip(b"\0\r\n\t ").startswith(begin) or head.count(begin) != 1:
            refuse(f"{what} is not certificates in PEM with nothing between them")
        if len(found) == MAX_POOL:
            refuse(f"{what} has more than {MAX_POOL} certificates")
        found.append(_pem_block(head.lstrip(b"\0\r\n\t ") + mark, what))
    if not found:
        refuse(f"{what} holds no certificate")
    return tuple(found)


@lru_cache(maxsize=256)
def _pem_block(block: bytes, what: str) -> bytes:
    if len(block) > 2 * MAX_CERTIFICATE:
        refuse(f"{what} holds a certificate that is larger than {MAX_CERTIFICATE} bytes")
    try:
        return x509.load_pem_x509_certificate(block).public_bytes(Encoding.DER)
    except MALFORMED as error:
        refuse(f"{what} is no PEM: {error}")


def build_chain(leaf: bytes, pool: Iterable[bytes], *, roots: frozenset[bytes], what: str) -> Chain:
    """The chain from ``leaf`` (DER) to a certificate whose SHA-256 is in ``roots``; raises
    ``CertificateError``.

    ``pool`` is DER in any order; what cannot be read in it is passed over. The leaf's own extensions are for
    the caller to judge, and so is validity (``check_windows``).
    """
    return _build_chain(leaf, tuple(dict.fromkeys(pool)), roots, what)


@limited_cache(maxsize=256, largest=64 << 10)
def _build_chain(leaf: bytes, pool: tuple[bytes, ...], roots: frozenset[bytes], what: str) -> Chain:
    if len(pool) > MAX_POOL:
        refuse(f"{what} comes with more than {MAX_POOL} certificates")
    ders = [leaf]
    certificates = [load_certificate(leaf, what=what)]
    _check_strength(certificates[0], what)
    candidates = _readable(pool)
    while hashlib.sha256(ders[-1]).digest() not in roots:
        if len(ders) == MAX_DEPTH:
            refuse(f"{what} does not reach a trusted root within {MAX_DEPTH} certificates")
        issuer = _issuer(certificates[-1], candidates, roots, len(ders) - 1, exclude=ders)
        if issuer is None:
            refuse(f"{what} does not chain to a trusted root: {_name(certificates[-1])} has no issuer here")
        ders.append(issuer)
        certificates.append(load_certificate(issuer))
    return Chain(
        certificates=tuple(certificates),
        ders=tuple(ders),
        windows=tuple(certificate_window(one) for one in certificates),
        links=tuple(
            ChainLink(subject=_name(one), issuer=_name(above))
            for one, above in zip(certificates, [*certificates[1:], certificates[-1]], strict=True)
        ),
        fingerprint=hashlib.sha256(ders[-1]).digest(),
    )


def _readable(pool: Sequence[bytes]) -> list[tuple[bytes, x509.Certificate]]:
    found = []
    for der in pool:
        try:
            found.append((der, load_certificate(der)))
        except CertificateError:
            continue
    return found


def _issuer(
    certificate: x509.Certificate,
    candidates: Sequence[tuple[bytes, x509.Certificate]],
    roots: frozenset[bytes],
    below: int,
    *,
    exclude: Sequence[bytes],
) -> bytes | None:
    """The candidate that signed ``certificate`` and may; trusted roots come first. ``below`` is how many
    intermediates stand under it.
    """
    named = [
        (der, one)
        for der, one in sorted(candidates, key=lambda one: hashlib.sha256(one[0]).digest() not in roots)
        if der not in exclude and one.subject == certificate.issuer and _may_issue(one, below)
    ]
    if len(named) > MAX_NAMESAKES:
        refuse(f"more than {MAX_NAMESAKES} certificates are called {_name(named[0][1])}")
    for der, one in named:
        try:
            certificate.verify_directly_issued_by(one)
        except (InvalidSignature, *MALFORMED):
            continue
        return der
    return None


def _may_issue(certificate: x509.Certificate, below: int) -> bool:
    try:
        _check_strength(certificate, "an issuer")
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (CertificateError, x509.ExtensionNotFound, *MALFORMED):
        return False
    critical = {one.oid for one in certificate.extensions if one.critical}
    limit = constraints.path_length
    return (
        constraints.ca
        and usage.key_cert_sign
        and (limit is None or below <= limit)
        and critical <= _CA_CRITICAL
    )


def _check_strength(certificate: x509.Certificate, what: str) -> None:
    if not is_usable_key(certificate.public_key()) or not isinstance(
        certificate.signature_hash_algorithm, _HASHES
    ):
        refuse(f"{what} has a key or a hash that is too weak, too costly or unknown")


def is_usable_key(key: object) -> bool:
    """Whether a public key is strong enough, and its signatures are verified in little time: the cost of an
    RSA signature grows with the length of the exponent, which may be that of the modulus.
    """
    if isinstance(key, rsa.RSAPublicKey):
        bits, exponent = key.key_size, key.public_numbers().e
        return _MIN_RSA_BITS <= bits <= _MAX_RSA_BITS and exponent.bit_length() <= _MAX_EXPONENT_BITS
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)


def check_windows(windows: Iterable[Window], now: int) -> None:
    """Raises ``CertificateError`` naming the first window that does not hold ``now``."""
    for one in windows:
        if not one.start <= now <= one.end:
            state = "not valid yet" if now < one.start else "expired"
            period = f"valid from {_date(one.start)} to {_date(one.end)}"
            refuse(f"{one.name} is {state}: {period}, asked for {_date(now)}")


def certificate_window(certificate: x509.Certificate) -> Window:
    """When a certificate is valid."""
    return Window(
        name=f"certificate {_name(certificate)}",
        start=int(certificate.not_valid_before_utc.timestamp()),
        end=int(certificate.not_valid_after_utc.timestamp()),
    )


def load_revocation_list(der: bytes, issuer: bytes, *, what: str) -> RevocationList:
    """Read a list (DER) that the certificate ``issuer`` (DER) signed; raises ``CertificateError``. Its
    window is for the caller to check.
    """
    found = _load_revocation_list(der, issuer, what)
    if isinstance(found, CertificateError):
        raise found.with_traceback(None)
    return found


@limited_cache(maxsize=256, largest=128 << 10)
def _load_revocation_list(der: bytes, issuer: bytes, what: str) -> RevocationList | CertificateError:
    """A refusal is kept, too: it costs as much."""
    try:
        return _read_revocation_list(der, issuer, what)
    except CertificateError as error:
        return error.with_traceback(None)


def _read_revocation_list(der: bytes, issuer: bytes, what: str) -> RevocationList:
    if len(der) > MAX_CRL:
        refuse(f"{what} is larger than {MAX_CRL} bytes")
    authority = load_certificate(issuer, what=f"the issuer of {what}")
    try:
        revoked = x509.load_der_x509_crl(der)
        canonical = revoked.public_bytes(Encoding.DER) == der and der.endswith(b"\0" + revoked.signature)
        if not canonical or revoked.issuer != authority.subject or not _may_sign_lists(authority):
            refuse(f"{what} is not a list of {_name(authority)} in its one encoding")
        if not isinstance(revoked.signature_hash_algorithm, _HASHES):
            refuse(f"{what} is signed with a hash that is not accepted")
        key = authority.public_key()
        if not isinstance(
            key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey
        ) or not revoked.is_signature_valid(key):
            refuse(f"{what} is not signed by {_name(authority)}")
        if any(one.critical for one in revoked.extensions):
            refuse(f"{what} has a critical extension, so it may speak of something else")
        return _revocation_list(revoked, what)
    except MALFORMED as error:
        refuse(f"{what} is no revocation list: {error}")


def _may_sign_lists(authority: x509.Certificate) -> bool:
    try:
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return False


def _revocation_list(revoked: x509.CertificateRevocationList, what: str) -> RevocationList:
    end = revoked.next_update_utc
    if end is None:
        refuse(f"{what} does not say when the next one comes")
    serials = set()
    for entry in revoked:
        if any(one.oid == CRLEntryExtensionOID.CERTIFICATE_ISSUER for one in entry.extensions):
            refuse(f"{what} speaks of certificates of other issuers")
        serials.add(entry.serial_number)
    try:
        number = revoked.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        number = None
    return RevocationList(
        serials=frozenset(serials),
        number=number,
        window=Window(name=what, start=_seconds(revoked.last_update_utc), end=_seconds(end)),
    )


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def common_name(certificate: x509.Certificate) -> str:
    """The one common name of the subject; empty if there is none or more than one."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _name(certificate: x509.Certificate) -> str:
    return common_name(certificate) or certificate.subject.rfc4514_string()


def _date(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a moment that calendars here do not have
        return f"{seconds} seconds after 1970"


def refuse(reason: str) -> NoReturn:
    """Raises ``CertificateError``."""
    raise CertificateError(
        reason, subject="certificates", advice="take evidence and collateral again from their source"
    )
