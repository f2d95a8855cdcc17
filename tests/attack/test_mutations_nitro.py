"""No changed byte of a good Nitro document is accepted: every byte, every length, parts swapped."""

from __future__ import annotations

from collections.abc import Iterator

import cbor2
import pytest

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.nitro.verify import verify_nitro
from tests.measurements.nitro.test_document import document_bytes
from tests.support.policies import permissive_policy

POLICY = permissive_policy(EvidencePlatform.NITRO)
ANCHORS = anchors_for(POLICY)
GOOD, OTHER = "dstack-nsm.bin", "dstack-nsm-app.bin"
NOW, OTHER_NOW = 1766668537, 1766678659


def passes(document: bytes, now: int = NOW) -> bool:
    return verify_nitro(
        EvidenceContainer(platform=EvidencePlatform.NITRO, report=document),
        collateral=Collateral(),
        anchors=ANCHORS,
        policy=POLICY,
        now=now,
    ).passed


def flips(data: bytes) -> Iterator[bytes]:
    """Each byte once, with a bit that changes with its place."""
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


def test_no_flipped_byte_is_accepted() -> None:
    good = document_bytes(GOOD)
    assert passes(good)
    assert [at for at, changed in enumerate(flips(good)) if passes(changed)] == []


def test_no_other_length_is_accepted() -> None:
    good = document_bytes(GOOD)
    assert not any(passes(good[:size]) for size in range(len(good)))
    assert not any(passes(good + bytes([extra]) * times) for extra in (0, 255) for times in (1, 3, 4096))


@pytest.mark.parametrize("part", [2, 3])
def test_no_part_of_another_document_is_accepted(part: int) -> None:
    """Payload and signature; the headers are the same in both."""
    good, other = cbor2.loads(document_bytes(GOOD)), cbor2.loads(document_bytes(OTHER))
    assert good[:2] == other[:2]
    mixed = cbor2.dumps([other[place] if place == part else one for place, one in enumerate(good)])
    assert passes(document_bytes(OTHER), OTHER_NOW)
    assert not any(passes(mixed, now) for now in (NOW, OTHER_NOW))


@pytest.mark.parametrize("name", ["certificate", "cabundle"])
def test_certificates_of_another_document_are_not_accepted(name: str) -> None:
    protected, unprotected, payload, signature = cbor2.loads(document_bytes(GOOD))
    fields, others = cbor2.loads(payload), cbor2.loads(cbor2.loads(document_bytes(OTHER))[2])
    assert fields[name] != others[name]
    changed = cbor2.dumps(fields | {name: others[name]})
    assert not passes(cbor2.dumps([protected, unprotected, changed, signature]))
