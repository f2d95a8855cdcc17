"""The QEMU command line of a shape."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from measurements.qemu_args import (
    Accelerator,
    Backends,
    DirectBoot,
    DiskFile,
    FirmwareFiles,
    PortForward,
    device_arguments,
    idle_arguments,
    run_arguments,
)
from measurements.shape import (
    BootOrder,
    BootSource,
    Disk,
    MachineShape,
    Nic,
    NicModel,
    ShapeError,
    TpmInterface,
)
from measurements.shape_devices import ExtraDevice, PassedDevice, PassedKind, Pxb, SmbiosStrings

SHAPE = MachineShape(
    memory_mib=1024,
    tpm=TpmInterface.TIS,
    disks=(Disk(slot=3), Disk(slot=7)),
    nics=(Nic(), Nic(model=NicModel.E1000E, slot=17, mac="52:54:00:00:00:02", rom=True)),
)
FIRMWARE = FirmwareFiles(code=Path("/a,b/CODE.fd"), variables=Path("/x/VARS.fd"))


def _run(shape: MachineShape, accelerator: Accelerator = Accelerator.TCG) -> list[str]:
    return run_arguments(
        shape,
        Backends(
            firmware=FIRMWARE,
            disks=[DiskFile(path=Path("/d0")), DiskFile(path=Path("/d1"), read_only=False)],
            tpm_socket=Path("/s"),
            accelerator=accelerator,
            forwards=[PortForward(host=8080, guest=80)],
        ),
    )


def test_devices_have_fixed_places() -> None:
    devices = device_arguments(SHAPE)[1::2]
    assert devices == [
        "virtio-blk-pci,id=disk0-device,drive=disk0,bus=pcie.0,addr=0x3,bootindex=0",
        "virtio-blk-pci,id=disk1-device,drive=disk1,bus=pcie.0,addr=0x7",
        "virtio-net-pci,id=net0-device,netdev=net0,mac=52:54:00:12:34:56,bus=pcie.0,addr=0x10,romfile=",
        "e1000e,id=net1-device,netdev=net1,mac=52:54:00:00:00:02,bus=pcie.0,addr=0x11",
        "tpm-tis,tpmdev=tpm0",
    ]


def test_firmware_order_gives_no_boot_index() -> None:
    shape = MachineShape(boot_order=BootOrder.FIRMWARE)
    assert not any("bootindex" in argument for argument in device_arguments(shape))


def test_running_and_halted_machines_have_the_same_devices() -> None:
    running = _run(SHAPE)
    halted = idle_arguments(SHAPE, tpm_socket=Path("/s"), monitor_fd=3, qtest_fd=4)
    for option in ("-device", "-M", "-m", "-smp", "-cpu", "-global", "-serial"):
        values = [
            [value for name, value in pairwise(arguments) if name == option]
            for arguments in (running, halted)
        ]
        assert values[0] == values[1], option


def test_sleep_states_are_off() -> None:
    assert {"ICH9-LPC.disable_s3=1", "ICH9-LPC.disable_s4=1"} <= set(_run(SHAPE))


def test_back_ends() -> None:
    arguments = " ".join(_run(SHAPE))
    assert "unit=0,readonly=on,file=/a,,b/CODE.fd" in arguments
    assert "id=disk0,format=raw,readonly=on,file=/d0" in arguments
    assert "id=disk1,format=raw,readonly=off,file=/d1" in arguments
    assert "user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80" in arguments
    assert arguments.count("hostfwd") == 1


def test_processors_of_both_accelerators_have_one_address_width() -> None:
    assert "max,vendor=AuthenticAMD,erms=off,fsrm=off" in _run(SHAPE)
    assert "host,host-phys-bits=off,phys-bits=40" in _run(SHAPE, Accelerator.KVM)


def test_smm_protects_the_flash() -> None:
    assert "driver=cfi.pflash01,property=secure,value=on" in _run(MachineShape(smm=True, disks=SHAPE.disks))
    assert "driver=cfi.pflash01,property=secure,value=on" not in _run(SHAPE)


def test_a_serial_names_its_disk_only() -> None:
    files = [DiskFile(path=Path("/d0")), DiskFile(path=Path("/d1"), serial="keyturn-data")]
    plain, named = device_arguments(SHAPE), device_arguments(SHAPE, files)
    assert [new for old, new in zip(plain, named, strict=True) if old != new] == [
        "virtio-blk-pci,id=disk1-device,drive=disk1,bus=pcie.0,addr=0x7,serial=keyturn-data"
    ]


FURTHER = MachineShape(
    memory_mib=2048,
    cpus=2,
    tpm=TpmInterface.NONE,
    phys_bits=46,
    hpet=False,
    pic=False,
    acpi_hotplug=False,
    pci_hole64_mib=1 << 22,
    hugepages=True,
    smbios=(SmbiosStrings(type=1, fields=(("manufacturer", "A, B"), ("product", "C"))),),
    devices=(
        ExtraDevice(model="vhost-vsock-pci", slot=5, options=(("guest-cid", "3"),)),
        ExtraDevice(model="virtio-scsi-pci", slot=6, root_port=True),
    ),
    pxbs=(Pxb(bus=32, numa_node=0),),
)


def _values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(arguments) if name == option]


def _further_idle(shape: MachineShape) -> list[str]:
    return idle_arguments(shape, tpm_socket=None, monitor_fd=3, qtest_fd=4)


def test_further_keys_reach_qemu() -> None:
    arguments = _further_idle(FURTHER)
    assert _values(arguments, "-M") == ["q35,smm=off,hpet=off,pic=off"]
    assert _values(arguments, "-numa") == ["node,nodeid=0,memdev=memory0,cpus=0,cpus=1"]
    assert _values(arguments, "-object") == ["memory-backend-ram,reserve=off,id=memory0,size=2048M"]
    assert _values(arguments, "-smbios") == ["type=1,manufacturer=A,, B,product=C"]
    assert _values(arguments, "-cpu") == ["max,vendor=AuthenticAMD,erms=off,fsrm=off,phys-bits=46"]
    assert _values(arguments, "-global")[2:] == [
        "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
        "q35-pcihost.pci-hole64-size=4194304M",
    ]
    assert "-tpmdev" not in arguments


def test_what_is_not_there_is_replaced_for_reading_only() -> None:
    read, run = _values(_further_idle(FURTHER), "-device"), device_arguments(FURTHER)[1::2]
    assert [new for old, new in zip(run, read, strict=True) if old != new] == [
        "virtio-rng-pci,id=device0,bus=pcie.0,addr=0x5,disable-legacy=on"
    ]
    assert run[-3:] == [
        "vhost-vsock-pci,id=device0,bus=pcie.0,addr=0x5,guest-cid=3",
        "pcie-root-port,id=device1-port,bus=pcie.0,addr=0x6,chassis=2",
        "virtio-scsi-pci,id=device1,bus=device1-port",
    ]
    assert run[1] == "pxb-pcie,id=pxb0,bus=pcie.0,addr=0x18,bus_nr=32,numa_node=0"
    assert "memory-backend-memfd,hugetlb=on,id=memory0,size=2048M" in _run(
        replace(FURTHER, devices=(), disks=SHAPE.disks)
    )


def test_passed_through_devices_are_only_predicted() -> None:
    shape = MachineShape(passed=(PassedDevice(kind=PassedKind.GPU, bars_mib=(16,)),))
    with pytest.raises(ShapeError, match="only predicted"):
        device_arguments(shape)
    assert _values(_further_idle(shape), "-device")[1:3] == [
        "pcie-root-port,id=passed0-port,bus=pcie.0,addr=0x14,chassis=128",
        "pci-testdev,addr=0x0.0x0,membar=16M,id=passed0-0,bus=passed0-port",
    ]


def test_direct_boot() -> None:
    direct = DirectBoot(kernel=Path("/k"), initrd=Path("/i"), command_line="a b")
    shape = MachineShape(boot=BootSource.DIRECT, disks=())
    backends = Backends(firmware=FIRMWARE, disks=[], tpm_socket=Path("/s"), direct=direct)
    arguments = run_arguments(shape, backends)
    assert [_values(arguments, name) for name in ("-kernel", "-initrd", "-append")] == [
        ["/k"],
        ["/i"],
        ["a b"],
    ]
    for wrong, host in ((MachineShape(), direct), (shape, None)):
        with pytest.raises(ShapeError, match="boots from"):
            run_arguments(wrong, replace(backends, direct=host))
    disk = replace(shape, disks=(Disk(),))
    assert not any("bootindex" in argument for argument in device_arguments(disk))
