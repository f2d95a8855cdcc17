"""Attestation documents of Nitro enclaves and NitroTPMs: a COSE_Sign1 message in CBOR.

Recognised are the array of four, with or without tag 18, and its protected header; the form is checked by
the verifier's own parser. The tag is not kept, as documents are verified without it.
"""

from __future__ import annotations

from attestation.container import EvidenceContainer, EvidencePlatform
from measurements.nitro.cose import parse_cose_sign1

_TAG = b"\xd2"
_STARTS = (b"\x84\x44\xa1\x01", _TAG + b"\x84\x44\xa1\x01")


def looks_like_document(data: bytes) -> bool:
    """Whether it starts as such a message."""
    return data.startswith(_STARTS)


def import_document(data: bytes, *, origin: str = "nitro-document") -> EvidenceContainer:
    """A document; raises ``FormatError``."""
    document = data.removeprefix(_TAG)
    parse_cose_sign1(document, subject="Nitro attestation document")
    return EvidenceContainer(platform=EvidencePlatform.NITRO, report=document, origin=origin)
