"""What a guest will extend for an app and a configuration, before it boots: the runtime events and PCR 14.

Source: docs/formats.md, "Runtime events". Everything up to key release follows from manifest, config disk and
the image's development mark; afterwards only the fate of the encrypted disk is open, so each possible end has
its own value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from measurements.app_manifest import AppManifest, app_hash, parse_manifest
from measurements.config_disk import check_config, config_hash, parse_config
from measurements.errors import RefusedError
from measurements.runtime_events import (
    DEV_IMAGE,
    KeyProvider,
    KmsProvider,
    RuntimeEvent,
    Storage,
    TpmSealProvider,
    app_hash_event,
    app_id_event,
    boot_complete_event,
    boot_event,
    config_hash_event,
    instance_id_event,
    key_provider_event,
    replay_runtime_events,
    storage_event,
)


class OtherAppError(RefusedError):
    """A config disk for another app."""

    code = "other-app"


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimePrediction:
    """Events until key release and the register then, by bank; registers of the possible ends by the
    payload of ``storage``. ``app_hash`` has 32 bytes.
    """

    app_hash: bytes
    events: tuple[RuntimeEvent, ...]
    release: Mapping[str, bytes]
    booted: Mapping[Storage, Mapping[str, bytes]]


def predict_runtime(manifest: bytes, config: bytes, *, dev: bool) -> RuntimePrediction:
    """Predict from the bytes of the app manifest and of the config disk's document (without frame).

    Raises ``OtherAppError`` if the disk carries another manifest, and ``ManifestError`` or ``ConfigError``
    for what the guest would refuse.
    """
    parsed = parse_manifest(manifest)
    settings = parse_config(config)
    if settings.app_manifest != manifest:
        raise OtherAppError(
            f"carries the app {app_hash(settings.app_manifest).hex()}, not {app_hash(manifest).hex()}",
            subject="config disk",
            advice="write it again with `keyturn app config`",
        )
    check_config(settings, parsed)
    events = (
        *([DEV_IMAGE] if dev else []),
        boot_event(),
        app_id_event(parsed.app_id),
        app_hash_event(app_hash(manifest)),
        config_hash_event(config_hash(config)),
        instance_id_event(settings.instance_id),
        key_provider_event(provider_of(parsed)),
    )
    return RuntimePrediction(
        app_hash=app_hash(manifest),
        events=events,
        release=replay_runtime_events(events),
        booted={
            storage: replay_runtime_events([*events, storage_event(storage), boot_complete_event()])
            for storage in _ends(parsed)
        },
    )


def provider_of(manifest: AppManifest) -> KeyProvider:
    """The manifest's key provider as the event has it."""
    pinned = manifest.key_provider
    if pinned.kms_root is None:
        return TpmSealProvider(pinned.chain_id, pinned.contract)
    return KmsProvider(pinned.kms_root, pinned.chain_id, pinned.contract)


def _ends(manifest: AppManifest) -> tuple[Storage, ...]:
    return (Storage.NONE,) if manifest.storage is None else (Storage.FORMATTED, Storage.OPENED)
