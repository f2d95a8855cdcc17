"""A policy as canonical JSON, and the digest that stands for it on chain.

One object with the keys of ``attestation.policy_schema`` (``docs/formats.md``, "Policy") and ``type``. A
platform without a section has no key, and so have ``roots`` when there are none; lists are sorted, except
those of tables, which keep their order. The digest is::

    SHA-256(u32be(16) ‖ "keyturn-policy/1" ‖ canonical JSON)

An app's TCB rule on chain (``contracts.layout``, slot ``TCB_RULE``) is this digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from attestation.policy import Policy, PolicyError
from attestation.policy_kinds import Form, WrongValueError
from attestation.policy_schema import POLICY
from measurements.canonical import Json, encode_canonical, parse_canonical

TYPE = "keyturn-policy/1"
MAX_DOCUMENT = 256 << 10
"""Bytes of canonical JSON."""

_JSON = Form(toml=False)
_AGAIN = "make it anew with keyturn policy digest --json"


def policy_document(policy: Policy) -> Mapping[str, Json]:
    """The object of ``policy``."""
    document = POLICY.write(policy)
    assert isinstance(document, dict)
    return {"type": TYPE, **document}


def encode_policy(policy: Policy) -> bytes:
    """The canonical bytes. Raises ``PolicyError`` for more than ``MAX_DOCUMENT`` bytes."""
    data = encode_canonical(policy_document(policy), subject=f"policy {policy.name}")
    if len(data) > MAX_DOCUMENT:
        raise PolicyError(
            f"has {len(data)} bytes in canonical form, more than {MAX_DOCUMENT}",
            subject=f"policy {policy.name}",
            advice="list fewer machines, or divide it into several policies",
        )
    return data


def parse_policy_document(data: bytes, *, subject: str = "policy") -> Policy:
    """The policy whose canonical form is ``data``. Raises ``PolicyError`` for anything that is no policy, and
    ``CanonicalError`` for other bytes than the canonical ones.
    """
    if len(data) > MAX_DOCUMENT:
        raise PolicyError(f"is larger than {MAX_DOCUMENT} bytes", subject=subject, advice=_AGAIN)
    document = parse_canonical(data, subject=subject)
    if not isinstance(document, dict) or document.get("type") != TYPE:
        raise PolicyError(f"is not of type {TYPE}", subject=subject, advice=_AGAIN)
    try:
        policy = POLICY.read({key: value for key, value in document.items() if key != "type"}, _JSON)
    except WrongValueError as error:
        raise error.policy_error(subject) from error
    assert isinstance(policy, Policy)
    if policy_document(policy) != document:
        raise PolicyError("has lists that are not sorted, or empty ones", subject=subject, advice=_AGAIN)
    return policy


def policy_digest(policy: Policy) -> bytes:
    """The 32 bytes that stand for ``policy`` on chain."""
    return document_digest(encode_policy(policy))


def document_digest(data: bytes) -> bytes:
    """The digest of canonical bytes, which are not looked at."""
    domain = TYPE.encode()
    return hashlib.sha256(len(domain).to_bytes(4, "big") + domain + data).digest()
