"""Key release from end to end: challenge, decision, derivation, journal, sealing, confirmation.

The shell around the pure parts: it asks the node, reads and appends to the journal, and calls
``kms.decision`` in its order. Every refusal of a request for keys is journalled.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite

from attestation.report_data import KeyRelease, key_release_report_data
from attestation.tpm_evidence import Expectations, LogPart, verify_tpm_evidence
from kms.chain_reader import read_head, read_view
from kms.chain_view import ChainPins, ChainView
from kms.challenge import check_challenge, make_challenge
from kms.decision import Established, check_evidence, check_policy, check_rule, decide_instance
from kms.derivation import DerivedKey
from kms.journal import Journal, Recorded
from kms.messages import (
    PLATFORM,
    Challenge,
    ChallengeRequest,
    ConfirmRequest,
    KeysRequest,
    encode_base64,
)
from kms.receipt import Decision, Outcome, Reason, ReceiptKey, Subject, key_json, receipt_hash
from kms.refusal import RefusalCode, RefusalError
from kms.root_key import RootKey
from kms.rpc import Node
from kms.rules import Rules
from kms.strict_json import canonical_json, fail
from measurements.app_manifest import KeyKind, KeyScope

RESPONSE_INFO = b"keyturn-key-response/1\0"
CONFIRM_PREFIX = b"keyturn-confirm/1\0"
CONFIRM_KEY_PATH = "confirm"
_MLKEM_SIZE = 1184
_LONGEST_REASON = 1000


class JournalledRefusalError(RefusalError):
    """A refusal with its receipt."""

    def __init__(self, refusal: RefusalError, recorded: Recorded) -> None:
        super().__init__(refusal.code, refusal.reason, subject=refusal.subject, advice=refusal.advice)
        self.recorded = recorded


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """Keys, sealed to the guest that asked, and their receipt."""

    sealed: bytes
    recorded: Recorded


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustAnchors:
    """DER certificates that EK certificates may chain to; which roots count is the chain's decision."""

    roots: tuple[bytes, ...]
    intermediates: tuple[bytes, ...] = ()


