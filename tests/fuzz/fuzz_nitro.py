"""Fuzz target: Nitro documents, from COSE to the verdict."""

from __future__ import annotations

import contextlib

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.nitro.verify import verify_nitro
from measurements.errors import KeyturnError
from measurements.nitro.document import parse_document
from tests.support.nitro_pki import ENCLAVE, NITROTPM, NOW, NitroPki
from tests.support.policies import permissive_policy
from tests.support.vectors import vectors_folder

NAME = "nitro"

_POLICY = permissive_policy(EvidencePlatform.NITRO)
_ANCHORS = anchors_for(_POLICY)


def seeds() -> list[bytes]:
    """Generated documents of both kinds, and a real one of an enclave in debug mode."""
    generated = [NitroPki(module=module).document() for module in (ENCLAVE, NITROTPM)]
    folder = vectors_folder()
    real = folder and folder / "attestation/nitro/evervault-debug.bin"
    return [*generated, real.read_bytes()] if real and real.exists() else generated


def target(data: bytes) -> None:
    """No input raises, and none is accepted: the only root is AWS's, and no seed verifies at this time."""
    with contextlib.suppress(KeyturnError):
        document = parse_document(data)
        assert document.kind.value in document.module
    evidence = EvidenceContainer(platform=EvidencePlatform.NITRO, report=data)
    result = verify_nitro(evidence, collateral=Collateral(), anchors=_ANCHORS, policy=_POLICY, now=NOW)
    assert not result.passed
    assert result.facts is None
