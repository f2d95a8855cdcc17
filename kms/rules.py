"""TCB rules: policies that apps name on chain by their digest, and what they say of a guest's evidence.

The host hands the documents to the KMS. That needs no trust: a document counts only under its own digest, and
which digest counts is said on chain. An app whose rule the KMS does not have gets no keys.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TypeAlias

from attestation.policy import Policy
from attestation.policy_document import MAX_DOCUMENT, document_digest, parse_policy_document
from measurements.errors import FormatError

Rules: TypeAlias = Mapping[bytes, Policy]
"""Policies by their digests (32 bytes)."""

MAX_RULES = 64
_SUBJECT = "TCB rules"


def read_rules(text: str) -> Rules:
    """Policies from canonical documents in base64, separated by commas. Raises ``KeyturnError``."""
    parts = text.split(",")
    if len(parts) > MAX_RULES:
        raise _error(f"there are {len(parts)} documents, more than {MAX_RULES}")
    rules: dict[bytes, Policy] = {}
    for part in parts:
        try:
            data = base64.b64decode(part, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _error("a document is not in base64") from error
        if not 0 < len(data) <= MAX_DOCUMENT:
            raise _error(f"a document has {len(data)} bytes, not 1 to {MAX_DOCUMENT}")
        digest = document_digest(data)
        if digest in rules:
            raise _error(f"the document {digest.hex()} is there twice")
        rules[digest] = parse_policy_document(data, subject=f"TCB rule {digest.hex()}")
    return rules


def _error(reason: str) -> FormatError:
    return FormatError(
        reason, subject=_SUBJECT, advice="give the files that keyturn policy digest --output writes"
    )
