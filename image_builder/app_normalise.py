"""From the recipe and its images to the app manifest: every default is written out, nothing is left to be
decided in the guest. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from image_builder.app_recipe import AppRecipe, ContainerEntry
from image_builder.app_volume import accounts_file
from image_builder.oci_image import ImageConfig
from image_builder.tree import Tree
from measurements.app_manifest import MANIFEST_TYPE, Volume, parse_manifest
from measurements.canonical import encode_canonical
from measurements.errors import KeyturnError

MAX_ID = (1 << 32) - 2


class AppError(KeyturnError):
    """An app that cannot be built."""

    code = "app"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pins:
    """What is known only once the app's contract and its KMS exist; an empty value leaves the recipe's.

    Addresses are ``0x`` and 40 hex digits, ``kms_root`` 64 hex digits.
    """

    app_id: str = ""
    chain_id: int = 0
    contract: str = ""
    kms_root: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltImage:
    """An image of the app: where it is from, digest, configuration, tree (for its accounts) and volume."""

    source: str
    digest: str
    config: ImageConfig
    tree: Tree
    volume: Volume


def app_manifest(recipe: AppRecipe, images: Mapping[str, BuiltImage], pins: Pins) -> bytes:
    """The canonical manifest; ``images`` by the recipe's reference.

    Raises ``AppError`` for what is still missing, ``ManifestError`` for what the guest would refuse.
    """
    document = {
        "type": MANIFEST_TYPE,
        "name": recipe.app.name,
        "version": recipe.app.version,
        "app_id": _needed(pins.app_id or recipe.app.app_id, "app.app-id", "--app-id"),
        "key_provider": _provider(recipe, pins),
        "containers": [_container(entry, images[entry.image]) for entry in recipe.containers],
        "volumes": list(recipe.app.volumes),
        "storage": {"mode": "aead-hmac", "filesystem": "ext4"} if recipe.app.volumes else None,
        "keys": [{"path": key.path, "kind": key.kind, "scope": key.scope} for key in recipe.keys],
        "owner_key": recipe.app.owner_key or None,
        "update": recipe.app.update,
    }
    data = encode_canonical(document, subject="app manifest")
    parse_manifest(data)
    return data


def _needed(value: str, key: str, option: str) -> str:
    if not value:
        raise AppError(
            f"{key} is not known", subject=recipe_subject(), advice=f"set {key} in app.toml, or give {option}"
        )
    return value


def recipe_subject() -> str:
    """How errors call the recipe."""
    return "app.toml"


def _provider(recipe: AppRecipe, pins: Pins) -> dict[str, Any]:
    table = recipe.key_provider
    chain_id = pins.chain_id or table.chain_id
    if not chain_id:
        _needed("", "key-provider.chain-id", "--chain-id")
    contract = _needed(pins.contract or table.contract, "key-provider.contract", "--contract")
    provider: dict[str, Any] = {"mode": table.mode, "chain_id": chain_id, "contract": contract}
    root = pins.kms_root or table.kms_root
    if table.mode == "kms":
        provider["kms_root"] = _needed(root, "key-provider.kms-root", "--kms-root")
    elif root:
        raise AppError(
            "key-provider.kms-root is given, but the TPM seals the keys",
            subject=recipe_subject(),
            advice="remove kms-root, or set key-provider.mode to kms",
        )
    return provider


def _container(entry: ContainerEntry, image: BuiltImage) -> dict[str, Any]:
    return {
        "name": entry.name,
        "image": {"source": image.source, "digest": image.digest},
        "volume": {
            "offset": image.volume.offset,
            "data_blocks": image.volume.data_blocks,
            "hash_offset": image.volume.hash_offset,
            "root_hash": image.volume.root_hash.hex(),
            "salt": image.volume.salt.hex(),
        },
        "command": list(_command(entry, image.config)),
        "working_dir": entry.working_dir or image.config.working_dir.rstrip("/") or "/",
        "env": {**image.config.env, **entry.env},
        "allowed_env": list(entry.allowed_env),
        "user": _user(entry, image),
        "capabilities": sorted(entry.capabilities),
        "read_only": entry.read_only,
        "tmpfs": [{"path": each.path, "size": each.size, "mode": f"{each.mode:04o}"} for each in entry.tmpfs],
        "mounts": [
            {"volume": each.volume, "path": each.path, "read_only": each.read_only} for each in entry.mounts
        ],
        "ports": [{"port": port, "protocol": protocol} for port, protocol in entry.ports],
        "restart": _plain(entry.restart),
        "health": None if entry.health is None else _plain(entry.health),
        "depends_on": [_plain(each) for each in entry.depends_on],
        "limits": _plain(entry.limits),
        "socket": entry.socket,
    }


def _plain(table: Any) -> dict[str, Any]:
    """A table's values by the names that the manifest has for them, too."""
    values = {name: getattr(table, name) for name in table.__slots__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _command(entry: ContainerEntry, config: ImageConfig) -> tuple[str, ...]:
    """Entrypoint and command joined; a new entrypoint leaves the image's command out (as in Compose)."""
    entrypoint = entry.entrypoint or config.entrypoint
    command = entry.command or (() if entry.entrypoint else config.command)
    if not entrypoint + command:
        raise AppError(
            "neither the recipe nor the image says what to run",
            subject=f"container {entry.name}",
            advice="set entrypoint or command",
        )
    return entrypoint + command


def _user(entry: ContainerEntry, image: BuiltImage) -> dict[str, Any]:
    """Numeric user; names are looked up in the image."""
    name, _, group = (entry.user or image.config.user or "0:0").partition(":")
    passwd = accounts_file(image.tree, "/etc/passwd")
    groups = accounts_file(image.tree, "/etc/group")
    account = next((line for line in passwd if name in (line[0], line[2])), None)
    uid = _id(name, account, entry)
    if group:
        gid = _id(group, next((line for line in groups if line[0] == group), None), entry)
    else:
        gid = _id(account[3], None, entry) if account is not None else 0
    own = account[0] if account is not None else None
    members = [line for line in groups if own in line[3].split(",")] if not group else []
    further = sorted({_id(line[2], None, entry) for line in members} - {gid})
    return {"uid": uid, "gid": gid, "groups": further}


def _id(value: str, account: list[str] | None, entry: ContainerEntry) -> int:
    number = value if value.isascii() and value.isdigit() else account[2] if account is not None else ""
    if not (number.isascii() and number.isdigit()) or int(number) > MAX_ID:
        raise AppError(
            f"user or group {value!r} is not in the image",
            subject=f"container {entry.name}",
            advice='give numbers, such as user = "1000:1000"',
        )
    return int(number)
