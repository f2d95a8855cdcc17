"""A guest that only reports what was measured: the quickest real boot of firmware, stub and kernel.

It is a Debian suite's cloud kernel with an initrd of nothing but static BusyBox and a script. The report on
the console is ``ORACLE`` lines: the event log (base64), then per bank and PCR the register's value.
"""

from __future__ import annotations

import base64
import functools
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from image_builder.cpio import cpio_bytes
from image_builder.gpt import build_gpt
from image_builder.tree import BytesContent, Kind, Node
from measurements.eventlog import EventLog, parse_event_log
from measurements.events import Bank
from measurements.gpt import BLOCK, Partition
from measurements.ima import KERNEL_OPTIONS
from measurements.qemu import Machine, MachineError, MachineSpec
from tests.support.debian_packages import debian_package, kernel_package
from tests.support.tools import require_tool

REPORT_SECONDS = 180
COMMAND_LINE = "console=ttyS0 loglevel=3 panic=-1"
UKI_ON_ESP = "EFI/BOOT/BOOTX64.EFI"
DISK_GUID = UUID("0c1f7a52-7d4e-4a7e-8a0b-6f2d1f6a9b01")
ESP_GUID = UUID("0c1f7a52-7d4e-4a7e-8a0b-6f2d1f6a9b02")
ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_MIB = 1 << 20

INIT = """#!/usr/bin/busybox ash
busybox=/usr/bin/busybox
"$busybox" mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/console 2>&1
"$busybox" mount -t proc proc /proc
"$busybox" mount -t sysfs sysfs /sys
"$busybox" mount -t securityfs securityfs /sys/kernel/security
echo ORACLE log
"$busybox" base64 /sys/kernel/security/tpm0/binary_bios_measurements
echo ORACLE registers
for bank in sha256 sha384; do
    for pcr in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        read -r value <"/sys/class/tpm/tpm0/pcr-$bank/$pcr"
        echo "ORACLE $bank $pcr $value"
    done
done
read -r arguments </proc/cmdline
echo "ORACLE cmdline $arguments"
echo ORACLE end
"$busybox" poweroff -f
"""


@dataclass(frozen=True, kw_only=True)
class OracleGuest:
    """What is booted: kernel, initrd, and what IMA goes by."""

    kernel: bytes
    initrd: bytes
    release: str
    config: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class OracleReport:
    """What one boot measured."""

    log: EventLog
    registers: Mapping[Bank, Mapping[int, bytes]]
    command_line: str


@functools.cache
def oracle_guest(suite: str) -> OracleGuest:
    """The guest with the cloud kernel of ``suite``."""
    kernel = debian_package(kernel_package(suite), suite=suite) / "boot"
    (image,) = kernel.glob("vmlinuz-*")
    config = (kernel / image.name.replace("vmlinuz", "config")).read_text()
    options = dict(re.findall(r"^(CONFIG_\w+)=\"?([^\"\n]*)\"?$", config, re.MULTILINE))
    busybox = debian_package("busybox-static", suite=suite)
    (program,) = (path for path in busybox.rglob("busybox") if path.is_file() and path.parent.name == "bin")
    return OracleGuest(
        kernel=image.read_bytes(),
        initrd=_initrd(program.read_bytes()),
        release=image.name.removeprefix("vmlinuz-"),
        config={name: options.get(name, "n") for name in KERNEL_OPTIONS},
    )


def _initrd(busybox: bytes) -> bytes:
    files = {"usr/bin/busybox": busybox, "init": INIT.encode()}
    folders = ("dev", "proc", "sys", "usr", "usr/bin")
    nodes = [Node(path=path, kind=Kind.DIRECTORY, mode=0o755) for path in folders]
    nodes += [
        Node(path=path, kind=Kind.FILE, mode=0o755, content=BytesContent(data))
        for path, data in files.items()
    ]
    return cpio_bytes({node.path: node for node in nodes})


def oracle_disk(path: Path, files: Mapping[str, bytes], *, size: int = 64 * _MIB) -> Path:
    """A GPT disk at ``path`` whose only partition is an ESP with ``files`` (paths with ``/``)."""
    blocks = size // BLOCK
    esp = Partition(
        name="esp",
        type_guid=ESP_TYPE,
        guid=ESP_GUID,
        first_lba=_MIB // BLOCK,
        last_lba=(size - _MIB) // BLOCK - 1,
    )
    table = build_gpt(blocks, DISK_GUID, [esp])
    with path.open("wb") as stream:
        stream.truncate(size)
        stream.write(table.primary)
        stream.seek(size - len(table.backup))
        stream.write(table.backup)
    place = f"{path}@@{_MIB}"
    sectors = str(esp.last_lba - esp.first_lba + 1)
    _mtools("mformat", "-i", place, "-F", "-T", sectors, "-h", "64", "-s", "32", "::")
    made: set[str] = set()
    for name, data in files.items():
        for parent in _parents(name):
            if parent not in made:
                _mtools("mmd", "-i", place, f"::/{parent}")
                made.add(parent)
        _mtools("mcopy", "-i", place, "-", f"::/{name}", data=data)
    return path


def oracle_boot(spec: MachineSpec) -> OracleReport:
    """Boot ``spec`` to its report; once more if the machine is lost (see ``tests.support.real_boot``)."""
    try:
        return _boot(spec)
    except MachineError:
        return _boot(spec)


def _boot(spec: MachineSpec) -> OracleReport:
    with Machine.start(spec) as machine:
        machine.wait_for("ORACLE end", seconds=REPORT_SECONDS)
        return read_report(machine.console.data)


def read_report(console: bytes) -> OracleReport:
    """The report in what a guest wrote."""
    text = console.decode("ascii", "replace").replace("\r", "")
    encoded = re.search(r"ORACLE log\n(.*?)ORACLE registers\n", text, re.DOTALL)
    command_line = re.search(r"ORACLE cmdline (.*)\n", text)
    assert encoded is not None, text[-2000:]
    assert command_line is not None, text[-2000:]
    raw = base64.b64decode(encoded[1])
    registers: dict[Bank, dict[int, bytes]] = {bank: {} for bank in Bank}
    for bank, pcr, value in re.findall(r"ORACLE (sha256|sha384) (\d+) ([0-9A-F]+)\n", text):
        registers[Bank(bank)][int(pcr)] = bytes.fromhex(value)
    return OracleReport(log=parse_event_log(raw), registers=registers, command_line=command_line[1])


def _parents(name: str) -> Sequence[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _mtools(tool: str, *arguments: str, data: bytes = b"") -> None:
    program = require_tool(tool, package="mtools")
    subprocess.run([program, *arguments], input=data, check=True, capture_output=True)
