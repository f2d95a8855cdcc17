"""The app manifest: everything that will run, by hash, and what it may ask for (docs/formats.md).

Canonical JSON; its hash is the app hash, ``H("keyturn-app-hash/1\\0" ‖ bytes)``. The parser accepts only what
can be started as it stands: names that refer to something, an order that has no cycle, paths that are plain.

The module ships in the guest: standard library only, named tuples instead of data classes.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import NamedTuple

from measurements.errors import FormatError

MANIFEST_TYPE = "keyturn-app/1"
APP_HASH_DOMAIN = b"keyturn-app-hash/1\0"
BLOCK_SIZE = 4096


class ManifestError(FormatError):
    """An app manifest that is not well formed or contradicts itself."""

    code = "app-manifest"


class ProviderMode(StrEnum):
    """Where keys come from."""

    KMS = "kms"
    TPM_SEAL = "tpm-seal"


class Protocol(StrEnum):
    """Transport of a port."""

    TCP = "tcp"
    UDP = "udp"


class RestartPolicy(StrEnum):
    """When a container that ended is started again."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Condition(StrEnum):
    """What a container waits for in another."""

    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"


class KeyKind(StrEnum):
    """What kind of key is derived."""

    RAW_256 = "raw-256"
    AES_256 = "aes-256"
    ED25519 = "ed25519"
    X25519 = "x25519"
    SECP256K1 = "secp256k1"
    P256 = "p256"


class KeyScope(StrEnum):
    """Who else gets the same key: all of the app, the same code, only this instance."""

    APP = "app"
    CODE = "code"
    INSTANCE = "instance"


class UpdateRule(StrEnum):
    """How the app's code may be replaced."""

    MUTABLE = "mutable"
    DELAYED = "delayed"
    FROZEN = "frozen"


class KeyProvider(NamedTuple):
    """The pinned source of keys: ``contract`` 20 bytes; ``kms_root`` 32 bytes, ``None`` exactly for
    tpm-seal.
    """

    mode: ProviderMode
    chain_id: int
    contract: bytes
    kms_root: bytes | None


class Image(NamedTuple):
    """Where a root file system came from, and its digest (``sha256:…``)."""

    source: str
    digest: str


class Volume(NamedTuple):
    """A verity volume of the app disk. ``offset`` from the disk's beginning and ``hash_offset`` from
    ``offset`` are bytes; ``root_hash`` 32 bytes, ``salt`` 0 to 256 bytes.
    """

    offset: int
    data_blocks: int
    hash_offset: int
    root_hash: bytes
    salt: bytes


class User(NamedTuple):
    """Numeric identity of a container's processes."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class Tmpfs(NamedTuple):
    """A file system in memory; ``size`` in bytes, ``mode`` four octal digits."""

    path: str
    size: int
    mode: str


class Mount(NamedTuple):
    """A folder of the encrypted disk inside a container."""

    volume: str
    path: str
    read_only: bool


class Port(NamedTuple):
    """A port that the container listens on, in the network of the guest."""

    port: int
    protocol: Protocol


class Restart(NamedTuple):
    """``max_retries`` counts restarts; 0 with another policy than ``no`` means no limit."""

    policy: RestartPolicy
    max_retries: int
    delay_seconds: int


class Health(NamedTuple):
    """A command that must exit with 0; unhealthy after ``retries`` failures in a row."""

    command: tuple[str, ...]
    interval_seconds: int
    timeout_seconds: int
    retries: int
    start_seconds: int


class Dependency(NamedTuple):
    """What has to be true of another container before this one starts."""

    container: str
    condition: Condition


class Limits(NamedTuple):
    """``memory`` in bytes; ``cpu_percent`` of one CPU."""

    memory: int
    pids: int
    cpu_percent: int
    open_files: int


class Container(NamedTuple):
    """One container; ``socket`` gives it the agent's socket."""

    name: str
    image: Image
    volume: Volume
    command: tuple[str, ...]
    working_dir: str
    env: dict[str, str]
    allowed_env: tuple[str, ...]
    user: User
    capabilities: tuple[str, ...]
    read_only: bool
    tmpfs: tuple[Tmpfs, ...]
    mounts: tuple[Mount, ...]
    ports: tuple[Port, ...]
    restart: Restart
    health: Health | None
    depends_on: tuple[Dependency, ...]
    limits: Limits
    socket: bool


class Storage(NamedTuple):
    """How the data disk is protected, and the file system on it."""

    mode: str
    filesystem: str


class Key(NamedTuple):
    """A key that the app may ask for."""

    path: str
    kind: KeyKind
    scope: KeyScope


class AppManifest(NamedTuple):
    """A whole manifest; ``app_id`` 20 bytes, ``owner_key`` 32 bytes (Ed25519)."""

    name: str
    version: str
    app_id: bytes
    key_provider: KeyProvider
    containers: tuple[Container, ...]
    volumes: tuple[str, ...]
    storage: Storage | None
    keys: tuple[Key, ...]
    owner_key: bytes | None
    update: UpdateRule


def app_hash(data: bytes) -> bytes:
    """The app hash of a manifest's bytes (32 bytes)."""
    return hashlib.sha256(APP_HASH_DOMAIN + data).digest()


def parse_manifest(data: bytes) -> AppManifest:
    """The manifest from its bytes. Raises ``ManifestError`` or ``CanonicalError`` for anything that is not
    canonical, complete and consistent.
    """
    from measurements.app_manifest_reader import read_manifest

    return read_manifest(data)
