"""From the certificate of a signing key to AMD's root: which certificates, in which roles.

::

    ARK-Milan (pinned) → SEV-Milan (ASK)       → SEV-VCEK
    ARK-Milan (pinned) → SEV-VLEK-Milan (ASVK) → SEV-VLEK

All are signed with RSASSA-PSS and SHA-384 (AMD 57230). A VLEK under the ASK, a VCEK under the ASVK
and a chain of another product are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import SignatureAlgorithmOID

from attestation.snp.endorsement_key import EndorsementKey, kind_of, read_endorsement_key
from attestation.snp.products import Product
from attestation.x509_chain import MAX_POOL, CertificateError, Chain, common_name, load_certificate, refuse
from measurements.sev.report import SIGNED_SIZE, SigningKey, SnpReport

_ORDER = ec.SECP384R1().group_order


def find_endorsement_key(pool: Sequence[bytes], data: bytes, report: SnpReport) -> EndorsementKey:
    """The certificate in ``pool`` (DER) that fits ``report`` (whose bytes are ``data``) best, by kind, chip
    and TCB; of several that fit as well the newest whose key signed it. Raises ``CertificateError`` if there
    is none of its kind that can be read. Nothing is verified by being found.
    """
    if len(pool) > MAX_POOL:
        refuse(f"the report comes with more than {MAX_POOL} certificates")
    kind, reason = report.signing_key, ""
    found = []
    for der in pool:
        try:
            if kind_of(der) is kind:
                found.append(read_endorsement_key(der))
        except CertificateError as error:
            reason = error.reason
    if not found:
        refuse(f"no {kind.name} certificate that can be read is at hand{reason and f': {reason}'}")
    best = max(_fit(one, report) for one in found)
    fitting = [one for one in found if _fit(one, report) == best]
    fitting.sort(key=lambda one: one.not_before, reverse=True)
    if len(fitting) == 1:
        return fitting[0]
    return next((one for one in fitting if signed_by(data, report, one.public_key)), fitting[0])


def _fit(key: EndorsementKey, report: SnpReport) -> tuple[bool, bool]:
    return names_chip(key, report), key.tcb == report.reported_tcb


def names_chip(key: EndorsementKey, report: SnpReport) -> bool:
    """Whether a VCEK is of the report's chip. Before Turin all 64 bytes of a chip id are used, then 8."""
    return key.hardware_id is not None and key.hardware_id.ljust(64, b"\0") == report.chip_id


def check_roles(chain: Chain, product: Product, kind: SigningKey) -> None:
    """Raises ``CertificateError`` unless the chain is the one of this product and kind of key."""
    _check_roles(chain.ders, product, kind)


@lru_cache(maxsize=64)
def _check_roles(ders: tuple[bytes, ...], product: Product, kind: SigningKey) -> None:
    certificates = [load_certificate(der) for der in ders]
    names = [common_name(one) for one in certificates]
    expected = [f"SEV-{kind.name}", product.issuer_name(kind), product.root_name]
    if names != expected:
        refuse(f"the chain is {' ← '.join(names)}, not {' ← '.join(expected)}")
    for certificate in certificates:
        if certificate.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS or not isinstance(
            certificate.signature_hash_algorithm, hashes.SHA384
        ):
            refuse(f"{common_name(certificate)} is not signed with RSASSA-PSS and SHA-384")


def signed_by(data: bytes, report: SnpReport, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether ``key`` signed the report whose bytes are ``data``. Both numbers of a signature stand in 72
    bytes; as they are below the group's order, the upper bytes are zero.
    """
    if not all(0 < one < _ORDER for one in report.signature):
        return False
    try:
        key.verify(encode_dss_signature(*report.signature), data[:SIGNED_SIZE], ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
