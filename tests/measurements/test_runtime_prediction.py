"""Predicted runtime events: what the guest's log will say, and how it changes with the inputs."""

from __future__ import annotations

import hashlib

import pytest

from measurements.app_manifest import app_hash, parse_manifest
from measurements.config_disk import ConfigError, encode_config
from measurements.runtime_events import (
    KmsProvider,
    Storage,
    TpmSealProvider,
    boot_complete_event,
    event_digest,
    parse_full_log,
    parse_release_log,
    storage_event,
)
from measurements.runtime_prediction import OtherAppError, predict_runtime, provider_of
from tests.support.app_documents import config, container_document, manifest_bytes


def test_the_log_is_one_that_verifiers_accept() -> None:
    document = encode_config(config())
    prediction = predict_runtime(manifest_bytes(), document, dev=False)
    facts = parse_release_log(prediction.events)
    assert facts.app_hash == prediction.app_hash == app_hash(manifest_bytes())
    assert facts.config_hash == hashlib.sha256(document).digest()
    assert facts.instance_id == bytes(range(16))
    assert facts.key_provider == KmsProvider(b"\x33" * 32, 31337, b"\x22" * 20)
    later = [storage_event(Storage.OPENED), boot_complete_event()]
    assert parse_full_log([*prediction.events, *later]).storage is Storage.OPENED
    assert set(prediction.booted) == {Storage.FORMATTED, Storage.OPENED}


def test_registers_are_plain_replays() -> None:
    prediction = predict_runtime(manifest_bytes(), encode_config(config()), dev=True)
    assert prediction.events[0].name == "dev-image"
    for bank in ("sha256", "sha384"):
        register = bytes(hashlib.new(bank).digest_size)
        for event in prediction.events:
            register = hashlib.new(bank, register + event_digest(event, algorithm=bank)).digest()
        assert prediction.release[bank] == register
        for event in (storage_event(Storage.FORMATTED), boot_complete_event()):
            register = hashlib.new(bank, register + event_digest(event, algorithm=bank)).digest()
        assert prediction.booted[Storage.FORMATTED][bank] == register


def test_an_app_without_volumes_has_one_end() -> None:
    provider = {"mode": "tpm-seal", "chain_id": 1, "contract": "0x" + "22" * 20}
    container = container_document(mounts=[])
    manifest = manifest_bytes(key_provider=provider, volumes=[], storage=None, containers=[container])
    document = encode_config(config(app_manifest=manifest, kms_urls=()))
    prediction = predict_runtime(manifest, document, dev=False)
    assert set(prediction.booted) == {Storage.NONE}
    assert provider_of(parse_manifest(manifest)) == TpmSealProvider(1, b"\x22" * 20)


def test_every_input_changes_the_register() -> None:
    values = {
        predict_runtime(manifest, encode_config(config(app_manifest=manifest, **changes)), dev=dev).release[
            "sha256"
        ]
        for manifest, changes, dev in (
            (manifest_bytes(), {}, False),
            (manifest_bytes(), {}, True),
            (manifest_bytes(), {"env": {}}, False),
            (manifest_bytes(), {"instance_id": b"\1" * 16}, False),
            (manifest_bytes(version="2"), {}, False),
            (manifest_bytes(app_id="0x" + "99" * 20), {}, False),
        )
    }
    assert len(values) == 6


def test_attack_config_disk_with_another_app() -> None:
    document = encode_config(config(app_manifest=manifest_bytes(version="2")))
    with pytest.raises(OtherAppError):
        predict_runtime(manifest_bytes(), document, dev=False)


def test_what_the_guest_would_refuse_is_not_predicted() -> None:
    with pytest.raises(ConfigError):
        predict_runtime(manifest_bytes(), encode_config(config(env={"DEBUG": "1"})), dev=False)
