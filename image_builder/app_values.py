"""Checks of single values of an app recipe. Each returns the value to keep, or raises ``ValueError`` with the
reason.
"""

from __future__ import annotations

import re

from image_builder.recipe_values import absolute_path
from measurements.app_manifest_reader import (
    CAPABILITY,
    ENV_NAME,
    KEY_PATH,
    LOADER_ENV,
    NAME,
    RESERVED_KEYS,
    RESERVED_MOUNTS,
)

_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{64}")
_USER = re.compile(r"([0-9]{1,10}|[a-z_][a-z0-9_-]{0,31})(:([0-9]{1,10}|[a-z_][a-z0-9_-]{0,31}))?")
_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp))?")

FORBIDDEN = {
    "build": "images are built beforehand and named by digest, so that the app hash covers them",
    "cgroup": "a container shares no namespace with the guest",
    "cgroup_parent": "a container shares no namespace with the guest",
    "devices": "a container gets no devices",
    "device_cgroup_rules": "a container gets no devices",
    "extends": "the whole app stands in one measured file",
    "include": "the whole app stands in one measured file",
    "env_file": "variables stand in the measured file; allowed-env names those that the host may set",
    "ipc": "a container shares no namespace with the guest",
    "network_mode": "networks are set by keyturn; list the ports instead",
    "pid": "a container shares no namespace with the guest",
    "privileged": "a privileged container could undo every other protection of the guest",
    "security_opt": "the confinement of containers is fixed",
    "userns_mode": "a container shares no namespace with the guest",
    "uts": "a container shares no namespace with the guest",
    "volumes_from": "volumes are named one by one",
}
"""Keys that other tools have and that are refused here, with the reason."""


def forbidden_reason(key: str) -> str:
    """Why ``key`` is refused; "" if there is nothing special about it."""
    return FORBIDDEN.get(key.replace("-", "_"), "")


def address(value: str) -> str:
    """A contract's address."""
    if not _ADDRESS.fullmatch(value) or not int(value, 16):
        raise ValueError(f"{value!r} is not an address (0x and 40 lower-case hex digits, not zero)")
    return value


def key_hash(value: str) -> str:
    """32 bytes in hex."""
    if not _HASH.fullmatch(value) or not int(value, 16):
        raise ValueError(f"{value!r} is not 64 lower-case hex digits, or zero")
    return value


def name(value: str) -> str:
    """The name of a container or volume."""
    if "docker.sock" in value or "containerd.sock" in value or "podman.sock" in value:
        raise ValueError(f"{value!r}: the socket of a container engine would hand over the guest")
    if "/" in value or value.startswith((".", "~")):
        raise ValueError(f"{value!r} is a path: nothing of the host or guest is mounted, only named volumes")
    return _matching(NAME, value, "a name (a-z, 0-9, -)")


def env_name(value: str) -> str:
    """The name of a variable."""
    return _matching(ENV_NAME, value, "a variable's name")


def allowed_env_name(value: str) -> str:
    """The name of a variable that the host may set."""
    if LOADER_ENV.fullmatch(value):
        raise ValueError(f"{value} chooses the code that runs, so the host may not set it")
    return env_name(value)


def plain_text(value: str) -> str:
    """Any text without NUL."""
    if "\0" in value:
        raise ValueError("holds a NUL character")
    return value


def capability(value: str) -> str:
    """``CAP_NET_BIND_SERVICE``."""
    if value.upper() in {"ALL", "CAP_ALL"}:
        raise ValueError("ALL is not a capability: list the ones that are needed")
    return _matching(
        CAPABILITY, value, "a capability that a container may have (CAP_NET_BIND_SERVICE and its like)"
    )


def inner_path(value: str) -> str:
    """Where something may be mounted in a container."""
    if value.rstrip("/").endswith((".sock", ".socket")):
        raise ValueError(f"{value!r} looks like a socket; only named volumes and tmpfs are mounted")
    absolute_path(value)
    if any(value == each or value.startswith(each + "/") for each in RESERVED_MOUNTS):
        raise ValueError(f"{value!r} belongs to the container's own file systems")
    return value


def key_path(value: str) -> str:
    """The path of a key."""
    if value.startswith(RESERVED_KEYS):
        raise ValueError(f"{value!r} is below {RESERVED_KEYS}, which belongs to the agent")
    return _matching(KEY_PATH, value, "a key path (a-z, 0-9, / _ . -)")


def user(value: str) -> str:
    """``UID``, ``UID:GID``, or names of the image's passwd and group."""
    return _matching(_USER, value, 'a user such as "1000:1000"')


def port(value: object) -> tuple[int, str]:
    """``8080`` or ``"8080/udp"`` → number and protocol."""
    match = _PORT.fullmatch(str(value)) if isinstance(value, int | str) else None
    if match is None or isinstance(value, bool) or not 1 <= int(match[1]) <= 65535:
        raise ValueError(f'{value!r} is not a port such as 8080 or "8080/udp"')
    return int(match[1]), match[2] or "tcp"


def _matching(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not {what}")
    return value
