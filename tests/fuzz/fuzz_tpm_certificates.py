"""Fuzz target: certificates of attestation and endorsement keys, Google's instance identity, lists. The first
byte chooses the reader.
"""

from __future__ import annotations

import contextlib

from cryptography import x509

from attestation.ek_certificate import read_ek_certificate
from attestation.tpm.ak_certificate import INSTANCE_IDENTITY, instance_identity, read_ak_certificate
from attestation.tpm.revocation import check_revocation
from attestation.x509_chain import build_chain
from measurements.errors import KeyturnError
from tests.attestation.tpm.test_ak_certificate import NOT_CA, SIGNS, identity
from tests.support.paper_tpm import NOW
from tests.support.tpm_containers import PaperMachine

NAME = "tpm_certificates"

_MACHINE = PaperMachine()
_ROOTS = frozenset(one.fingerprint for one in _MACHINE.anchors)
_CHAIN = build_chain(_MACHINE.tpm.ek_certificate, _MACHINE.pool, roots=_ROOTS, what="the EK certificate")


def seeds() -> list[bytes]:
    """One input for each reader."""
    extension = x509.UnrecognizedExtension(INSTANCE_IDENTITY, identity())
    ak = _MACHINE.issue_ak([NOT_CA, SIGNS, (extension, False)])
    return [
        b"\0" + ak,
        b"\1" + _MACHINE.tpm.ek_certificate,
        b"\2" + identity(),
        b"\3" + _MACHINE.revocation_list(1, 2),
    ]


def target(data: bytes) -> None:
    """Only refusals come out, and a list that is not this authority's never counts."""
    reader, rest = data[:1], data[1:]
    with contextlib.suppress(KeyturnError):
        if reader == b"\0":
            assert read_ak_certificate(rest)["ak_subject"] is not None
        elif reader == b"\1":
            assert len(read_ek_certificate(rest, platform_root=bytes(32)).platform_id) == 32
        elif reader == b"\2":
            assert all(instance_identity(rest).values())
        else:
            check_revocation(_CHAIN, [rest], NOW)
