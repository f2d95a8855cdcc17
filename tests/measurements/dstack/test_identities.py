"""dstack's identities: configuration ids, aggregates, and an app's events from its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from eth_hash.auto import keccak

from measurements.dstack import aggregates
from measurements.dstack.aggregates import TdRegisters
from measurements.dstack.app_compose import Deployment, boot_events, parse_app_compose
from measurements.dstack.errors import DstackFormatError, DstackInputError, RuntimeOrderError
from measurements.dstack.event_log import parse_event_log, runtime_events
from measurements.dstack.mr_config import (
    KeyProvider,
    MrConfigV3,
    config_id_v1,
    config_id_v2,
    config_id_v3,
    host_data,
    parse_mr_config,
)
from measurements.dstack.runtime_events import EventName, replay
from measurements.tdx.quote import TdBody, parse_quote
from tests.support.dstack_reports import attestation, report

# dstack/dstack-types/src/mr_config.rs, mr_config_v3_generates_jcs_but_hashes_document_bytes.
CONFIG = MrConfigV3(
    app_id=b"\x11" * 20,
    compose_hash=b"\x22" * 32,
    gpu_policy_hash=b"\x55" * 32,
    key_provider=KeyProvider.KMS,
    key_provider_id=b"\x33" * 32,
    instance_id=b"\x44" * 20,
)
DOCUMENT = (
    '{"app_id":"' + "11" * 20 + '","compose_hash":"' + "22" * 32 + '","gpu_policy_hash":"' + "55" * 32
    + '","instance_id":"' + "44" * 20 + '","key_provider":"kms","key_provider_id":"' + "33" * 32
    + '","version":3}'
).encode()  # fmt: skip


def registers(body: TdBody, rtmr3: bytes | None = None) -> TdRegisters:
    return TdRegisters(
        mrtd=body.mrtd,
        rtmr0=body.rtmrs[0],
        rtmr1=body.rtmrs[1],
        rtmr2=body.rtmrs[2],
        rtmr3=body.rtmrs[3] if rtmr3 is None else rtmr3,
        mr_config_id=body.mrconfigid,
        mr_owner=body.mrowner,
        mr_owner_config=body.mrownerconfig,
    )


def test_aggregates_of_a_real_deployment() -> None:
    """Values of dstack's own verifier for quote-report.json, computed again by the vectors' authors."""
    pair = report("quote-report")
    events = runtime_events(parse_event_log(pair.event_log))
    body = parse_quote(pair.quote).body
    provider = next(event.payload for event in events if event.name == "key-provider")
    assert aggregates.mr_system(registers(body), provider).hex() == (
        "e1ae776a1492d4f87937b7e563d265c16300be4aba5d748207587023bb7dbb75"
    )
    assert aggregates.mr_aggregated(registers(body)).hex() == (
        "233c659f83048505bb1ef7f105245aa80f5d04e3d096c329da272d7ee13fbf38"
    )
    boundary = replay(events, until=EventName.BOOT_MR_DONE)
    assert aggregates.mr_aggregated(registers(body, boundary)).hex() == (
        "f9a9159f75a175a0a65052b78f764a312456db56f5c397c600d08445ab68937b"
    )


def test_aggregates_with_a_bound_configuration() -> None:
    """The lite deployment, whose MRCONFIGID is not zero: values of dstack's verifier for it."""
    body = parse_quote(attestation("tdx-lite-attestation")[4:5010]).body
    assert body.mrconfigid[:1] == b"\1"
    assert body.mrconfigid == config_id_v1(body.mrconfigid[1:33])
    assert aggregates.mr_aggregated(registers(body)).hex() == (
        "c758fa624b62536ca77504c4c52745e70880220a178a615a859c52f8b101d2ee"
    )


def test_launch_fields_enter_the_aggregate_only_if_set() -> None:
    zeros = {name: bytes(48) for name in TdRegisters.__dataclass_fields__}
    unbound = aggregates.mr_aggregated(TdRegisters(**zeros))
    assert unbound == hashlib.sha256(bytes(48 * 5)).digest()
    for name in ("mr_config_id", "mr_owner", "mr_owner_config"):
        bound = TdRegisters(**{**zeros, name: b"\1" * 48})
        assert aggregates.mr_aggregated(bound) != unbound
    with pytest.raises(DstackInputError, match="mrtd: does not have 48 bytes"):
        TdRegisters(**{**zeros, "mrtd": b""})


