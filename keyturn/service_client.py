"""Asks a service for its proof."""

from __future__ import annotations

from kms.http_get import GetError, get
from kms.service_proof import LARGEST_PROOF, PATH, ServiceProof, parse_service_proof
from measurements.errors import KeyturnError

TOTAL_SECONDS = 180
"""A quote takes its time where the machine is emulated."""


class ServiceError(KeyturnError):
    """The service does not answer, or with an error."""

    code = "service"


def is_url(text: str) -> bool:
    """Whether ``text`` names a service and no file."""
    return text.startswith(("http://", "https://"))


def fetch_service_proof(url: str, *, nonce: bytes) -> ServiceProof:
    """What the service at ``url`` shows for ``nonce`` (32 bytes); nothing of it is verified.

    Raises ``ServiceError``, or ``FormatError`` for an answer that is no proof.
    """
    path = f"{PATH}?nonce={nonce.hex()}"
    try:
        status, body = get(url, path, seconds=TOTAL_SECONDS, largest=LARGEST_PROOF)
    except GetError as error:
        raise _error(url, f"gave no proof: {error}") from error
    if status != 200:
        raise _error(url, f"answered with status {status}")
    return parse_service_proof(body)


def _error(url: str, reason: str) -> ServiceError:
    return ServiceError(
        reason,
        subject=url,
        advice=f"check the address, and that the service answers {PATH} (docs/formats.md)",
    )
