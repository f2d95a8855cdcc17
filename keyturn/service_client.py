"""Asks a service for its proof: one request, no redirects, limited in time and size."""

from __future__ import annotations

import time

import requests

from kms.service_proof import LARGEST_PROOF, PATH, ServiceProof, parse_service_proof
from measurements.errors import KeyturnError

CALL_SECONDS = 60
TOTAL_SECONDS = 180
"""A quote takes its time where the machine is emulated."""

_PIECE = 1 << 16


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
    session = requests.Session()
    session.trust_env = False
    address = f"{url.rstrip('/')}{PATH}?nonce={nonce.hex()}"
    try:
        with session.get(address, timeout=CALL_SECONDS, stream=True, allow_redirects=False) as answer:
            body, status = _read(answer), answer.status_code
    except (requests.RequestException, ValueError) as error:
        raise _error(url, f"gave no proof: {type(error).__name__}: {error}"[:300]) from error
    if status != 200:
        raise _error(url, f"answered with status {status}")
    return parse_service_proof(body)


def _read(answer: requests.Response) -> bytes:
    deadline, whole = time.monotonic() + TOTAL_SECONDS, bytearray()
    for piece in answer.iter_content(_PIECE):
        whole += piece
        if len(whole) > LARGEST_PROOF:
            raise ValueError("the answer is too large")
        if time.monotonic() > deadline:
            raise ValueError("the answer takes too long")
    return bytes(whole)


def _error(url: str, reason: str) -> ServiceError:
    return ServiceError(
        reason,
        subject=url,
        advice=f"check the address, and that the service answers {PATH} (docs/formats.md)",
    )
