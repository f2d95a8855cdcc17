"""Writes the app project of the KMS: a recipe for its container's root, its own files, and ``app.toml``.

The chain, the contracts and the hashes of their code are pinned in the manifest; the host only says where a
node is and which certificates exist, neither of which is trusted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from image_builder.app_recipe import APP_RECIPE_NAME
from image_builder.recipe import RECIPE_NAME
from keyturn.import_closure import reached_modules
from kms.agent_socket import ROOT_KEY_PATHS
from measurements.version import VERSION

START = "kms.main"
PACKAGES = ("attestation", "contracts", "kms", "measurements")
"""What the KMS is made of (see the import directions); of these only what it reaches is shipped."""

INSTALLED = "/usr/lib/python3/dist-packages"
PORT = 8090


@dataclass(frozen=True, kw_only=True, slots=True)
class KmsPins:
    """What the KMS obeys: ``registry`` is ``0x`` and 40 hex digits, hashes are 64 hex digits."""

    chain_id: int
    registry: str
    registry_code_hash: str
    app_code_hash: str


def write_kms_app(folder: Path, pins: KmsPins) -> Path:
    """Write the project into the new folder ``folder``; returns the path of ``app.toml``.

    Next: ``keyturn lock`` and ``fetch`` for ``root/keyturn.toml``, then ``keyturn app lock`` and ``build``.
    """
    root = folder / "root"
    root.mkdir(parents=True)
    entries = []
    for source, target in _files():
        copy = root / "files" / target
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        entries.append({"source": f"files/{target}", "path": f"{INSTALLED}/{target}"})
    template = resources.files("image_builder").joinpath("data/recipe_kms.toml").read_text(encoding="utf-8")
    (root / RECIPE_NAME).write_text(template + "\n" + tomli_w.dumps({"file": entries}), encoding="utf-8")
    path = folder / APP_RECIPE_NAME
    path.write_text(tomli_w.dumps(kms_recipe(pins)), encoding="utf-8")
    return path


def kms_recipe(pins: KmsPins) -> dict[str, Any]:
    """The document of ``app.toml``."""
    container = {
        "name": "kms",
        "image": "recipe:root",
        "entrypoint": ["/usr/bin/python3.13", "-I", "-m", START],
        "user": "kms",
        "env": {
            "KEYTURN_CHAIN_ID": str(pins.chain_id),
            "KEYTURN_REGISTRY": pins.registry,
            "KEYTURN_REGISTRY_CODE_HASH": pins.registry_code_hash,
            "KEYTURN_APP_CODE_HASH": pins.app_code_hash,
            "KEYTURN_LISTEN": f"0.0.0.0:{PORT}",
            "KEYTURN_DATA": "/data",
        },
        "allowed-env": ["KEYTURN_RPC_URL", "KEYTURN_EK_CERTIFICATES", "KEYTURN_POLICIES"],
        "ports": [PORT],
        "mounts": [{"volume": "data", "path": "/data"}],
        "tmpfs": [{"path": "/tmp", "size": "16MiB", "mode": "1777"}],  # noqa: S108 - inside the container
        "limits": {"memory": "512MiB", "pids": 64},
        "restart": {"policy": "on-failure", "max-retries": 3},
        "socket": True,
    }
    return {
        "app": {
            "name": "keyturn-kms",
            "version": VERSION,
            "app-id": pins.registry,
            "volumes": ["data"],
            "update": "frozen",
        },
        "key-provider": {"mode": "tpm-seal", "chain-id": pins.chain_id, "contract": pins.registry},
        "container": [container],
        "key": [{"path": path, "kind": "raw-256", "scope": "instance"} for path in ROOT_KEY_PATHS],
    }


def _files() -> Iterator[tuple[Path, str]]:
    """Every module that the KMS reaches, with its path below the folder of packages; sorted. None of them
    reads data from beside itself.
    """
    for name, path in reached_modules(START, frozenset(PACKAGES)).items():
        relative = name.replace(".", "/")
        yield path, f"{relative}/__init__.py" if path.name == "__init__.py" else f"{relative}.py"
