"""Challenges without state: what the KMS hands out is authenticated, and checked when it comes back.

``mac`` = HMAC-SHA-256 over the canonical JSON of the rest of the challenge, under a key derived from the
root. The challenge is bound to its request by ``H(JCS(request))``, and to the TPM by a credential
(MakeCredential) whose secret only the EK's owner with that AK reads; the challenge holds the secret's hash.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import replace

from attestation.tpm_evidence import credential_for
from kms.chain_proof import Header
from kms.messages import Challenge, ChallengeRequest, KeysRequest
from kms.refusal import RefusalCode, RefusalError
from kms.root_key import RootKey
from kms.strict_json import canonical_json

LIFETIME_SECONDS = 120
NONCE_SIZE = 32
SECRET_SIZE = 32


def make_challenge(
    request: ChallengeRequest,
    root: RootKey,
    head: Header,
    *,
    now: int,
    nonce: bytes | None = None,
    secret: bytes | None = None,
) -> Challenge:
    """A challenge for ``request``; nonce and secret (32 bytes each) are random unless given.

    Raises ``KeyturnError`` where the request's keys admit no credential.
    """
    secret = os.urandom(SECRET_SIZE) if secret is None else secret
    credential = credential_for(
        ek_certificate=request.ek_certificate, ak_public=request.ak_public, secret=secret
    )
    challenge = Challenge(
        nonce=os.urandom(NONCE_SIZE) if nonce is None else nonce,
        kms_id=root.identity.kms_id,
        chain_id=root.pin.chain_id,
        contract=root.pin.contract,
        block_number=head.number,
        block_hash=head.hash,
        block_time=head.time,
        expires_at=now + LIFETIME_SECONDS,
        binding=request.binding,
        secret_hash=hashlib.sha256(secret).digest(),
        id_object=credential.id_object,
        encrypted_secret=credential.encrypted_secret,
        mac=b"",
    )
    return replace(challenge, mac=challenge_mac(challenge, root.challenge_mac_key))


def challenge_mac(challenge: Challenge, key: bytes) -> bytes:
    """The MAC of ``challenge`` under ``key``: 32 bytes."""
    return hmac.digest(key, canonical_json(challenge.authenticated()), "sha256")


def check_challenge(request: KeysRequest, root: RootKey, *, now: int, nonce_used: bool) -> None:
    """Raises ``RefusalError`` unless the challenge is ours, alive, unused, for this request and activated."""
    challenge = request.challenge
    if not hmac.compare_digest(challenge_mac(challenge, root.challenge_mac_key), challenge.mac):
        raise _refusal(RefusalCode.CHALLENGE_MAC, "the challenge is not one that this KMS made")
    pins = (challenge.kms_id, challenge.chain_id, challenge.contract)
    if pins != (root.identity.kms_id, root.pin.chain_id, root.pin.contract):
        raise _refusal(RefusalCode.CHALLENGE_PINS, "the challenge is of another KMS, chain or registry")
    if not challenge.expires_at - LIFETIME_SECONDS <= now < challenge.expires_at:
        raise _refusal(
            RefusalCode.CHALLENGE_EXPIRED, f"the challenge was good until {challenge.expires_at}, it is {now}"
        )
    if nonce_used:
        raise _refusal(RefusalCode.CHALLENGE_REPLAYED, "keys were already issued for this challenge")
    if not hmac.compare_digest(challenge.binding, request.challenge_request.binding):
        raise _refusal(RefusalCode.CHALLENGE_BINDING, "the challenge was made for another request")
    if not hmac.compare_digest(hashlib.sha256(request.activation).digest(), challenge.secret_hash):
        raise _refusal(
            RefusalCode.ACTIVATION, "the secret is not the credential's: the AK is not beside this EK"
        )


def _refusal(code: RefusalCode, reason: str) -> RefusalError:
    return RefusalError(
        code, reason, subject="challenge", advice="ask for a new challenge with this guest's own keys"
    )
