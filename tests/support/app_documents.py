"""App manifests and configurations for tests."""

from __future__ import annotations

from typing import Any

from measurements.canonical import encode_canonical
from measurements.config_disk import Config, Network


def container_document(**changes: Any) -> dict[str, Any]:
    """One container of an app manifest."""
    document: dict[str, Any] = {
        "name": "web",
        "image": {"source": "oci:image", "digest": "sha256:" + "ab" * 32},
        "volume": {
            "offset": 0,
            "data_blocks": 2,
            "hash_offset": 8192,
            "root_hash": "cd" * 32,
            "salt": "ef" * 32,
        },
        "command": ["/bin/web", "--port", "8080"],
        "working_dir": "/",
        "env": {"MODE": "plain"},
        "allowed_env": ["GREETING"],
        "user": {"uid": 1000, "gid": 1000, "groups": []},
        "capabilities": [],
        "read_only": True,
        "tmpfs": [{"path": "/tmp", "size": 1 << 20, "mode": "1777"}],
        "mounts": [{"volume": "data", "path": "/data", "read_only": False}],
        "ports": [{"port": 8080, "protocol": "tcp"}],
        "restart": {"policy": "on-failure", "max_retries": 3, "delay_seconds": 1},
        "health": {
            "command": ["/bin/check"],
            "interval_seconds": 10,
            "timeout_seconds": 5,
            "retries": 3,
            "start_seconds": 0,
        },
        "depends_on": [],
        "limits": {"memory": 128 << 20, "pids": 64, "cpu_percent": 100, "open_files": 1024},
        "socket": True,
    }
    return document | changes


def manifest_document(**changes: Any) -> dict[str, Any]:
    """An app manifest; ``changes`` replace whole values."""
    document: dict[str, Any] = {
        "type": "keyturn-app/1",
        "name": "hello",
        "version": "1",
        "app_id": "0x" + "11" * 20,
        "key_provider": {
            "mode": "kms",
            "chain_id": 31337,
            "contract": "0x" + "22" * 20,
            "kms_root": "33" * 32,
        },
        "containers": [container_document()],
        "volumes": ["data"],
        "storage": {"mode": "aead-hmac", "filesystem": "ext4"},
        "keys": [{"path": "web/signing", "kind": "ed25519", "scope": "app"}],
        "owner_key": None,
        "update": "mutable",
    }
    return document | changes


def manifest_bytes(**changes: Any) -> bytes:
    """The same as canonical JSON."""
    return encode_canonical(manifest_document(**changes))


def config(**changes: Any) -> Config:
    """A configuration that fits the manifest."""
    plain = Config(
        app_manifest=manifest_bytes(),
        instance_id=bytes(range(16)),
        network=Network(address="10.0.2.15/24", gateway="10.0.2.2"),
        kms_urls=("http://10.0.2.2:8090",),
        env={"GREETING": "hello"},
        envelope=None,
        reference=None,
    )
    return plain._replace(**changes)
