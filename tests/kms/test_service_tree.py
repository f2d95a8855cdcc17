"""Services: a fresh proof joins the tree of its release; an old, foreign or altered one fails by its name."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.report_data import quote_report_data
from contracts import layout
from kms.bundle import Bundle, encode_bundle, parse_bundle
from kms.service_proof import (
    DOMAIN,
    LARGEST_PROOF,
    SIGN_PREFIX,
    FreshPart,
    ServiceKey,
    parse_fresh,
    parse_service_proof,
    service_report_data,
    signature_holds,
)
from kms.strict_json import canonical_json
from kms.verification import verify_bundle
from measurements.app_manifest import KeyKind
from measurements.canonical import parse_json
from measurements.errors import FormatError
from tests.kms import nodes
from tests.kms.bundles import anchors_of, make_bundle
from tests.kms.fake_chain import NOW
from tests.kms.guests import AUTHORITY, BOOTED, Guest, World
from tests.kms.services import NONCE, make_fresh, running, service_proof
from tests.support.paper_tpm import PaperTpm
from tests.support.reference_documents import reference_document

OTHER_NONCE = b"\x72" * 32


class Service:
    """A release, and the service that runs with its keys."""

    def __init__(self, world: World) -> None:
        self.world, self.guest = world, world.guest()
        self.bundle = make_bundle(world, self.guest)

    def with_proof(self, **changes: Any) -> Bundle:
        fresh = make_fresh(self.world, self.guest, **changes)
        return dataclasses.replace(self.bundle, service=fresh)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    world = World(tmp_path_factory.mktemp("kms"))
    yield Service(world)
    world.kms.journal.close()


def failures(service: Service, bundle: Bundle, *, nonce: bytes | None = NONCE) -> list[str]:
    tree = verify_bundle(bundle, anchors_of(service.world, nonce=nonce), now=NOW)
    found = [check.name for check in tree.failures]
    assert tree.passed is not bool(found)
    return found


def test_a_service_that_answers_now_verifies(service: Service) -> None:
    bundle = service.with_proof()
    tree = verify_bundle(bundle, anchors_of(service.world, nonce=NONCE), now=NOW)
    assert tree.failures == ()
    assert tree.passed
    assert [group.name for group in tree.groups][:8] == [
        "parts",
        "service",
        "fresh-hardware-root",
        "fresh-firmware",
        "fresh-kernel",
        "fresh-root",
        "fresh-app",
        "same",
    ]
    names = [check.name for group in tree.groups for check in group.checks]
    assert len(names) == len(set(names))


def test_a_kept_proof_verifies_and_says_whose_word_its_freshness_is(service: Service) -> None:
    bundle = parse_bundle(encode_bundle(service.with_proof()))
    assert failures(service, bundle, nonce=None) == []
    tree = verify_bundle(bundle, anchors_of(service.world), now=NOW)
    (check,) = [one for group in tree.groups for one in group.checks if one.name == "service-nonce"]
    assert "the word of whoever kept it" in check.expected


def test_attack_no_proof_at_all(service: Service) -> None:
    assert failures(service, service.bundle) == ["service-form"]


def test_attack_old_proof(service: Service) -> None:
    assert failures(service, service.with_proof(nonce=OTHER_NONCE)) == ["service-nonce"]


def test_attack_old_signature(service: Service) -> None:
    assert failures(service, service.with_proof(signed=OTHER_NONCE)) == ["service-signature"]


def test_attack_old_quote(service: Service) -> None:
    assert failures(service, service.with_proof(quoted=OTHER_NONCE)) == ["fresh-report-data"]


def test_attack_another_key(service: Service) -> None:
    assert failures(service, service.with_proof(key=Ed25519PrivateKey.generate())) == ["service-key"]


def test_attack_key_of_another_path(service: Service) -> None:
    assert failures(service, service.with_proof(path="web/other")) == ["service-key"]


def test_attack_quote_for_another_key(service: Service) -> None:
    """A quote of the right machine that another key's holder had made: it binds that key, not this one."""
    bundle = service.with_proof()
    other = make_fresh(service.world, service.guest, key=Ed25519PrivateKey.generate())
    mixed = {**bundle.service, "quote": other["quote"]}
    assert failures(service, dataclasses.replace(bundle, service=mixed)) == ["fresh-report-data"]


def test_attack_another_machine(service: Service) -> None:
    assert failures(service, service.with_proof(tpm=PaperTpm(AUTHORITY))) == ["same-machine"]


def test_attack_machine_that_was_started_again(service: Service) -> None:
    class Restarted(PaperTpm):
        def quote(self, *arguments: Any, **named: Any) -> bytes:
            made = super().quote(*arguments, **named)
            return made.replace(b"\0" * 3 + b"\1" + b"\0" * 4 + b"\1", b"\0" * 3 + b"\2" + b"\0" * 4 + b"\1")

    tpm = copy.copy(service.guest.tpm)
    tpm.__class__ = Restarted
    assert failures(service, service.with_proof(tpm=tpm)) == ["same-boot"]


