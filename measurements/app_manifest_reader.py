"""Reads an app manifest, value by value and then as a whole (docs/formats.md, "App manifest").

The module ships in the guest: standard library only.
"""

from __future__ import annotations

import re

from measurements.app_manifest import (
    BLOCK_SIZE,
    MANIFEST_TYPE,
    AppManifest,
    Condition,
    Container,
    Dependency,
    Health,
    Image,
    Key,
    KeyKind,
    KeyProvider,
    KeyScope,
    Limits,
    ManifestError,
    Mount,
    Port,
    Protocol,
    ProviderMode,
    Restart,
    RestartPolicy,
    Storage,
    Tmpfs,
    UpdateRule,
    User,
    Volume,
)
from measurements.canonical import parse_canonical
from measurements.strict_fields import Fields

MAX_MANIFEST = 512 << 10
"""Bytes of a manifest: base64 of it fits the config disk."""

MAX_ID = (1 << 32) - 2
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")
NAME = re.compile(r"[a-z0-9-]{1,64}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
PATH = re.compile(r"/|(?:/(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f]+)+")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
CAPABILITY = re.compile(
    r"CAP_(?:AUDIT_WRITE|CHOWN|DAC_OVERRIDE|FOWNER|FSETID|IPC_LOCK|KILL|LEASE|NET_ADMIN|NET_BIND_SERVICE"
    r"|NET_BROADCAST|NET_RAW|SETFCAP|SETGID|SETPCAP|SETUID|SYS_CHROOT|SYS_NICE|SYS_PACCT|SYS_PTRACE"
    r"|SYS_RESOURCE|SYS_TIME)"
)
"""Those that do not hand over the guest: modules, raw memory, mounts, devices and BPF are left out."""
MODE = re.compile(r"[01][0-7]{3}")
KEY_PATH = re.compile(r"[a-z0-9][a-z0-9/_.-]{0,127}")
RESERVED_KEYS = "keyturn/"
RESERVED_MOUNTS = ("/proc", "/sys", "/dev", "/run/keyturn.sock")
LOADER_ENV = re.compile(
    r"LD_.*|GLIBC_TUNABLES|PATH|PYTHON.*|NODE_OPTIONS|BASH_ENV|ENV|PERL5.*|RUBYOPT|JAVA_.*"
)
"""Variables by which whoever sets them chooses the code that runs."""

_MANIFEST_KEYS = ("type", *AppManifest._fields)


def read_manifest(data: bytes) -> AppManifest:
    """The manifest from its bytes."""
    if len(data) > MAX_MANIFEST:
        raise _error(f"has {len(data)} bytes, more than {MAX_MANIFEST}")
    fields = Fields(parse_canonical(data, subject="app manifest"), _MANIFEST_KEYS, path="", refuse=_error)
    fields.constant("type", MANIFEST_TYPE)
    manifest = AppManifest(
        name=fields.text("name", LABEL),
        version=fields.text("version", LABEL),
        app_id=fields.address("app_id"),
        key_provider=_provider(fields),
        containers=fields.objects("containers", Container._fields, _container),
        volumes=fields.texts("volumes", NAME),
        storage=None if fields.is_null("storage") else _storage(fields.object("storage", Storage._fields)),
        keys=fields.objects("keys", Key._fields, _key),
        owner_key=None if fields.is_null("owner_key") else _owner_key(fields),
        update=fields.choice("update", UpdateRule),
    )
    _check_whole(manifest)
    return manifest


def _error(reason: str) -> ManifestError:
    return ManifestError(
        reason, subject="app manifest", advice="build the app again with `keyturn app build`"
    )


def _provider(manifest: Fields) -> KeyProvider:
    raw = manifest.raw("key_provider")
    sealed = isinstance(raw, dict) and raw.get("mode") == ProviderMode.TPM_SEAL
    keys = KeyProvider._fields[:3] if sealed else KeyProvider._fields
    fields = manifest.object("key_provider", keys)
    return KeyProvider(
        mode=fields.choice("mode", ProviderMode),
        chain_id=fields.integer("chain_id", 1),
        contract=fields.address("contract"),
        kms_root=None if sealed else fields.not_zero("kms_root", fields.octets("kms_root", 32)),
    )


def _container(fields: Fields) -> Container:
    command = fields.texts("command", unique=False)
    if not command or not command[0]:
        fields.fail("command", "is empty")
    return Container(
        name=fields.text("name", NAME),
        image=_image(fields.object("image", Image._fields)),
        volume=_volume(fields.object("volume", Volume._fields)),
        command=command,
        working_dir=fields.text("working_dir", PATH),
        env=fields.table("env", ENV_NAME),
        allowed_env=_allowed_env(fields),
        user=_user(fields.object("user", User._fields)),
        capabilities=fields.texts("capabilities", CAPABILITY),
        read_only=fields.boolean("read_only"),
        tmpfs=fields.objects("tmpfs", Tmpfs._fields, _tmpfs),
        mounts=fields.objects("mounts", Mount._fields, _mount),
        ports=fields.unique("ports", fields.objects("ports", Port._fields, _port)),
        restart=_restart(fields.object("restart", Restart._fields)),
        health=None if fields.is_null("health") else _health(fields.object("health", Health._fields)),
        depends_on=fields.objects("depends_on", Dependency._fields, _dependency),
        limits=_limits(fields.object("limits", Limits._fields)),
        socket=fields.boolean("socket"),
    )


def _allowed_env(fields: Fields) -> tuple[str, ...]:
    names = fields.texts("allowed_env", ENV_NAME)
    for name in names:
        if LOADER_ENV.fullmatch(name):
            fields.fail("allowed_env", f"lets the host set {name}, which chooses the code that runs")
    return names


def _image(fields: Fields) -> Image:
    return Image(source=fields.text("source"), digest=fields.text("digest", DIGEST))


def _volume(fields: Fields) -> Volume:
    blocks = fields.integer("data_blocks", 1)
    offset = fields.integer("offset")
    if offset % BLOCK_SIZE:
        fields.fail("offset", f"is no multiple of {BLOCK_SIZE}")
    if fields.integer("hash_offset") != blocks * BLOCK_SIZE:
        fields.fail("hash_offset", "is not right behind the data blocks")
    return Volume(
        offset=offset,
        data_blocks=blocks,
        hash_offset=blocks * BLOCK_SIZE,
        root_hash=fields.not_zero("root_hash", fields.octets("root_hash", 32)),
        salt=fields.octets("salt", *range(257)),
    )


def _user(fields: Fields) -> User:
    return User(
        uid=fields.integer("uid", 0, MAX_ID),
        gid=fields.integer("gid", 0, MAX_ID),
        groups=fields.integers("groups", 0, MAX_ID),
    )


def _inner_path(fields: Fields) -> str:
    path = fields.text("path", PATH)
    if path == "/" or any(path == each or path.startswith(each + "/") for each in RESERVED_MOUNTS):
        fields.fail("path", f"{path} belongs to the container's own file systems")
    return path


def _tmpfs(fields: Fields) -> Tmpfs:
    return Tmpfs(
        path=_inner_path(fields), size=fields.integer("size", BLOCK_SIZE), mode=fields.text("mode", MODE)
    )


def _mount(fields: Fields) -> Mount:
    return Mount(
        volume=fields.text("volume", NAME), path=_inner_path(fields), read_only=fields.boolean("read_only")
    )


def _port(fields: Fields) -> Port:
    return Port(port=fields.integer("port", 1, 65535), protocol=fields.choice("protocol", Protocol))


def _restart(fields: Fields) -> Restart:
    return Restart(
        policy=fields.choice("policy", RestartPolicy),
        max_retries=fields.integer("max_retries", 0, 1_000_000),
        delay_seconds=fields.integer("delay_seconds", 0, 86400),
    )


def _health(fields: Fields) -> Health:
    command = fields.texts("command", unique=False)
    if not command or not command[0]:
        fields.fail("command", "is empty")
    return Health(
        command=command,
        interval_seconds=fields.integer("interval_seconds", 1, 86400),
        timeout_seconds=fields.integer("timeout_seconds", 1, 86400),
        retries=fields.integer("retries", 1, 1000),
        start_seconds=fields.integer("start_seconds", 0, 86400),
    )


def _dependency(fields: Fields) -> Dependency:
    return Dependency(
        container=fields.text("container", NAME), condition=fields.choice("condition", Condition)
    )


def _limits(fields: Fields) -> Limits:
    return Limits(
        memory=fields.integer("memory", 1 << 20),
        pids=fields.integer("pids", 1, 1 << 22),
        cpu_percent=fields.integer("cpu_percent", 1, 100 * 1024),
        open_files=fields.integer("open_files", 16, 1 << 20),
    )


def _storage(fields: Fields) -> Storage:
    fields.constant("mode", "aead-hmac")
    fields.constant("filesystem", "ext4")
    return Storage(mode="aead-hmac", filesystem="ext4")


def _owner_key(fields: Fields) -> bytes:
    return fields.not_zero("owner_key", fields.octets("owner_key", 32))


def _key(fields: Fields) -> Key:
    path = fields.text("path", KEY_PATH)
    if path.startswith(RESERVED_KEYS):
        fields.fail("path", f"is below {RESERVED_KEYS}, which belongs to the agent")
    return Key(path=path, kind=fields.choice("kind", KeyKind), scope=fields.choice("scope", KeyScope))


def _check_whole(manifest: AppManifest) -> None:
    """What single values cannot show."""
    if not manifest.containers:
        raise _error("containers is empty")
    if (manifest.storage is None) != (not manifest.volumes):
        raise _error("storage and volumes do not fit: storage is null exactly when volumes is empty")
    _check_owner(manifest)
    _once([container.name for container in manifest.containers], "containers")
    _once([key.path for key in manifest.keys], "keys")
    _once(
        [f"{p.port}/{p.protocol}" for each in manifest.containers for p in each.ports],
        "ports of all containers",
    )
    for container in manifest.containers:
        _check_places(container, manifest.volumes)
    _check_order(manifest.containers)


def _check_owner(manifest: AppManifest) -> None:
    """An owner's envelopes need a key that the KMS vouches for, and a disk that remembers their counter."""
    if manifest.owner_key is None:
        return
    if manifest.key_provider.mode is not ProviderMode.KMS:
        raise _error("owner_key needs a KMS: of a key that the TPM seals nobody could tell the public half")
    if manifest.storage is None:
        raise _error("owner_key needs storage: without a disk an old envelope could be replayed unseen")


def _once(names: list[str], what: str) -> None:
    seen = set[str]()
    for name in names:
        if name in seen:
            raise _error(f"{what}: {name} is given twice")
        seen.add(name)


def _check_places(container: Container, volumes: tuple[str, ...]) -> None:
    where = f"container {container.name}"
    for mount in container.mounts:
        if mount.volume not in volumes:
            raise _error(f"{where} mounts volume {mount.volume}, which is not listed in volumes")
    paths = [mount.path for mount in container.mounts] + [tmpfs.path for tmpfs in container.tmpfs]
    _once(paths, f"{where}: mounts and tmpfs")


def _check_order(containers: tuple[Container, ...]) -> None:
    """Every dependency exists and can come true, and the containers can be put in an order."""
    health = {container.name: container.health for container in containers}
    waiting = {container.name: set[str]() for container in containers}
    for container in containers:
        _once([each.container for each in container.depends_on], f"container {container.name}: depends_on")
        for dependency in container.depends_on:
            if dependency.container not in waiting:
                raise _error(f"container {container.name} depends on {dependency.container}, which is absent")
            if dependency.condition is Condition.HEALTHY and health[dependency.container] is None:
                raise _error(
                    f"container {container.name} waits until {dependency.container} is healthy, "
                    "which has no health command"
                )
            waiting[container.name].add(dependency.container)
    while ready := [name for name, needs in waiting.items() if not needs & set(waiting)]:
        for name in ready:
            del waiting[name]
    if waiting:
        raise _error(f"containers wait for each other: {', '.join(sorted(waiting))}")
