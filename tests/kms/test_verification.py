"""Bundles: a whole release verifies; every missing part, flipped byte and wrong anchor fails by its name."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.evidence import evidence_document, parse_evidence
from attestation.verdict_tree import NOT_CHECKED, Tree
from contracts import layout
from contracts.layout import Entry
from kms.bundle import PART_NAMES, Bundle, encode_bundle, parse_bundle
from kms.chain_reader import read_view
from kms.chain_view import ChainPins
from kms.release import JournalledRefusalError
from kms.root_key import ChainPin
from kms.verification import VerifierAnchors, verify_bundle
from measurements.errors import FormatError
from tests.kms.bundles import anchors_of, make_bundle
from tests.kms.fake_chain import ALLOWED, IMAGE_ID, NOW, PINS, app_state_word, entry_word
from tests.kms.guests import BOOTED, World
from tests.kms.receipts import DEVELOPMENT_ROOT, PIN
from tests.support.paper_tpm import Authority, firmware_log
from tests.support.reference_documents import reference_document


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.kms.journal.close()


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, VerifierAnchors]:
    made = World(tmp_path_factory.mktemp("kms"))
    try:
        return make_bundle(made, made.guest()), anchors_of(made)
    finally:
        made.kms.journal.close()


def failures(bundle: Bundle, anchors: VerifierAnchors, *, now: int = NOW) -> list[str]:
    """Names of the checks that were made and failed; the tree must not pass then."""
    tree = verify_bundle(bundle, anchors, now=now)
    found = [check.name for check in tree.failures]
    assert tree.passed is not bool(found)
    return found


def changed(bundle: Bundle, part: str, change: Callable[[Any], None]) -> Bundle:
    document = copy.deepcopy(getattr(bundle, part))
    change(document)
    return dataclasses.replace(bundle, **{part: document})


def test_a_whole_release_verifies(released: tuple[Bundle, VerifierAnchors]) -> None:
    tree = verify_bundle(*released, now=NOW)
    assert tree.failures == ()
    assert tree.passed
    assert [group.name for group in tree.groups] == [
        "parts",
        "hardware-root",
        "firmware",
        "kernel",
        "root",
        "app",
        "receipt",
        "anchor",
        "policy",
    ]
    assert tree.groups[-1].title == "policy at block 100"
    names = [check.name for group in tree.groups for check in group.checks]
    assert len(names) == len(set(names))
    assert all(check.expected and check.found for group in tree.groups for check in group.checks)


def test_the_tree_cannot_be_a_truth_value(released: tuple[Bundle, VerifierAnchors]) -> None:
    with pytest.raises(TypeError):
        bool(verify_bundle(*released, now=NOW))


def test_a_tree_without_groups_has_not_passed() -> None:
    assert not Tree(groups=()).passed


def test_a_bundle_survives_its_file(released: tuple[Bundle, VerifierAnchors]) -> None:
    bundle, anchors = released
    again = parse_bundle(encode_bundle(bundle))
    assert again == bundle
    assert failures(again, anchors) == []


@pytest.mark.parametrize("part", PART_NAMES)
def test_a_missing_part_fails(part: str, released: tuple[Bundle, VerifierAnchors]) -> None:
    bundle, anchors = released
    tree = verify_bundle(dataclasses.replace(bundle, **{part: None}), anchors, now=NOW)
    assert not tree.passed
    assert [check.name for check in tree.failures] == [f"part-{part}"]
    left = [check for group in tree.groups for check in group.checks if check.found == NOT_CHECKED]
    assert left
    assert all(not check.passed and check.reason and check.advice for check in left)


@pytest.mark.parametrize("part", PART_NAMES)
def test_a_part_of_another_form_fails(part: str, released: tuple[Bundle, VerifierAnchors]) -> None:
    bundle, anchors = released
    others: list[Any] = [{}, [], "text", 7, {**getattr(bundle, part), "more": 1}]
    for document in others:
        assert failures(dataclasses.replace(bundle, **{part: document}), anchors) == [f"part-{part}"]


OTHER = b"\x77" * 32
WRONG_ANCHORS: list[tuple[dict[str, Any], str]] = [
    ({"roots": ()}, "ek-chain"),
    ({"roots": (Authority("other root").certificate,)}, "ek-chain"),
    ({"kms_id": OTHER}, "kms-id"),
    ({"app_id": b"\x77" * 20}, "receipt-app"),
    ({"pins": dataclasses.replace(PINS, pin=ChainPin(chain_id=1, contract=PIN.contract))}, "chain-pin"),
    ({"pins": dataclasses.replace(PINS, pin=ChainPin(chain_id=31337, contract=b"\x77" * 20))}, "chain-pin"),
    ({"pins": dataclasses.replace(PINS, registry_code_hash=OTHER)}, "registry-code"),
    ({"pins": dataclasses.replace(PINS, app_code_hash=OTHER)}, "app-code"),
]


@pytest.mark.parametrize(("anchor", "check"), WRONG_ANCHORS)
def test_a_wrong_anchor_fails(
    anchor: dict[str, Any], check: str, released: tuple[Bundle, VerifierAnchors]
) -> None:
    bundle, anchors = released
    assert failures(bundle, dataclasses.replace(anchors, **anchor)) == [check]


FLIPS: list[tuple[str, tuple[str | int, ...], str]] = [
    ("receipt", ("payload",), "receipt-signature"),
    ("receipt", ("signatures", 0, "sig"), "receipt-signature"),
    ("receipt", ("signatures", 0, "keyid"), "receipt-signature"),
    ("receipt", ("payloadType",), "receipt-signature"),
    ("inclusion", ("root",), "receipt-inclusion"),
    ("inclusion", ("path", 0), "receipt-inclusion"),
    ("batch", ("root",), "receipt-batch"),
    ("batch", ("kms_id",), "receipt-batch"),
    ("batch", ("signature",), "batch-signature"),
    ("kms", ("ed25519",), "kms-id"),
    ("evidence", ("quote",), "quote-signature"),
    ("evidence", ("ak_public",), "quote-signature"),
    ("evidence", ("ek_certificate",), "ek-chain"),
    ("evidence", ("pcrs", "sha384", "4"), "pcr-digest"),
    ("evidence", ("reference", "banks", "sha256", "4"), "reference"),
    ("evidence", ("runtime_events", 3, "payload"), "runtime-replay"),
    ("evidence", ("app_manifest",), "app-manifest"),
    ("reference", ("banks", "sha256", "4"), "part-reference"),
    ("reference", ("events", 0, "digest", "sha256"), "part-reference"),
    ("reference", ("shape", "memory"), "reference"),
    ("chain", ("header", "hash"), "part-chain"),
    ("chain", ("header", "stateRoot"), "part-chain"),
    ("chain", ("header", "mixHash"), "part-chain"),
    ("chain", ("registry", "accountProof", 0), "state-proof"),
    ("chain", ("registry", "storageProof", 0, "proof", 0), "policy-words"),
    ("chain", ("image", "accountProof", 0), "policy-words"),
    ("chain", ("image", "storageProof", 0, "key"), "policy-words"),
    ("chain", ("app", "accountProof", 0), "state-proof"),
    ("chain", ("app", "storageProof", 0, "proof", 0), "policy-words"),
    ("anchoring", ("header", "receiptsRoot"), "part-anchoring"),
    ("anchoring", ("proof", 0), "anchored-on-chain"),
    ("anchoring", ("proof", -1), "anchored-on-chain"),
]


def flipped(text: str, place: int) -> str:
    """``text`` with one character replaced by another that the same encoding has."""
    return text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :]


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


@pytest.mark.parametrize(("part", "path", "check"), FLIPS)
def test_a_flipped_byte_fails(
    part: str, path: tuple[str | int, ...], check: str, released: tuple[Bundle, VerifierAnchors]
) -> None:
    bundle, anchors = released

    def flip(document: Any) -> None:
        text = at(document, path)
        at(document, path[:-1])[path[-1]] = flipped(text, len(text) // 2)

    assert check in failures(changed(bundle, part, flip), anchors)


_VERDICT_TEXTS = re.compile(r'"(?:description|origin|type|source)":"[^"]*"')


@settings(max_examples=50)
@given(data=st.data())
def test_any_flipped_byte_of_a_bundle_fails(
    data: st.DataObject, released: tuple[Bundle, VerifierAnchors]
) -> None:
    bundle, anchors = released
    raw = encode_bundle(bundle)
    ignored = [match.span() for match in _VERDICT_TEXTS.finditer(raw.decode("ascii"))]
    place = data.draw(st.integers(0, len(raw) - 1))
    if any(start <= place < end for start, end in ignored):
        return  # what events are called is for people; no verdict depends on it
    changed_byte = data.draw(
        st.sampled_from(b'0123456789abcdefABC"{}[],:+/=').filter(lambda b: b != raw[place])
    )
    try:
        again = parse_bundle(raw[:place] + bytes([changed_byte]) + raw[place + 1 :])
    except FormatError:
        return
    assert failures(again, anchors) != []


@pytest.mark.parametrize("change", [{"index": 1}, {"to_seq": 9}, {"from_seq": 2}])
def test_an_inclusion_at_another_place_fails(
    change: dict[str, int], released: tuple[Bundle, VerifierAnchors]
) -> None:
    bundle, anchors = released
    moved = changed(bundle, "inclusion", lambda document: document.update(change))
    assert failures(moved, anchors) == ["receipt-inclusion"]


def test_parts_of_two_releases_do_not_mix(world: World, released: tuple[Bundle, VerifierAnchors]) -> None:
    bundle, anchors = released
    other = make_bundle(world, world.guest())
    assert failures(dataclasses.replace(bundle, evidence=other.evidence), anchors) == ["report-data"]
    assert failures(dataclasses.replace(bundle, receipt=other.receipt), anchors) == [
        "report-data",
        "receipt-inclusion",
    ]


def test_evidence_of_another_signature_is_not_that_of_the_receipt(
    world: World, released: tuple[Bundle, VerifierAnchors]
) -> None:
    """The same quote, signed once more by the same TPM: valid evidence, which the KMS did not see."""
    bundle, anchors = released
    guest = world.guest()
    evidence = parse_evidence(bundle.evidence)
    again = evidence._replace(signature=guest.tpm.sign(evidence.quote))
    assert failures(dataclasses.replace(bundle, evidence=evidence_document(again)), anchors) == [
        "receipt-evidence"
    ]


def test_a_boot_of_another_image_fails_in_its_layer(released: tuple[Bundle, VerifierAnchors]) -> None:
    bundle, anchors = released
    other = reference_document(firmware_log(seed=b"other")[0])
    assert failures(dataclasses.replace(bundle, reference=other), anchors) == ["reference"]


def test_a_refusal_shows_no_release(world: World) -> None:
    world.chain.app[layout.app_hash_slots(world.chain.query.app_hash)[0]] = entry_word(
        dataclasses.replace(ALLOWED, revoked=True)
    )
    guest = world.guest()
    asked = guest.key_request()
    with pytest.raises(JournalledRefusalError) as refused:
        guest.ask(asked)
    bundle = Bundle(
        receipt=refused.value.recorded.envelope.as_json(),
        inclusion=None,
        batch=None,
        kms={
            "ed25519": world.root.identity.ed25519.hex(),
            "secp256k1": world.root.identity.secp256k1.hex(),
        },
        evidence=asked["evidence"],
        reference=reference_document(BOOTED[0]),
        chain=None,
        anchoring=None,
    )
    tree = verify_bundle(bundle, anchors_of(world), now=NOW)
    found = {check.name: check for check in tree.failures}
    assert "refuse: app-hash" in found["receipt-decision"].found


def test_a_receipt_from_the_future_fails(released: tuple[Bundle, VerifierAnchors]) -> None:
    assert failures(*released, now=NOW - 1) == ["receipt-time"]


def test_development_must_be_accepted(tmp_path: Path) -> None:
    made = World(tmp_path, root=DEVELOPMENT_ROOT, dev=True)
    try:
        bundle, anchors = make_bundle(made, made.guest(dev=True)), anchors_of(made)
    finally:
        made.kms.journal.close()
    assert failures(bundle, anchors) == ["receipt-development"]
    assert failures(bundle, dataclasses.replace(anchors, development=True)) == []


Change = Callable[[World], None]


def set_registry(slot: Callable[[World], bytes], word: bytes) -> Change:
    def change(world: World) -> None:
        world.chain.registry[slot(world)] = word

    return change


def set_app(slot: Callable[[World], bytes], word: bytes) -> Change:
    def change(world: World) -> None:
        world.chain.app[slot(world)] = word

    return change


REVOKED = entry_word(Entry(not_before=0, not_after=layout.NEVER, revoked=True, exists=True))
PAUSED = (3 | 1 << 64).to_bytes(32, "big")
OTHER_SIGNER = b"\1".rjust(32, b"\0")
LIES: list[tuple[str, Change]] = [
    ("registry-open", set_registry(lambda w: layout.registry_state_slots()[0], PAUSED)),
    ("policy-kms-node", set_registry(lambda w: layout.kms_node_slots(w.chain.query.kms_id)[0], REVOKED)),
    (
        "kms-signer",
        set_registry(lambda w: layout.kms_node_slots(w.chain.query.kms_id)[1], b"\0" * 31 + b"\1"),
    ),
    (
        "policy-platform-root",
        set_registry(lambda w: layout.platform_root_slots(w.chain.query.platform_root)[0], REVOKED),
    ),
    (
        "policy-reference",
        set_registry(lambda w: layout.reference_slots(w.chain.query.reference_digest)[0], REVOKED),
    ),
    ("policy-image", set_registry(lambda w: layout.image_slots(IMAGE_ID)[0], REVOKED)),
    ("policy-app", set_registry(lambda w: layout.app_slots(w.chain.query.app_id)[0], REVOKED)),
    ("app-open", set_app(lambda w: layout.app_state_slots()[0], app_state_word(paused=True))),
    ("app-expiry", set_app(lambda w: layout.app_state_slots()[0], app_state_word(expiry=NOW))),
    ("policy-app-image", set_app(lambda w: layout.app_image_slots(IMAGE_ID)[0], REVOKED)),
    ("policy-app-hash", set_app(lambda w: layout.app_hash_slots(w.chain.query.app_hash)[0], REVOKED)),
    ("policy-device", set_app(lambda w: layout.device_slots(w.chain.query.platform_id)[0], REVOKED)),
    ("policy-tcb-rule", set_app(lambda w: layout.tcb_rule_slots()[0], OTHER)),
    ("policy-epoch", set_app(lambda w: layout.app_state_slots()[0], app_state_word(epoch=2))),
    (
        "policy-words",
        set_app(lambda w: layout.app_registry_slots()[0], (b"\x77" * 20).rjust(32, b"\0")),
    ),
]


@pytest.mark.parametrize(("check", "change"), LIES)
def test_a_kms_that_ignores_the_policy_is_found_out(
    check: str, change: Change, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The KMS signs a release that the contracts do not allow; its receipt names the block all the same."""
    chain = world.chain
    allowing = dict(chain.registry), dict(chain.app)

    def lie(node: Any, head: Any, **wanted: Any) -> Any:
        real = chain.registry, chain.app
        chain.registry, chain.app = dict(allowing[0]), dict(allowing[1])
        seen = read_view(node, chain.finalized(), **wanted)
        chain.registry, chain.app = real
        return dataclasses.replace(seen, head=head)

    change(world)
    monkeypatch.setattr("kms.release.read_view", lie)
    assert failures(make_bundle(world, world.guest()), anchors_of(world)) == [check]


def test_a_stale_head_is_found_out(world: World) -> None:
    bundle = make_bundle(world, world.guest())
    pins: ChainPins = dataclasses.replace(PINS, head_age_seconds=29)
    assert failures(bundle, anchors_of(world, pins=pins)) == ["block-age"]


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"type":"keyturn-bundle/1"}', b"\xff"])
def test_what_is_no_bundle_is_bad_input(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_bundle(data)


def test_an_unknown_part_is_bad_input(released: tuple[Bundle, VerifierAnchors]) -> None:
    document = encode_bundle(released[0])
    with pytest.raises(FormatError):
        parse_bundle(b'{"a":null,' + document[1:])