@pytest.mark.parametrize("name", TdRegisters.__dataclass_fields__)
def test_every_register_is_in_the_aggregate(name: str) -> None:
    values = {field: bytes([number]) * 48 for number, field in enumerate(TdRegisters.__dataclass_fields__)}
    changed = TdRegisters(**{**values, name: b"\xff" * 48})
    base = TdRegisters(**values)
    assert aggregates.mr_aggregated(changed) != aggregates.mr_aggregated(base)
    in_system = name in {"mrtd", "rtmr0", "rtmr1", "rtmr2"}
    assert (aggregates.mr_system(changed, None) != aggregates.mr_system(base, None)) is in_system
    assert (aggregates.mr_enclave(changed) != aggregates.mr_enclave(base)) is in_system
    in_image = in_system and name != "rtmr0"
    assert (aggregates.mr_image(changed) != aggregates.mr_image(base)) is in_image


def test_system_value_without_a_key_provider() -> None:
    values = TdRegisters(**{name: bytes(48) for name in TdRegisters.__dataclass_fields__})
    assert aggregates.mr_system(values, None) == hashlib.sha256(bytes(48 * 4 + 32)).digest()
    assert (
        aggregates.mr_system(values, b"")
        == hashlib.sha256(bytes(48 * 4) + hashlib.sha256(b"").digest()).digest()
    )


def test_identities() -> None:
    seed, app = b"s" * 20, b"a" * 20
    assert aggregates.instance_id(seed, app) == hashlib.sha256(seed + app).digest()[:20]
    with_key = hashlib.sha256(seed + app + hashlib.sha256(b"key").digest()).digest()[:20]
    assert aggregates.instance_id(seed, app, tpm_key=b"key") == with_key
    assert aggregates.device_id(b"p" * 16) == hashlib.sha256(b"p" * 16).digest()
    assert aggregates.snp_mr_system(b"m" * 48) == hashlib.sha256(b"m" * 48).digest()
    assert (
        aggregates.snp_mr_aggregated(b"m" * 48, b"h" * 32) == hashlib.sha256(b"m" * 48 + b"h" * 32).digest()
    )
    assert aggregates.gcp_mr_aggregated(b"0", b"2", b"14") == hashlib.sha256(b"0214").digest()
    image = b"i" * 32
    assert aggregates.gcp_mr_system(image, None) == hashlib.sha256(image + bytes(32)).digest()
    provider = hashlib.sha256(b"kms").digest()
    assert aggregates.gcp_mr_system(image, b"kms") == hashlib.sha256(image + provider).digest()
    assert aggregates.nitro_mr(b"0", b"1", b"2") == hashlib.sha256(b"012").digest()
    assert aggregates.default_app_id(bytes(range(32))) == bytes(range(20))


# dstack/dstack-types/src/lib.rs, launch_token_hash_is_domain_separated.
@pytest.mark.parametrize(
    ("token", "digest"),
    [
        (
            "unit-test-launch-token-0000000001",
            "28faa1319055d733ad9651f5ab7689c15b04609846bcd27b3c5bc8df6246f5a3",
        ),
        ("test", "e128cf5f3c3633d3a1f450d3d4bece260b20f9afb667de4bbff6dd985f1e5d1a"),
    ],
)
def test_launch_token_hash(token: str, digest: str) -> None:
    assert aggregates.launch_token_hash(token).hex() == digest


def test_config_id_of_version_2() -> None:
    for number, provider in enumerate(KeyProvider):
        found = config_id_v2(
            compose_hash=b"\2" * 32, app_id=b"\1" * 20, key_provider=provider, key_provider_id=b"id"
        )
        digest = keccak(b"\2" * 32 + b"\1" * 20 + bytes([number]) + b"id")
        assert found == b"\2" + digest + bytes(15)
    # Keccak as Ethereum has it, not SHA3-256: the digest of nothing.
    assert keccak(b"").hex().startswith("c5d2460186f7233c")


