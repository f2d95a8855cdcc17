"""App manifests: only what is canonical, complete and consistent."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.app_manifest import KeyKind, ManifestError, ProviderMode, app_hash, parse_manifest
from measurements.canonical import encode_canonical
from measurements.errors import KeyturnError
from tests.support.app_documents import container_document, manifest_bytes, manifest_document


def changed(path: str, value: Any) -> bytes:
    """The manifest with one value replaced: ``containers.0.name``."""
    document = manifest_document()
    at: Any = document
    *parents, last = path.split(".")
    for part in parents:
        at = at[int(part)] if part.isdigit() else at[part]
    at[last] = value
    return encode_canonical(document)


def test_values() -> None:
    manifest = parse_manifest(manifest_bytes())
    assert manifest.app_id == bytes.fromhex("11" * 20)
    assert manifest.key_provider.mode is ProviderMode.KMS
    assert manifest.key_provider.kms_root == bytes.fromhex("33" * 32)
    (container,) = manifest.containers
    assert container.command == ("/bin/web", "--port", "8080")
    assert container.volume.root_hash == bytes.fromhex("cd" * 32)
    assert container.env == {"MODE": "plain"}
    assert manifest.keys[0].kind is KeyKind.ED25519


def test_app_hash_is_the_documented_one() -> None:
    data = manifest_bytes()
    assert app_hash(data) == hashlib.sha256(b"keyturn-app-hash/1\0" + data).digest()


def test_tpm_seal_has_no_kms_root() -> None:
    provider = {"mode": "tpm-seal", "chain_id": 1, "contract": "0x" + "22" * 20}
    manifest = parse_manifest(manifest_bytes(key_provider=provider))
    assert manifest.key_provider.kms_root is None
    with pytest.raises(ManifestError, match="unknown key kms_root"):
        parse_manifest(manifest_bytes(key_provider=provider | {"kms_root": "33" * 32}))


@given(st.data())
@settings(deadline=None)
def test_attack_any_flipped_bit_changes_the_hash_or_is_refused(data: st.DataObject) -> None:
    good = manifest_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    assert app_hash(bytes(flipped)) != app_hash(good)
    with contextlib.suppress(KeyturnError):
        assert parse_manifest(bytes(flipped)) != parse_manifest(good)


def test_attack_whitespace_that_hashes_differently_is_refused() -> None:
    with pytest.raises(KeyturnError, match="canonical"):
        parse_manifest(manifest_bytes() + b"\n")


@pytest.mark.parametrize("key", sorted(manifest_document()))
def test_every_key_is_needed(key: str) -> None:
    document = manifest_document()
    del document[key]
    with pytest.raises(ManifestError, match="missing"):
        parse_manifest(encode_canonical(document))


@pytest.mark.parametrize("key", sorted(container_document()))
def test_every_key_of_a_container_is_needed(key: str) -> None:
    container = container_document()
    del container[key]
    with pytest.raises(ManifestError, match=f"{key} is missing"):
        parse_manifest(manifest_bytes(containers=[container]))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("type", "keyturn-app/2", "type"),
        ("extra", 1, "unknown key extra"),
        ("name", "a b", "name"),
        ("app_id", "0x" + "00" * 20, "zero"),
        ("app_id", "0x" + "AB" * 20, "app_id"),
        ("app_id", "11" * 20, "app_id"),
        ("key_provider.mode", "none", "mode"),
        ("key_provider.chain_id", 0, "chain_id"),
        ("key_provider.chain_id", True, "chain_id"),
        ("key_provider.kms_root", "00" * 32, "zero"),
        ("key_provider.kms_root", None, "kms_root"),
        ("containers", [], "containers is empty"),
        ("containers.0.name", "../web", "name"),
        ("containers.0.image.digest", "latest", "digest"),
        ("containers.0.volume.offset", 1, "multiple"),
        ("containers.0.volume.hash_offset", 4096, "hash_offset"),
        ("containers.0.volume.root_hash", "00" * 32, "zero"),
        ("containers.0.volume.data_blocks", 0, "data_blocks"),
        ("containers.0.command", [], "command is empty"),
        ("containers.0.command", ["a\0b"], "NUL"),
        ("containers.0.working_dir", "/a/../b", "working_dir"),
        ("containers.0.working_dir", "a", "working_dir"),
        ("containers.0.env", {"A=B": "c"}, "not a name"),
        ("containers.0.env", {"A": 1}, "env.A"),
        ("containers.0.allowed_env", ["LD_PRELOAD"], "chooses the code"),
        ("containers.0.allowed_env", ["A", "A"], "twice"),
        ("containers.0.user.uid", -1, "uid"),
        ("containers.0.user.uid", 1 << 32, "uid"),
        ("containers.0.capabilities", ["ALL"], "capabilities"),
        ("containers.0.capabilities", ["CAP_CHOWN", "CAP_CHOWN"], "twice"),
        ("containers.0.tmpfs", [{"path": "/proc/x", "size": 4096, "mode": "0755"}], "own file systems"),
        ("containers.0.tmpfs", [{"path": "/data", "size": 4096, "mode": "0755"}], "twice"),
        ("containers.0.mounts.0.volume", "other", "not listed"),
        ("containers.0.mounts.0.path", "/", "own file systems"),
        ("containers.0.mounts.0.path", "/run/keyturn.sock", "own file systems"),
        ("containers.0.ports", [{"port": 0, "protocol": "tcp"}], "port"),
        ("containers.0.ports", [{"port": 1, "protocol": "tcp"}] * 2, "twice"),
        ("containers.0.restart.policy", "sometimes", "policy"),
        ("containers.0.health.command", [], "command is empty"),
        ("containers.0.depends_on", [{"container": "web", "condition": "started"}], "each other"),
        ("containers.0.depends_on", [{"container": "db", "condition": "started"}], "absent"),
        ("containers.0.limits.memory", 0, "memory"),
        ("containers.0.socket", 1, "socket"),
        ("volumes", [], "storage and volumes"),
        ("storage", None, "storage and volumes"),
        ("storage.mode", "plain", "mode"),
        ("keys.0.path", "keyturn/storage", "belongs to the agent"),
        ("keys.0.path", "/x", "path"),
        ("keys.0.kind", "rsa", "kind"),
        ("owner_key", "00", "owner_key"),
        ("owner_key", "00" * 32, "owner_key is zero"),
        ("update", "never", "update"),
    ],
)
def test_refused(path: str, value: Any, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        parse_manifest(changed(path, value))


@pytest.mark.parametrize("name", ["SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "BPF", "MKNOD", "DAC_READ_SEARCH"])
def test_attack_privileged_by_another_name(name: str) -> None:
    with pytest.raises(ManifestError, match="capabilities"):
        parse_manifest(changed("containers.0.capabilities", [f"CAP_{name}"]))


def test_a_key_listed_twice_is_refused() -> None:
    key = {"path": "a", "kind": "ed25519", "scope": "app"}
    with pytest.raises(ManifestError, match="twice"):
        parse_manifest(manifest_bytes(keys=[key, key | {"scope": "code"}]))


def test_containers_that_wait_for_each_other_are_refused() -> None:
    first = container_document(name="a", ports=[], depends_on=[{"container": "b", "condition": "started"}])
    second = container_document(name="b", ports=[], depends_on=[{"container": "a", "condition": "started"}])
    with pytest.raises(ManifestError, match="wait for each other: a, b"):
        parse_manifest(manifest_bytes(containers=[first, second]))
    assert parse_manifest(manifest_bytes(containers=[first, second | {"depends_on": []}]))


def test_waiting_for_the_health_of_a_container_without_check_is_refused() -> None:
    first = container_document(name="a", ports=[], depends_on=[{"container": "b", "condition": "healthy"}])
    second = container_document(name="b", ports=[], health=None)
    with pytest.raises(ManifestError, match="no health command"):
        parse_manifest(manifest_bytes(containers=[first, second]))


def test_an_owner_without_a_disk_that_remembers_counters_is_refused() -> None:
    bare = container_document(mounts=[])
    changes: dict[str, Any] = {"volumes": [], "storage": None, "containers": [bare]}
    assert parse_manifest(manifest_bytes(**changes)).owner_key is None
    with pytest.raises(ManifestError, match="owner_key needs storage"):
        parse_manifest(manifest_bytes(owner_key="ab" * 32, **changes))
    assert parse_manifest(manifest_bytes(owner_key="ab" * 32)).owner_key == b"\xab" * 32


def test_an_owner_whose_app_has_no_kms_is_refused() -> None:
    provider = {"mode": "tpm-seal", "chain_id": 1, "contract": "0x" + "22" * 20}
    with pytest.raises(ManifestError, match="owner_key needs a KMS"):
        parse_manifest(manifest_bytes(owner_key="ab" * 32, key_provider=provider))


def test_two_containers_on_one_port_are_refused() -> None:
    with pytest.raises(ManifestError, match="ports"):
        parse_manifest(manifest_bytes(containers=[container_document(), container_document(name="b")]))


def test_a_manifest_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ManifestError, match="more than"):
        parse_manifest(b" " * (1 << 20))
