"""Boots an app: carries out what the release machine decides, and serves the app's calls afterwards.

The machine (``release_machine``) says what to do; here it is done, in that order, and what came of it goes
back in. Any failure ends the boot: nothing is tried again, and the error goes up to the console.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import BinaryIO, NamedTuple, Protocol

from attestation.evidence import Evidence, evidence_document
from guest_agent import key_client, timeline
from guest_agent.backend import Backend
from guest_agent.key_transport import confirm_format, preload, release_keys, try_each
from guest_agent.keys import HeldKey, KeyStore, Signature, wanted_keys
from guest_agent.kms_receipt import Pin
from guest_agent.register_log import RegisterLog
from guest_agent.release_machine import (
    Action,
    Configured,
    Confirmed,
    Effect,
    EnvelopeOpened,
    Extend,
    Failed,
    ImageIdentified,
    Input,
    KeysReceived,
    PrepareStorage,
    RootOpened,
    Stage,
    State,
    StorageReady,
    WorkloadEnded,
    step,
)
from guest_agent.sealed_keys import KeyOwner, derive_sealed_key, open_root
from guest_agent.socket_api import ReleaseProof
from measurements.app_manifest import AppManifest, KeyKind, ProviderMode, app_hash, parse_manifest
from measurements.boot_timeline import Moment
from measurements.canonical import Json
from measurements.config_disk import Config, check_config, config_hash, parse_config, read_frame
from measurements.errors import KeyturnError, RefusedError
from measurements.image_facts import ImageFacts
from measurements.reference_digest import ReferenceValues, parse_reference_values
from measurements.runtime_events import (
    DEV_IMAGE,
    KeyProvider,
    KmsProvider,
    RuntimeEvent,
    Storage,
    TpmSealProvider,
)


class AppBootError(RefusedError):
    """Something that the boot needs was not configured."""

    code = "app-boot"


class App(NamedTuple):
    """The app as the config disk describes it. ``env`` are the variables that do not come from the manifest:
    the host's, and once the owner's envelope is open the owner's. Never print it.
    """

    config: Config
    manifest: AppManifest
    configured: Configured
    env: dict[str, str]

    def __repr__(self) -> str:
        return f"App({self.manifest.name!r})"


class Surroundings(Protocol):
    """The rest of the machine, as far as the boot of an app uses it."""

    def config_disk(self) -> BinaryIO:
        """The config disk, to be read once."""

    def event_log(self) -> bytes:
        """The firmware's event log."""

    def configure_network(self, config: Config) -> None:
        """Bring the network up as configured."""

    def prepare_storage(self, storage_secret: bytes, *, may_format: bool) -> Storage:
        """Open the encrypted disk, and format it if that is permitted."""

    def seen_envelope(self) -> bytes | None:
        """The encrypted disk's record of the newest envelope, if there is one."""

    def remember_envelope(self, record: bytes) -> None:
        """Put the record on the encrypted disk, to stay."""

    def run_workload(self, app: App, services: AppServices) -> str:
        """Serve the socket, run the containers to their end; why they ended."""

    def say(self, line: str) -> None:
        """One line on the console, without secrets."""


def read_app(disk: BinaryIO) -> App:
    """The app of a config disk. Raises ``FormatError`` for anything that does not fit together."""
    document = read_frame(disk)
    config = parse_config(document)
    manifest = parse_manifest(config.app_manifest)
    check_config(config, manifest)
    configured = Configured(
        app_id=manifest.app_id,
        app_hash=app_hash(config.app_manifest),
        config_hash=config_hash(document),
        instance_id=config.instance_id,
        key_provider=provider_of(manifest),
        storage=manifest.storage is not None,
        envelope=config.envelope is not None,
    )
    return App(config, manifest, configured, config.env)


def provider_of(manifest: AppManifest) -> KeyProvider:
    """The manifest's key provider as the event names it."""
    provider = manifest.key_provider
    if provider.mode is ProviderMode.TPM_SEAL:
        return TpmSealProvider(provider.chain_id, provider.contract)
    if provider.kms_root is None:
        raise _error("the key provider is a KMS without its root")
    return KmsProvider(provider.kms_root, provider.chain_id, provider.contract)


