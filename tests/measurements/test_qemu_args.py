"""The QEMU command line of a shape."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from measurements.qemu_args import (
    Accelerator,
    Backends,
    DiskFile,
    FirmwareFiles,
    PortForward,
    device_arguments,
    idle_arguments,
    run_arguments,
)
from measurements.shape import BootOrder, Disk, MachineShape, Nic, NicModel, TpmInterface

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
