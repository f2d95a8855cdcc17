"""The service: every call through HTTP, its limits, its errors, and logs that hold no secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from guest_agent import key_client
from guest_agent.kms_receipt import Pin, Signer, check_public_keys
from kms import service
from kms.anchors import Anchor, SignedAnchor, anchor_signer
from kms.merkle import proof_holds
from kms.messages import LARGEST_CHALLENGE_REQUEST, LARGEST_KEY_REQUEST
from kms.public_half import PUBLIC_KEY_PAYLOAD_TYPE
from kms.receipt import parse_envelope, receipt_hash, verify_envelope
from kms.rpc import NodeError
from measurements.app_manifest import KeyKind, KeyScope
from tests.kms.guests import CLIENT_NONCE, SIGNING, Guest, World
from tests.kms.receipts import APP_ID, DEVELOPMENT_ROOT, PIN, ROOT

IDENTITY = ROOT.identity


class Proof:
    """The agent of the KMS's own guest."""

    def identity_evidence(self, *, nonce: bytes, kms_id: bytes) -> Any:
        return {"nonce": nonce.hex(), "kms_id": kms_id.hex()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.kms.journal.close()


@pytest.fixture
def client(world: World) -> Iterator[TestClient]:
    with TestClient(service.create_app(world.kms), raise_server_exceptions=False) as opened:
        yield opened


def challenge(client: TestClient, guest: Guest) -> dict[str, Any]:
    answer = client.post("/v1/challenge", json=key_client.challenge_request(guest.request, CLIENT_NONCE))
    assert answer.status_code == 200
    return dict(answer.json())


def release(client: TestClient, guest: Guest) -> key_client.Released:
    document = guest.key_request(challenge(client, guest))
    answer = client.post("/v1/keys", json=document)
    assert answer.status_code == 200
    return guest.open(answer.content, document)


def test_a_guest_boots_formats_and_confirms(client: TestClient, world: World) -> None:
    public = client.get("/v1/public-key")
    check_public_keys(public.content, Pin(IDENTITY.kms_id, PIN.chain_id, PIN.contract))
    released = release(client, world.guest())
    assert released.format_permitted
    answer = client.post("/v1/instances/confirm", json=key_client.confirm_request(released))
    assert answer.status_code == 200
    key_client.check_confirmation(answer.content, released, Signer(IDENTITY.ed25519, development=False))
    assert not release(client, world.guest()).format_permitted


def test_a_refusal_reaches_the_guest_signed(client: TestClient, world: World) -> None:
    guest = world.guest(keys=[SIGNING._replace(path="web/other")])
    document = guest.key_request(challenge(client, guest))
    answer = client.post("/v1/keys", json=document)
    assert answer.status_code == 403
    expected = key_client.expected_release(guest.request, guest.challenge, CLIENT_NONCE, document["evidence"])
    refused = key_client.read_refusal(answer.content, expected, Signer(IDENTITY.ed25519, development=False))
    assert refused.kms_code == answer.json()["error"]["code"] == "unlisted-key"


def test_a_wrong_confirmation(client: TestClient, world: World) -> None:
    released = release(client, world.guest())
    wrong = {**key_client.confirm_request(released), "mac": "00" * 32}
    answer = client.post("/v1/instances/confirm", json=wrong)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "confirm-mac")


def test_receipts_and_their_inclusion(client: TestClient, world: World) -> None:
    hashes = [release(client, world.guest()).receipt.hash for _ in range(3)]
    assert client.get(f"/v1/receipts/{hashes[1].hex()}").json()["inclusion"] is None
    batches = client.get("/v1/anchors").json()["batches"]
    assert [(batch["from_seq"], batch["to_seq"]) for batch in batches] == [(1, 3)]
    shown = client.get(f"/v1/receipts/{hashes[1].hex()}").json()
    payload = parse_envelope(shown["receipt"]).payload
    assert receipt_hash(payload) == hashes[1]
    inclusion = shown["inclusion"]
    assert inclusion["root"] == batches[0]["root"]
    assert proof_holds(
        leaf=payload,
        index=inclusion["index"],
        size=inclusion["to_seq"] - inclusion["from_seq"] + 1,
        path=[bytes.fromhex(part) for part in inclusion["path"]],
        root=bytes.fromhex(inclusion["root"]),
    )
    anchor = Anchor(kms_id=IDENTITY.kms_id, from_seq=1, to_seq=3, root=bytes.fromhex(batches[0]["root"]))
    signed = SignedAnchor(anchor=anchor, signature=bytes.fromhex(batches[0]["signature"]))
    assert anchor_signer(signed, PIN) == IDENTITY.address
    assert client.get("/v1/anchors?after=3").json() == {"batches": []}


def test_the_public_half_of_an_app_key(client: TestClient, world: World) -> None:
    released = release(client, world.guest(keys=[SIGNING]))
    query = {"app_id": f"0x{APP_ID.hex()}", "path": SIGNING.path, "kind": SIGNING.kind, "epoch": "1"}
    answer = client.get("/v1/public-key", params=query)
    payload = verify_envelope(
        parse_envelope(answer.json()),
        payload_type=PUBLIC_KEY_PAYLOAD_TYPE,
        kms_id=IDENTITY.kms_id,
        ed25519=IDENTITY.ed25519,
    )
    public = released.receipt.keys[0].public
    assert public is not None
    assert json.loads(payload)["public"] == public.hex()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "raw-256"},
        {"kind": "rsa"},
        {"epoch": "-1"},
        {"epoch": "x"},
        {"app_id": "0x00"},
        {"app_id": "0x" + "00" * 20},
        {"path": "/"},
        {"more": "1"},
    ],
    ids=str,
)
def test_a_query_that_is_none(client: TestClient, change: dict[str, str]) -> None:
    query = {"app_id": f"0x{APP_ID.hex()}", "path": "a", "kind": "ed25519", "epoch": "1", **change}
    assert client.get("/v1/public-key", params=query).status_code == 400


