"""The boot chain on real machines: report, power-off, and refusal of everything that was altered."""

from __future__ import annotations

from pathlib import Path

import pytest

from guest_agent.payload import FOLDER
from image_builder.cpio import read_cpio
from image_builder.erofs_reader import open_erofs
from image_builder.image import Artefact, Image
from image_builder.initrd import DMSETUP
from image_builder.verity import BLOCK_SIZE
from measurements.events import Bank, extend
from measurements.qemu import Machine, MachineSpec
from measurements.qemu_args import DiskFile, FirmwareFiles
from measurements.runtime_events import DEV_IMAGE, RUNTIME_PCR, event_digest
from measurements.shape import MachineShape
from tests.boot.conftest import boot_spec
from tests.support.images import copy_image
from tests.support.real_boot import FinishedBoot, finished_boot

pytestmark = [pytest.mark.boot, pytest.mark.network]

ENDED = 180


def run_to_end(spec: MachineSpec) -> bytes:
    """Everything on the console of a machine that is expected to end by itself."""
    with Machine.start(spec) as machine:
        machine.wait_exit(seconds=ENDED)
        return machine.console.data


def test_a_boot_reports_and_powers_off(default_boot: FinishedBoot, built_image: Image) -> None:
    report = default_boot.report
    assert default_boot.exit_status == 0
    assert b"stops: power button" in default_boot.console
    assert report.command_line == built_image.command_line
    assert report.kernel_release == built_image.manifest["kernel"]["release"]
    assert (report.image_name, report.dev, list(report.runtime_events)) == (built_image.name, False, [])
    assert set(report.banks) == {"sha256", "sha384"}
    assert all(len(registers) == 24 for registers in report.banks.values())
    assert report.banks["sha256"][RUNTIME_PCR] == bytes(32)
    assert report.event_log
    assert 0 < report.agent_start_us < report.report_us


def test_nothing_writable_and_no_prompt_on_the_console(default_boot: FinishedBoot) -> None:
    text = default_boot.console.decode(errors="replace")
    assert not [word for word in ("login:", "Please press Enter", "~ #", "sh-", "Traceback") if word in text]


def test_a_dev_image_extends_its_marker(dev_image: Image, firmware: FirmwareFiles) -> None:
    boot = finished_boot(boot_spec(dev_image, firmware, MachineShape()))
    assert boot.report.dev
    assert list(boot.report.runtime_events) == [DEV_IMAGE]
    assert b"DEVELOPMENT IMAGE" in boot.console
    for bank in Bank:
        digest = event_digest(DEV_IMAGE, algorithm=bank.value)
        assert boot.report.banks[bank.value][RUNTIME_PCR] == extend(bytes(bank.size), digest, bank=bank)


def root_partition_start(image: Image) -> int:
    partition = next(part for part in image.manifest["disk"]["partitions"] if part["name"] == "root")
    return int(partition["first_lba"]) * 512


def first_byte_of(image: Image, path: str) -> int:
    """Where the content of a file of the root starts in ``root.erofs``."""
    with open_erofs(image.path(Artefact.ROOT)) as reader:
        entry = next(entry for entry in reader.entries() if entry.path == path)
        return next(part.offset for part in entry.ranges if part.part in ("data", "tail"))


@pytest.mark.parametrize("what", ["usr/bin/busybox", f"{FOLDER}/guest_agent/power.py", "hash tree"])
def test_one_changed_byte_in_the_root_is_refused(
    built_image: Image, firmware: FirmwareFiles, tmp_path: Path, what: str
) -> None:
    if what == "hash tree":
        in_root = int(built_image.manifest["verity"]["hash_offset"]) + BLOCK_SIZE
    else:
        in_root = first_byte_of(built_image, what)
    disk = copy_image(built_image, tmp_path) / Artefact.DISK
    with disk.open("r+b") as stream:
        offset = root_partition_start(built_image) + in_root
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 0x01]))
    console = run_to_end(MachineSpec(shape=MachineShape(), firmware=firmware, disks=[DiskFile(path=disk)]))
    assert b"Kernel panic - not syncing: dm-verity device corrupted" in console
    assert b"KEYTURN BOOT REPORT" not in console


def test_an_added_command_line_is_refused_by_the_initrd(
    built_image: Image, firmware: FirmwareFiles, tmp_path: Path
) -> None:
    """The stub appends what the host puts into SMBIOS (systemd-stub(7)); the initrd compares and refuses."""
    spec = boot_spec(built_image, firmware, MachineShape())
    extra = ("-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=init=/bin/sh")
    console = run_to_end(MachineSpec(shape=spec.shape, firmware=firmware, disks=spec.disks, extra=extra))
    assert b"initrd refuses: the kernel command line is not the one this image was built with" in console
    assert b"KEYTURN BOOT REPORT" not in console


def test_the_image_has_no_shell_and_no_getty(built_image: Image) -> None:
    with open_erofs(built_image.path(Artefact.ROOT)) as reader:
        names = {entry.path.rpartition("/")[2] for entry in reader.entries()}
    assert {"busybox", "python3.13"} <= names
    assert not names & {"sh", "bash", "dash", "getty", "agetty", "login", "sulogin", "sshd", "systemd", "su"}
    initrd = built_image.path(Artefact.INITRD).read_bytes()
    members = {entry.name.decode() for entry in read_cpio(initrd)}
    assert {name for name in members if name.startswith("usr/") and "/bin/" in f"/{name}"} == {
        "usr/bin/busybox"
    }
    assert DMSETUP in members
