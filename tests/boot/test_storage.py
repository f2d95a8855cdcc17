"""The encrypted data disk against a hostile host: two boots of the real kernel, power cut after the first.

The host alters copies of the disk between the boots; the second boot is given all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from guest_agent.storage_layout import JOURNAL_SECTORS, data_sector_on_disk, plan_layout
from image_builder.image import Image
from tests.support.kernel_boot import kernel_boot

SIZE = 20 << 20
LAYOUT = plan_layout(SIZE // 512)
FIRST = """
from guest_agent import storage
from guest_agent.programs import run
KEY, OTHER = bytes(range(1, 33)), bytes(range(2, 34))
def disk(serial, key=KEY):
    return storage.describe_disk(storage.find_disk(serial), key)
def write(path, data):
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
say("other", ask(storage.provide, disk("other", OTHER), target="/run/data", format_permitted=True))
storage.release("/run/data")
say("clean", ask(storage.provide, disk("clean"), target="/run/data", format_permitted=True))
write("/run/data/file", b"kept " * 2000)
os.sync()
say("blocks", run(("/usr/sbin/debugfs", "-R", "blocks /file", "/dev/mapper/keyturn-data")).splitlines()[-1])
say("mount", next(line for line in open("/proc/mounts") if "/run/data" in line).strip())
storage.release("/run/data")
say("cut", ask(storage.provide, disk("cut"), target="/run/data", format_permitted=True))
write("/run/data/late", b"written just before the power failed")
"""
SECOND = """
from guest_agent import storage
KEY = bytes(range(1, 33))
def read(path):
    with open(path, "rb") as stream:
        return stream.read()
def attempt(serial, key=KEY):
    disk = ask(lambda: storage.describe_disk(storage.find_disk(serial), key))
    if isinstance(disk, str):
        return disk
    return ask(storage.provide, disk, target="/run/data", format_permitted=False)
for serial in ("wiped", "swapped", "truncated", "enlarged", "flipped", "tag", "journal", "absent"):
    say(serial, attempt(serial))
say("key", attempt("clean", KEY[::-1]))
say("content", attempt("content"), ask(read, "/run/data/file"))
storage.release("/run/data")
say("cut", attempt("cut"), read("/run/data/late").decode())
storage.release("/run/data")
say("clean", attempt("clean"), read("/run/data/file") == b"kept " * 2000)
"""


def flip(path: Path, sector: int, *, offset: int = 0) -> None:
    with path.open("r+b") as stream:
        stream.seek(sector * 512 + offset)
        (byte,) = stream.read(1)
        stream.seek(sector * 512 + offset)
        stream.write(bytes([byte ^ 1]))


def wipe(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def resize(change: int) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with path.open("r+b") as stream:
            stream.truncate(path.stat().st_size + change)

    return apply


@pytest.fixture(scope="session")
def said(apps_image: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the guest said in both boots; the first boot's words start with ``first-``."""
    folder = tmp_path_factory.mktemp("storage")
    disks = {name: folder / f"{name}.raw" for name in ("clean", "cut", "other")}
    for disk in disks.values():
        disk.write_bytes(b"\xa5" * SIZE)
    with kernel_boot(apps_image, FIRST, disks, folder=folder) as guest:
        first = guest.finish(seconds=240)
    block = int(first["blocks"].split()[0])
    attacks: dict[str, Callable[[Path], object]] = {
        "wiped": wipe,
        "swapped": lambda path: path.write_bytes(disks["other"].read_bytes()),
        "truncated": resize(-4096),
        "enlarged": resize(4096),
        "flipped": lambda path: flip(path, data_sector_on_disk(LAYOUT, 0), offset=1080),
        "tag": lambda path: flip(path, JOURNAL_SECTORS),
        "journal": lambda path: flip(path, 3, offset=508),
        "content": lambda path: flip(path, data_sector_on_disk(LAYOUT, block * 8)),
    }
    altered = {name: folder / f"{name}.raw" for name in attacks}
    for name, attack in attacks.items():
        shutil.copyfile(disks["clean"], altered[name])
        attack(altered[name])
    del disks["other"]
    with kernel_boot(apps_image, SECOND, {**disks, **altered}, folder=folder) as guest:
        second = guest.finish(seconds=240)
    before = altered["wiped"].read_bytes()
    kept = {"wiped-kept": str(not any(before[(8 + JOURNAL_SECTORS) * 512 :]))}
    return {f"first-{word}": rest for word, rest in first.items()} | second | kept


@pytest.mark.parametrize("disk", ["clean", "cut", "other"])
def test_with_permission_the_disk_is_formatted(said: dict[str, str], disk: str) -> None:
    assert said[f"first-{disk}"] == "Opened.FORMATTED"


def test_the_disk_gives_no_devices_and_no_privileges(said: dict[str, str]) -> None:
    assert {"nosuid", "nodev"} <= set(said["first-mount"].split()[3].split(","))


def test_a_reopened_disk_keeps_its_data(said: dict[str, str]) -> None:
    assert said["clean"] == "Opened.OPENED True"


def test_what_was_synced_survives_a_power_cut(said: dict[str, str]) -> None:
    assert said["cut"] == "Opened.OPENED written just before the power failed"


@pytest.mark.parametrize(
    "attack", ["wiped", "swapped", "truncated", "enlarged", "flipped", "tag", "journal", "key"]
)
def test_a_disk_that_is_not_ours_is_refused(said: dict[str, str], attack: str) -> None:
    assert said[attack].startswith("StorageError: data disk: it does not authenticate")


def test_a_refused_disk_is_not_formatted(said: dict[str, str]) -> None:
    assert said["wiped-kept"] == "True"


def test_a_flipped_bit_in_a_file_is_an_error_and_never_other_data(said: dict[str, str]) -> None:
    assert said["content"] == "Opened.OPENED OSError: [Errno 5] Input/output error"


def test_an_absent_disk_is_refused(said: dict[str, str]) -> None:
    assert said["absent"].startswith("StorageError: data disk: 0 disks have the serial absent")
