"""``app-compose.json``: what an app of dstack is, and the runtime events that follow from it.

The measured value is SHA-256 of the file's bytes. Of its keys only those are read that runtime events depend
on (``dstack/dstack-types/src/lib.rs``, ``AppCompose``): ``event_log_version`` (1 or 2), ``init_script`` (a
text or up to 5), ``requirements.gpu_policy`` (hashed as RFC 8785 JSON, ``{}`` if absent), ``no_instance_id``,
``storage_fs`` (default ``zfs``), ``key_provider``, or its older switches ``kms_enabled`` and
``local_key_provider_enabled``, and ``key_provider_id``. dstack ignores keys that it does not know, and so
must whoever wants the same hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rfc8785

from measurements.dstack.aggregates import compose_hash, default_app_id
from measurements.dstack.errors import DstackInputError
from measurements.dstack.json_documents import as_object, boolean, octets, parse_document, refuse, text
from measurements.dstack.mr_config import KeyProvider
from measurements.dstack.runtime_events import (
    MAX_INIT_SCRIPTS,
    EventName,
    LogVersion,
    RuntimeEvent,
    read_boot,
)

MAX_COMPOSE = 50 << 20
_SUBJECT = "app-compose.json"
_STORAGE = ("zfs", "ext4")


@dataclass(frozen=True, kw_only=True, slots=True)
class AppCompose:
    """What runtime events need to know of an app."""

    compose_hash: bytes
    event_log_version: LogVersion
    init_scripts: tuple[str, ...]
    gpu_policy_hash: bytes
    no_instance_id: bool
    storage_fs: str
    key_provider: KeyProvider
    key_provider_id: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """What a boot's events need beyond the app.

    ``app_id`` is ``None`` for the default, ``os_image_hash`` and ``gpu_attestation`` where the boot has no
    such event; ``provider_id`` is the text in the ``key-provider`` event (hex of the KMS's root key,
    MRENCLAVE, or nothing). ``gpu_policy`` and ``storage`` say whether the guest's version has these events.
    """

    instance_id: bytes
    provider_id: str
    app_id: bytes | None = None
    os_image_hash: bytes | None = None
    gpu_attestation: bytes | None = None
    gpu_policy: bool = True
    storage: bool = True


def parse_app_compose(data: bytes) -> AppCompose:
    """Read the file; raises ``DstackFormatError`` for the keys above in another form."""
    fields = as_object(parse_document(data, subject=_SUBJECT, limit=MAX_COMPOSE), subject=_SUBJECT)
    version = fields.get("event_log_version", 1)
    if type(version) is not int or version not in set(LogVersion):
        refuse(_SUBJECT, f"event_log_version is {version!r}, not 1 or 2")
    storage = fields.get("storage_fs") or _STORAGE[0]
    if storage not in _STORAGE:
        refuse(_SUBJECT, f"storage_fs is {storage!r}, not zfs or ext4")
    return AppCompose(
        compose_hash=compose_hash(data),
        event_log_version=LogVersion(version),
        init_scripts=_init_scripts(fields.get("init_script")),
        gpu_policy_hash=_gpu_policy_hash(fields),
        no_instance_id=_switch(fields, "no_instance_id"),
        storage_fs=text(storage, subject=f"{_SUBJECT}, storage_fs"),
        key_provider=_key_provider(fields),
        key_provider_id=octets(fields.get("key_provider_id", ""), subject=f"{_SUBJECT}, key_provider_id"),
    )


def boot_events(app: AppCompose, deployment: Deployment) -> tuple[RuntimeEvent, ...]:
    """The events of one boot of ``app``, in order, up to ``system-ready``; raises ``DstackInputError`` and
    ``RuntimeOrderError`` for a deployment that cannot be.
    """
    if app.no_instance_id is any(deployment.instance_id):
        raise DstackInputError(
            "has an instance id that its no_instance_id contradicts",
            subject=_SUBJECT,
            advice="give no instance id for an app with no_instance_id, and one of 20 bytes for any other",
        )
    if (app.key_provider is KeyProvider.KMS) is not (deployment.os_image_hash is not None):
        raise DstackInputError(
            "has an os-image-hash event exactly if its key provider is a KMS",
            subject=_SUBJECT,
            advice="give the OS image's hash for an app with a KMS, and none for any other",
        )
    provider = _provider_payload(app.key_provider, deployment.provider_id)
    storage = app.storage_fs.encode("ascii") if deployment.storage else None
    parts: Sequence[tuple[EventName, bytes | None]] = (
        (EventName.SYSTEM_PREPARING, b""),
        (EventName.APP_ID, deployment.app_id or default_app_id(app.compose_hash)),
        (EventName.COMPOSE_HASH, app.compose_hash),
        *((EventName.INIT_SCRIPT_HASH, _sha256(script.encode("utf-8"))) for script in app.init_scripts),
        (EventName.GPU_POLICY_HASH, app.gpu_policy_hash if deployment.gpu_policy else None),
        (EventName.GPU_ATTESTATION, deployment.gpu_attestation),
        (EventName.INSTANCE_ID, deployment.instance_id),
        (EventName.BOOT_MR_DONE, b""),
        (EventName.OS_IMAGE_HASH, deployment.os_image_hash),
        (EventName.KEY_PROVIDER, provider),
        (EventName.STORAGE_FS, storage),
        (EventName.SYSTEM_READY, b""),
    )
    events = tuple(
        RuntimeEvent(name=name.value, payload=payload, version=app.event_log_version)
        for name, payload in parts
        if payload is not None
    )
    read_boot(events)
    return events


def _provider_payload(provider: KeyProvider, provider_id: str) -> bytes:
    """The JSON in the order and without the blanks of dstack's own writer."""
    fields = {"name": provider.event_name, "id": provider_id}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def _init_scripts(value: object) -> tuple[str, ...]:
    scripts = [] if value is None else value if isinstance(value, list) else [value]
    if len(scripts) > MAX_INIT_SCRIPTS:
        refuse(_SUBJECT, f"has {len(scripts)} init scripts, more than {MAX_INIT_SCRIPTS}")
    return tuple(text(script, subject=f"{_SUBJECT}, init_script") for script in scripts)


def _gpu_policy_hash(fields: Mapping[str, object]) -> bytes:
    requirements = fields.get("requirements")
    closed = {} if requirements is None else as_object(requirements, subject=f"{_SUBJECT}, requirements")
    policy: Any = as_object(closed.get("gpu_policy", {}), subject=f"{_SUBJECT}, requirements.gpu_policy")
    try:
        return _sha256(rfc8785.dumps(dict(policy)))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        refuse(_SUBJECT, f"requirements.gpu_policy has no canonical form: {error}")


def _key_provider(fields: Mapping[str, object]) -> KeyProvider:
    named = fields.get("key_provider")
    if named is not None:
        if named not in set(KeyProvider):
            refuse(_SUBJECT, f"key_provider is {named!r}, not one of {', '.join(KeyProvider)}")
        return KeyProvider(str(named))
    if _switch(fields, "kms_enabled"):
        return KeyProvider.KMS
    return KeyProvider.LOCAL if _switch(fields, "local_key_provider_enabled") else KeyProvider.NONE


def _switch(fields: Mapping[str, object], key: str) -> bool:
    return boolean(fields.get(key, False), subject=f"{_SUBJECT}: {key}")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
