"""ACPI files of unmodified QEMUs: four releases, and the tables of a trust domain on real hardware."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from measurements.acpi_blob import AcpiFiles, clear_pcat_compat, derive_files, parse_tables
from measurements.acpi_dump import AcpiMethod, acpi_dump, choose_method
from measurements.acpi_tables import idle_limits, read_acpi
from measurements.errors import FormatError, MissingToolError
from measurements.events import Provenance
from measurements.fw_cfg import FirmwareConfig
from measurements.idle_machine import IdleMachine, IdleMachineError, started_machine
from measurements.ovmf import DXE_VOLUME, inner_volumes
from measurements.qemu import QemuProgram
from measurements.qemu_args import Channels, DryBootFirmware, idle_arguments
from measurements.shape import BootSource, CpuVendor, MachineShape, Nic, ShapeError, TpmInterface
from measurements.shape_devices import ExtraDevice, NumaNode, PassedDevice, PassedKind, Pxb, SmbiosStrings
from tests.support.debian_packages import debian_package
from tests.support.firmware import installed_firmware
from tests.support.foreign_qemu import foreign_qemu
from tests.support.tools import require_tool
from tests.support.vectors import vector
from tests.support.wheel_qemu import wheel_qemu

RELEASES = ("installed", "wheel", "trixie", "sid")
FIXTURES = "tdx-platform/virtee-tdx-measure-fixtures"
TRUST_DOMAIN = MachineShape(
    machine="pc-q35-10.0",
    memory_mib=4096,
    cpus=8,
    tpm=TpmInterface.NONE,
    cpu_vendor=CpuVendor.INTEL,
    boot=BootSource.DIRECT,
    disks=(),
    phys_bits=46,
    pic=False,
    serial=False,
    sleep=True,
    pci_hole64_mib=4096 << 10,
)
VIRTIO = (("disable-legacy", "on"), ("iommu_platform", "on"))


def _program(suite: str) -> QemuProgram:
    require_tool("swtpm", package="swtpm")
    if suite == "wheel":
        return wheel_qemu()
    if suite != "installed":
        return foreign_qemu(suite)
    return QemuProgram(command=(require_tool("qemu-system-x86_64", package="qemu-system-x86"),))


def _files(shape: MachineShape, suite: str = "installed") -> AcpiFiles:
    return acpi_dump(shape, _program(suite)).files


@pytest.mark.parametrize("suite", RELEASES)
@pytest.mark.parametrize(
    ("shape", "extra"),
    [
        pytest.param(MachineShape(), {"HPET", "TPM2", "MCFG", "WAET"}, id="TPM"),
        pytest.param(MachineShape(tpm=TpmInterface.NONE), {"HPET"}, id="no TPM"),
        pytest.param(
            MachineShape(
                cpus=2,
                numa=(NumaNode(memory_mib=1024, cpus=(0,)), NumaNode(memory_mib=1024, cpus=(1,))),
                smm=True,
                hpet=False,
            ),
            {"SRAT"},
            id="NUMA",
        ),
        pytest.param(
            MachineShape(
                tpm=TpmInterface.TIS, devices=(ExtraDevice(model="virtio-scsi-pci", root_port=True),)
            ),
            {"TPM2"},
            id="root port",
        ),
        pytest.param(
            MachineShape(devices=(ExtraDevice(model="virtio-iommu-pci"),), tpm=TpmInterface.NONE),
            {"VIOT"},
            id="IOMMU",
        ),
    ],
)
def test_derived_files_are_qemus_own(suite: str, shape: MachineShape, extra: set[str]) -> None:
    files = _files(shape, suite)
    assert extra <= {table.signature for table in parse_tables(files.tables)}
    assert files == derive_files(files.tables)


def _with(suite: str, *extra: str) -> AcpiFiles:
    """The files of a machine with arguments that no shape has."""
    shape = MachineShape(tpm=TpmInterface.NONE)

    def arguments(channels: Channels, _: Path) -> list[str]:
        fixed = idle_arguments(
            shape, tpm_socket=None, monitor_fd=channels.monitor_fd, qtest_fd=channels.qtest_fd
        )
        return [*fixed, *extra]

    with started_machine(shape, _program(suite), arguments) as machine:
        config = FirmwareConfig(machine.bus)
        idle = IdleMachine(bus=machine.bus, config=config, qemu_version=machine.qemu_version)
        return read_acpi(idle, shape)


@pytest.mark.parametrize("suite", RELEASES)
@pytest.mark.parametrize(
    ("signature", "extra"),
    [
        ("DMAR", ["-device", "intel-iommu"]),
        ("IVRS", ["-device", "amd-iommu"]),
        ("ERST", ["-object", "memory-backend-ram,id=e,size=64k", "-device", "acpi-erst,memdev=e"]),
    ],
)
def test_tables_that_no_shape_brings_are_derived_too(suite: str, signature: str, extra: list[str]) -> None:
    files = _with(suite, *extra)
    assert signature in {table.signature for table in parse_tables(files.tables)}
    assert files == derive_files(files.tables)


def test_a_stand_in_gives_the_tables_of_what_it_stands_for(tmp_path: Path) -> None:
    shape = MachineShape(tpm=TpmInterface.NONE, devices=(ExtraDevice(model="virtio-9p-pci"),))
    shared = [
        *("-fsdev", f"local,id=shared,path={tmp_path},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=shared,mount_tag=tag,bus=pcie.0,addr=0x8"),
    ]
    assert _files(shape) == _with("installed", *shared)
    assert _files(shape) != _with("installed", *shared[:-1], shared[-1].replace("0x8", "0x9"))


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["-device", "vmgenid,guid=auto"], "machine with table SSDT"),
        (["-machine", "cxl=on"], "machine with table CEDT"),
        (["-acpitable", "sig=SSDT,data=/etc/hostname"], "expected no checksum"),
    ],
)
def test_a_table_slipped_in_by_the_host_is_refused(extra: list[str], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        derive_files(_with("installed", *extra).tables)


def test_releases_differ() -> None:
    assert len({_files(MachineShape(), suite).tables for suite in RELEASES}) == len(RELEASES)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (
            "q35-with-hpet",
            replace(
                TRUST_DOMAIN,
                devices=(
                    ExtraDevice(model="virtio-rng-pci", slot=1),
                    ExtraDevice(model="virtio-balloon-pci", slot=2),
                    ExtraDevice(model="virtio-scsi-pci", slot=3),
                ),
            ),
        ),
        (
            "runtime-capture",
            replace(
                TRUST_DOMAIN,
                memory_mib=16384,
                devices=(
                    ExtraDevice(model="vhost-vsock-pci", slot=1, options=(("guest-cid", "99"),)),
                    ExtraDevice(model="e1000", slot=2, options=(("romfile", ""),)),
                    *(ExtraDevice(model="virtio-scsi-pci", slot=slot, options=VIRTIO) for slot in (3, 4, 5)),
                ),
            ),
        ),
    ],
)
def test_tables_of_a_trust_domain_come_from_an_unmodified_qemu(name: str, shape: MachineShape) -> None:
    """The fixtures' ``metadata.json`` gives the shapes; ``runtime-capture`` is from hardware, and its tables
    lead to the RTMR0 a2749c84… of a signed quote.
    """
    captured = vector(f"{FIXTURES}/{name}/acpi_tables.bin").read_bytes()
    assert _files(shape, "trixie").tables == captured
    assert _files(replace(shape, cpus=7), "trixie").tables != captured


def test_releases_with_the_fix_differ_in_one_flag() -> None:
    """``canonical-defaults`` (``hpet=off,pic=off``) has the tables of the plain 8.2.2, but for the flag that
    tells that there is no legacy interrupt controller, which came with 9.1.
    """
    shape = MachineShape(
        cpus=4,
        tpm=TpmInterface.NONE,
        cpu_vendor=CpuVendor.INTEL,
        boot=BootSource.DIRECT,
        disks=(),
        hpet=False,
        pic=False,
        sleep=True,
    )
    captured = vector(f"{FIXTURES}/canonical-defaults/acpi_tables.bin").read_bytes()
    plain = _files(shape, "wheel").tables
    assert plain != captured
    assert clear_pcat_compat(plain) == captured


@pytest.mark.parametrize(
    ("shape", "key"),
    [
        (MachineShape(machine="pc-q35-99.1"), "machine"),
        (
            MachineShape(
                devices=(ExtraDevice(model="virtio-rng-pci"), ExtraDevice(model="virtio-x", slot=9))
            ),
            "device 1",
        ),
        (
            MachineShape(devices=(ExtraDevice(model="virtio-rng-pci", options=(("max-bytes", "many"),)),)),
            "device 0",
        ),
        (MachineShape(smbios=(SmbiosStrings(type=1, fields=(("uuid", "x"),)),)), "smbios"),
        (MachineShape(memory_mib=1 << 22), "phys-bits"),
    ],
)
def test_refusal_names_the_key_in_qemus_words(shape: MachineShape, key: str) -> None:
    with pytest.raises(IdleMachineError, match="QEMU did not start: qemu-system") as caught:
        _files(shape)
    assert key in caught.value.subject


def test_missing_qemu_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("measurements.swtpm.shutil.which", lambda *_, **__: None)
    with pytest.raises(MissingToolError, match="qemu-system-x86_64: is not installed") as caught:
        QemuProgram.installed()
    assert "qemu-system-x86" in caught.value.advice


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (MachineShape(pxbs=(Pxb(bus=32),)), "more than one root bus"),
        (MachineShape(passed=(PassedDevice(kind=PassedKind.GPU, bars_mib=(16,)),)), "passed-through"),
        (MachineShape(phys_bits=39), "39-bit addresses"),
        (
            MachineShape(phys_bits=46, devices=(ExtraDevice(model="virtio-rng-pci", root_port=True),)),
            "room behind root ports",
        ),
        (MachineShape(devices=(ExtraDevice(model="virtio-gpu-pci"),)), "windows of virtio-gpu-pci"),
        (MachineShape(devices=(ExtraDevice(model="pci-testdev"),)), "windows of pci-testdev"),
    ],
)
def test_the_idle_machine_is_refused_where_it_is_not_proven(shape: MachineShape, words: str) -> None:
    assert choose_method(MachineShape(), firmware=None) is AcpiMethod.IDLE
    for wanted in (None, AcpiMethod.IDLE, AcpiMethod.DRY_BOOT):
        with pytest.raises(ShapeError) as caught:
            choose_method(shape, firmware=None, wanted=wanted)
        assert wanted is AcpiMethod.DRY_BOOT or words in caught.value.reason


def test_events_say_what_they_come_from() -> None:
    shape = MachineShape(
        devices=(ExtraDevice(model="vhost-vsock-pci", options=(("guest-cid", "3"),)),), nics=(Nic(),)
    )
    dumped = acpi_dump(shape, _program("installed"))
    events = dumped.events()
    assert [event.description for event in events] == [
        "ACPI data: etc/table-loader",
        "ACPI data: etc/acpi/rsdp",
        "ACPI data: etc/tpm/log",
        "ACPI data: etc/acpi/tables",
    ]
    for event in events:
        assert event.provenance is Provenance.COMPUTED
        assert f"QEMU {dumped.qemu_version}" in event.origin
        assert "vhost-vsock-pci in slot 8 is replaced by virtio-rng-pci in the same slot" in event.origin


@pytest.mark.parametrize("suite", RELEASES)
def test_a_dump_holds_what_else_firmware_measures(suite: str) -> None:
    shape = MachineShape(smbios=(SmbiosStrings(type=1, fields=(("product", "Another"),)),))
    items = acpi_dump(shape, _program(suite)).items
    assert items["bootorder"] == b"/pci@i0cf8/scsi@3/disk@0,0\0"
    assert b"Another" in items["etc/smbios/smbios-tables"]
    assert len(items["etc/e820"]) % 20 == 0
    assert "etc/extra-pci-roots" not in items


def test_wide_addresses_need_firmware_that_limits_them() -> None:
    wide = MachineShape(phys_bits=52)
    current = debian_package("ovmf", suite="trixie") / "usr/share/OVMF/OVMF_CODE_4M.fd"
    assert choose_method(wide, firmware=DryBootFirmware(code=current)) is AcpiMethod.IDLE
    volumes = {volume.name: volume for volume in inner_volumes(current.read_bytes())}
    drivers = volumes[DXE_VOLUME]
    earlier = drivers.data.replace("2025.02".encode("utf-16-le"), "2023.05".encode("utf-16-le"))
    assert idle_limits(MachineShape(phys_bits=46), replace(drivers, data=earlier)) is None
    for data in (earlier, earlier.replace("2023.05".encode("utf-16-le"), b"")):
        assert "52-bit addresses" in (idle_limits(wide, replace(drivers, data=data)) or "")
    assert _files(wide) == _files(MachineShape(phys_bits=46))
    assert _files(wide) != _files(MachineShape(phys_bits=45))


def test_firmware_for_smm_belongs_to_a_machine_with_smm() -> None:
    for name, smm in (("OVMF_CODE_4M.secboot.fd", False), ("OVMF_CODE_4M.fd", True)):
        firmware = DryBootFirmware(code=installed_firmware(name))
        assert choose_method(MachineShape(smm=smm), firmware=firmware) is AcpiMethod.DRY_BOOT


def test_room_behind_root_ports_is_the_firmwares_choice() -> None:
    shape = MachineShape(
        phys_bits=46, devices=(ExtraDevice(model="virtio-rng-pci", root_port=True),), tpm=TpmInterface.NONE
    )
    with pytest.raises(ShapeError, match="keeps room behind root ports"):
        choose_method(shape, firmware=None)
    without = AcpiMethod.IDLE_WITHOUT_ROOM
    assert choose_method(shape, firmware=None, wanted=without) is without
    with pytest.raises(ShapeError, match="more than one root bus"):
        choose_method(replace(shape, pxbs=(Pxb(slot=24, bus=32),)), firmware=None, wanted=without)
