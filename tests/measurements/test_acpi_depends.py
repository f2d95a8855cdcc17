"""What ACPI tables depend on: a change of the shape changes exactly what it is known to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.acpi_blob import LOADER, RSDP, TABLES, TPM_LOG
from measurements.acpi_depends import (
    Dependency,
    TableChange,
    changed_files,
    changed_tables,
    dependencies,
    difference,
    variants,
)
from measurements.acpi_dump import AcpiDump, acpi_dump
from measurements.events import replay
from measurements.qemu import QemuProgram
from measurements.shape import BootOrder, BootSource, CpuVendor, MachineShape, Nic, ShapeError, TpmInterface
from measurements.shape_devices import ExtraDevice, Pxb, SmbiosStrings
from tests.measurements.test_acpi_blob import make_blob, make_table
from tests.support.tools import require_tool

Change = Callable[[MachineShape], MachineShape]
PRODUCT = SmbiosStrings(type=1, fields=(("product", "Another"),))
BEHIND_PORT = ExtraDevice(model="virtio-rng-pci", slot=9, root_port=True)

CHANGES: dict[str, tuple[Change, set[str]]] = {
    "memory": (lambda shape: replace(shape, memory_mib=shape.memory_mib + 256), {"DSDT"}),
    "cpus": (lambda shape: replace(shape, cpus=shape.cpus + 1), {"DSDT", "APIC", "RSDT"}),
    "tpm": (lambda shape: replace(shape, tpm=TpmInterface.TIS), {"DSDT", "TPM2", "RSDT"}),
    "no tpm": (lambda shape: replace(shape, tpm=TpmInterface.NONE), {"DSDT", "TPM2", "RSDT"}),
    "smm": (lambda shape: replace(shape, smm=True), {"DSDT", "FACP", "RSDT"}),
    "hpet": (lambda shape: replace(shape, hpet=not shape.hpet), {"DSDT", "HPET", "RSDT"}),
    "serial": (lambda shape: replace(shape, serial=not shape.serial), {"DSDT", "RSDT"}),
    "sleep": (lambda shape: replace(shape, sleep=not shape.sleep), {"DSDT", "RSDT"}),
    "hot plug": (lambda shape: replace(shape, acpi_hotplug=not shape.acpi_hotplug), {"DSDT", "RSDT"}),
    "huge pages": (lambda shape: replace(shape, hugepages=True), {"DSDT", "SRAT", "RSDT"}),
    "vendor": (lambda shape: replace(shape, cpu_vendor=CpuVendor.INTEL), {"DSDT"}),
    "network card": (lambda shape: replace(shape, nics=(*shape.nics, Nic(slot=20))), {"DSDT", "RSDT"}),
    "root port": (lambda shape: replace(shape, devices=(*shape.devices, BEHIND_PORT)), {"DSDT", "RSDT"}),
    "strings": (lambda shape: replace(shape, smbios=(PRODUCT,)), set()),
    "boot order": (lambda shape: replace(shape, boot_order=BootOrder.FIRMWARE), set()),
    "direct boot": (lambda shape: replace(shape, boot=BootSource.DIRECT), set()),
}
"""Each change of a shape and the tables that it changes."""

BASES = st.builds(
    MachineShape,
    memory_mib=st.sampled_from([512, 1024, 2048]),
    cpus=st.integers(1, 3),
    hpet=st.booleans(),
    serial=st.booleans(),
    sleep=st.booleans(),
    acpi_hotplug=st.booleans(),
    nics=st.sampled_from([(), (Nic(),)]),
    devices=st.sampled_from([(), (ExtraDevice(model="virtio-scsi-pci"),)]),
)


@pytest.fixture(scope="module")
def program() -> QemuProgram:
    require_tool("swtpm", package="swtpm")
    return QemuProgram(command=(require_tool("qemu-system-x86_64", package="qemu-system-x86"),))


@pytest.mark.parametrize("change", CHANGES)
@settings(max_examples=3)
@given(base=BASES)
def test_a_change_changes_exactly_its_tables_files_and_register(
    program: QemuProgram, change: str, base: MachineShape
) -> None:
    apply, tables = CHANGES[change]
    old, new = (acpi_dump(shape, program) for shape in (base, apply(base)))
    found = {table.signature for table in changed_tables(old.files.tables, new.files.tables)}
    assert found == tables
    files = {TABLES} if tables else set()
    if "RSDT" in tables:  # offsets of tables moved, which the script and the RSDP hold
        files |= {LOADER, RSDP}
    if change == "no tpm":
        files.add(TPM_LOG)
    assert set(changed_files(old, new)) == files
    before, after = (replay(dump.events(), pcrs=range(8)) for dump in (old, new))
    changed = {pcr for bank in before for pcr in range(8) if before[bank][pcr] != after[bank][pcr]}
    assert changed == ({1} if tables else set())


def test_every_key_is_looked_at(program: QemuProgram) -> None:
    found = list(dependencies(MachineShape(tpm=TpmInterface.NONE), program))
    by_key: dict[str, Dependency] = {each.key: each for each in found if not each.refused}
    asked = {key for key, _, _ in variants(MachineShape(), qemu_version="7.2.0")}
    assert set(by_key) <= asked
    assert asked - set(by_key) <= {"machine"}
    assert by_key["smbios"].files == ()
    assert by_key["cpus"].files == (LOADER, RSDP, TABLES)
    assert by_key["pci-hole64"].tables[0].ranges


def test_a_refusal_of_qemus_is_told(program: QemuProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = MachineShape(machine="pc-q35-99.0")
    other = MachineShape(pxbs=(Pxb(bus=32),))
    monkeypatch.setattr(
        "measurements.acpi_depends.variants",
        lambda *_, **__: [("machine", "99.0", wrong), ("pxb", "one more", other)],
    )
    machine, bus = dependencies(MachineShape(tpm=TpmInterface.NONE), program)
    assert "unsupported machine type" in machine.refused
    assert "root bus" in bus.refused
    assert (machine.files, machine.tables) == ((), ())


def test_machines_that_need_firmware_are_not_compared(program: QemuProgram) -> None:
    with pytest.raises(ShapeError, match="an idle machine does not give"):
        list(dependencies(MachineShape(pxbs=(Pxb(bus=32),)), program))


def test_versions_before_this_one() -> None:
    found = [choice for key, choice, _ in variants(MachineShape(), qemu_version="10.1.3") if key == "machine"]
    assert found == ["pc-q35-10.0", "pc-q35-9.2"]


def test_changes_in_words() -> None:
    old = make_blob(make_table("APIC", b"abcdefgh"), make_table("SSDT", b"1"), make_table("SSDT", b"2"))
    new = make_blob(make_table("APIC", b"aXcdefYZ"), make_table("SSDT", b"1"), make_table("SSDT", b"3"))
    changes = list(changed_tables(old, new))
    assert changes == [
        TableChange(signature="APIC", number=0, ranges=((37, 38), (42, 44))),
        TableChange(signature="SSDT", number=1, ranges=((36, 37),)),
    ]
    assert [str(change) for change in changes] == ["APIC at 0x25-0x25, 0x2a-0x2b", "SSDT 1 at 0x24-0x24"]
    assert list(changed_tables(old, old)) == []
    longer = make_blob(make_table("APIC", b"abcdefgh"), make_table("SRAT", b""))
    assert [str(change) for change in changed_tables(old, longer)] == ["SSDT", "SSDT 1", "RSDT", "SRAT"]


def test_a_difference_of_two_dumps(program: QemuProgram) -> None:
    one = acpi_dump(MachineShape(), program)
    assert isinstance(one, AcpiDump)
    same = difference(one, one, key="QEMU", choice="7.2")
    assert same == Dependency(key="QEMU", choice="7.2")
