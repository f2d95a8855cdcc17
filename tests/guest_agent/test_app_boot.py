"""A whole boot of an app away from a machine: registers in memory, a KMS in memory, the rest recorded."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from attestation.evidence import parse_evidence
from attestation.report_data import KeyRelease, KeyRequest, key_release_report_data
from guest_agent import app_boot, key_transport
from guest_agent.app_boot import App, AppBoot, AppBootError, AppServices
from guest_agent.key_client import RefusedByKmsError
from guest_agent.keys import NoKeyError
from guest_agent.owner_envelope import EnvelopeError
from guest_agent.register_log import RegisterLog, RegisterLogError
from guest_agent.socket_api import Services
from guest_agent.tpm_commands import TpmError
from measurements.app_manifest import KeyKind, KeyScope, app_hash, parse_manifest
from measurements.canonical import encode_canonical
from measurements.config_disk import Config, encode_config, frame_config
from measurements.envelope import Target
from measurements.errors import FormatError, KeyturnError, RefusedError
from measurements.image_facts import ImageFacts
from measurements.runtime_events import DEV_IMAGE, Storage, event_digest, parse_full_log, parse_release_log
from tests.guest_agent.fake_kms import PIN, SECRET, FakeKms
from tests.guest_agent.fakes import MemoryBackend
from tests.support import envelopes
from tests.support.app_documents import config, container_document, manifest_bytes

IMAGE = ImageFacts("apps", "1", dev=False)
INSTANCE = bytes(range(16))
REFERENCE: dict[str, Any] = {
    "platform": "tpm",
    "shape": {"vcpus": 1},
    "banks": {
        bank: {str(pcr): "ab" * size for pcr in range(15)} for bank, size in (("sha256", 32), ("sha384", 48))
    },
}


def kms_provider(kms: FakeKms) -> dict[str, Any]:
    contract = "0x" + PIN.contract.hex()
    return {
        "mode": "kms",
        "chain_id": PIN.chain_id,
        "contract": contract,
        "kms_root": kms.identity.kms_id.hex(),
    }


SEALED = {"mode": "tpm-seal", "chain_id": PIN.chain_id, "contract": "0x" + PIN.contract.hex()}


class Machine:
    """What the boot asked for, in order, and the answers it gets."""

    def __init__(self, configured: Config) -> None:
        self.disk = frame_config(encode_config(configured))
        self.done: list[str] = []
        self.record: bytes | None = None
        self.env: dict[str, str] = {}
        self.secrets: list[bytes] = []
        self.services: AppServices | None = None
        self.formats = True
        self.during_workload: Callable[[], None] = lambda: None
        self.lines: list[str] = []

    def config_disk(self) -> BinaryIO:
        self.done.append("config")
        return io.BytesIO(self.disk)

    def event_log(self) -> bytes:
        return b"event log"

    def configure_network(self, configured: Config) -> None:
        self.done.append("network")

    def prepare_storage(self, storage_secret: bytes, *, may_format: bool) -> Storage:
        self.done.append(f"storage, may format: {may_format}")
        self.secrets.append(storage_secret)
        return Storage.FORMATTED if may_format and self.formats else Storage.OPENED

    def seen_envelope(self) -> bytes | None:
        assert self.secrets, "the encrypted disk is not open"
        return self.record

    def remember_envelope(self, record: bytes) -> None:
        self.done.append("record")
        self.record = record

    def run_workload(self, app: App, services: AppServices) -> str:
        self.done.append("workload")
        self.env = app.env
        self.services = services
        self.during_workload()
        return "button"

    def say(self, line: str) -> None:
        self.lines.append(line)


def expected_report_data(manifest: bytes, body: dict[str, Any]) -> bytes:
    import base64

    challenge = body["challenge"]
    return key_release_report_data(
        KeyRelease(
            role="app",
            kms_nonce=bytes.fromhex(challenge["nonce"]),
            client_nonce=bytes.fromhex(body["client_nonce"]),
            kms_id=bytes.fromhex(challenge["kms_id"]),
            chain_id=PIN.chain_id,
            contract=PIN.contract,
            app_id=bytes.fromhex(body["app_id"][2:]),
            instance_id=INSTANCE,
            hpke_public=base64.b64decode(body["hpke_public"]),
            keys=[KeyRequest(**key) for key in body["keys"]],
            app_manifest=manifest,
        )
    )


class Bench:
    """One machine and its KMS."""

    def __init__(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        sealed: bool = False,
        development: bool = False,
        **changes: Any,
    ) -> None:
        self.kms = FakeKms(development=development)
        provider = SEALED if sealed else kms_provider(self.kms)
        self.manifest = manifest_bytes(**({"key_provider": provider} | changes))
        self.kms.app_hash = app_hash(self.manifest)
        self.kms.report_data = functools.partial(expected_report_data, self.manifest)
        self.config = config(
            app_manifest=self.manifest,
            reference=REFERENCE,
            kms_urls=() if sealed else ("http://10.0.2.2:8090",),
        )
        self.machine = Machine(self.config)
        self.backend = MemoryBackend()
        self.backend.credentials[b"id object", b"encrypted secret"] = SECRET
        self.path = tmp_path / "events"
        attempts = functools.partial(
            key_transport.try_each,
            connect=lambda url, *, deadline: self.kms,
            sleep=lambda _: None,
            deadline_seconds=0.2,
        )
        monkeypatch.setattr(app_boot, "try_each", attempts)

    def boot(self, *, image: ImageFacts = IMAGE) -> RegisterLog:
        log = RegisterLog(self.backend, self.path)
        assert AppBoot(image, self.backend, log, self.machine).run() == "button"
        return log

    def power_cycle(self) -> None:
        """The registers are zero again, and what lay in memory is gone."""
        secret = self.backend.secret
        credentials = self.backend.credentials
        self.backend = MemoryBackend()
        self.backend.secret, self.backend.credentials = secret, credentials
        self.machine = Machine(self.config)
        self.path.unlink()

    def refused(self, kind: type[KeyturnError], match: str) -> list[str]:
        """Boot into a refusal; the names of the events that were extended."""
        log = RegisterLog(self.backend, self.path)
        with pytest.raises(kind, match=match):
            AppBoot(IMAGE, self.backend, log, self.machine).run()
        assert "workload" not in self.machine.done
        return [event.name for event in log.events]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch, sealed=True)


class TestWithAKms:
    def test_first_boot(self, bench: Bench) -> None:
        log = bench.boot()
        assert bench.machine.done == ["config", "network", "storage, may format: True", "workload"]
        assert bench.kms.calls[-1] == "/v1/instances/confirm"
        facts = parse_full_log(log.events)
        assert facts.storage is Storage.FORMATTED
        assert facts.release.app_hash == app_hash(bench.manifest)
        assert facts.release.instance_id == INSTANCE

    def test_the_released_evidence_ends_before_storage(self, bench: Bench) -> None:
        seen: list[Any] = []
        original = bench.kms.report_data

        def look(body: dict[str, Any]) -> bytes:
            seen.append(parse_evidence(body["evidence"]))
            return original(body)

        bench.kms.report_data = look
        bench.boot()
        [evidence] = seen
        assert parse_release_log(evidence.runtime_events).config_hash != bytes(32)
        assert evidence.app_manifest == bench.manifest
        assert evidence.event_log == b"event log"

    def test_later_boot(self, bench: Bench) -> None:
        bench.boot()
        first = bench.machine.secrets
        bench.power_cycle()
        bench.kms.format_permitted = False
        bench.kms.calls.clear()
        assert parse_full_log(bench.boot().events).storage is Storage.OPENED
        assert bench.machine.secrets == first
        assert "/v1/instances/confirm" not in bench.kms.calls

    def test_what_the_socket_serves(self, bench: Bench) -> None:
        bench.boot()
        services = bench.machine.services
        assert services is not None
        typed: Services = services
        info = typed.info()
        assert isinstance(info, dict)
        assert info["app_hash"] == app_hash(bench.manifest).hex()
        assert info["key_provider"] == kms_provider(bench.kms)
        assert info["receipt"] == typed.receipt() is not None
        assert typed.key("web/signing", KeyKind.ED25519).epoch == 3
        evidence = parse_evidence(typed.evidence(bytes(64)))
        assert parse_full_log(evidence.runtime_events).storage is Storage.FORMATTED
        proof = typed.release()
        assert proof is not None
        assert proof.receipt == typed.receipt()
        payload = json.loads(base64.b64decode(json.loads(json.dumps(proof.receipt))["payload"]))
        assert payload["evidence_hash"] == hashlib.sha256(encode_canonical(proof.evidence)).hexdigest()
        parse_release_log(parse_evidence(proof.evidence).runtime_events)

    def test_no_secret_on_the_console(self, bench: Bench) -> None:
        bench.boot()
        text = "\n".join(bench.machine.lines)
        assert text.startswith("keys: released by KMS ")
        assert bench.machine.secrets[0].hex() not in text

    def test_refused(self, bench: Bench) -> None:
        bench.kms.refusal = "app-hash"
        events = bench.refused(RefusedByKmsError, "KMS refuses: app-hash: the policy says no")
        assert events[-1] == "key-provider"
        assert bench.machine.done == ["config", "network"]

    def test_another_kms_than_the_app_pins(self, bench: Bench) -> None:
        bench.kms = FakeKms(root=bytes(64))
        assert bench.refused(RefusedError, "not those that the app manifest pins")[-1] == "key-provider"

    def test_no_confirmation_no_workload(self, bench: Bench) -> None:
        bench.kms.hooks["answer"] = lambda answer: answer if "sealed" in answer else {"receipt": None}
        assert bench.refused(RefusedError, "no KMS")[-1] == "storage"

    def test_a_format_that_the_disk_did_not_get(self, bench: Bench) -> None:
        """Opened though it may be formatted: an earlier boot formatted it, so this one confirms."""
        bench.machine.formats = False
        assert parse_full_log(bench.boot().events).storage is Storage.OPENED
        assert bench.kms.calls[-1] == "/v1/instances/confirm"


class TestSealedByTheTpm:
    def test_first_and_later_boot(self, sealed: Bench) -> None:
        log = sealed.boot()
        assert sealed.machine.done == ["config", "storage, may format: True", "network", "workload"]
        assert parse_full_log(log.events).storage is Storage.FORMATTED
        assert sealed.kms.calls == []
        first = sealed.machine.secrets
        sealed.power_cycle()
        assert parse_full_log(sealed.boot().events).storage is Storage.OPENED
        assert sealed.machine.secrets == first
        assert sealed.machine.lines == ["keys: from a root that the TPM seals, unsealed"]

    def test_the_root_is_opened_before_the_host_s_configuration_is_measured(
        self, sealed: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[list[str]] = []
        original = MemoryBackend.unseal

        def look(backend: MemoryBackend) -> bytes:
            seen.append([line.split()[0] for line in sealed.path.read_text().splitlines()])
            return original(backend)

        monkeypatch.setattr(MemoryBackend, "unseal", look)
        sealed.boot()
        assert seen == [["keyturn-boot", "app-id", "app-hash"]]

    def test_a_root_that_does_not_open_is_not_replaced(
        self, sealed: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sealed.boot()
        kept = sealed.backend.secret
        sealed.power_cycle()

        def fail(_: MemoryBackend) -> bytes:
            raise TpmError("was sealed under other registers", subject="sealed secret", advice="")

        monkeypatch.setattr(MemoryBackend, "unseal", fail)
        assert sealed.refused(TpmError, "other registers")[-1] == "app-hash"
        assert sealed.backend.secret == kept


class TestWithoutADisk:
    def test_nothing_is_prepared(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bench = Bench(
            tmp_path,
            monkeypatch,
            volumes=[],
            storage=None,
            containers=[container_document(mounts=[])],
        )
        assert parse_full_log(bench.boot().events).storage is Storage.NONE
        assert bench.machine.secrets == []


class TestRefusals:
    def test_a_config_disk_of_garbage_extends_nothing(self, bench: Bench) -> None:
        bench.machine.disk = b"\0" * 4096
        assert bench.refused(FormatError, "config disk") == []

    def test_a_flipped_byte_of_the_manifest_is_another_app(self, bench: Bench) -> None:
        events = bench.boot().events
        bench.power_cycle()
        other = bench.manifest.replace(b'"version":"1"', b'"version":"2"')
        bench.machine = Machine(bench.config._replace(app_manifest=other))
        bench.refused(RefusedError, "app_hash|report_data")
        assert RegisterLog(bench.backend, bench.path).events[2] != events[2]

    def test_an_environment_name_that_the_app_does_not_allow(self, bench: Bench) -> None:
        bench.machine = Machine(bench.config._replace(env={"LD_PRELOAD": "/x"}))
        assert bench.refused(FormatError, "LD_PRELOAD") == []

    def test_no_reference_values(self, bench: Bench) -> None:
        bench.machine = Machine(bench.config._replace(reference=None))
        bench.refused(AppBootError, "no reference values")

    def test_a_register_in_use(self, bench: Bench) -> None:
        bench.backend.extend({"sha256": bytes(32), "sha384": bytes(48)})
        with pytest.raises(RegisterLogError):
            RegisterLog(bench.backend, bench.path)


class TestEnvelope:
    @pytest.fixture
    def owned(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
        bench = Bench(
            tmp_path,
            monkeypatch,
            owner_key=envelopes.OWNER_KEY.hex(),
            containers=[container_document(allowed_env=["TOKEN", "GREETING"])],
        )
        self.give(bench, self.seal(bench))
        return bench

    def seal(self, bench: Bench, *, counter: int = 7, **changes: Any) -> bytes:
        target = Target(
            owner_key=envelopes.OWNER_KEY,
            app_id=parse_manifest(bench.manifest).app_id,
            kms_id=bench.kms.identity.kms_id,
            chain_id=PIN.chain_id,
            contract=PIN.contract,
            epoch=3,
        )
        key = bench.kms.root.app_key(
            app_id=target.app_id,
            scope=KeyScope.APP,
            scope_id=b"",
            path="keyturn/envelope",
            kind=KeyKind.X25519,
            epoch=3,
        )
        target = target._replace(**changes)
        return envelopes.sealed({"TOKEN": "s3cret"}, target=target, counter=counter, secret=key.secret)

    def give(self, bench: Bench, envelope: bytes | None, **changes: Any) -> None:
        record = bench.machine.record
        bench.config = bench.config._replace(envelope=envelope, **changes)
        bench.machine = Machine(bench.config)
        bench.machine.record = record

    def again(self, bench: Bench, envelope: bytes) -> None:
        record = bench.machine.record
        bench.power_cycle()
        bench.machine.record = record
        self.give(bench, envelope)

    def test_the_workload_gets_what_the_owner_sealed(self, owned: Bench) -> None:
        log = owned.boot()
        assert owned.machine.env == {"GREETING": "hello", "TOKEN": "s3cret"}
        assert owned.machine.done[-2:] == ["record", "workload"]
        assert parse_full_log(log.events).storage is Storage.FORMATTED
        assert "s3cret" not in "\n".join(owned.machine.lines)
        assert owned.machine.lines[-1] == "envelope: opened, its counter is 7"

    def test_the_app_does_not_get_the_key_of_envelopes(self, owned: Bench) -> None:
        owned.boot()
        assert owned.machine.services is not None
        with pytest.raises(NoKeyError):
            owned.machine.services.key("keyturn/envelope", KeyKind.X25519)

    def test_attack_old_envelope(self, owned: Bench) -> None:
        old = self.seal(owned, counter=6)
        owned.boot()
        self.again(owned, old)
        assert owned.refused(EnvelopeError, "replays an old envelope")[-1] == "storage"
        self.again(owned, self.seal(owned, counter=8))
        owned.boot()

    def test_attack_envelope_of_another_app(self, owned: Bench) -> None:
        self.give(owned, self.seal(owned, app_id=b"\x12" * 20))
        assert owned.refused(EnvelopeError, "another app_id")[-1] == "storage"
        assert owned.machine.record is None

    def test_attack_host_env_overrides_a_secret(self, owned: Bench) -> None:
        self.give(owned, self.seal(owned), env={"TOKEN": "mine"})
        assert owned.refused(EnvelopeError, "the host sets TOKEN")[-1] == "storage"

    def test_attack_host_leaves_the_envelope_out(self, owned: Bench) -> None:
        self.give(owned, None)
        assert owned.refused(FormatError, "no envelope") == []

    def test_a_record_that_cannot_be_kept_starts_no_workload(
        self, owned: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: Machine, record: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Machine, "remember_envelope", fail)
        with pytest.raises(OSError, match="No space"):
            owned.boot()
        assert "workload" not in owned.machine.done


class TestDevelopmentImage:
    DEV = ImageFacts("apps", "1", dev=True)

    def test_it_is_marked_first(self, bench: Bench) -> None:
        assert parse_full_log(bench.boot(image=self.DEV).events).release.dev

    def test_a_mark_that_the_agent_made_is_not_made_again(self, bench: Bench) -> None:
        bench.backend.extend({bank: event_digest(DEV_IMAGE, algorithm=bank) for bank in ("sha256", "sha384")})
        bench.path.write_bytes(b"dev-image \n")
        log = bench.boot(image=self.DEV)
        assert [event.name for event in log.events][:2] == ["dev-image", "keyturn-boot"]

    def test_it_may_use_the_development_kms_that_its_app_pins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench = Bench(tmp_path, monkeypatch, development=True)
        assert parse_full_log(bench.boot(image=self.DEV).events).release.dev
        assert bench.machine.lines[0].startswith("keys: released by DEVELOPMENT KMS ")

    def test_release_image_refuses_a_development_kms(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench = Bench(tmp_path, monkeypatch, development=True)
        assert bench.refused(RefusedError, "it is a development KMS")[-1] == "key-provider"
        assert bench.kms.calls == ["/v1/public-key"]


def test_an_agent_that_starts_again_in_the_same_boot(bench: Bench) -> None:
    events = bench.boot().events
    bench.machine.done.clear()
    assert bench.refused(AppBootError, "earlier start") == [event.name for event in events]
    assert bench.machine.done == []
