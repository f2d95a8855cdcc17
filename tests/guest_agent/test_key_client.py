"""Key release from the guest's side, against a KMS in memory that can lie at every step."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.report_data import KeyRelease, KeyRequest, key_release_report_data
from guest_agent.backend import Identity, Platform
from guest_agent.key_client import (
    HpkeKey,
    RefusedByKmsError,
    Released,
    Request,
    new_hpke_key,
    printable,
)
from guest_agent.key_transport import confirm_format, release_keys
from guest_agent.keys import STORAGE_KEY, KeyFormatError
from guest_agent.kms_receipt import KmsFormatError, KmsIdentityError, Pin
from guest_agent.tpm_commands import TpmError
from kms.receipt import Decision, Receipt
from measurements.app_manifest import KeyKind, app_hash
from measurements.canonical import Json
from measurements.errors import KeyturnError
from tests.guest_agent.fake_kms import PIN, SECRET, FakeKms, b64

MANIFEST = b"an app manifest"
KEYS = (
    KeyRequest("web/tls", "p256", "app"),
    KeyRequest("web/sign", "ed25519", "code"),
    KeyRequest("web/box", "x25519", "app"),
    KeyRequest("web/eth", "secp256k1", "app"),
    KeyRequest("web/aes", "aes-256", "instance"),
    STORAGE_KEY,
)
HPKE = new_hpke_key()
EVIDENCE: Json = {"some": "evidence"}


class Machine:
    """Hardware that opens the fake KMS's credential."""

    def __init__(self) -> None:
        self.quoted: list[bytes] = []
        self.secret = SECRET

    def activate(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        if (id_object, encrypted_secret) != (b"id object", b"encrypted secret"):
            raise TpmError("another key's credential", subject="TPM", advice="")
        return self.secret

    def evidence(self, report_data: bytes) -> Json:
        self.quoted.append(report_data)
        return EVIDENCE


def request(kms: FakeKms, **changes: Any) -> Request:
    return Request(
        pin=Pin(kms.identity.kms_id, PIN.chain_id, PIN.contract),
        platform=Platform.SIM,
        identity=Identity(b"ak public", b"ek certificate"),
        app_id=b"\x11" * 20,
        instance_id=b"\x44" * 16,
        app_manifest=MANIFEST,
        keys=KEYS,
        hpke_public=HPKE.public,
    )._replace(**changes)


def expected_report_data(body: dict[str, Any]) -> bytes:
    """Report data as the KMS computes it, from the request alone."""
    return key_release_report_data(
        KeyRelease(
            role=body["role"],
            kms_nonce=bytes.fromhex(body["challenge"]["nonce"]),
            client_nonce=bytes.fromhex(body["client_nonce"]),
            kms_id=bytes.fromhex(body["challenge"]["kms_id"]),
            chain_id=body["challenge"]["chain_id"],
            contract=bytes.fromhex(body["challenge"]["contract"][2:]),
            app_id=bytes.fromhex(body["app_id"][2:]),
            instance_id=bytes.fromhex(body["instance_id"]),
            hpke_public=base64.b64decode(body["hpke_public"]),
            keys=[KeyRequest(**key) for key in body["keys"]],
            app_manifest=MANIFEST,
        )
    )


@pytest.fixture
def kms() -> FakeKms:
    return FakeKms(app_hash=app_hash(MANIFEST), report_data=expected_report_data)


def release(kms: FakeKms, asked: Request | None = None, *, hpke: HpkeKey = HPKE) -> Released:
    return release_keys(kms, asked or request(kms), hpke, Machine())


class TestRelease:
    def test_keys_arrive(self, kms: FakeKms) -> None:
        machine = Machine()
        released = release_keys(kms, request(kms), HPKE, machine)
        assert len(machine.quoted) == 1
        assert released.format_permitted
        assert released.keys.app_key("web/tls", KeyKind.P256).epoch == 3
        assert len(released.keys.storage_secret()) == 32
        assert released.receipt.hash == hashlib.sha256(released.receipt.payload).digest()
        assert kms.calls == ["/v1/public-key", "/v1/challenge", "/v1/keys"]

    def test_an_app_without_keys(self, kms: FakeKms) -> None:
        assert release(kms, request(kms, keys=())).receipt.keys == ()

    def test_every_attempt_has_its_own_nonce(self, kms: FakeKms) -> None:
        machine = Machine()
        for _ in range(2):
            release_keys(kms, request(kms), HPKE, machine)
        assert len(set(machine.quoted)) == 2

    def test_secrets_are_never_shown(self, kms: FakeKms) -> None:
        released = release(kms)
        shown = repr(released)
        assert released.keys.storage_secret().hex() not in shown
        assert released.confirm_key.hex() not in shown

    def test_the_confirmation_holds(self, kms: FakeKms) -> None:
        confirm_format(kms, release(kms))
        assert kms.calls[-1] == "/v1/instances/confirm"


def refused(kms: FakeKms, match: str, kind: type[KeyturnError] = KmsIdentityError) -> None:
    with pytest.raises(kind, match=match):
        release(kms)


class TestPin:
    def test_another_kms_in_its_place(self, kms: FakeKms) -> None:
        other = FakeKms(root=bytes(64), app_hash=app_hash(MANIFEST), report_data=expected_report_data)
        with pytest.raises(KmsIdentityError, match="not those that the app manifest pins"):
            release(other, request(kms))

    def test_another_kms_that_claims_the_pinned_id(self, kms: FakeKms) -> None:
        other = FakeKms(root=bytes(64), app_hash=app_hash(MANIFEST), report_data=expected_report_data)
        other.hooks["public-key"] = lambda document: document | {"kms_id": kms.identity.kms_id.hex()}
        with pytest.raises(KmsIdentityError, match="not those that the app manifest pins"):
            release(other, request(kms))

    def test_another_kms_that_shows_the_pinned_keys_cannot_sign(self, kms: FakeKms) -> None:
        other = FakeKms(root=bytes(64), app_hash=app_hash(MANIFEST), report_data=expected_report_data)
        other.identity = kms.identity
        with pytest.raises(KmsIdentityError, match="signature"):
            release(other, request(kms))

    def test_release_image_refuses_a_development_kms(self) -> None:
        kms = FakeKms(development=True)
        refused(kms, "it is a development KMS")
        assert kms.calls == ["/v1/public-key"]

    def test_a_development_kms_that_denies_it(self) -> None:
        kms = FakeKms(development=True, app_hash=app_hash(MANIFEST), report_data=expected_report_data)
        kms.hooks["public-key"] = lambda document: document | {"development": False}
        refused(kms, "receipt is of a development KMS")

    def test_a_development_receipt(self, kms: FakeKms) -> None:
        kms.hooks["receipt"] = lambda receipt: dataclasses.replace(receipt, development=True)
        refused(kms, "development KMS")

    @pytest.mark.parametrize("change", [{"chain_id": 1}, {"contract": "0x" + "23" * 20}])
    @pytest.mark.parametrize("document", ["public-key", "challenge"])
    def test_another_chain_or_contract(self, kms: FakeKms, document: str, change: dict[str, Any]) -> None:
        kms.hooks[document] = lambda known: known | change
        refused(kms, "chain or contract")

    def test_it_calls_itself_by_another_id(self, kms: FakeKms) -> None:
        kms.hooks["public-key"] = lambda document: document | {"kms_id": "01" * 32}
        refused(kms, "calls itself")


class TestDevelopmentImage:
    """What a development image accepts besides."""

    @pytest.fixture
    def dev(self) -> FakeKms:
        return FakeKms(development=True, app_hash=app_hash(MANIFEST), report_data=expected_report_data)

    def ask(self, kms: FakeKms, pinned: FakeKms | None = None) -> Released:
        pin = Pin((pinned or kms).identity.kms_id, PIN.chain_id, PIN.contract, development=True)
        return release(kms, request(kms, pin=pin))

    def test_the_pinned_development_kms(self, dev: FakeKms) -> None:
        released = self.ask(dev)
        assert released.signer.development
        confirm_format(dev, released)

    def test_another_development_kms(self, dev: FakeKms) -> None:
        with pytest.raises(KmsIdentityError, match="not those that the app manifest pins"):
            self.ask(dev, pinned=FakeKms(root=bytes(64), development=True))

    def test_a_release_kms_that_calls_itself_one_for_development(self, kms: FakeKms) -> None:
        kms.hooks["public-key"] = lambda document: document | {"development": True}
        with pytest.raises(KmsIdentityError, match="differ about whether"):
            self.ask(kms)

    def test_a_development_kms_that_denies_it(self, dev: FakeKms) -> None:
        dev.hooks["public-key"] = lambda document: document | {"development": False}
        with pytest.raises(KmsIdentityError, match="differ about whether"):
            self.ask(dev)


class TestChallenge:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"version": 2}, "another version"),
            ({"kms_id": "01" * 32}, "another KMS"),
            ({"platforms": ["tpm"]}, "does not take"),
            ({"suites": ["X25519/HKDF_SHA256/AES_128_GCM"]}, "does not take"),
            ({"binding": "01" * 32}, "another request"),
            ({"secret_hash": "01" * 32}, "another secret"),
            (
                {"credential": {"id_object": b64(b"x"), "encrypted_secret": b64(b"encrypted secret")}},
                "does not open",
            ),
        ],
    )
    def test_lies(self, kms: FakeKms, change: dict[str, Any], reason: str) -> None:
        kms.hooks["challenge"] = lambda document: document | change
        refused(kms, reason)
        assert "/v1/keys" not in kms.calls

    @pytest.mark.parametrize(
        "change",
        [
            {"nonce": "00" * 32}, {"nonce": "77" * 31}, {"nonce": "7" * 63 + "G"}, {"block": None},
            {"expires_at": 0}, {"mac": ""}, {"credential": {}}, {"extra": 1}, {"chain_id": "31337"},
        ],
    )  # fmt: skip
    def test_malformed(self, kms: FakeKms, change: dict[str, Any]) -> None:
        kms.hooks["challenge"] = lambda document: document | change
        refused(kms, "challenge|envelope|credential", KmsFormatError)

    def test_a_credential_s_secret_that_the_challenge_does_not_name(self, kms: FakeKms) -> None:
        machine = Machine()
        machine.secret = bytes(32)
        with pytest.raises(KmsIdentityError, match="another secret"):
            release_keys(kms, request(kms), HPKE, machine)


