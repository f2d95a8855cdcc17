"""Revocation lists and OCSP answers of authorities that exist only in tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

KEY = ec.derive_private_key(7, ec.SECP384R1())
MONTH = timedelta(days=30)


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def certificate(common_name: str, now: int, *, issuer: str | None = None, serial: int | None = None) -> bytes:
    """DER of a certificate that is valid from a month before to a month after ``now``."""
    moment = _moment(now)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(_name(issuer or common_name))
        .public_key(KEY.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(moment - MONTH)
        .not_valid_after(moment + MONTH)
        .sign(KEY, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )


def revocation_list(issuer: str, now: int) -> bytes:
    """DER of a list that holds from a day before ``now`` for a month."""
    moment = _moment(now) - timedelta(days=1)
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_name(issuer))
        .last_update(moment)
        .next_update(moment + MONTH)
        .sign(KEY, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )


def ocsp_answer(now: int, leaf: bytes | None = None, issuer: bytes | None = None) -> bytes:
    """DER of an answer that a certificate (DER; some one, if it is not given) is good, for a month."""
    moment = _moment(now)
    one = x509.load_der_x509_certificate(leaf or certificate("leaf", now, issuer="authority"))
    authority = x509.load_der_x509_certificate(issuer or certificate("authority", now))
    return (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=one,
            issuer=authority,
            algorithm=hashes.SHA384(),
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=moment,
            next_update=moment + MONTH,
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, authority)
        .sign(KEY, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )
