"""The encrypted data disk: formatted once with permission, otherwise opened or refused.

Nothing that the host writes is interpreted before it is authenticated. dm-integrity would read its superblock
from the disk; here that superblock lies in a RAM disk of the guest, is computed from the measured layout and
the disk's size (``storage_layout``), and is put in front of the host's disk.

Journal mode, not direct mode: direct mode tears a block from its tag when power fails between the two writes,
and such a block can never be read again. The journal is read from the host's disk, but it is encrypted
(AES-256-CBC) and its entries carry an HMAC with section number and salt (``fix_hmac``); an altered journal
puts the device into its failed state, where every read fails. What it replays are ciphertext and tags, which
dm-crypt authenticates with their sector number at every read.

Formatting writes every block once, so that every later read is authenticated: a block that was never written,
or was wiped, swapped or altered, reads as an error. The keys depend on the disk's size, so a truncated or
enlarged disk reads as a foreign one. The file system's own metadata errors panic the kernel; an altered block
of a file is an I/O error to its reader and never other data.

Not covered: the host can put back an older state of single blocks, or of the whole disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from guest_agent.device_tables import (
    BLOCK,
    SECTOR,
    StorageKeys,
    crypt_table,
    front_table,
    integrity_table,
    storage_keys,
)
from guest_agent.programs import ProgramError, attempt, run
from guest_agent.storage_layout import JOURNAL_SECTORS, Layout, plan_layout, same_layout, superblock
from measurements.errors import RefusedError

DMSETUP, MKFS, BUSYBOX = "/usr/sbin/dmsetup", "/usr/sbin/mkfs.ext4", "/usr/bin/busybox"
RAM_DISK = "/dev/ram0"
DISK_SERIAL = "keyturn-data"
FRONT, INTEGRITY, CRYPT = "keyturn-front", "keyturn-integrity", "keyturn-data"
DEVICES = (CRYPT, INTEGRITY, FRONT)
"""The devices, the topmost first."""
_NO_UDEV = {"DM_DISABLE_UDEV": "1"}
_CHUNK = 1 << 20
_MKFS_OPTIONS = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
MOUNT_OPTIONS = "nosuid,nodev,errors=panic"


class StorageError(RefusedError):
    """The data disk is refused. It is never formatted because of that."""

    code = "storage"


class Opened(Enum):
    """What was done with the disk; the text is what the runtime event ``storage`` says."""

    FORMATTED = "aead-hmac:formatted"
    OPENED = "aead-hmac:opened"


class DataDisk(NamedTuple):
    """The host's disk: its device, layout and keys."""

    device: str
    layout: Layout
    keys: StorageKeys


class Device(NamedTuple):
    """A device to make: ``table`` has one line per target."""

    name: str
    table: str
    read_only: bool = False


def find_disk(serial: str, root: Path = Path("/")) -> str:
    """The device of the one virtio disk with ``serial``. Raises ``StorageError`` for none or several."""
    found = [
        path.parent.name
        for path in sorted((root / "sys/block").glob("vd*/serial"))
        if path.read_text(encoding="ascii", errors="replace").strip() == serial
    ]
    if len(found) != 1:
        raise _error(f"{len(found)} disks have the serial {serial}, not one")
    return f"/dev/{found[0]}"