class TestReceipt:
    @pytest.mark.parametrize(
        "change",
        [
            {"nonce": b"\x01" * 32},
            {"app_id": b"\x01" * 20},
            {"instance_id": b"\x01" * 16},
            {"app_hash": b"\x01" * 32},
            {"app_hash": None},
            {"report_data": b"\x01" * 64},
            {"report_data": None},
            {"evidence_hash": b"\x01" * 32},
            {"platform": "tpm"},
            {"role": "kms"},
        ],
    )
    def test_of_another_release(self, kms: FakeKms, change: dict[str, Any]) -> None:
        def lie(receipt: Receipt) -> Receipt:
            return dataclasses.replace(receipt, subject=dataclasses.replace(receipt.subject, **change))

        kms.hooks["receipt"] = lie
        refused(kms, f"another {next(iter(change))}")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"keys": ()}, "other keys"),
            ({"format_permitted": False}, "says otherwise"),
            ({"decision": Decision.CONFIRM, "confirms": bytes(32), "format_permitted": False}, "to issue"),
        ],
    )
    def test_of_another_outcome(self, kms: FakeKms, change: dict[str, Any], reason: str) -> None:
        def lie(receipt: Receipt) -> Receipt:
            return dataclasses.replace(receipt, outcome=dataclasses.replace(receipt.outcome, **change))

        kms.hooks["receipt"] = lie
        refused(kms, reason)

    @pytest.mark.parametrize("change", [{"chain_id": 1}, {"contract": b"\x01" * 20}])
    def test_of_another_chain(self, kms: FakeKms, change: dict[str, Any]) -> None:
        def lie(receipt: Receipt) -> Receipt:
            chain = dataclasses.replace(receipt.outcome.chain, **change)  # type: ignore[type-var]
            return dataclasses.replace(receipt, outcome=dataclasses.replace(receipt.outcome, chain=chain))

        kms.hooks["receipt"] = lie
        refused(kms, "another chain")

    def test_of_another_kms(self, kms: FakeKms) -> None:
        kms.hooks["receipt"] = lambda receipt: dataclasses.replace(receipt, kms_id=b"\x01" * 32)
        refused(kms, "another kms_id")

    def test_signed_by_another_kms(self, kms: FakeKms) -> None:
        def lie(envelope: Any) -> Any:
            return envelope | {"signatures": [envelope["signatures"][0] | {"keyid": "01" * 32}]}

        kms.hooks["envelope"] = lie
        refused(kms, "signed by another KMS")

    @pytest.mark.parametrize("signatures", [[], [{}], [{"keyid": "01" * 32, "sig": ""}] * 2, None])
    def test_without_one_signature(self, kms: FakeKms, signatures: Any) -> None:
        kms.hooks["envelope"] = lambda envelope: envelope | {"signatures": signatures}
        refused(kms, "challenge|envelope|credential", KmsFormatError)

    def test_of_another_payload_type(self, kms: FakeKms) -> None:
        kms.hooks["envelope"] = lambda envelope: envelope | {"payloadType": "application/json"}
        refused(kms, "payloadType", KmsFormatError)

    @pytest.mark.parametrize("part", ["payload", "sig"])
    def test_a_flipped_byte(self, kms: FakeKms, part: str) -> None:
        def flip(text: str) -> str:
            data = bytearray(base64.b64decode(text))
            data[len(data) // 2] ^= 1
            return b64(bytes(data))

        def lie(envelope: Any) -> Any:
            if part == "payload":
                return envelope | {"payload": flip(envelope["payload"])}
            [signature] = envelope["signatures"]
            return envelope | {"signatures": [signature | {"sig": flip(signature["sig"])}]}

        kms.hooks["envelope"] = lie
        refused(kms, "signature of the receipt does not hold")


class TestSealed:
    def test_a_response_replayed_from_an_earlier_release(self, kms: FakeKms) -> None:
        answers: list[Any] = []

        def replay(answer: Any) -> Any:
            answers.append(answer)
            return answers[0]

        kms.hooks["answer"] = replay
        release(kms)
        refused(kms, "another report_data")

    def test_sealed_to_another_transcript(self, kms: FakeKms) -> None:
        kms.hooks["info"] = lambda info: info[:-1] + bytes([info[-1] ^ 1])
        refused(kms, "not sealed to this release")

    def test_sealed_to_another_key(self, kms: FakeKms) -> None:
        with pytest.raises(KmsIdentityError, match="not sealed to this release"):
            release(kms, hpke=new_hpke_key())

    def test_a_flipped_byte(self, kms: FakeKms) -> None:
        def flip(answer: Any) -> Any:
            data = base64.b64decode(answer["sealed"])
            return answer | {"sealed": b64(data[:-1] + bytes([data[-1] ^ 1]))}

        kms.hooks["answer"] = flip
        refused(kms, "not sealed to this release")

    @pytest.mark.parametrize("change", [{"epoch": 4}, {"path": "other"}, {"scope": "code"}, {"public": None}])
    def test_keys_that_the_receipt_does_not_name(self, kms: FakeKms, change: dict[str, Any]) -> None:
        kms.hooks["opened"] = lambda opened: (
            opened | {"keys": [opened["keys"][0] | change, *opened["keys"][1:]]}
        )
        refused(kms, "not those that the receipt names")

    def test_a_secret_that_its_public_half_does_not_belong_to(self, kms: FakeKms) -> None:
        kms.hooks["opened"] = lambda opened: (
            opened | {"keys": [opened["keys"][0] | {"secret": b64(b"\x01" * 32)}, *opened["keys"][1:]]}
        )
        refused(kms, "another secret", KeyFormatError)

    def test_permission_that_the_receipt_does_not_give(self, kms: FakeKms) -> None:
        kms.format_permitted = False
        kms.hooks["opened"] = lambda opened: opened | {"format_permitted": True}
        refused(kms, "says otherwise")

    def test_no_key_to_confirm_with(self, kms: FakeKms) -> None:
        kms.hooks["opened"] = lambda opened: opened | {"confirm_key": "00" * 32}
        refused(kms, "confirm_key is zero", KmsFormatError)


class TestRefusal:
    def test_a_signed_no_says_why(self, kms: FakeKms) -> None:
        kms.refusal = "app-hash"
        with pytest.raises(RefusedByKmsError, match="KMS refuses: app-hash: the policy says no") as caught:
            release(kms)
        assert caught.value.final

    @pytest.mark.parametrize("code", ["challenge-expired", "stale-head", "older-head"])
    def test_a_passing_no_is_not_final(self, kms: FakeKms, code: str) -> None:
        kms.refusal = code
        with pytest.raises(RefusedByKmsError) as caught:
            release(kms)
        assert not caught.value.final

    def test_a_no_that_nobody_signed(self, kms: FakeKms) -> None:
        kms.refusal = "app-hash"
        other = FakeKms(root=bytes(64))
        kms.root = other.root
        refused(kms, "signature")

    def test_a_no_to_another_request(self, kms: FakeKms) -> None:
        kms.refusal = "app-hash"

        def lie(receipt: Receipt) -> Receipt:
            return dataclasses.replace(
                receipt, subject=dataclasses.replace(receipt.subject, nonce=b"\x01" * 32)
            )

        kms.hooks["receipt"] = lie
        refused(kms, "another nonce")

    def test_an_issue_is_no_refusal(self, kms: FakeKms) -> None:
        kms.refusal = "app-hash"
        issued: list[Any] = []
        honest = FakeKms(app_hash=app_hash(MANIFEST), report_data=expected_report_data)

        def keep(envelope: Any) -> Any:
            issued.append(envelope)
            return envelope

        honest.hooks["envelope"] = keep
        release(honest)
        kms.hooks["answer"] = lambda answer: answer | {"receipt": issued[0]}
        refused(kms, "another decision")

    @given(st.text())
    def test_reasons_are_one_short_line_of_ascii(self, text: str) -> None:
        line = printable(text)
        assert line.isascii()
        assert line.isprintable()
        assert len(line) <= 240


class TestConfirmation:
    def test_of_another_receipt(self, kms: FakeKms) -> None:
        released = release(kms)
        kms.hooks["receipt"] = lambda receipt: dataclasses.replace(
            receipt, outcome=dataclasses.replace(receipt.outcome, confirms=b"\x01" * 32)
        )
        with pytest.raises(KmsIdentityError, match="another confirms"):
            confirm_format(kms, released)

    def test_the_release_s_own_receipt_is_none(self, kms: FakeKms) -> None:
        released = release(kms)
        kms.hooks["answer"] = lambda _: {"receipt": released.receipt.envelope}
        with pytest.raises(KmsIdentityError, match="another decision"):
            confirm_format(kms, released)

    def test_of_another_instance(self, kms: FakeKms) -> None:
        released = release(kms)
        kms.hooks["receipt"] = lambda receipt: dataclasses.replace(
            receipt, subject=dataclasses.replace(receipt.subject, instance_id=b"\x01" * 16)
        )
        with pytest.raises(KmsIdentityError, match="another instance_id"):
            confirm_format(kms, released)