@dataclass(kw_only=True, slots=True)
class _Progress:
    """How far a request came: what its receipt may say."""

    report_data: bytes
    established: Established | None = None
    view: ChainView | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Kms:
    """One KMS. ``clock`` gives seconds since 1970; ``rules`` are the TCB rules that it knows."""

    root: RootKey
    pins: ChainPins
    node: Node
    journal: Journal
    anchors: TrustAnchors
    clock: Callable[[], int]
    rules: Rules = field(default_factory=dict)
    confirm_master: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "confirm_master", self.root.own_secret(CONFIRM_KEY_PATH))

    def challenge(self, request: ChallengeRequest) -> Challenge:
        """A challenge at the finalized head. Raises ``KeyturnError``."""
        now = self.clock()
        head = read_head(self.node, pins=self.pins, journal=self.journal, now=now)
        return make_challenge(request, self.root, head, now=now)

    def release(self, request: KeysRequest) -> Issued:
        """Issue keys. Raises ``JournalledRefusalError``; without a receipt ``FormatError`` for what is no
        request, and ``NodeError`` when the chain cannot be read.
        """
        now = self.clock()
        progress = _Progress(report_data=self._report_data(request))
        _check_hpke_public(request.hpke_public)
        try:
            self._decide(request, progress, now=now)
            return self._issue(request, progress, now=now)
        except RefusalError as refusal:
            recorded = self._refuse(request, progress, refusal, now=now)
            raise JournalledRefusalError(refusal, recorded) from refusal

    def confirm(self, request: ConfirmRequest) -> Recorded:
        """Take a guest's word that its disk is formatted. Raises ``RefusalError``."""
        issued = self.journal.by_hash(request.receipt_hash)
        if issued is None or not issued.receipt.outcome.format_permitted:
            raise RefusalError(
                RefusalCode.NO_RECEIPT,
                "there is no receipt of this hash that permits formatting",
                subject="confirmation",
                advice="confirm the receipt that came with the keys",
            )
        expected = hmac.digest(self._confirm_key(issued.hash), CONFIRM_PREFIX + issued.hash, "sha256")
        if not hmac.compare_digest(expected, request.mac):
            raise RefusalError(
                RefusalCode.CONFIRM_MAC,
                "the confirmation is not by the guest that got the keys",
                subject="confirmation",
                advice="use the confirm key that came with the keys",
            )
        return self.journal.confirm(issued, time=self.clock())

    def _decide(self, request: KeysRequest, progress: _Progress, *, now: int) -> None:
        nonce_used = self.journal.nonce_used(request.challenge.nonce)
        check_challenge(request, self.root, now=now, nonce_used=nonce_used)
        expectations = Expectations(
            report_data=progress.report_data,
            roots=self.anchors.roots,
            intermediates=self.anchors.intermediates,
            reference=request.evidence.reference,
            now=now,
            part=LogPart.RELEASE,
        )
        verification = verify_tpm_evidence(request.evidence, expectations)
        established = check_evidence(request, verification, self.root.identity)
        progress.established = established
        head = read_head(self.node, pins=self.pins, journal=self.journal, now=now)
        query = established.query(self.root.identity.kms_id)
        progress.view = read_view(self.node, head, pins=self.pins, query=query)
        check_policy(established, progress.view, self.root.identity, now=now)
        check_rule(established, progress.view, request, self.rules, report_data=progress.report_data)

    def _issue(self, request: KeysRequest, progress: _Progress, *, now: int) -> Issued:
        established, view = progress.established, progress.view
        assert established is not None
        assert view is not None
        epoch = view.app_state.epoch
        keys = [self._derive(request, established, number, epoch) for number in range(len(request.keys))]
        with self.journal.exclusive():
            confirmed = self.journal.confirmed(request.app_id, request.instance_id)
            permitted = decide_instance(request, epoch=epoch, confirmed=confirmed)
            outcome = Outcome(
                decision=Decision.ISSUE,
                keys=tuple(named for named, _ in keys),
                format_permitted=permitted,
                chain=view.position(self.root.pin),
            )
            recorded = self.journal.append(_subject(request, progress), outcome, time=now)
        return Issued(sealed=self._seal(request, progress, recorded, keys), recorded=recorded)

    def _refuse(
        self, request: KeysRequest, progress: _Progress, refusal: RefusalError, *, now: int
    ) -> Recorded:
        view = progress.view
        outcome = Outcome(
            decision=Decision.REFUSE,
            reason=Reason(code=refusal.code, text=refusal.reason[:_LONGEST_REASON]),
            chain=None if view is None else view.position(self.root.pin),
        )
        return self.journal.append(_subject(request, progress), outcome, time=now)

    def _derive(
        self, request: KeysRequest, established: Established, number: int, epoch: int
    ) -> tuple[ReceiptKey, DerivedKey]:
        wanted = request.keys[number]
        kind, scope = KeyKind(wanted.kind), KeyScope(wanted.scope)
        release = established.facts.release
        scope_ids = {
            KeyScope.APP: b"",
            KeyScope.CODE: release.app_hash,
            KeyScope.INSTANCE: release.instance_id,
        }
        key = self.root.app_key(
            app_id=release.app_id,
            scope=scope,
            scope_id=scope_ids[scope],
            path=wanted.path,
            kind=kind,
            epoch=epoch,
        )
        named = ReceiptKey(path=wanted.path, kind=kind, scope=scope, epoch=epoch, public=key.public)
        return named, key

    def _seal(
        self,
        request: KeysRequest,
        progress: _Progress,
        recorded: Recorded,
        keys: Sequence[tuple[ReceiptKey, DerivedKey]],
    ) -> bytes:
        plain = canonical_json(
            {
                "keys": [_sealed_key(named, key) for named, key in keys],
                "format_permitted": recorded.receipt.outcome.format_permitted,
                "confirm_key": self._confirm_key(recorded.hash).hex(),
            }
        )
        info = RESPONSE_INFO + progress.report_data + receipt_hash(recorded.envelope.payload)
        return _suite().encrypt(plain, _hpke_public(request.hpke_public), info=info)

    def _confirm_key(self, issued: bytes) -> bytes:
        return hmac.digest(self.confirm_master, issued, "sha256")

    def _report_data(self, request: KeysRequest) -> bytes:
        return key_release_report_data(
            KeyRelease(
                role="app",
                kms_nonce=request.challenge.nonce,
                client_nonce=request.client_nonce,
                kms_id=self.root.identity.kms_id,
                chain_id=self.root.pin.chain_id,
                contract=self.root.pin.contract,
                app_id=request.app_id,
                instance_id=request.instance_id,
                hpke_public=request.hpke_public,
                keys=request.keys,
                app_manifest=request.evidence.app_manifest,
            )
        )


def _subject(request: KeysRequest, progress: _Progress) -> Subject:
    established, view = progress.established, progress.view
    return Subject(
        nonce=request.challenge.nonce,
        role="app",
        app_id=request.app_id,
        instance_id=request.instance_id,
        platform=PLATFORM,
        evidence_hash=request.evidence_hash,
        app_hash=None if established is None else established.facts.release.app_hash,
        image_id=None if view is None else view.image_id,
        reference_digest=None if established is None else established.facts.reference_digest,
        platform_root=None if established is None else established.facts.ek.platform_root,
        platform_id=None if established is None else established.facts.ek.platform_id,
        report_data=progress.report_data,
    )


def _sealed_key(named: ReceiptKey, key: DerivedKey) -> dict[str, Any]:
    return {
        **key_json(named),
        "secret": encode_base64(key.secret),
        "public": None if key.public is None else encode_base64(key.public),
    }


def _hpke_public(data: bytes) -> MLKEM768X25519PublicKey:
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(data[:_MLKEM_SIZE]),
        X25519PublicKey.from_public_bytes(data[_MLKEM_SIZE:]),
    )


def _check_hpke_public(data: bytes) -> None:
    """Refuse a key that nothing can be sealed to, before a receipt says that something was."""
    try:
        _suite().encrypt(b"", _hpke_public(data))
    except ValueError as error:
        fail("key request", "'hpke_public' is not a usable public key", cause=error)


def _suite() -> Suite:
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
