"""Report data: the 64 bytes that a quote binds, and what they stand for.

With ``lp(x) = u32be(len(x)) ‖ x`` (docs/formats.md, "Evidence")::

    key release  SHA-512(lp("keyturn-key-release/1") ‖ lp(role) ‖ lp(KMS nonce, 32) ‖ lp(client nonce, 32)
                   ‖ lp(KMS id, 32) ‖ lp(u64be chain id) ‖ lp(contract, 20) ‖ lp(app id, 20)
                   ‖ lp(instance id, 16) ‖ lp(H(HPKE public key)) ‖ lp(H(JCS(keys)))
                   ‖ lp(H(app manifest)) ‖ lp(H(GPU evidence)))
    quote        SHA-512(lp("keyturn-quote/1") ‖ lp(purpose) ‖ lp(data))

``H`` is SHA-256. A TPM quote carries ``H(report data)`` as its qualifying data. Every field has its length
before it and the first one names the use, so no two meanings share bytes. The module ships in the guest:
standard library only, no data classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from measurements.canonical import encode_canonical
from measurements.errors import FormatError

REPORT_DATA_SIZE = 64
NONCE_SIZE = 32
KEY_RELEASE_DOMAIN = b"keyturn-key-release/1"
QUOTE_DOMAIN = b"keyturn-quote/1"
KMS_IDENTITY_DOMAIN = b"keyturn-kms-identity/1"
ROLE_APP = "app"
PURPOSE_APP = "app"


class ReportDataError(FormatError):
    """A field of report data that is absent or has a wrong size."""

    code = "report-data"


class KeyRequest(NamedTuple):
    """One key that is asked for."""

    path: str
    kind: str
    scope: str


class KeyRelease(NamedTuple):
    """Everything that a quote for key release binds; ``gpu_evidence`` is empty when there is none."""

    role: str
    kms_nonce: bytes
    client_nonce: bytes
    kms_id: bytes
    chain_id: int
    contract: bytes
    app_id: bytes
    instance_id: bytes
    hpke_public: bytes
    keys: Sequence[KeyRequest]
    app_manifest: bytes
    gpu_evidence: bytes = b""


def key_release_report_data(release: KeyRelease) -> bytes:
    """64 bytes; raises ``ReportDataError`` for a field that is empty, zero or of another size."""
    if release.role != ROLE_APP:
        raise _error(f"the role is {release.role!r}, not {ROLE_APP!r}")
    if not 0 < release.chain_id < 1 << 64:
        raise _error(f"the chain id is {release.chain_id}")
    if not release.hpke_public or not release.app_manifest:
        raise _error("the HPKE public key or the app manifest is empty")
    return _hash_fields(
        KEY_RELEASE_DOMAIN,
        release.role.encode("ascii"),
        _sized(release.kms_nonce, NONCE_SIZE, "the KMS nonce"),
        _sized(release.client_nonce, NONCE_SIZE, "the client nonce"),
        _sized(release.kms_id, 32, "the KMS id"),
        release.chain_id.to_bytes(8, "big"),
        _sized(release.contract, 20, "the contract"),
        _sized(release.app_id, 20, "the app id"),
        _sized(release.instance_id, 16, "the instance id"),
        _sha256(release.hpke_public),
        _sha256(_canonical_keys(release.keys)),
        _sha256(release.app_manifest),
        _sha256(release.gpu_evidence),
    )


def quote_report_data(purpose: str, data: bytes) -> bytes:
    """64 bytes for a quote of another purpose than key release."""
    if not purpose:
        raise _error("the purpose is empty")
    return _hash_fields(QUOTE_DOMAIN, purpose.encode("utf-8"), data)


def kms_identity_data(nonce: bytes, kms_id: bytes) -> bytes:
    """The data of a KMS's identity quote, whose purpose is ``PURPOSE_APP``."""
    return KMS_IDENTITY_DOMAIN + _sized(nonce, NONCE_SIZE, "the nonce") + _sized(kms_id, 32, "the KMS id")


def qualifying_data(report_data: bytes) -> bytes:
    """What a TPM quote carries for ``report_data``: 32 bytes."""
    if len(report_data) != REPORT_DATA_SIZE:
        raise _error(f"report data has {len(report_data)} bytes, not {REPORT_DATA_SIZE}")
    return _sha256(report_data)


def _canonical_keys(keys: Sequence[KeyRequest]) -> bytes:
    document = [{"path": key.path, "kind": key.kind, "scope": key.scope} for key in keys]
    return encode_canonical(document, subject="list of keys")


def _hash_fields(*fields: bytes) -> bytes:
    return hashlib.sha512(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).digest()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _sized(value: bytes, size: int, what: str) -> bytes:
    if len(value) != size or not any(value):
        raise _error(f"{what} is not {size} bytes that are not all zero")
    return value


def _error(reason: str) -> ReportDataError:
    return ReportDataError(reason, subject="report data", advice="give every field its real value")