def test_attack_another_instance(service: Service) -> None:
    other = Guest(service.world, instance_id=b"\x99" * 16)
    assert failures(service, service.with_proof(events=running(other))) == ["same-instance"]


def test_attack_another_app(service: Service) -> None:
    manifest = service.guest.manifest.replace(b'"version":"1"', b'"version":"9"')
    assert manifest != service.guest.manifest
    other = Guest(service.world, manifest=manifest)
    fresh = make_fresh(service.world, other)
    assert failures(service, dataclasses.replace(service.bundle, service=fresh)) == ["same-app"]


def test_attack_another_configuration(service: Service) -> None:
    events = [
        event._replace(payload=b"\x99" * 32) if event.name == "config-hash" else event
        for event in running(service.guest)
    ]
    assert failures(service, service.with_proof(events=events)) == ["same-configuration"]


def test_attack_firmware_log_with_other_descriptions(service: Service) -> None:
    """What no signature covers: the type of an event in the log."""
    bundle = service.with_proof()
    log = bytearray(base64.b64decode(bundle.service["quote"]["event_log"]))
    places = [place for place in range(len(log)) if log[place : place + 4] == (13).to_bytes(4, "little")]
    log[places[-1]] = 14
    quote = {**bundle.service["quote"], "event_log": base64.b64encode(log).decode()}
    changed = dataclasses.replace(bundle, service={**bundle.service, "quote": quote})
    assert failures(service, changed) == ["same-documents"]


def test_attack_quote_from_before_the_app_ran(service: Service) -> None:
    assert failures(service, service.with_proof(events=service.guest.events())) == ["fresh-runtime-log"]


def test_attack_receipt_of_another_release(service: Service, tmp_path: Path) -> None:
    """Another instance's receipt and evidence, both valid, shown by this service."""
    other = make_bundle(service.world, service.world.guest(instance_id=b"\x99" * 16))
    bundle = dataclasses.replace(other, service=service.with_proof().service)
    assert failures(service, bundle) == ["same-instance"]


def test_attack_receipt_of_another_app(service: Service) -> None:
    bundle = service.with_proof()
    anchors = dataclasses.replace(anchors_of(service.world, nonce=NONCE), app_id=b"\x77" * 20)
    tree = verify_bundle(bundle, anchors, now=NOW)
    assert "receipt-app" in [check.name for check in tree.failures]
    assert not tree.passed


FLIPS = [
    (("nonce",), "service-nonce"),
    (("key", "public"), "service-signature"),
    (("key", "signature"), "service-signature"),
    (("quote", "quote"), "fresh-quote-signature"),
    (("quote", "signature"), "fresh-quote-signature"),
    (("quote", "ek_certificate"), "fresh-ek-chain"),
    (("quote", "app_manifest"), "fresh-app-manifest"),
    (("quote", "pcrs", "sha256", "14"), "fresh-pcr-digest"),
]


@pytest.mark.parametrize(("path", "check"), FLIPS)
def test_a_flipped_byte_fails(path: tuple[str, ...], check: str, service: Service) -> None:
    bundle = service.with_proof()
    document = copy.deepcopy(bundle.service)
    place = document
    for step in path[:-1]:
        place = place[step]
    text = place[path[-1]]
    middle = len(text) // 2
    place[path[-1]] = text[:middle] + ("1" if text[middle] != "1" else "2") + text[middle + 1 :]
    assert check in failures(service, dataclasses.replace(bundle, service=document))


@settings(max_examples=40)
@given(data=st.data())
def test_any_flipped_byte_of_a_proof_fails(data: st.DataObject, service: Service) -> None:
    bundle = service.with_proof()
    raw = canonical_json(bundle.service)
    place = data.draw(st.integers(0, len(raw) - 1))
    other = data.draw(st.sampled_from(b'0123456789abcdefABC"{}[],:+/=').filter(lambda b: b != raw[place]))
    try:
        document = parse_json(raw[:place] + bytes([other]) + raw[place + 1 :])
    except FormatError:
        return
    assert failures(service, dataclasses.replace(bundle, service=document)) != []


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "00"},
        {"key": None},
        {"key": {"path": "Web", "kind": "ed25519", "public": "", "signature": ""}},
        {"key": {"path": "web", "kind": "other", "public": "", "signature": ""}},
        {"quote": {}},
        {"more": 1},
    ],
)
def test_parts_of_another_form_fail(change: dict[str, Any], service: Service) -> None:
    bundle = service.with_proof()
    changed = dataclasses.replace(bundle, service={**bundle.service, **change})
    assert failures(service, changed) == ["service-form"]


