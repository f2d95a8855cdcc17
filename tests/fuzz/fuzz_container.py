"""The evidence container in both forms."""

from __future__ import annotations

from contextlib import suppress

from attestation.container_codec import decode_container, encode_container
from attestation.container_json import container_json, parse_container_json
from measurements.errors import KeyturnError
from tests.support.containers import FULL, SMALL

NAME = "container"


def seeds() -> list[bytes]:
    """A full and a small container in both forms."""
    return [write(container) for container in (FULL, SMALL) for write in (encode_container, container_json)]


def target(data: bytes) -> None:
    """What is read has exactly one form of each kind."""
    with suppress(KeyturnError):
        container = decode_container(data)
        assert encode_container(container) == data
        assert parse_container_json(container_json(container)) == container
    with suppress(KeyturnError):
        container = parse_container_json(data)
        assert container_json(container) == data
        assert decode_container(encode_container(container)) == container