def test_config_document_of_version_3() -> None:
    assert CONFIG.document() == DOCUMENT
    assert parse_mr_config(DOCUMENT) == CONFIG
    digest = hashlib.sha256(b"dstack-mr-config-v3:\0" + DOCUMENT).digest()
    assert host_data(DOCUMENT) == digest
    assert config_id_v3(DOCUMENT) == b"\3" + digest + bytes(15)
    pretty = json.dumps(json.loads(DOCUMENT), indent=2).encode()
    assert parse_mr_config(pretty) == CONFIG
    assert config_id_v3(pretty) != config_id_v3(DOCUMENT)


def test_config_document_of_a_real_snp_guest() -> None:
    """HOST_DATA of the signed report (offset 0xC0) is the hash of the document beside it."""
    data = attestation("sev-snp-attestation")
    start = data.index(b'{"app_id"')
    document = data[start : data.index(b"}", start) + 1]
    assert host_data(document) == data[4 + 0xC0 : 4 + 0xE0]
    config = parse_mr_config(document)
    assert config.document() == document
    assert config.app_id == config.compose_hash[:20]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: fields.pop("version"), "key version is missing"),
        (lambda fields: fields.update(version=2), "has version 2"),
        (lambda fields: fields.update(version=True), "has version True"),
        (lambda fields: fields.update(extra=1), "key 'extra' is unknown"),
        (lambda fields: fields.update(app_id="11"), "app_id: has 1 bytes"),
        (lambda fields: fields.update(key_provider="vault"), "unknown key provider"),
        (lambda fields: fields.update(key_provider=1), "key_provider: is not a text"),
        (lambda fields: fields.update(instance_id="44"), "instance_id: has 1 bytes, not 0 or 20"),
        (lambda fields: fields.update(gpu_policy_hash=""), "gpu_policy_hash: has 0 bytes"),
        (lambda fields: fields.update(init_script_hashes="a"), "is not a list"),
        (lambda fields: fields.update(init_script_hashes=["aa"]), "init_script_hashes: has 1 bytes"),
    ],
)
def test_other_config_documents_are_refused(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    fields = json.loads(DOCUMENT)
    change(fields)
    with pytest.raises(DstackFormatError, match=reason):
        parse_mr_config(json.dumps(fields).encode())


def test_zeros_name_nobody() -> None:
    with pytest.raises(DstackInputError, match="compose hash"):
        config_id_v1(bytes(32))
    with pytest.raises(DstackInputError, match="app id"):
        config_id_v2(compose_hash=b"\2" * 32, app_id=b"", key_provider=KeyProvider.NONE, key_provider_id=b"")


COMPOSE = {
    "manifest_version": "3",
    "name": "demo",
    "runner": "docker-compose",
    "docker_compose_file": "services: {}",
    "kms_enabled": True,
    "init_script": ["echo one", "echo two"],
    "requirements": {"gpu_policy": {"allow_debug": False, "rego": "package policy"}},
}


def compose(**changes: object) -> bytes:
    return json.dumps({**COMPOSE, **changes}).encode()


DEPLOYMENT = Deployment(instance_id=b"\6" * 20, provider_id="abcd", os_image_hash=b"\7" * 32)


def test_events_of_an_app() -> None:
    data = compose()
    events = boot_events(parse_app_compose(data), DEPLOYMENT)
    digest = hashlib.sha256(data).digest()
    policy = b'{"allow_debug":false,"rego":"package policy"}'
    assert [(event.name, event.payload) for event in events] == [
        ("system-preparing", b""),
        ("app-id", digest[:20]),
        ("compose-hash", digest),
        ("init-script-hash", hashlib.sha256(b"echo one").digest()),
        ("init-script-hash", hashlib.sha256(b"echo two").digest()),
        ("gpu-policy-hash", hashlib.sha256(policy).digest()),
        ("instance-id", b"\6" * 20),
        ("boot-mr-done", b""),
        ("os-image-hash", b"\7" * 32),
        ("key-provider", b'{"name":"kms","id":"abcd"}'),
        ("storage-fs", b"zfs"),
        ("system-ready", b""),
    ]


def test_events_of_a_real_boot_follow_from_its_facts() -> None:
    """The lite deployment's own order and payload forms, with the app's file unknown but its hash known."""
    events = runtime_events(parse_event_log(report("dstack-simulator").event_log))
    provider = json.loads(next(event.payload for event in events if event.name == "key-provider"))
    assert list(provider) == ["name", "id"]
    assert json.dumps(provider, separators=(",", ":")).encode() == next(
        event.payload for event in events if event.name == "key-provider"
    )


def test_the_default_gpu_policy_is_an_empty_object() -> None:
    app = parse_app_compose(compose(requirements=None))
    assert app.gpu_policy_hash == hashlib.sha256(b"{}").digest()
    assert parse_app_compose(compose(requirements={})).gpu_policy_hash == app.gpu_policy_hash


def test_older_guests_have_fewer_events() -> None:
    app = parse_app_compose(compose(init_script=None, kms_enabled=False, local_key_provider_enabled=True))
    deployment = Deployment(instance_id=b"\6" * 20, provider_id="ab", gpu_policy=False, storage=False)
    names = [event.name for event in boot_events(app, deployment)]
    real = runtime_events(parse_event_log(report("quote-report").event_log))
    assert names == [event.name for event in real][:-1]


def test_every_event_of_a_version_2_app_is_of_version_2() -> None:
    events = boot_events(parse_app_compose(compose(event_log_version=2)), DEPLOYMENT)
    assert {event.version for event in events} == {2}
    assert replay(events) != replay(boot_events(parse_app_compose(compose()), DEPLOYMENT))


def test_a_foreign_compose_file_gives_another_register() -> None:
    base = replay(boot_events(parse_app_compose(compose()), DEPLOYMENT))
    assert replay(boot_events(parse_app_compose(compose() + b"\n"), DEPLOYMENT)) != base


@pytest.mark.parametrize(
    ("fields", "provider"),
    [
        ({"kms_enabled": False}, KeyProvider.NONE),
        ({}, KeyProvider.KMS),
        ({"kms_enabled": False, "local_key_provider_enabled": True}, KeyProvider.LOCAL),
        ({"key_provider": "tpm"}, KeyProvider.TPM),
        ({"key_provider": "none"}, KeyProvider.NONE),
    ],
)
def test_key_provider_of_old_and_new_files(fields: dict[str, object], provider: KeyProvider) -> None:
    assert parse_app_compose(compose(**fields)).key_provider is provider


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_log_version": 3}, "event_log_version is 3"),
        ({"event_log_version": "2"}, "event_log_version is '2'"),
        ({"storage_fs": "btrfs"}, "storage_fs is 'btrfs'"),
        ({"init_script": ["a"] * 6}, "has 6 init scripts"),
        ({"init_script": 5}, "init_script: is not a text"),
        ({"key_provider": "vault"}, "key_provider is 'vault'"),
        ({"kms_enabled": "yes"}, "kms_enabled: is neither"),
        ({"requirements": []}, "requirements: is not a JSON object"),
        ({"requirements": {"gpu_policy": None}}, "gpu_policy: is not a JSON object"),
        ({"requirements": {"gpu_policy": {"a": 1 << 60}}}, "gpu_policy has no canonical form"),
        ({"requirements": {"gpu_policy": {"a": "\ud800"}}}, "gpu_policy has no canonical form"),
        ({"init_script": "\ud800"}, "init_script: holds a lone surrogate"),
        ({"key_provider_id": "zz"}, "key_provider_id: is not lower-case hex"),
    ],
)
def test_other_app_files_are_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse_app_compose(compose(**fields))


def test_deployments_that_cannot_be_are_refused() -> None:
    app = parse_app_compose(compose())
    with pytest.raises(DstackInputError, match="no_instance_id contradicts"):
        boot_events(app, Deployment(instance_id=b"", provider_id="", os_image_hash=b"\7" * 32))
    with pytest.raises(DstackInputError, match="os-image-hash event exactly if"):
        boot_events(app, Deployment(instance_id=b"\6" * 20, provider_id=""))
    with pytest.raises(RuntimeOrderError, match="19 bytes in app-id"):
        boot_events(
            app,
            Deployment(instance_id=b"\6" * 20, provider_id="", app_id=b"\1" * 19, os_image_hash=b"\7" * 32),
        )
    nameless = parse_app_compose(compose(no_instance_id=True))
    assert boot_events(nameless, Deployment(instance_id=b"", provider_id="", os_image_hash=b"\7" * 32))