def test_a_proof_is_read_whole(service: Service) -> None:
    bundle = service.with_proof()
    proof = parse_service_proof(canonical_json(service_proof(bundle.service, bundle)))
    assert proof.fresh == bundle.service
    assert (proof.receipt, proof.evidence) == (bundle.receipt, bundle.evidence)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"type":"keyturn-service/2"}', bytes(LARGEST_PROOF + 1)])
def test_what_is_no_proof(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_service_proof(data)


def test_what_the_quote_binds(service: Service) -> None:
    """After docs/formats.md, by hand."""
    fresh = parse_fresh(service.with_proof().service)
    document = fresh.key.document
    shown = "".join(f',"{name}":"{document[name]}"' for name in ("kind", "path", "public", "signature"))
    key = hashlib.sha256(b"{" + shown[1:].encode() + b"}").digest()
    data = hashlib.sha512(b"keyturn-service/1\0" + NONCE + key).digest()
    assert service_report_data(fresh) == quote_report_data("app", data)


@pytest.mark.parametrize(
    ("kind", "curve"), [(KeyKind.P256, ec.SECP256R1()), (KeyKind.SECP256K1, ec.SECP256K1())]
)
def test_signatures_of_other_kinds(kind: KeyKind, curve: ec.EllipticCurve, service: Service) -> None:
    private = ec.generate_private_key(curve)
    public = private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    signature = private.sign(SIGN_PREFIX + DOMAIN + NONCE, ec.ECDSA(hashes.SHA256()))
    quote = parse_fresh(service.with_proof().service).quote
    key = ServiceKey(path="web", kind=kind, public=public, signature=signature, document={})
    assert signature_holds(FreshPart(nonce=NONCE, key=key, quote=quote))
    assert not signature_holds(FreshPart(nonce=OTHER_NONCE, key=key, quote=quote))
    other = dataclasses.replace(key, kind=KeyKind.RAW_256)
    assert not signature_holds(FreshPart(nonce=NONCE, key=other, quote=quote))
    assert not signature_holds(
        FreshPart(nonce=NONCE, key=dataclasses.replace(key, public=base64.b64decode("AAAA")), quote=quote)
    )


def admitted(service: Service, node: dict[str, Any]) -> Bundle:
    """A bundle of a release by a KMS that was admitted with ``node``."""
    slots = layout.kms_node_slots(service.world.root.identity.kms_id)
    for slot, name in ((slots[2], "app_hash"), (slots[3], "evidence_hash")):
        service.world.chain.registry[slot] = bytes.fromhex(node[name])
    service.world.chain.number += 2  # another state is another block
    bundle = make_bundle(service.world, service.world.guest())
    return dataclasses.replace(bundle, kms_node=node, kms_reference=reference_document(BOOTED[0]))


class TestKms:
    """The identity of the KMS, in the same tree."""

    def test_the_admitted_kms_verifies(self, service: Service) -> None:
        bundle = parse_bundle(encode_bundle(admitted(service, nodes.make_node())))
        assert failures(service, bundle, nonce=None) == []
        tree = verify_bundle(bundle, anchors_of(service.world), now=NOW)
        names = [check.name for group in tree.groups for check in group.checks]
        assert tree.groups[-1].name == "kms"
        assert len(names) == len(set(names))

    def test_attack_evidence_that_was_not_admitted(self, service: Service) -> None:
        bundle = admitted(service, nodes.make_node())
        again = dataclasses.replace(bundle, kms_node=nodes.make_node())
        assert failures(service, again, nonce=None) == ["kms-evidence-hash"]

    def test_attack_another_kms_app_than_admitted(self, service: Service) -> None:
        bundle = admitted(service, nodes.make_node())
        other = nodes.make_node(manifest=nodes.kms_manifest(version="9"))
        again = dataclasses.replace(bundle, kms_node=other)
        assert failures(service, again, nonce=None) == ["kms-app-hash"]

    def test_attack_kms_on_another_machine_than_predicted(self, service: Service) -> None:
        bundle = admitted(service, nodes.make_node())
        wrong = dataclasses.replace(bundle, kms_reference=reference_document(BOOTED[0], other_pcr=4))
        assert failures(service, wrong, nonce=None) == ["kms-reference"]

    @pytest.mark.parametrize("reference", [None, {}])
    def test_without_reference_values_nothing_holds(self, reference: Any, service: Service) -> None:
        bundle = dataclasses.replace(admitted(service, nodes.make_node()), kms_reference=reference)
        assert failures(service, bundle, nonce=None) == ["kms-reference-values"]

    def test_a_node_of_another_form_fails(self, service: Service) -> None:
        bundle = dataclasses.replace(admitted(service, nodes.make_node()), kms_node={})
        assert failures(service, bundle, nonce=None) == ["kms-node-form"]
