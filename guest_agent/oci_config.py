"""From a container of the app manifest to the ``config.json`` that crun runs. Pure.

Form: OCI runtime specification 1.2 (``config.md``, ``config-linux.md``). What a manifest does not ask for is
not there: no capability, no device but the harmless ones of the runtime, no mount of the guest, no further
privilege by set-id programs. Containers have process, mount, IPC, host name and cgroup namespaces of their
own; the network is the guest's, whose ports the manifest lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from guest_agent.seccomp_profile import seccomp
from measurements.app_manifest import Container, Mount, Tmpfs
from measurements.errors import RefusedError

OCI_VERSION = "1.2.0"
SOCKET_PATH = "/run/keyturn.sock"
CPU_PERIOD = 100_000
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAPABILITIES = """
CAP_AUDIT_WRITE CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_IPC_LOCK CAP_KILL CAP_LEASE
CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_RAW CAP_SETFCAP CAP_SETGID CAP_SETPCAP
CAP_SETUID CAP_SYS_CHROOT CAP_SYS_NICE CAP_SYS_PACCT CAP_SYS_PTRACE CAP_SYS_RESOURCE CAP_SYS_TIME
"""
CAPABILITIES = frozenset(_CAPABILITIES.split())
"""What may be listed. The rest (mounts, modules, devices, kernel memory, BPF, …) is the guest itself."""
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/class/tpm",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/security",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys")


class ConfigError(RefusedError):
    """A container that cannot be run as the manifest says."""

    code = "container-config"


class Places(NamedTuple):
    """Where the guest keeps what containers get: the mounted root, the folder of the encrypted volumes, the
    agent's socket.
    """

    root: str
    volumes: str
    socket: str = SOCKET_PATH


def runtime_config(container: Container, *, places: Places, host_env: Mapping[str, str]) -> dict[str, Any]:
    """The whole document. ``host_env`` is what the host set; only names that the container allows pass, and
    none that the manifest itself sets. Raises ``ConfigError``.
    """
    refused = sorted(set(container.capabilities) - CAPABILITIES)
    if refused:
        raise _error(container, f"lists {', '.join(refused)}, which no container gets")
    return {
        "ociVersion": OCI_VERSION,
        "hostname": container.name,
        # An overlay: nothing ever writes to the verity volume itself.
        "root": {"path": places.root, "readonly": container.read_only},
        "process": _process(container, host_env),
        "mounts": _mounts(container, places),
        "linux": {
            "cgroupsPath": f"/keyturn/{container.name}",
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup")],
            "resources": _resources(container),
            "seccomp": seccomp(container.capabilities),
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
            "rootfsPropagation": "private",
        },
    }


def environment(container: Container, host_env: Mapping[str, str]) -> dict[str, str]:
    """The container's variables: a default path, what the host may set, and above all the manifest's own."""
    allowed = {name: value for name, value in host_env.items() if name in container.allowed_env}
    for name, value in allowed.items():
        if "\0" in value:
            raise _error(container, f"gets a variable {name} with a NUL from the host")
    return {"PATH": DEFAULT_PATH, **allowed, **container.env}


def _process(container: Container, host_env: Mapping[str, str]) -> dict[str, Any]:
    capabilities = sorted(container.capabilities)
    files = {
        "type": "RLIMIT_NOFILE",
        "hard": container.limits.open_files,
        "soft": container.limits.open_files,
    }
    core = {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return {
        "terminal": False,
        "user": {
            "uid": container.user.uid,
            "gid": container.user.gid,
            "additionalGids": list(container.user.groups),
            "umask": 0o022,
        },
        "args": list(container.command),
        "env": [f"{name}={value}" for name, value in sorted(environment(container, host_env).items())],
        "cwd": container.working_dir,
        "capabilities": dict.fromkeys(kinds, capabilities),
        "rlimits": [core, files],
        "noNewPrivileges": True,
        "oomScoreAdj": 500,
    }


def _mounts(container: Container, places: Places) -> list[dict[str, Any]]:
    own = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "noexec", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"
        ),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),  # noqa: S108
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
    ]
    # A shorter path is mounted first, so that a mount inside another one is not covered by it.
    asked = [
        *((tmpfs.path, _tmpfs(tmpfs)) for tmpfs in container.tmpfs),
        *((mount.path, _volume(mount, places)) for mount in container.mounts),
    ]
    ordered = [entry for _, entry in sorted(asked, key=lambda each: (each[0].count("/"), each[0]))]
    return own + ordered + ([_socket(places)] if container.socket else [])


def _tmpfs(tmpfs: Tmpfs) -> dict[str, Any]:
    return _mount(tmpfs.path, "tmpfs", "tmpfs", "nosuid", "nodev", f"mode={tmpfs.mode}", f"size={tmpfs.size}")


def _volume(mount: Mount, places: Places) -> dict[str, Any]:
    access = "ro" if mount.read_only else "rw"
    return _mount(mount.path, "bind", f"{places.volumes}/{mount.volume}", "bind", "nosuid", "nodev", access)


def _socket(places: Places) -> dict[str, Any]:
    return _mount(SOCKET_PATH, "bind", places.socket, "bind", "nosuid", "nodev", "noexec", "rw")


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _resources(container: Container) -> dict[str, Any]:
    limits = container.limits
    return {
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": {"limit": limits.memory, "swap": limits.memory},
        "pids": {"limit": limits.pids},
        "cpu": {"period": CPU_PERIOD, "quota": limits.cpu_percent * CPU_PERIOD // 100},
    }


def _error(container: Container, reason: str) -> ConfigError:
    return ConfigError(
        reason, subject=f"container {container.name}", advice="change the app, and build it again"
    )
