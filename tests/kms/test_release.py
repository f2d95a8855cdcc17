"""Key release through the agent's own client code, and every refusal by its name."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts import layout
from contracts.layout import NEVER, Entry
from guest_agent import key_client
from kms.messages import parse_confirm_request, parse_keys_request
from kms.receipt import Decision, verify_receipt
from kms.refusal import RefusalError
from kms.release import Issued, JournalledRefusalError
from kms.rpc import NodeError
from kms.strict_json import FieldError
from measurements.errors import FormatError
from tests.kms.fake_chain import ALLOWED, IMAGE_ID, NOW, app_state_word, entry_word, pack
from tests.kms.guests import AUTHORITY, SIGNING, STORAGE, Guest, World, app_manifest, signer_of
from tests.kms.receipts import APP_ID, DEVELOPMENT_ROOT, INSTANCE_ID, ROOT
from tests.support.paper_tpm import Authority, PaperTpm, firmware_log


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.kms.journal.close()


def body_of(issued: Issued) -> bytes:
    sealed = base64.b64encode(issued.sealed).decode()
    return json.dumps({"sealed": sealed, "receipt": issued.recorded.envelope.as_json()}).encode()


def boot(guest: Guest) -> key_client.Released:
    document = guest.key_request()
    return guest.open(body_of(guest.ask(document)), document)


def refusal(ask: Callable[[], object]) -> str:
    """The code of the refusal that ``ask`` meets, whose receipt must say the same."""
    with pytest.raises(JournalledRefusalError) as caught:
        ask()
    receipt = verify_receipt(
        caught.value.recorded.envelope,
        kms_id=caught.value.recorded.receipt.kms_id,
        ed25519=(DEVELOPMENT_ROOT if caught.value.recorded.receipt.development else ROOT).identity.ed25519,
    )
    assert receipt.outcome.decision is Decision.REFUSE
    assert receipt.outcome.reason is not None
    assert receipt.outcome.reason.code == caught.value.code
    assert not receipt.outcome.keys
    return caught.value.code


def confirm(world: World, released: key_client.Released) -> bytes:
    request = parse_confirm_request(json.dumps(key_client.confirm_request(released)).encode())
    return json.dumps({"receipt": world.kms.confirm(request).envelope.as_json()}).encode()


def test_a_guest_gets_its_keys(world: World) -> None:
    released = boot(world.guest())
    assert released.format_permitted
    receipt = verify_receipt(
        world.kms.journal.by_seq(1).envelope,  # type: ignore[union-attr]
        kms_id=ROOT.identity.kms_id,
        ed25519=ROOT.identity.ed25519,
    )
    assert receipt.outcome.decision is Decision.ISSUE
    assert receipt.outcome.chain is not None
    assert receipt.outcome.chain.block_number == 100
    assert (receipt.subject.app_id, receipt.subject.instance_id) == (APP_ID, INSTANCE_ID)
    assert receipt.subject.image_id == IMAGE_ID
    assert [key.path for key in receipt.outcome.keys] == ["web/signing", "keyturn/storage"]


def test_the_same_guest_gets_the_same_keys_again(world: World) -> None:
    first, second = boot(world.guest()), boot(world.guest())
    assert first.receipt.keys == second.receipt.keys
    assert first.receipt.hash != second.receipt.hash


def test_formatting_is_permitted_until_it_is_confirmed(world: World) -> None:
    released = boot(world.guest())
    again = boot(world.guest())
    assert again.format_permitted
    key_client.check_confirmation(confirm(world, released), released, signer_of(ROOT))
    assert not boot(world.guest()).format_permitted
    world.restart()
    assert not boot(world.guest()).format_permitted
    assert boot(world.guest(instance_id=b"\x1e" * 16)).format_permitted


def test_a_confirmation_with_another_key_is_refused(world: World) -> None:
    first, second = boot(world.guest()), boot(world.guest())
    with pytest.raises(RefusalError) as caught:
        confirm(world, second._replace(confirm_key=first.confirm_key))
    assert caught.value.code == "confirm-mac"
    assert world.kms.journal.confirmed(APP_ID, INSTANCE_ID) is None


def test_a_confirmation_of_no_receipt_is_refused(world: World) -> None:
    without_storage = boot(world.guest(keys=[SIGNING]))
    assert not without_storage.format_permitted
    with pytest.raises(RefusalError) as caught:
        confirm(world, without_storage)
    assert caught.value.code == "no-receipt"


def set_entry(world: World, name: str, entry: Entry) -> None:
    query = world.chain.query
    word = entry_word(entry)
    registry = {
        "kms-node": layout.kms_node_slots(query.kms_id),
        "platform-root": layout.platform_root_slots(query.platform_root),
        "reference": layout.reference_slots(query.reference_digest),
        "image": layout.image_slots(IMAGE_ID),
        "app": layout.app_slots(query.app_id),
    }
    app = {
        "app-image": layout.app_image_slots(IMAGE_ID),
        "app-hash": layout.app_hash_slots(query.app_hash),
        "device": layout.device_slots(query.platform_id),
    }
    if name in registry:
        world.chain.registry[registry[name][0]] = word
    else:
        world.chain.app[app[name][0]] = word


ENTRIES = ["kms-node", "platform-root", "reference", "image", "app", "app-image", "app-hash", "device"]


@pytest.mark.parametrize("name", ENTRIES)
def test_not_allowed(world: World, name: str) -> None:
    set_entry(world, name, Entry.ABSENT)
    assert refusal(world.guest().ask) == f"{name}-not-allowed"


@pytest.mark.parametrize("name", ENTRIES)
def test_revoked(world: World, name: str) -> None:
    boot(world.guest())
    set_entry(world, name, dataclasses.replace(ALLOWED, revoked=True))
    world.chain.number += 1
    assert refusal(world.guest().ask) == f"{name}-revoked"


@pytest.mark.parametrize("name", ENTRIES)
def test_not_yet_valid(world: World, name: str) -> None:
    set_entry(world, name, dataclasses.replace(ALLOWED, not_before=world.chain.time))
    boot(world.guest())
    set_entry(world, name, dataclasses.replace(ALLOWED, not_before=world.chain.time + 1))
    world.chain.number += 1
    assert refusal(world.guest().ask) == f"{name}-not-yet-valid"


@pytest.mark.parametrize("name", ENTRIES)
def test_expired(world: World, name: str) -> None:
    set_entry(world, name, dataclasses.replace(ALLOWED, not_after=NOW + 1))
    boot(world.guest())
    set_entry(world, name, dataclasses.replace(ALLOWED, not_after=NOW))
    world.chain.number += 1
    assert refusal(world.guest().ask) == f"{name}-expired"


def test_a_clock_set_back_does_not_revive_an_expired_entry(world: World) -> None:
    set_entry(world, "app-hash", dataclasses.replace(ALLOWED, not_after=world.chain.time))
    world.now = world.chain.time - 100
    assert refusal(world.guest().ask) == "app-hash-expired"


def test_registry_paused(world: World) -> None:
    world.chain.registry[layout.registry_state_slots()[0]] = pack((3, 8), (1, 1))
    assert refusal(world.guest().ask) == "registry-paused"


def test_app_paused(world: World) -> None:
    world.chain.app[layout.app_state_slots()[0]] = app_state_word(paused=True)
    assert refusal(world.guest().ask) == "app-paused"


def test_app_expired(world: World) -> None:
    world.chain.app[layout.app_state_slots()[0]] = app_state_word(expiry=NOW)
    assert refusal(world.guest().ask) == "app-expired"


def test_any_device(world: World) -> None:
    set_entry(world, "device", Entry.ABSENT)
    world.chain.app[layout.app_state_slots()[0]] = app_state_word(any_device=True, expiry=NEVER)
    boot(world.guest())


def test_unknown_tcb_rule(world: World) -> None:
    world.chain.app[layout.tcb_rule_slots()[0]] = b"\x01" * 32
    assert refusal(world.guest().ask) == "tcb-rule"


def test_kms_registered_with_another_signer(world: World) -> None:
    world.chain.registry[layout.kms_node_slots(world.chain.query.kms_id)[1]] = pack((1, 20), (0, 8))
    assert refusal(world.guest().ask) == "kms-signer"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"registry_code": bytes(32), "number": 101}, "registry-code"),
        ({"app_code": bytes(32), "number": 101}, "app-code"),
        ({"id": 1}, "wrong-chain"),
        ({"time": NOW - 3600}, "stale-head"),
        ({"number": 99}, "older-head"),
        ({"app_code": bytes(32)}, "older-head"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_node_that_lies(world: World, change: dict[str, Any], code: str) -> None:
    guest = world.guest()
    document = guest.key_request()
    world.chain.__dict__.update(change)
    assert refusal(lambda: guest.ask(document)) == code


@pytest.mark.parametrize(
    ("change", "code"),
    [({"id": 1}, "wrong-chain"), ({"time": NOW - 3600}, "stale-head")],
    ids=["wrong-chain", "stale-head"],
)
def test_no_challenge_either_while_the_head_is_wrong(world: World, change: dict[str, Any], code: str) -> None:
    world.chain.__dict__.update(change)
    with pytest.raises(RefusalError) as caught:
        world.guest().challenge_document()
    assert caught.value.code == code
    assert world.kms.journal.highest_block() is None


def test_older_head_than_seen_also_after_restart(world: World) -> None:
    boot(world.guest())
    world.restart()
    world.chain.number = 99
    with pytest.raises(RefusalError) as caught:
        world.guest().challenge_document()
    assert caught.value.code == "older-head"


def test_an_unreachable_node_issues_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    document = world.guest().key_request()

    def unreachable() -> int:
        raise NodeError("no answer", subject="node", advice="start it")

    monkeypatch.setattr(world.chain, "chain_id", unreachable)
    with pytest.raises(NodeError):
        world.guest().ask(document)
    assert world.kms.journal.length == 0


def test_replayed_challenge(world: World) -> None:
    guest = world.guest()
    document = guest.key_request()
    guest.ask(document)
    assert refusal(lambda: guest.ask(document)) == "challenge-replayed"


def test_replay_after_restart(world: World) -> None:
    guest = world.guest()
    document = guest.key_request()
    guest.ask(document)
    world.restart()
    assert refusal(lambda: guest.ask(document)) == "challenge-replayed"


def test_expired_challenge(world: World) -> None:
    guest = world.guest()
    document = guest.key_request()
    world.now += 120
    assert refusal(lambda: guest.ask(document)) == "challenge-expired"
    world.now -= 1
    guest.ask(document)


def test_a_challenge_from_the_future(world: World) -> None:
    guest = world.guest()
    document = guest.key_request()
    world.now -= 1
    assert refusal(lambda: guest.ask(document)) == "challenge-expired"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mac", "00" * 32),
        ("nonce", "01" * 32),
        ("kms_id", "01" * 32),
        ("chain_id", 1),
        ("contract", "0x" + "01" * 20),
        ("expires_at", NOW + 121),
        ("binding", "01" * 32),
        ("secret_hash", "01" * 32),
        ("block", {"number": 1, "hash": "01" * 32, "time": 1}),
    ],
)
def test_tampered_challenge(world: World, key: str, value: Any) -> None:
    document = world.guest().key_request()
    document["challenge"] = {**document["challenge"], key: value}
    assert refusal(lambda: world.guest().ask(document)) == "challenge-mac"


def test_the_challenge_of_a_development_kms_is_not_ours(world: World, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    other = World(tmp_path / "dev", root=DEVELOPMENT_ROOT)
    document = world.guest().key_request()
    document["challenge"] = other.guest().challenge_document()
    other.kms.journal.close()
    assert refusal(lambda: world.guest().ask(document)) == "challenge-mac"


def test_a_challenge_for_another_instance(world: World) -> None:
    document = world.guest().key_request()
    document["instance_id"] = "1e" * 16
    assert refusal(lambda: world.guest().ask(document)) == "challenge-binding"


def test_a_challenge_for_another_tpm(world: World) -> None:
    document = world.guest().key_request()
    document["evidence"]["ak_public"] = world.guest(tpm=PaperTpm(AUTHORITY)).key_request()["evidence"][
        "ak_public"
    ]
    assert refusal(lambda: world.guest().ask(document)) == "challenge-binding"


def test_wrong_activation_secret(world: World) -> None:
    document = world.guest().key_request()
    document["activation"] = "00" * 32
    assert refusal(lambda: world.guest().ask(document)) == "activation"


def test_other_keys_than_quoted(world: World) -> None:
    document = world.guest(keys=[SIGNING]).key_request()
    document["keys"].append({"path": "keyturn/storage", "kind": "raw-256", "scope": "instance"})
    assert refusal(lambda: world.guest().ask(document)) == "report-data"


def test_another_hpke_key_than_quoted(world: World) -> None:
    document = world.guest().key_request()
    other = world.guest().key_request()
    document["hpke_public"] = other["hpke_public"]
    assert refusal(lambda: world.guest().ask(document)) == "report-data"


def test_evidence_of_an_earlier_boot(world: World) -> None:
    old, new = world.guest().key_request(), world.guest().key_request()
    new["evidence"] = old["evidence"]
    assert refusal(lambda: world.guest().ask(new)) == "report-data"


def test_unlisted_key(world: World) -> None:
    assert refusal(world.guest(keys=[SIGNING._replace(path="web/other")]).ask) == "unlisted-key"


def test_listed_key_of_another_kind(world: World) -> None:
    assert refusal(world.guest(keys=[SIGNING._replace(kind="x25519")]).ask) == "unlisted-key"


def test_the_storage_key_without_storage(tmp_path: Path) -> None:
    container = json.loads(app_manifest())["containers"][0]
    manifest = app_manifest(storage=None, volumes=[], containers=[{**container, "mounts": []}])
    world = World(tmp_path, manifest=manifest)
    boot(world.guest(keys=[SIGNING]))
    assert refusal(world.guest(keys=[STORAGE]).ask) == "unlisted-key"
    world.kms.journal.close()


def test_dev_image(tmp_path: Path) -> None:
    world = World(tmp_path, dev=True)
    assert refusal(world.guest(dev=True).ask) == "dev-image"
    world.kms.journal.close()


def test_a_development_kms_serves_dev_images_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, root=DEVELOPMENT_ROOT, dev=True)
    issued = world.guest(dev=True).ask()
    assert issued.recorded.receipt.development
    assert issued.recorded.receipt.kms_id != ROOT.identity.kms_id
    world.kms.journal.close()


def test_other_reference(world: World) -> None:
    assert refusal(world.guest(booted=firmware_log(seed=b"other")).ask) == "reference-not-allowed"


def test_other_registers_than_the_reference(world: World) -> None:
    document = world.guest(booted=firmware_log(seed=b"other")).key_request()
    document["evidence"]["reference"] = world.guest().key_request()["evidence"]["reference"]
    assert refusal(lambda: world.guest().ask(document)) == "registers"


def test_other_app_manifest(world: World) -> None:
    assert refusal(world.guest(manifest=app_manifest(version="2")).ask) == "app-hash-not-allowed"


@pytest.mark.parametrize("manifest", [b"[" * 100_000, b"{}"], ids=["deep", "empty"])
def test_a_measured_app_manifest_that_is_none(world: World, manifest: bytes) -> None:
    assert refusal(world.guest(manifest=manifest).ask) == "app-manifest"


def test_an_app_that_pins_another_kms(world: World) -> None:
    guest = world.guest(manifest=app_manifest(DEVELOPMENT_ROOT))
    assert refusal(guest.ask) == "kms-pin"


def test_another_platform_root(world: World) -> None:
    tpm = PaperTpm(Authority("another root"))
    assert refusal(world.guest(tpm=tpm).ask) == "ek-chain"


def test_another_device(world: World) -> None:
    assert refusal(world.guest(tpm=PaperTpm(AUTHORITY)).ask) == "device-not-allowed"


def test_a_disk_of_another_epoch(world: World) -> None:
    released = boot(world.guest())
    confirm(world, released)
    world.chain.app[layout.app_state_slots()[0]] = app_state_word(epoch=2)
    world.chain.number += 1
    assert refusal(world.guest().ask) == "instance-epoch"
    keys = boot(world.guest(keys=[SIGNING])).receipt.keys
    assert keys[0].epoch == 2
    assert keys[0].public != released.receipt.keys[0].public


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "rsa"},
        {"scope": "world"},
        {"path": "Web"},
        {"path": "keyturn/other"},
        {"path": "keyturn/storage"},
        {"more": 1},
    ],
    ids=str,
)
def test_unknown_kind_scope_or_path(world: World, change: dict[str, Any]) -> None:
    document = world.guest().key_request()
    document["keys"] = [{"path": "web/signing", "kind": "ed25519", "scope": "app", **change}]
    with pytest.raises(FieldError):
        parse_keys_request(json.dumps(document).encode())


@pytest.mark.parametrize(
    "key", ["challenge", "client_nonce", "role", "app_id", "keys", "activation", "evidence"]
)
def test_a_request_without_a_part(world: World, key: str) -> None:
    document = world.guest().key_request()
    del document[key]
    with pytest.raises(FormatError):
        parse_keys_request(json.dumps(document).encode())


def test_a_request_that_nests_too_deep() -> None:
    with pytest.raises(FieldError, match="nests deeper"):
        parse_keys_request(b"[" * 100_000)


def test_an_unusable_hpke_key_leaves_no_receipt(world: World) -> None:
    document = world.guest().key_request()
    document["hpke_public"] = base64.b64encode(bytes(1216)).decode()
    with pytest.raises(FieldError):
        world.guest().ask(document)
    assert world.kms.journal.length == 0


def test_all_decisions_form_one_chain_that_survives(world: World) -> None:
    boot(world.guest())
    refusal(world.guest(keys=[SIGNING._replace(path="a")]).ask)
    world.restart()
    assert world.kms.journal.length == 2
    world.kms.journal.close_batches()
    assert world.kms.journal.batches()[0].anchor.to_seq == 2
