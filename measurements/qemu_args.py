"""The QEMU command line of a machine shape: pure, so that prediction and boot mean the same machine.

All devices have explicit PCI addresses: nothing that firmware could measure is left to QEMU's defaults except
what the machine type fixes. Facts: QEMU's ``qemu-system-x86_64(1)`` and ``docs/specs/tpm.rst``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from measurements.shape import BootOrder, BootSource, Disk, MachineShape, Nic, TpmInterface
from measurements.shape_devices import ExtraDevice, PassedDevice, Pxb, SmbiosStrings
from measurements.shape_values import bad
from measurements.stand_ins import stand_in, window_functions

MONITOR_FD_NAME = "monitor"
_TPM_DEVICES = {TpmInterface.CRB: "tpm-crb", TpmInterface.TIS: "tpm-tis"}

_USUAL_PHYS_BITS = 40
_PASSED_CHASSIS = 128

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
class DirectBoot:
    """What the host gives for a direct boot."""

    kernel: Path
    initrd: Path | None = None
    command_line: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backends:
    """What stands behind the shape's devices in one run. ``tpm_socket`` is None without a TPM, ``direct`` for
    a boot from disk.
    """

    firmware: FirmwareFiles
    disks: Sequence[DiskFile]
    tpm_socket: Path | None
    direct: DirectBoot | None = None
    accelerator: Accelerator = Accelerator.TCG
    monitor_fd: int | None = None
    forwards: Sequence[PortForward] = ()
    extra: Sequence[str] = field(default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class DryBootFirmware:
    """Firmware for a dry boot: a code file with its own copy of variables, or one file of both."""

    code: Path
    variables: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Channels:
    """How a machine that is only read is talked to: open descriptors, and the socket of a TPM."""

    monitor_fd: int
    qtest_fd: int
    console_fd: int | None = None
    tpm_socket: Path | None = None


def machine_arguments(shape: MachineShape, *, real: bool = True) -> list[str]:
    """Machine type, memory, processors and what SMBIOS tells; ``real``: with the memory that a run needs."""
    switches = {"smm": shape.smm} | {
        name: False for name, on in (("hpet", shape.hpet), ("pic", shape.pic)) if not on
    }
    machine = ",".join([shape.machine, *(f"{name}={_on_off(on)}" for name, on in switches.items())])
    return [
        *("-M", machine),
        *("-m", f"{shape.memory_mib}M"),
        *("-smp", str(shape.cpus)),
        *_memory_arguments(shape, real=real),
        *_global_arguments(shape),
        "-nodefaults",
        *("-display", "none"),
        "-no-user-config",
        *(part for strings in shape.smbios for part in ("-smbios", _smbios(strings))),
    ]


def device_arguments(shape: MachineShape, files: Sequence[DiskFile] = (), *, real: bool = True) -> list[str]:
    """The shape's devices; their back ends are named ``disk0``, ``net0``, ``tpm0``. ``files`` give the disks
    their serials. Without ``real``, devices that cannot be made everywhere have their stand-ins.
    """
    devices: list[str] = []
    for index, disk in enumerate(shape.disks):
        first = (shape.boot, shape.boot_order, index) == (BootSource.DISK, BootOrder.DISK, 0)
        serial = files[index].serial if index < len(files) else ""
        devices.append(_disk_device(disk, index, first=first, serial=serial))
    devices += [_nic_device(nic, index) for index, nic in enumerate(shape.nics)]
    devices += [_pxb_device(pxb, index) for index, pxb in enumerate(shape.pxbs)]
    for index, device in enumerate(shape.devices):
        devices += _extra_device(device if real else stand_in(device), index)
    for index, passed in enumerate(shape.passed):
        devices += _passed_device(passed, index, real=real)
    if shape.tpm is not TpmInterface.NONE:
        devices.append(f"{_TPM_DEVICES[shape.tpm]},tpmdev=tpm0")
    return [part for device in devices for part in ("-device", device)]


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
        *_direct_arguments(shape, backends.direct),
        *device_arguments(shape, backends.disks),
        *_console_arguments(shape, "stdio,id=console,signal=off"),
        *_monitor_arguments(backends.monitor_fd),
        *backends.extra,
    ]


def idle_arguments(
    shape: MachineShape, *, tpm_socket: Path | None, monitor_fd: int, qtest_fd: int
) -> list[str]:
    """Every argument after the program for the same machine, halted and driven by qtest."""
    channels = Channels(tpm_socket=tpm_socket, monitor_fd=monitor_fd, qtest_fd=qtest_fd)
    return [*_dump_arguments(shape, channels), "-S"]


def dry_boot_arguments(shape: MachineShape, firmware: DryBootFirmware, channels: Channels) -> list[str]:
    """Every argument after the program for a machine whose firmware runs, with nothing to boot, so that what
    QEMU has told firmware can be read by qtest.
    """
    if firmware.variables is None:
        flash = ["-bios", str(firmware.code)]
    else:
        files = FirmwareFiles(code=firmware.code, variables=firmware.variables)
        flash = _flash_arguments(files, secure=shape.smm)
    return [*_dump_arguments(shape, channels), *flash]


def _dump_arguments(shape: MachineShape, channels: Channels) -> list[str]:
    arguments = [
        *machine_arguments(shape, real=False),
        "-accel",
        Accelerator.TCG.value,
        "-cpu",
        _emulated_processor(shape),
    ]
    for index, _ in enumerate(shape.disks):
        arguments += ["-blockdev", f"driver=null-co,node-name=disk{index},read-zeroes=on"]
    for index, _ in enumerate(shape.nics):
        arguments += ["-netdev", f"hubport,id=net{index},hubid={index}"]
    console = "null,id=console"
    if channels.console_fd is not None:
        console = f"socket,id=console,fd={channels.console_fd}"
    return [
        *arguments,
        *_tpm_backend(channels.tpm_socket),
        *device_arguments(shape, real=False),
        *_console_arguments(shape, console),
        *_monitor_arguments(channels.monitor_fd),
        *("-chardev", f"socket,id=qtest,fd={channels.qtest_fd}"),
        *("-qtest", "chardev:qtest", "-qtest-log", "none"),
    ]


def escape(path: Path) -> str:
    """A path inside an option list, where a comma is written twice."""
    return str(path).replace(",", ",,")


def _processor(shape: MachineShape, accelerator: Accelerator) -> str:
    # KVM shows the host's own width of addresses unless told otherwise; TCG's is 40 bits.
    width = f"host-phys-bits=off,phys-bits={shape.phys_bits}"
    if accelerator is Accelerator.KVM:
        return f"host,{width}"
    return _emulated_processor(shape)


def _emulated_processor(shape: MachineShape) -> str:
    width = "" if shape.phys_bits == _USUAL_PHYS_BITS else f",phys-bits={shape.phys_bits}"
    return f"max,vendor={shape.cpu_vendor},{_WORDWISE}{width}"


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def _memory_arguments(shape: MachineShape, *, real: bool) -> list[str]:
    if not shape.numa_nodes and not real:
        # Tables can be read of a machine that has more memory than this one.
        backend = f"memory-backend-ram,id=memory,size={shape.memory_mib}M,reserve=off"
        return ["-object", backend, "-machine", "memory-backend=memory"]
    kind = "memory-backend-memfd,hugetlb=on" if shape.hugepages else "memory-backend-ram"
    arguments: list[str] = []
    for index, node in enumerate(shape.numa_nodes):
        backend = kind if real else "memory-backend-ram,reserve=off"
        cpus = "".join(f",cpus={cpu}" for cpu in node.cpus)
        arguments += ["-object", f"{backend},id=memory{index},size={node.memory_mib}M"]
        arguments += ["-numa", f"node,nodeid={index},memdev=memory{index}{cpus}"]
    return arguments


def _global_arguments(shape: MachineShape) -> list[str]:
    arguments: list[str] = []
    if not shape.sleep:
        arguments += ["-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1"]
    if not shape.acpi_hotplug:
        arguments += ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    if shape.pci_hole64_mib is not None:
        arguments += ["-global", f"q35-pcihost.pci-hole64-size={shape.pci_hole64_mib}M"]
    return arguments


def _smbios(strings: SmbiosStrings) -> str:
    fields = (f"{name}={value.replace(',', ',,')}" for name, value in strings.fields)
    return ",".join([f"type={strings.type}", *fields])


def _pxb_device(pxb: Pxb, index: int) -> str:
    node = "" if pxb.numa_node is None else f",numa_node={pxb.numa_node}"
    return f"pxb-pcie,id=pxb{index},bus=pcie.0,addr={pxb.slot:#x},bus_nr={pxb.bus}{node}"


def _extra_device(device: ExtraDevice, index: int) -> list[str]:
    options = "".join(f",{name}={value}" for name, value in device.options)
    if not device.root_port:
        return [f"{device.model},id=device{index},bus=pcie.0,addr={device.slot:#x}{options}"]
    port = f"device{index}-port"
    return [
        _root_port(port, bus="pcie.0", slot=device.slot, chassis=index + 1),
        f"{device.model},id=device{index},bus={port}{options}",
    ]


def _passed_device(passed: PassedDevice, index: int, *, real: bool) -> list[str]:
    if real:
        raise bad(
            passed.kind.value,
            "a device that the host passes through is only predicted",
            "start this machine with QEMU itself, or leave the device out",
        )
    port = f"passed{index}-port"
    bus = "pcie.0" if passed.pxb is None else f"pxb{passed.pxb}"
    functions = window_functions(passed)
    return [
        _root_port(port, bus=bus, slot=passed.slot, chassis=_PASSED_CHASSIS + index),
        *(f"{text},id=passed{index}-{number},bus={port}" for number, text in enumerate(functions)),
    ]


def _root_port(name: str, *, bus: str, slot: int, chassis: int) -> str:
    return f"pcie-root-port,id={name},bus={bus},addr={slot:#x},chassis={chassis}"


def _direct_arguments(shape: MachineShape, direct: DirectBoot | None) -> list[str]:
    if (shape.boot is BootSource.DIRECT) != (direct is not None):
        raise bad(
            "boot",
            f"the machine boots from {shape.boot.value}, and a kernel is {'' if direct else 'not '}given",
            'give a kernel with boot = "direct", and only then',
        )
    if direct is None:
        return []
    initrd = [] if direct.initrd is None else ["-initrd", str(direct.initrd)]
    return ["-kernel", str(direct.kernel), *initrd, "-append", direct.command_line]


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


def _tpm_backend(socket: Path | None) -> list[str]:
    if socket is None:
        return []
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


def _console_arguments(shape: MachineShape, backend: str) -> list[str]:
    return ["-chardev", backend, *(("-serial", "chardev:console") if shape.serial else ())]


def _monitor_arguments(descriptor: int | None) -> list[str]:
    if descriptor is None:
        return []
    return [
        "-chardev",
        f"socket,id={MONITOR_FD_NAME},fd={descriptor}",
        "-mon",
        f"chardev={MONITOR_FD_NAME},mode=control",
    ]
