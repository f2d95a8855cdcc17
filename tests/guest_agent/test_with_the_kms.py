"""The agent's boot with a real software TPM against the KMS's own release code, over a chain on paper."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from guest_agent import app_boot, key_transport
from guest_agent.app_boot import AppBoot
from guest_agent.key_client import RefusedByKmsError
from guest_agent.key_transport import Answer, NoKmsError
from guest_agent.owner_envelope import EnvelopeError, target_of
from guest_agent.register_log import RegisterLog
from guest_agent.tpm_backend import TpmBackend, open_tpm
from keyturn.envelope_seal import seal_envelope
from kms.answers import public_half
from kms.chain_view import PolicyQuery
from kms.journal import Journal
from kms.messages import parse_challenge_request, parse_confirm_request, parse_keys_request
from kms.public_half import PublicKeyOf, read_public_half
from kms.receipt import parse_envelope
from kms.release import JournalledRefusalError, Kms, TrustAnchors
from kms.root_key import RootKey
from measurements.app_manifest import KeyKind, app_hash, parse_manifest
from measurements.canonical import encode_canonical
from measurements.config_disk import Config
from measurements.eventlog import parse_event_log
from measurements.image_facts import ImageFacts
from measurements.reference_digest import reference_digest, reference_values_document
from measurements.runtime_events import Storage, parse_full_log
from measurements.swtpm import manufacture
from tests.guest_agent.test_app_boot import Machine
from tests.guest_agent.tpm_process import powered_on
from tests.kms.fake_chain import NOW, PINS, FakeChain
from tests.kms.guests import app_manifest
from tests.kms.receipts import APP_ID, DEVELOPMENT_ROOT, INSTANCE_ID, PIN, ROOT
from tests.support import envelopes
from tests.support.app_documents import config, container_document
from tests.support.paper_tpm import firmware_log, reference_of
from tests.support.software_tpm_keys import SoftwareTpmKeys
from tests.support.tools import require_tool

IMAGE = ImageFacts("apps", "1", dev=False)
DEV_IMAGE = ImageFacts("apps", "1", dev=True)
LOG, BOOTED = firmware_log()


class Served:
    """The KMS behind the paths of its service."""

    def __init__(self, kms: Kms) -> None:
        self.kms = kms
        self.refusals: list[str] = []

    def call(self, method: str, path: str, body: bytes | None) -> Answer:
        try:
            return Answer(200, encode_canonical(self._answer(path, body or b"")))
        except JournalledRefusalError as error:
            self.refusals.append(error.code)
            shown = {"code": error.code, "reason": error.reason, "advice": error.advice}
            receipt = error.recorded.envelope.as_json()
            return Answer(403, encode_canonical({"error": shown, "receipt": receipt}))

    def _answer(self, path: str, body: bytes) -> Any:
        identity = self.kms.root.identity
        match path:
            case "/v1/public-key":
                return {
                    "kms_id": identity.kms_id.hex(),
                    "ed25519": identity.ed25519.hex(),
                    "secp256k1": identity.secp256k1.hex(),
                    "address": "0x" + identity.address.hex(),
                    "chain_id": PIN.chain_id,
                    "contract": "0x" + PIN.contract.hex(),
                    "development": identity.development,
                }
            case "/v1/challenge":
                return self.kms.challenge(parse_challenge_request(body)).as_json()
            case "/v1/keys":
                issued = self.kms.release(parse_keys_request(body))
                sealed = base64.b64encode(issued.sealed).decode("ascii")
                return {"sealed": sealed, "receipt": issued.recorded.envelope.as_json()}
            case _:
                return {"receipt": self.kms.confirm(parse_confirm_request(body)).envelope.as_json()}


class BootedMachine(Machine):
    """A machine whose firmware logged ``LOG``."""

    def event_log(self) -> bytes:
        return LOG


class Bench:
    """A TPM that lasts, a KMS, and boots."""

    def __init__(
        self, folder: Path, *, root: RootKey = ROOT, image: ImageFacts = IMAGE, **changes: Any
    ) -> None:
        self.image, self.reference = image, reference_of(BOOTED, dev=image.dev)
        self.state, self.events = folder / "state", folder / "events"
        manufacture(self.state)
        self.manifest = app_manifest(root, **changes)
        self.record: bytes | None = None
        with powered_on(self.state) as tcti, closing(open_tpm(tcti)) as tpm:
            keys = SoftwareTpmKeys(tpm._esapi, self.state / "ca")
            certificate = tpm.identity().ek_certificate
        spki = x509.load_der_x509_certificate(certificate).public_key()
        query = PolicyQuery(
            kms_id=root.identity.kms_id,
            reference_digest=reference_digest(self.reference),
            platform_root=hashlib.sha256(keys.root).digest(),
            platform_id=hashlib.sha256(
                spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            ).digest(),
            app_id=APP_ID,
            app_hash=app_hash(self.manifest),
        )
        kms = Kms(
            root=root,
            pins=PINS,
            node=FakeChain(query, signer=root.identity.address),
            journal=Journal(folder / "journal.sqlite", root),
            anchors=TrustAnchors(roots=(keys.root,), intermediates=(keys.issuer,)),
            clock=lambda: NOW,
        )
        self.kms = kms
        self.served = Served(kms)

    def config(self, **changes: Any) -> Config:
        document: Any = reference_values_document(self.reference)
        plain = config(app_manifest=self.manifest, instance_id=INSTANCE_ID, reference=document)
        return plain._replace(**changes)

    def boot(self, configured: Config, *, firmware: bytes = LOG) -> tuple[BootedMachine, RegisterLog]:
        self.events.unlink(missing_ok=True)
        machine = BootedMachine(configured)
        machine.record = self.record
        with powered_on(self.state) as tcti, closing(open_tpm(tcti)) as tpm:
            self._measure(tpm, firmware)
            log = RegisterLog(tpm, self.events)
            assert AppBoot(self.image, tpm, log, machine).run() == "button"
        self.record = machine.record
        return machine, log

    def _measure(self, tpm: TpmBackend, firmware: bytes) -> None:
        keys = SoftwareTpmKeys(tpm._esapi, self.state / "ca")
        for event in parse_event_log(firmware).events:
            keys.extend(event.pcr, {algorithm.bank: digest for algorithm, digest in event.digests.items()})


MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeBench]:
    require_tool("swtpm_setup", package="swtpm-tools")
    require_tool("swtpm_localca", package="swtpm-tools")
    with ExitStack() as stack:

        def make(**choices: Any) -> Bench:
            made = Bench(tmp_path, **choices)
            stack.enter_context(closing(made.kms.journal))
            _ask_only(made.served, monkeypatch)
            return made

        yield make


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()


def _ask_only(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address leads to ``served``."""
    attempts = functools.partial(
        key_transport.try_each, connect=lambda url, *, deadline: served, deadline_seconds=0.3
    )
    monkeypatch.setattr(app_boot, "try_each", attempts)