def test_identity_on_a_host_and_in_a_guest(client: TestClient, world: World) -> None:
    nonce = "0a" * 32
    answer = client.get(f"/v1/identity?nonce={nonce}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no-evidence")
    with TestClient(service.create_app(world.kms, Proof())) as guest:
        kms_id = IDENTITY.kms_id.hex()
        assert guest.get(f"/v1/identity?nonce={nonce}").json() == {
            "evidence": {"nonce": nonce, "kms_id": kms_id},
            "nonce": nonce,
            "kms_id": kms_id,
        }
        for wrong in ("", "?nonce=00", f"?nonce={'00' * 32}", f"?nonce={nonce}&nonce={nonce}"):
            assert guest.get(f"/v1/identity{wrong}").status_code == 400


@pytest.mark.parametrize(
    ("path", "largest"), [("/v1/challenge", LARGEST_CHALLENGE_REQUEST), ("/v1/keys", LARGEST_KEY_REQUEST)]
)
def test_bodies_are_capped(client: TestClient, world: World, path: str, largest: int) -> None:
    answer = client.post(path, content=b"x" * (largest + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too-large")
    assert client.post(path, content=b"x" * largest).status_code == 400
    assert world.kms.journal.length == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 30_000, b'{"version": 1, "version": 1}'], ids=len)
@pytest.mark.parametrize("path", ["/v1/challenge", "/v1/keys", "/v1/instances/confirm"])
def test_bodies_that_are_no_request(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code in (400, 413)
    assert set(answer.json()["error"]) == {"code", "reason", "advice"}


def test_a_challenge_for_keys_that_are_none(client: TestClient, world: World) -> None:
    wanted = key_client.challenge_request(world.guest().request, CLIENT_NONCE)
    assert client.post("/v1/challenge", json={**wanted, "ek_certificate": "AAAA"}).status_code == 400
    assert client.post("/v1/challenge", json={**wanted, "platform": "sim"}).status_code == 400


def test_too_many_requests(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_AT_ONCE", 0)
    answer = client.get("/v1/public-key")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")


def test_a_request_that_takes_too_long(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr(service, "CALL_SECONDS", 0.05)
    monkeypatch.setattr(world.chain, "chain_id", lambda: time.sleep(0.3))
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")


def test_readiness_follows_the_chain(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "development": False}
    assert client.get("/readyz").json() == {"status": "ready", "block": 100}
    world.chain.time -= 3600
    world.chain.number += 1
    assert client.get("/readyz").json()["error"]["code"] == "stale-head"

    def unreachable() -> int:
        raise NodeError("no answer", subject="node", advice="start it")

    monkeypatch.setattr(world.chain, "chain_id", unreachable)
    for answer in (
        client.get("/readyz"),
        client.post("/v1/challenge", json=key_client.challenge_request(world.guest().request, CLIENT_NONCE)),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "chain-unavailable")


def test_a_failure_inside_tells_nothing(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> int:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(world.chain, "chain_id", broken)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text


def test_calls_that_do_not_exist(client: TestClient) -> None:
    for answer in (client.get("/v1/root"), client.get("/v1/keys"), client.delete("/v1/anchors")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no-call")


@pytest.mark.parametrize("path", ["/v1/receipts/zz", "/v1/anchors?after=-1", "/v1/anchors?after=x"])
def test_parameters_that_are_none(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 400


def test_a_receipt_that_does_not_exist(client: TestClient) -> None:
    assert client.get(f"/v1/receipts/{'00' * 32}").status_code == 404


def test_every_call_is_described(client: TestClient, world: World) -> None:
    described = {
        (method.upper(), path)
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
    }
    served = {
        (method, route.path)  # type: ignore[attr-defined]
        for route in service.create_app(world.kms).routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert described == served


def test_logs_are_json_and_hold_no_secret(
    client: TestClient, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="keyturn.kms"):
        guest = world.guest()
        document = guest.key_request(challenge(client, guest))
        released = guest.open(client.post("/v1/keys", json=document).content, document)
    entries = [json.loads(record.getMessage()) for record in caplog.records if record.name == "keyturn.kms"]
    assert [entry["call"] for entry in entries] == ["/v1/challenge", "/v1/keys"]
    assert entries[1]["receipt"] == released.receipt.hash.hex()
    text = json.dumps(entries)
    for secret in (
        document["activation"],
        released.confirm_key.hex(),
        ROOT.root.hex(),
        ROOT.app_key(
            app_id=APP_ID, scope=KeyScope.APP, scope_id=b"", path=SIGNING.path, kind=KeyKind.ED25519, epoch=1
        ).secret.hex(),
    ):
        assert secret not in text


def test_a_development_kms_says_so_everywhere(tmp_path: Path) -> None:
    world = World(tmp_path, root=DEVELOPMENT_ROOT)
    with TestClient(service.create_app(world.kms)) as client:
        assert client.get("/healthz").json()["development"] is True
        public = client.get("/v1/public-key")
        assert public.json()["development"] is True
        query = {"app_id": f"0x{APP_ID.hex()}", "path": "a", "kind": "ed25519", "epoch": "1"}
        signed = parse_envelope(client.get("/v1/public-key", params=query).json())
        assert json.loads(signed.payload)["development"] is True
    world.kms.journal.close()
