"""Policies as TOML and as canonical JSON."""

from __future__ import annotations

from contextlib import suppress

from attestation.container import EvidencePlatform
from attestation.policies import permissive_template, policy_template
from attestation.policy_document import encode_policy, parse_policy_document
from attestation.policy_file import parse_policy
from attestation.policy_words import policy_words
from measurements.errors import KeyturnError
from tests.support.policies import permissive_policy

NAME = "policy"


def seeds() -> list[bytes]:
    """The templates, and documents of permissive policies."""
    first, *more = EvidencePlatform
    return [
        policy_template(list(EvidencePlatform), gpu=True).encode(),
        permissive_template().encode(),
        encode_policy(permissive_policy(first, *more, gpu=True)),
        encode_policy(permissive_policy(EvidencePlatform.NITRO)),
    ]


def target(data: bytes) -> None:
    """What is read has one document, and can be said in words."""
    with suppress(KeyturnError):
        policy = parse_policy(data)
        assert parse_policy_document(encode_policy(policy)) == policy
        assert policy_words(policy, 0)
    with suppress(KeyturnError):
        assert encode_policy(parse_policy_document(data)) == data
