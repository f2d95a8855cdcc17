"""NVIDIA's signed manifests, and OCSP answers for their signers."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from attestation.nvidia.ocsp import check_revocation
from attestation.nvidia.rim import load_manifest
from attestation.nvidia.xml_signature import parse_signed_xml, signing_certificates
from measurements.errors import KeyturnError
from tests.support.nvidia_pki import NOW, answers, gpu, gpu_pki, manifests
from tests.support.vectors import vectors_folder

NAME = "rim"
_SAMPLE = "attestation/nvidia/vbios_rim_1010_0200_882_96005E0001.swidtag"


@cache
def _answers() -> tuple[bytes, ...]:
    """For the signer of the manifests and its authority; the same in one run."""
    return answers(gpu())[-2:]


def seeds() -> list[bytes]:
    """Generated manifests and answers, and the published manifest."""
    found = [*manifests(), *_answers()]
    folder = vectors_folder()
    if folder is not None and (folder / _SAMPLE).exists():
        found.append((folder / _SAMPLE).read_bytes())
    return found


def target(data: bytes) -> None:
    """Only what was signed is read: a manifest that holds is one of ours, and so is an answer."""
    roots = frozenset(one.fingerprint for one in gpu_pki().anchors)
    with suppress(KeyturnError):
        assert signing_certificates(parse_signed_xml(data))
    with suppress(KeyturnError):
        manifest = load_manifest(data, (), roots)
        known = [load_manifest(one, (), roots) for one in manifests()]
        assert any(manifest.golden == one.golden and manifest.version == one.version for one in known)
    chain = load_manifest(manifests()[0], (), roots).chain
    good = _answers()
    with suppress(KeyturnError):
        check_revocation(chain, (data, good[1]), first=0, now=NOW)
        assert data == good[0]