def disk_size(device: str) -> int:
    """Size of a block device in bytes."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def describe_disk(device: str, storage_key: bytes) -> DataDisk:
    """The disk ``device`` under the 32-byte ``storage_key``. Raises ``LayoutError`` and ``TableError``."""
    sectors = disk_size(device) // SECTOR
    return DataDisk(device, plan_layout(sectors), storage_keys(storage_key, disk_sectors=sectors))


def provide(disk: DataDisk, *, target: str, format_permitted: bool) -> Opened:
    """Mount the data disk at ``target``; formats it exactly when that is permitted.

    Permission comes from the key's owner and is given until the first use is confirmed; whatever the disk
    holds then is no data of this instance. Raises ``StorageError`` for a disk that does not authenticate.
    """
    if format_permitted:
        format_disk(disk)
    try:
        open_devices(disk, mode="J", front=superblock(disk.layout, disk.keys))
        check_readable(f"/dev/mapper/{CRYPT}", size=disk.layout.data_sectors * SECTOR)
        mount(target)
    except (OSError, ProgramError) as error:
        drop_devices()
        raise _refused(error) from error
    return Opened.FORMATTED if format_permitted else Opened.OPENED


def format_disk(disk: DataDisk) -> None:
    """Make a new journal, write every block, and make the file system.

    The kernel computes the superblock by itself first; unless it comes to the same layout as
    ``storage_layout``, the disk is refused. It also takes a salt of its own for the HMACs of the empty
    journal; the file system is made under the derived salt, and closing the devices after that writes the
    whole journal again.
    """
    open_devices(disk, mode="D", front=bytes(BLOCK))
    with open(RAM_DISK, "rb") as made:
        found = made.read(BLOCK)
    if not same_layout(found, superblock(disk.layout, disk.keys)):
        raise _error("the kernel lays it out in another way than this image computes")
    write_all(f"/dev/mapper/{CRYPT}", size=disk.layout.data_sectors * SECTOR)
    close_devices()
    open_devices(disk, mode="J", front=superblock(disk.layout, disk.keys))
    run((MKFS, "-q", "-b", str(BLOCK), "-e", "panic", "-E", _MKFS_OPTIONS, f"/dev/mapper/{CRYPT}"))
    close_devices()


def open_devices(disk: DataDisk, *, mode: str, front: bytes) -> None:
    """The three devices, with ``front`` (4096 bytes) as dm-integrity's superblock."""
    write_ram_disk(front)
    sectors = disk.layout.data_sectors
    integrity = integrity_table(
        disk.keys,
        device=f"/dev/mapper/{FRONT}",
        data_sectors=sectors,
        mode=mode,
        journal_sectors=JOURNAL_SECTORS,
    )
    create_devices(
        (
            Device(
                FRONT, front_table(memory=RAM_DISK, disk=disk.device, disk_sectors=disk.layout.disk_sectors)
            ),
            Device(INTEGRITY, integrity),
            Device(CRYPT, crypt_table(disk.keys, device=f"/dev/mapper/{INTEGRITY}", data_sectors=sectors)),
        )
    )


def close_devices() -> None:
    """Remove the devices, the topmost first; dm-integrity empties its journal on the way."""
    for name in DEVICES:
        run((DMSETUP, "remove", name), environment=_NO_UDEV)


def drop_devices() -> None:
    """Remove what is there of the devices after a failure."""
    for name in DEVICES:
        attempt((DMSETUP, "remove", name), environment=_NO_UDEV)


def create_devices(devices: Sequence[Device]) -> None:
    """Make the devices, in their order, with one call: starting a program takes longer than its work. The
    tables go by standard input.
    """
    run((DMSETUP, "create", "--concise"), given=concise(devices).encode("ascii"), environment=_NO_UDEV)


def concise(devices: Sequence[Device]) -> str:
    """The devices as ``dmsetup create --concise`` reads them (``dmsetup(8)``, "Concise format"): fields name,
    UUID, minor, flags, table lines; a comma ends a field, a semicolon a device, a backslash escapes either.
    """
    return ";".join(
        f"{_escaped(device.name)},,,{'ro' if device.read_only else 'rw'},"
        + ",".join(_escaped(line) for line in device.table.splitlines())
        for device in devices
    )


def _escaped(field: str) -> str:
    return re.sub(r"([\\,;])", r"\\\1", field)


def write_ram_disk(data: bytes) -> None:
    """Put ``data`` at the beginning of the guest's RAM disk and flush it, so that later reads see it."""
    descriptor = os.open(RAM_DISK, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(device: str, *, size: int) -> None:
    """Write zeros over the first ``size`` bytes of ``device``."""
    zeros = bytes(_CHUNK)
    descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        left = size
        while left:
            left -= os.write(descriptor, zeros[: min(left, _CHUNK)])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_readable(device: str, *, size: int) -> None:
    """Read the first and the last block; an error means that they do not authenticate."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for offset in (0, size - BLOCK):
            if len(os.pread(descriptor, BLOCK, offset)) != BLOCK:
                raise _error("it is shorter than its layout")
    finally:
        os.close(descriptor)


def mount(target: str) -> None:
    """Mount the file system at ``target``, which is made."""
    Path(target).mkdir(mode=0o755, parents=True, exist_ok=True)
    run((BUSYBOX, "mount", "-t", "ext4", "-o", MOUNT_OPTIONS, f"/dev/mapper/{CRYPT}", target))


def release(target: str) -> None:
    """Unmount and close everything."""
    run((BUSYBOX, "umount", target))
    close_devices()


def _refused(error: Exception) -> StorageError:
    return StorageError(
        f"it does not authenticate under this instance's key ({error}): wiped, swapped, resized or altered",
        subject="data disk",
        advice="attach this instance's own disk, or restore it; a new disk needs a new instance id",
    )


def _error(reason: str) -> StorageError:
    return StorageError(reason, subject="data disk", advice="check the machine's disks")