class AppBoot:
    """One boot of an app."""

    def __init__(
        self, image: ImageFacts, backend: Backend, log: RegisterLog, surroundings: Surroundings
    ) -> None:
        self._image = image
        self._backend = backend
        self._log = log
        self._around = surroundings
        self._app: App | None = None
        self._keys: KeyStore | None = None
        self._released: key_client.Released | None = None
        self._evidence_lock = threading.Lock()

    def run(self) -> str:
        """All of it; why the workload ended. Raises ``KeyturnError`` or ``OSError``."""
        if self._log.events not in ((), (DEV_IMAGE,)):
            raise _error("the register holds an earlier start of this boot")
        state: State = State()
        happened: Input = ImageIdentified(self._image.dev)
        while True:
            state, effects = step(state, happened)
            if state.stage is Stage.ENDED:
                return happened.reason if isinstance(happened, WorkloadEnded) else "ended"
            try:
                results = [result for effect in effects if (result := self._carry_out(effect)) is not None]
            except (KeyturnError, OSError) as error:
                step(state, Failed(str(error)))
                raise
            [happened] = results

    def _carry_out(self, effect: Effect) -> Input | None:
        match effect:
            case Extend(event):
                self._extend(event)
                return None
            case PrepareStorage(may_format):
                secret = self._held_keys().storage_secret()
                return StorageReady(self._around.prepare_storage(secret, may_format=may_format))
            case Action():
                return self._act(effect)
            case _:
                return None

    def _act(self, action: Action) -> Input:
        match action:
            case Action.READ_CONFIG:
                with self._around.config_disk() as disk:
                    self._app = read_app(disk)
                return self._app.configured
            case Action.OPEN_ROOT:
                return self._open_root()
            case Action.REQUEST_KEYS:
                return self._request_keys()
            case Action.CONFIRM_FORMAT:
                return self._confirm()
            case Action.OPEN_ENVELOPE:
                return self._open_envelope()
            case Action.START_WORKLOAD:
                return self._run_workload()

    def _extend(self, event: RuntimeEvent) -> None:
        # The agent marks a development image before it knows whether there is an app.
        if event != DEV_IMAGE or self._log.events != (DEV_IMAGE,):
            self._log.append(event)

    def _open_root(self) -> Input:
        app, root = self._known_app(), open_root(self._backend)
        provider = app.manifest.key_provider
        facts = app.configured
        owner = KeyOwner(
            provider.chain_id, provider.contract, facts.app_id, facts.app_hash, facts.instance_id
        )
        wanted = wanted_keys(app.manifest)
        self._keys = KeyStore([derive_sealed_key(root.secret, owner, key) for key in wanted], wanted=wanted)
        timeline.BOOT.mark(Moment.KEYS)
        self._around.say(f"keys: from a root that the TPM seals, {'made now' if root.made else 'unsealed'}")
        return RootOpened(root.made)

    def _request_keys(self) -> Input:
        app = self._known_app()
        provider = app.configured.key_provider
        if not isinstance(provider, KmsProvider):
            raise _error("there is no KMS to ask")
        threading.Thread(target=preload, name="preload", daemon=True).start()
        self._around.configure_network(app.config)
        hpke_key = key_client.new_hpke_key()
        request = key_client.Request(
            pin=Pin(provider.kms_root, provider.chain_id, provider.contract, development=self._image.dev),
            platform=self._backend.platform,
            identity=self._backend.identity(),
            app_id=app.configured.app_id,
            instance_id=app.configured.instance_id,
            app_manifest=app.config.app_manifest,
            keys=wanted_keys(app.manifest),
            hpke_public=hpke_key.public,
        )
        released = try_each(app.config.kms_urls, lambda kms: release_keys(kms, request, hpke_key, self))
        self._released, self._keys = released, released.keys
        kind = "DEVELOPMENT KMS" if released.signer.development else "KMS"
        timeline.BOOT.mark(Moment.KEYS)
        self._around.say(f"keys: released by {kind} {provider.kms_root.hex()[:16]}")
        return KeysReceived(released.format_permitted)

    def _confirm(self) -> Input:
        released = self._released
        if released is None:
            raise _error("there is no release to confirm")
        try_each(self._known_app().config.kms_urls, lambda kms: confirm_format(kms, released))
        return Confirmed()

    def _open_envelope(self) -> Input:
        from guest_agent.owner_envelope import accept_envelope

        app = self._known_app()
        accepted = accept_envelope(
            app.config,
            app.manifest,
            key=self._held_keys().envelope_key(),
            record=self._around.seen_envelope(),
        )
        self._around.remember_envelope(accepted.record)
        self._app = app._replace(env=accepted.env)
        self._around.say(f"envelope: opened, its counter is {accepted.counter}")
        return EnvelopeOpened()

    def _run_workload(self) -> Input:
        app = self._known_app()
        if app.manifest.key_provider.mode is ProviderMode.TPM_SEAL:
            self._around.configure_network(app.config)
        services = AppServices(
            self._image, app, self._held_keys(), self._log, self.evidence, self._released_by()
        )
        return WorkloadEnded(self._around.run_workload(app, services))

    def _released_by(self) -> ReleaseProof | None:
        released = self._released
        return (
            None if released is None else ReleaseProof(released.receipt.envelope, released.release.evidence)
        )

    def activate(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        """The credential's secret (``key_transport.Hardware``)."""
        return self._backend.activate(id_object, encrypted_secret)

    def evidence(self, report_data: bytes) -> Json:
        """Evidence over 64 bytes, as its JSON object."""
        app = self._known_app()
        with self._evidence_lock:  # callers of the socket are threads, and the backend takes one at a time
            identity = self._backend.identity()
            quoted, events = self._log.quote(report_data)
        timeline.BOOT.mark(Moment.QUOTE)
        return evidence_document(
            Evidence(
                quote=quoted.quote,
                signature=quoted.signature,
                ak_public=identity.ak_public,
                ek_certificate=identity.ek_certificate,
                pcrs=quoted.registers,
                event_log=self._around.event_log(),
                runtime_events=events,
                app_manifest=app.config.app_manifest,
                reference=_reference(app.config),
            )
        )

    def _known_app(self) -> App:
        if self._app is None:
            raise _error("there is no app")
        return self._app

    def _held_keys(self) -> KeyStore:
        if self._keys is None:
            raise _error("there are no keys")
        return self._keys


class AppServices(NamedTuple):
    """What the socket serves (``socket_api.Services``)."""

    image: ImageFacts
    app: App
    keys: KeyStore
    log: RegisterLog
    quote: Callable[[bytes], Json]
    proof: ReleaseProof | None

    def info(self) -> Json:
        """Who the app is, and what was measured."""
        facts, provider = self.app.configured, self.app.manifest.key_provider
        return {
            "app_id": "0x" + facts.app_id.hex(),
            "app_hash": facts.app_hash.hex(),
            "instance_id": facts.instance_id.hex(),
            "key_provider": {
                "mode": provider.mode.value,
                "chain_id": provider.chain_id,
                "contract": "0x" + provider.contract.hex(),
                **({} if provider.kms_root is None else {"kms_root": provider.kms_root.hex()}),
            },
            "image": {"name": self.image.name, "version": self.image.version, "dev": self.image.dev},
            "events": [{"name": event.name, "payload": event.payload.hex()} for event in self.log.events],
            "receipt": self.receipt(),
        }

    def key(self, path: str, kind: KeyKind) -> HeldKey:
        """A key of the app."""
        return self.keys.app_key(path, kind)

    def sign(self, path: str, data: bytes) -> Signature:
        """A signature with a key of the app."""
        return self.keys.sign(path, data)

    def evidence(self, report_data: bytes) -> Json:
        """Evidence over 64 bytes."""
        return self.quote(report_data)

    def receipt(self) -> Json:
        """The receipt's envelope."""
        return None if self.proof is None else self.proof.receipt

    def release(self) -> ReleaseProof | None:
        """Receipt and evidence of the release."""
        return self.proof


def _reference(config: Config) -> ReferenceValues:
    if config.reference is None:
        raise _error("the configuration has no reference values, which evidence needs")
    return parse_reference_values(config.reference, path="reference")


def _error(reason: str) -> AppBootError:
    return AppBootError(reason, subject="app", advice="write the config disk again, or report this as a bug")