def test_first_boot_formats_and_the_next_opens(bench: Bench) -> None:
    first, log = bench.boot(bench.config())
    assert parse_full_log(log.events).storage is Storage.FORMATTED
    second, log = bench.boot(bench.config())
    assert parse_full_log(log.events).storage is Storage.OPENED
    assert first.secrets == second.secrets
    assert bench.kms.journal.length == 3


def test_another_kernel(bench: Bench) -> None:
    other, _ = firmware_log(seed=b"another kernel")
    with pytest.raises(RefusedByKmsError) as caught:
        bench.boot(bench.config(), firmware=other)
    assert bench.served.refusals == [caught.value.kms_code]


def test_an_app_that_the_chain_does_not_allow(bench: Bench) -> None:
    other = app_manifest(version="2")
    with pytest.raises(RefusedByKmsError) as caught:
        bench.boot(bench.config(app_manifest=other))
    assert bench.served.refusals == ["app-hash-not-allowed"] == [caught.value.kms_code]


def test_a_development_image_uses_the_development_kms_that_its_app_pins(make_bench: MakeBench) -> None:
    bench = make_bench(root=DEVELOPMENT_ROOT, image=DEV_IMAGE)
    machine, log = bench.boot(bench.config())
    assert parse_full_log(log.events).release.dev
    kms_id = DEVELOPMENT_ROOT.identity.kms_id.hex()
    assert machine.lines[0] == f"keys: released by DEVELOPMENT KMS {kms_id[:16]}"


def test_release_image_refuses_a_development_kms(make_bench: MakeBench) -> None:
    bench = make_bench(root=DEVELOPMENT_ROOT, image=IMAGE)
    with pytest.raises(NoKmsError, match="it is a development KMS"):
        bench.boot(bench.config())
    assert bench.kms.journal.length == 0


def test_release_kms_refuses_a_development_image(make_bench: MakeBench) -> None:
    bench = make_bench(image=DEV_IMAGE)
    with pytest.raises(RefusedByKmsError) as caught:
        bench.boot(bench.config())
    assert bench.served.refusals == ["dev-image"] == [caught.value.kms_code]


def test_the_owner_s_envelope_through_the_kms_s_public_key(make_bench: MakeBench) -> None:
    container = container_document(allowed_env=["TOKEN", "GREETING"])
    bench = make_bench(owner_key=envelopes.OWNER_KEY.hex(), containers=[container])
    envelope = seal(bench, epoch=1, counter=2)
    machine, log = bench.boot(bench.config(envelope=envelope))
    assert machine.env == {"GREETING": "hello", "TOKEN": "s3cret"}
    assert parse_full_log(log.events).storage is Storage.FORMATTED
    with pytest.raises(EnvelopeError, match="replays an old envelope"):
        bench.boot(bench.config(envelope=seal(bench, epoch=1, counter=1)))
    with pytest.raises(EnvelopeError, match="another epoch"):
        bench.boot(bench.config(envelope=seal(bench, epoch=2, counter=3)))
    machine, _ = bench.boot(bench.config(envelope=envelope))
    assert machine.env["TOKEN"] == "s3cret"


def seal(bench: Bench, *, epoch: int, counter: int) -> bytes:
    """An envelope as its owner makes one: the public half is what the KMS signs."""
    root = bench.kms.root
    target = target_of(parse_manifest(bench.manifest), epoch=epoch)
    wanted = PublicKeyOf(
        kms_id=root.identity.kms_id,
        chain_id=PIN.chain_id,
        contract=PIN.contract,
        app_id=APP_ID,
        path="keyturn/envelope",
        kind=KeyKind.X25519,
        epoch=epoch,
    )
    query = {"app_id": f"0x{APP_ID.hex()}", "path": wanted.path, "kind": "x25519", "epoch": str(epoch)}
    public = read_public_half(
        parse_envelope(public_half(root, query)),
        wanted,
        ed25519=root.identity.ed25519,
        development=False,
    )
    return seal_envelope({"TOKEN": "s3cret"}, target, counter=counter, public=public, owner=envelopes.OWNER)
