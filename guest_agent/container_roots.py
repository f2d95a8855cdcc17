"""The root file systems of containers: verity volumes of the app disk, and overlays in memory above them.

Everything below ``/run/keyturn``: ``roots/NAME`` is the verity volume, ``overlays/NAME`` the overlay that the
container gets as its root. A read-only container needs one, too: crun makes mount points that the image lacks
there, and then mounts it read-only. What a writable container writes to it takes at most its memory limit.
"""

from __future__ import annotations

import os
from pathlib import Path

from guest_agent.device_tables import check_volumes, slice_table, verity_table
from guest_agent.programs import run
from guest_agent.storage import BUSYBOX, Device, create_devices, disk_size
from measurements.app_manifest import Container

FOLDER = "/run/keyturn"
_MOUNT_POINTS = 1 << 20
"""Room for the mount points of a read-only container, bytes."""
CGROUPS = "/sys/fs/cgroup"


def mount_cgroups() -> None:
    """Mount the control groups, by which limits are kept."""
    run((BUSYBOX, "mount", "-t", "cgroup2", "-o", "nosuid,nodev,noexec", "cgroup2", CGROUPS))


def open_roots(containers: tuple[Container, ...], *, disk: str) -> dict[str, str]:
    """Open and mount the root of every container; the path of each by name.

    Raises ``TableError`` for volumes that are not on the disk and ``ProgramError``. A corrupt block panics
    the kernel when it is read.
    """
    check_volumes(tuple(each.volume for each in containers), disk_bytes=disk_size(disk))
    return {each.name: open_root(each, disk=disk) for each in containers}


def open_root(container: Container, *, disk: str) -> str:
    """Open and mount the root of one container; its path."""
    name = f"app-{container.name}"
    part = f"{name}-slice"
    verity = verity_table(container.volume, device=f"/dev/mapper/{part}")
    create_devices(
        (
            Device(part, slice_table(container.volume, device=disk), read_only=True),
            Device(name, verity, read_only=True),
        )
    )
    root = f"{FOLDER}/roots/{container.name}"
    _mount("erofs", f"/dev/mapper/{name}", root, "ro,nosuid,nodev")
    return _overlay(container, root)


def make_volumes(containers: tuple[Container, ...], *, folder: str) -> None:
    """Make the folders of the volumes that are not there yet on the data disk mounted at ``folder``. Each
    belongs to the user of the first container that mounts it, mode 0755.
    """
    for container in containers:
        for mount in container.mounts:
            path = Path(folder, mount.volume)
            if not path.exists():
                path.mkdir(mode=0o755)
                os.chown(path, container.user.uid, container.user.gid)


def _overlay(container: Container, root: str) -> str:
    memory, merged = f"{FOLDER}/memory/{container.name}", f"{FOLDER}/overlays/{container.name}"
    size = _MOUNT_POINTS if container.read_only else container.limits.memory
    _mount("tmpfs", "tmpfs", memory, f"nosuid,nodev,mode=755,size={size}")
    upper, work = f"{memory}/upper", f"{memory}/work"
    for folder in (upper, work):
        Path(folder).mkdir(mode=0o755)
    options = f"nosuid,nodev,lowerdir={root},upperdir={upper},workdir={work}"
    _mount("overlay", "overlay", merged, options)
    return merged


def _mount(kind: str, source: str, target: str, options: str) -> None:
    Path(target).mkdir(mode=0o755, parents=True)
    run((BUSYBOX, "mount", "-t", kind, "-o", options, source, target))
