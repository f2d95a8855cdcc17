"""Refusals: a "no" with a stable code, a reason and advice.

The code of a failed check of the evidence is that check's name.
"""

from __future__ import annotations

from enum import StrEnum

from measurements.errors import RefusedError


class RefusalCode(StrEnum):
    """Why the KMS itself refuses, besides entries of the policy and checks of the evidence."""

    CHALLENGE_MAC = "challenge-mac"
    CHALLENGE_EXPIRED = "challenge-expired"
    CHALLENGE_REPLAYED = "challenge-replayed"
    CHALLENGE_BINDING = "challenge-binding"
    CHALLENGE_PINS = "challenge-pins"
    ACTIVATION = "activation"
    DEV_IMAGE = "dev-image"
    KMS_PIN = "kms-pin"
    APP_ID = "app-id"
    APP_MANIFEST = "app-manifest"
    UNLISTED_KEY = "unlisted-key"
    WRONG_CHAIN = "wrong-chain"
    HEADER = "block-header"
    PROOF = "state-proof"
    STALE_HEAD = "stale-head"
    OLDER_HEAD = "older-head"
    REGISTRY_CODE = "registry-code"
    APP_CODE = "app-code"
    APP_REGISTRY = "app-registry"
    REGISTRY_PAUSED = "registry-paused"
    APP_PAUSED = "app-paused"
    APP_EXPIRED = "app-expired"
    TCB_RULE = "tcb-rule"
    KMS_SIGNER = "kms-signer"
    INSTANCE_EPOCH = "instance-epoch"
    NO_RECEIPT = "no-receipt"
    CONFIRM_MAC = "confirm-mac"


class RefusalError(RefusedError):
    """One refusal, raised or handed on as a value; ``code`` belongs to this one error."""

    def __init__(self, code: str, reason: str, *, subject: str, advice: str) -> None:
        super().__init__(reason, subject=subject, advice=advice)
        self.code = str(code)  # type: ignore[misc]  # stable for this one error, not for the class
