"""Receipts and roots for tests."""

from __future__ import annotations

from kms.receipt import ChainPosition, Decision, Outcome, Reason, Receipt, ReceiptKey, Subject
from kms.root_key import ChainPin, RootKey
from measurements.app_manifest import KeyKind, KeyScope

PIN = ChainPin(chain_id=31337, contract=b"\x5f" * 20)
ROOT = RootKey(root=bytes(range(64)), pin=PIN, development=False)
DEVELOPMENT_ROOT = RootKey(root=bytes(range(64)), pin=PIN, development=True)
APP_ID = b"\xa1" * 20
INSTANCE_ID = b"\x1d" * 16

SUBJECT = Subject(
    nonce=b"\x01" * 32,
    role="app",
    app_id=APP_ID,
    instance_id=INSTANCE_ID,
    platform="tpm",
    evidence_hash=b"\xee" * 32,
    app_hash=b"\xa2" * 32,
    image_id=b"\xa3" * 32,
    reference_digest=b"\xa4" * 32,
    platform_root=b"\xa5" * 32,
    platform_id=b"\xa6" * 32,
    report_data=b"\xa7" * 64,
)
CHAIN = ChainPosition(
    chain_id=PIN.chain_id,
    contract=PIN.contract,
    block_number=7,
    block_hash=b"\xb1" * 32,
    state_root=b"\xb2" * 32,
    policy_version=3,
    app_policy_version=2,
)
ISSUE = Outcome(
    decision=Decision.ISSUE,
    keys=(
        ReceiptKey(path="web/tls", kind=KeyKind.ED25519, scope=KeyScope.APP, epoch=1, public=b"\xc1" * 32),
        ReceiptKey(
            path="keyturn/storage", kind=KeyKind.RAW_256, scope=KeyScope.INSTANCE, epoch=1, public=None
        ),
    ),
    format_permitted=True,
    chain=CHAIN,
)
REFUSE = Outcome(decision=Decision.REFUSE, reason=Reason(code="app-hash-revoked", text="revoked on chain"))


def receipt(*, seq: int = 1, outcome: Outcome = ISSUE, subject: Subject = SUBJECT) -> Receipt:
    return Receipt(
        kms_id=ROOT.identity.kms_id,
        seq=seq,
        prev_hash=bytes(32),
        time=1_800_000_000,
        development=False,
        subject=subject,
        outcome=outcome,
    )
