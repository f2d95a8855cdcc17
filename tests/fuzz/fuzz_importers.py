"""Evidence of every format, as strangers send it."""

from __future__ import annotations

from contextlib import suppress

from attestation.container_codec import decode_container, encode_container
from attestation.container_json import container_json
from attestation.container_summary import container_claims
from attestation.importers import import_evidence
from measurements.errors import KeyturnError
from tests.support.containers import FULL
from tests.support.evidence_vectors import EVIDENCE
from tests.support.foreign_evidence import dstack_msgpack, snp_json
from tests.support.vectors import vectors_folder

NAME = "importers"


def seeds() -> list[bytes]:
    """Evidence of each format: made here, and from the vectors where they are."""
    made = [encode_container(FULL), container_json(FULL), dstack_msgpack(), snp_json(bytes(1184))]
    folder = vectors_folder()
    if folder is None:
        return made
    first: dict[tuple[str, bool], bytes] = {}
    for case in EVIDENCE:
        path = folder / case.name
        if path.exists():
            first.setdefault((case.origin, case.name.endswith(".json")), path.read_bytes())
    return [*made, *first.values()]


def target(data: bytes) -> None:
    """What is imported is a container, in one form, that can be shown."""
    with suppress(KeyturnError):
        container = import_evidence(data)
        assert decode_container(encode_container(container)) == container
        assert container_claims(container)
