"""The QEMU command line of a machine shape: pure, so that prediction and boot mean the same machine.

All devices have explicit PCI addresses: nothing that firmware could measure is left to QEMU's defaults except
what the machine type fixes. Facts: QEMU's ``qemu-system-x86_64(1)`` and ``docs/specs/tpm.rst``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from measurements.shape import BootOrder, Disk, MachineShape, Nic, TpmInterface

MONITOR_FD_NAME = "monitor"
_TPM_DEVICES = {TpmInterface.CRB: "tpm-crb", TpmInterface.TIS: "tpm-tis"}

_WORDWISE = "erms=off,fsrm=off"
"""Has guests clear and copy memory by words: emulation stores byte by byte what ``rep stosb`` writes, and
looks for translated code at each store.
"""


class Accelerator(StrEnum):
    """How QEMU runs the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareFiles:
    """OVMF's two flash files: ``code`` is never written, ``variables`` is the guest's own copy."""

    code: Path
    variables: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskFile:
    """The raw image behind one disk of the shape; ``serial`` is the name by which the guest finds it, which
    no firmware measures.
    """

    path: Path
    read_only: bool = True
    serial: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PortForward:
    """A TCP port of the host's loopback address that leads to a port of the guest's first network card."""

    host: int
    guest: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Backends:
    """What stands behind the shape's devices in one run; none of it is measured."""

    firmware: FirmwareFiles
    disks: Sequence[DiskFile]
    tpm_socket: Path
    accelerator: Accelerator = Accelerator.TCG
    monitor_fd: int | None = None
    forwards: Sequence[PortForward] = ()
    extra: Sequence[str] = field(default=())


def machine_arguments(shape: MachineShape) -> list[str]:
    """Machine type, memory and processors."""
    return [
        *("-M", f"{shape.machine},smm={'on' if shape.smm else 'off'}"),
        *("-m", f"{shape.memory_mib}M"),
        *("-smp", str(shape.cpus)),
        *("-global", "ICH9-LPC.disable_s3=1"),
        *("-global", "ICH9-LPC.disable_s4=1"),
        "-nodefaults",
        *("-display", "none"),
        "-no-user-config",
    ]


def device_arguments(shape: MachineShape, files: Sequence[DiskFile] = ()) -> list[str]:
    """The shape's devices; their back ends are named ``disk0``, ``net0``, ``tpm0``. ``files`` give the disks
    their serials.
    """
    arguments: list[str] = []
    for index, disk in enumerate(shape.disks):
        first = shape.boot_order is BootOrder.DISK and index == 0
        serial = files[index].serial if index < len(files) else ""
        arguments += ["-device", _disk_device(disk, index, first=first, serial=serial)]
    for index, nic in enumerate(shape.nics):
        arguments += ["-device", _nic_device(nic, index)]
    return [*arguments, "-device", f"{_TPM_DEVICES[shape.tpm]},tpmdev=tpm0"]


def run_arguments(shape: MachineShape, backends: Backends) -> list[str]:
    """Every argument after the program for a machine that runs: the console on standard output, no window."""
    return [
        *machine_arguments(shape),
        *("-accel", backends.accelerator.value),
        *("-cpu", _processor(shape, backends.accelerator)),
        "-no-reboot",
        *_flash_arguments(backends.firmware, secure=shape.smm),
        *_tpm_backend(backends.tpm_socket),
        *_disk_backends(backends.disks),
        *_net_backends(shape, backends.forwards),
        *device_arguments(shape, backends.disks),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *_monitor_arguments(backends.monitor_fd),
        *backends.extra,
    ]


def idle_arguments(shape: MachineShape, *, tpm_socket: Path, monitor_fd: int, qtest_fd: int) -> list[str]:
    """Every argument after the program for the same machine, halted and driven by qtest."""
    arguments = [
        *machine_arguments(shape),
        "-accel",
        Accelerator.TCG.value,
        "-cpu",
        _emulated_processor(shape),
    ]
    for index, _ in enumerate(shape.disks):
        arguments += ["-blockdev", f"driver=null-co,node-name=disk{index},read-zeroes=on"]
    for index, _ in enumerate(shape.nics):
        arguments += ["-netdev", f"hubport,id=net{index},hubid={index}"]
    return [
        *arguments,
        *_tpm_backend(tpm_socket),
        *device_arguments(shape),
        *("-chardev", "null,id=console", "-serial", "chardev:console"),
        *_monitor_arguments(monitor_fd),
        *("-chardev", f"socket,id=qtest,fd={qtest_fd}", "-qtest", "chardev:qtest", "-qtest-log", "none"),
        "-S",
    ]


def escape(path: Path) -> str:
    """A path inside an option list, where a comma is written twice."""
    return str(path).replace(",", ",,")


def _processor(shape: MachineShape, accelerator: Accelerator) -> str:
    # KVM shows the host's own width of addresses unless told otherwise; TCG knows only this one.
    width = f"host-phys-bits=off,phys-bits={shape.PHYSICAL_BITS}"
    if accelerator is Accelerator.KVM:
        return f"host,{width}"
    return _emulated_processor(shape)


def _emulated_processor(shape: MachineShape) -> str:
    return f"max,vendor={shape.cpu_vendor},{_WORDWISE}"


def _disk_device(disk: Disk, index: int, *, first: bool, serial: str) -> str:
    order = ",bootindex=0" if first else ""
    name = f",serial={serial}" if serial else ""
    return f"{disk.model},id=disk{index}-device,drive=disk{index},bus=pcie.0,addr={disk.slot:#x}{order}{name}"


def _nic_device(nic: Nic, index: int) -> str:
    rom = "" if nic.rom else ",romfile="
    return (
        f"{nic.model},id=net{index}-device,netdev=net{index},mac={nic.mac},bus=pcie.0,addr={nic.slot:#x}{rom}"
    )


def _flash_arguments(firmware: FirmwareFiles, *, secure: bool) -> list[str]:
    flash = "if=pflash,format=raw"
    guard = ["-global", "driver=cfi.pflash01,property=secure,value=on"] if secure else []
    return [
        *guard,
        *("-drive", f"{flash},unit=0,readonly=on,file={escape(firmware.code)}"),
        *("-drive", f"{flash},unit=1,file={escape(firmware.variables)}"),
    ]


def _tpm_backend(socket: Path) -> list[str]:
    return ["-chardev", f"socket,id=tpm,path={escape(socket)}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"]


def _disk_backends(disks: Sequence[DiskFile]) -> list[str]:
    arguments: list[str] = []
    for index, disk in enumerate(disks):
        access = "on" if disk.read_only else "off"
        arguments += [
            "-drive",
            f"if=none,id=disk{index},format=raw,readonly={access},file={escape(disk.path)}",
        ]
    return arguments


def _net_backends(shape: MachineShape, forwards: Sequence[PortForward]) -> list[str]:
    arguments: list[str] = []
    for index, _ in enumerate(shape.nics):
        ports = (
            "".join(f",hostfwd=tcp:127.0.0.1:{port.host}-:{port.guest}" for port in forwards)
            if index == 0
            else ""
        )
        arguments += ["-netdev", f"user,id=net{index}{ports}"]
    return arguments


def _monitor_arguments(descriptor: int | None) -> list[str]:
    if descriptor is None:
        return []
    return [
        "-chardev",
        f"socket,id={MONITOR_FD_NAME},fd={descriptor}",
        "-mon",
        f"chardev={MONITOR_FD_NAME},mode=control",
    ]
