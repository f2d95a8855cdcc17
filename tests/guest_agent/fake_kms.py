"""A KMS in memory that releases keys to anybody, with a hook at every document that it sends.

Signing, receipts and derivation are the real ones; evidence and policy are not looked at.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite

from guest_agent.key_transport import Answer
from kms.receipt import (
    NO_PREVIOUS,
    RECEIPT_PAYLOAD_TYPE,
    ChainPosition,
    Decision,
    Outcome,
    Reason,
    Receipt,
    ReceiptKey,
    Subject,
    receipt_payload,
    sign_envelope,
)
from kms.root_key import ChainPin, RootKey
from measurements.app_manifest import KeyKind, KeyScope
from measurements.canonical import encode_canonical, parse_json

PIN = ChainPin(chain_id=31337, contract=b"\x22" * 20)
SECRET = b"\x51" * 32
CONFIRM_KEY = b"\x52" * 32
Hook = Callable[[Any], Any]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def seal(hpke_public: bytes, plaintext: bytes, info: bytes) -> bytes:
    mlkem = MLKEM768PublicKey.from_public_bytes(hpke_public[:1184])
    x25519 = X25519PublicKey.from_public_bytes(hpke_public[1184:])
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    return suite.encrypt(plaintext, MLKEM768X25519PublicKey(mlkem, x25519), info=info)


class FakeKms:
    """``hooks`` change ``public-key``, ``challenge``, ``receipt`` (a ``Receipt``), ``envelope``, ``opened``,
    ``info`` (bytes) and ``answer`` before they go on; ``refusal`` makes it refuse with that code.
    """

    def __init__(
        self,
        *,
        root: bytes = bytes(range(64)),
        development: bool = False,
        app_hash: bytes = b"",
        report_data: Callable[[dict[str, Any]], bytes] = lambda _: bytes(64),
    ) -> None:
        self.root = RootKey(root=root, pin=PIN, development=development)
        self.identity = self.root.identity
        self.app_hash = app_hash
        self.report_data = report_data
        self.hooks: dict[str, Hook] = {}
        self.refusal: str | None = None
        self.calls: list[str] = []
        self.format_permitted = True

    def call(self, method: str, path: str, body: bytes | None) -> Answer:
        self.calls.append(path)
        request: Any = None if body is None else parse_json(body)
        handlers: dict[tuple[str, str], Callable[[Any], tuple[int, Any]]] = {
            ("GET", "/v1/public-key"): self._public_key,
            ("POST", "/v1/challenge"): self._challenge,
            ("POST", "/v1/keys"): self._keys,
            ("POST", "/v1/instances/confirm"): self._confirm,
        }
        status, document = handlers[method, path](request)
        return Answer(status, encode_canonical(document))

    def hook(self, name: str, document: Any) -> Any:
        return self.hooks[name](document) if name in self.hooks else document

    def _public_key(self, _: Any) -> tuple[int, Any]:
        identity = self.identity
        document = {
            "kms_id": identity.kms_id.hex(),
            "ed25519": identity.ed25519.hex(),
            "secp256k1": identity.secp256k1.hex(),
            "address": "0x" + identity.address.hex(),
            "chain_id": PIN.chain_id,
            "contract": "0x" + PIN.contract.hex(),
            "development": identity.development,
        }
        return 200, self.hook("public-key", document)

    def _challenge(self, request: Any) -> tuple[int, Any]:
        document = {
            "version": 1,
            "nonce": "77" * 32,
            "kms_id": self.identity.kms_id.hex(),
            "chain_id": PIN.chain_id,
            "contract": "0x" + PIN.contract.hex(),
            "block": {"number": 7, "hash": "aa" * 32, "time": 1},
            "platforms": ["tpm", "sim"],
            "suites": ["MLKEM768_X25519/HKDF_SHA256/AES_256_GCM"],
            "expires_at": 121,
            "binding": hashlib.sha256(encode_canonical(request)).hexdigest(),
            "secret_hash": hashlib.sha256(SECRET).hexdigest(),
            "credential": {"id_object": b64(b"id object"), "encrypted_secret": b64(b"encrypted secret")},
            "mac": "bb" * 32,
        }
        return 200, self.hook("challenge", document)

    def _keys(self, request: Any) -> tuple[int, Any]:
        assert request["activation"] == SECRET.hex()
        keys, secrets = self._derive(request)
        refused = self.refusal is not None
        report_data = self.report_data(request)
        outcome = Outcome(
            decision=Decision.REFUSE if refused else Decision.ISSUE,
            reason=Reason(code=self.refusal or "", text="the policy says no") if refused else None,
            keys=keys,
            format_permitted=self.format_permitted and not refused,
            chain=ChainPosition(
                chain_id=PIN.chain_id,
                contract=PIN.contract,
                block_number=7,
                block_hash=b"\xaa" * 32,
                state_root=b"\xcc" * 32,
                policy_version=1,
                app_policy_version=1,
            ),
        )
        payload, envelope = self._sign(self._subject(request, report_data), outcome)
        if refused:
            error = {"code": self.refusal, "reason": "unsigned", "advice": "ask the owner"}
            return 403, self.hook("answer", {"error": error, "receipt": envelope})
        opened = {
            "keys": secrets,
            "format_permitted": self.format_permitted,
            "confirm_key": CONFIRM_KEY.hex(),
        }
        plaintext = encode_canonical(self.hook("opened", opened))
        info = b"keyturn-key-response/1\0" + report_data + hashlib.sha256(payload).digest()
        sealed = seal(base64.b64decode(request["hpke_public"]), plaintext, self.hook("info", info))
        return 200, self.hook("answer", {"sealed": b64(sealed), "receipt": envelope})

    def _confirm(self, request: Any) -> tuple[int, Any]:
        receipt_hash = bytes.fromhex(request["receipt_hash"])
        assert (
            request["mac"] == hmac.digest(CONFIRM_KEY, b"keyturn-confirm/1\0" + receipt_hash, "sha256").hex()
        )
        outcome = Outcome(decision=Decision.CONFIRM, confirms=receipt_hash)
        _, envelope = self._sign(self._last, outcome)
        return 200, self.hook("answer", {"receipt": envelope})

    def _subject(self, request: Any, report_data: bytes) -> Subject:
        self._last = Subject(
            nonce=bytes.fromhex(request["challenge"]["nonce"]),
            role="app",
            app_id=bytes.fromhex(request["app_id"][2:]),
            instance_id=bytes.fromhex(request["instance_id"]),
            platform="sim",
            evidence_hash=hashlib.sha256(encode_canonical(request["evidence"])).digest(),
            app_hash=self.app_hash,
            report_data=report_data,
        )
        return self._last

    def _sign(self, subject: Subject, outcome: Outcome) -> tuple[bytes, Any]:
        receipt = Receipt(
            kms_id=self.identity.kms_id,
            seq=1,
            prev_hash=NO_PREVIOUS,
            time=1,
            development=self.identity.development,
            subject=subject,
            outcome=outcome,
        )
        payload = receipt_payload(self.hook("receipt", receipt))
        envelope = sign_envelope(
            payload,
            payload_type=RECEIPT_PAYLOAD_TYPE,
            key_id=self.identity.kms_id,
            key=self.root.receipt_key,
        )
        return payload, self.hook("envelope", envelope.as_json())

    def _derive(self, request: Any) -> tuple[tuple[ReceiptKey, ...], list[dict[str, Any]]]:
        keys, secrets = [], []
        for wanted in request["keys"]:
            kind, scope = KeyKind(wanted["kind"]), KeyScope(wanted["scope"])
            scope_ids = {
                KeyScope.APP: b"",
                KeyScope.CODE: self.app_hash,
                KeyScope.INSTANCE: bytes.fromhex(request["instance_id"]),
            }
            derived = self.root.app_key(
                app_id=bytes.fromhex(request["app_id"][2:]),
                scope=scope,
                scope_id=scope_ids[scope],
                path=wanted["path"],
                kind=kind,
                epoch=3,
            )
            public = derived.public
            keys.append(ReceiptKey(path=wanted["path"], kind=kind, scope=scope, epoch=3, public=public))
            secrets.append(
                wanted
                | {
                    "epoch": 3,
                    "secret": b64(derived.secret),
                    "public": None if public is None else b64(public),
                }
            )
        return tuple(keys), secrets
