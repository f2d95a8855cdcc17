"""dstack's machines in an unmodified QEMU: the tables of a public quote, and machines that are not known."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

import pytest

from measurements.acpi_blob import derive_files, parse_tables
from measurements.acpi_dump import acpi_dump
from measurements.dstack.boot_log import Measured, empty_variable_store, replayed, rtmr0_events, sha384
from measurements.dstack.errors import DstackInputError
from measurements.dstack.event_log import digests, parse_event_log
from measurements.dstack.evidence import TdxEvidence, parse_report
from measurements.dstack.lite import parse_witness
from measurements.dstack.machine import machine_acpi, vm_shape, without_pic_flag
from measurements.dstack.vm_config import VmConfig, parse_vm_config
from measurements.qemu import QemuProgram
from measurements.shape import Disk
from measurements.tdx.quote import parse_quote
from tests.support.dstack_deployment import WITNESS
from tests.support.dstack_reports import report, vm_config
from tests.support.foreign_qemu import foreign_qemu
from tests.support.tools import require_tool
from tests.support.vectors import vector
from tests.support.wheel_qemu import VERSION, wheel_qemu

BASE = {"os_image_hash": "ab" * 32, "cpu_count": 2, "memory_size": 2 << 30, "qemu_version": "9.2.1"}


def config(**changes: object) -> VmConfig:
    return parse_vm_config(json.dumps({**BASE, **changes}).encode())


def gpu_machine() -> VmConfig:
    """The machine of quote-report.json: 16 processors, 64 GiB, a GPU, QEMU 9.2.1."""
    data = report("quote-report").vm_config
    assert data is not None
    return parse_vm_config(data)


@pytest.mark.network
def test_unmodified_qemu_gives_the_rtmr0_of_a_public_quote() -> None:
    """Nothing is taken from the guest: memory regions of dstack's firmware (the witness in its lite
    documents), an empty variable store, and the tables that Ubuntu's QEMU 8.2.2 makes of the vm_config.
    """
    machine = gpu_machine()
    acpi = machine_acpi(machine, wheel_qemu())
    log = parse_event_log(report("quote-report").event_log)
    assert acpi.digests.as_tuple() == digests(log, 0)[8:11]
    events = rtmr0_events(
        td_hob=Measured(digest=sha384(parse_witness(WITNESS).td_hob(machine.memory)), origin="memory"),
        variables=Measured(digest=sha384(empty_variable_store()), origin="layout"),
        acpi=acpi.digests,
    )
    assert replayed(events) == parse_quote(report("quote-report").quote).body.rtmrs[0]
    assert f"QEMU {VERSION} speaks for 9.2.1" in acpi.notes
    assert any("passed-through devices are replaced" in note for note in acpi.notes)
    assert f"QEMU {VERSION}" in acpi.digests.origin


@pytest.mark.network
@pytest.mark.parametrize(
    "changes",
    [
        {"cpus": 15},
        {"memory": 32 << 30},
        {"gpus": 2},
        {"nvswitches": 1},
        {"nics": 2},
        {"verity_volumes": 1},
        {"hotplug_off": False},
        {"pci_hole64": 1 << 43},
        {"pic": True},
    ],
)
def test_every_choice_of_the_host_shows_in_the_tables(changes: dict[str, Any]) -> None:
    machine = replace(gpu_machine(), **changes)
    found = machine_acpi(machine, wheel_qemu()).digests
    quoted = digests(parse_event_log(report("quote-report").event_log), 0)[8:11]
    # More memory moves nothing: the window is where addresses end, and no table holds the memory's size.
    assert (found.as_tuple() != quoted) is (changes != {"memory": 32 << 30})


@pytest.mark.network
def test_the_width_of_addresses_shows_in_the_tables() -> None:
    narrow = machine_acpi(gpu_machine(), wheel_qemu(), phys_bits=45).digests
    assert narrow.tables != machine_acpi(gpu_machine(), wheel_qemu()).digests.tables


def test_another_release_does_not_speak_for_the_hosts() -> None:
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    with pytest.raises(DstackInputError, match=r"whose tables are not those of the host's 9\.2\.1"):
        machine_acpi(config(), QemuProgram.installed())


@pytest.mark.network
@pytest.mark.parametrize("hotplug_off", [True, False])
def test_only_the_ejection_of_processors_changed_until_10_0(hotplug_off: bool) -> None:
    """Why 8.2.2 speaks for 9.2 also with hot plug, which the public quote is without."""
    shape = vm_shape(config(hotplug_off=hotplug_off, pic=True))
    old, new = (
        {table.signature: table.content for table in parse_tables(acpi_dump(shape, program).files.tables)}
        for program in (wheel_qemu(), foreign_qemu("trixie"))
    )
    assert {name for name in old if old[name] != new[name]} == {"DSDT", "RSDT"}
    # The package that holds processors grows, and in it one method: lengths, the list CEJL and its use.
    changes = [
        operation
        for operation in SequenceMatcher(None, old["DSDT"], new["DSDT"], autojunk=False).get_opcodes()
        if operation[0] != "equal"
    ]
    assert len(new["DSDT"]) - len(old["DSDT"]) == 67
    assert b"CEJL" in new["DSDT"]
    assert b"CEJL" not in old["DSDT"]
    places = [start for _, start, *_ in changes if start > old["DSDT"].index(b"CSCN")]
    assert max(places) - min(places) < 400
    assert len(changes) - len(places) == 4


def test_devices_are_where_qemu_puts_them() -> None:
    shape = vm_shape(config(num_nics=2, num_verity_volumes=1, num_gpus=1, num_nvswitches=1))
    assert shape.disks == tuple(Disk(slot=slot) for slot in (1, 2, 3))
    assert [nic.slot for nic in shape.nics] == [4, 5]
    assert [(device.model, device.slot, device.root_port) for device in shape.devices] == [
        ("vhost-vsock-pci", 6, False),
        ("virtio-9p-pci", 7, False),
        ("virtio-rng-pci", 8, True),
        ("virtio-rng-pci", 9, True),
    ]


def test_a_shared_disk_takes_the_place_of_9p() -> None:
    shape = vm_shape(config(host_share_mode="vhd"))
    assert len(shape.disks) == 3
    assert [device.model for device in shape.devices] == ["vhost-vsock-pci"]


def test_hosts_switches_are_kept() -> None:
    shape = vm_shape(config(hotplug_off=True, pic=True, pci_hole64_size=1 << 44))
    assert (shape.acpi_hotplug, shape.pic, shape.pci_hole64_mib) == (False, True, 1 << 24)
    assert (shape.hpet, shape.sleep, shape.serial, shape.tpm.value) == (False, True, True, "none")
    assert vm_shape(config()).pci_hole64_mib is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hugepages": True}, "huge pages"),
        ({"swtpm": True}, "has a TPM"),
        ({"qemu_version": "8.2.2"}, "before 9.2 TDX hosts ran a patched one"),
        ({"qemu_version": "9.1.0"}, "before 9.2"),
        ({"memory_size": (2 << 30) + 1}, "not whole MiB"),
        ({"num_gpus": 27}, "PCI slots"),
    ],
)
def test_machines_that_are_not_known_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(DstackInputError, match=reason):
        vm_shape(config(**changes))


def loader_for(lengths: dict[str, int]) -> bytes:
    """The loader script of tables with these lengths, on which alone it depends."""
    places: dict[str, int] = {}
    blob = b""
    named = [name for name in lengths if name not in ("FACS", "DSDT", "RSDT")]
    for name, length in lengths.items():
        places[name] = len(blob)
        table = bytearray(length)
        table[:8] = name.encode() + struct.pack("<I", length)
        if name == "FACP":
            struct.pack_into("<II", table, 36, places["FACS"], places["DSDT"])
            struct.pack_into("<Q", table, 140, places["DSDT"])
        if name == "RSDT":
            struct.pack_into(f"<{len(named)}I", table, 36, *(places[each] for each in named))
        blob += bytes(table)
    return derive_files(blob.ljust(0x20000, b"\0")).loader


def test_the_lite_deployments_qemu_was_a_patched_one() -> None:
    """It says 8.2.2. The loader script of its log has a MADT of 238 bytes: overrides for 16 interrupts, as
    QEMU patched for TDX writes them ("report edge trigger in acpi tables"), where an unmodified QEMU has 5.
    """
    lengths = {"FACS": 64, "DSDT": 8285, "FACP": 244, "APIC": 238, "MCFG": 60, "WAET": 40, "RSDT": 52}
    evidence = parse_report(vector("dstack/tdx-lite-attestation.json").read_bytes())
    assert isinstance(evidence, TdxEvidence)
    logged = digests(evidence.log, 0)[0]
    assert sha384(loader_for(lengths)) == logged
    assert sha384(loader_for({**lengths, "APIC": 128, "DSDT": 8285 + 110})) != logged


@pytest.mark.network
def test_an_unmodified_qemu_of_that_release_has_the_usual_overrides() -> None:
    lite = replace(parse_vm_config(vm_config("tdx-lite-attestation")), qemu=(9, 2, 1))
    files = machine_acpi(lite, wheel_qemu()).files
    (madt,) = (table for table in parse_tables(files.tables) if table.signature == "APIC")
    assert madt.length == 128


def test_the_flag_of_a_pic_is_one_bit_of_the_tables() -> None:
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    files = acpi_dump(vm_shape(config()), QemuProgram.installed()).files
    changed = without_pic_flag(files)
    assert changed.loader == files.loader
    differing = [
        place
        for place, pair in enumerate(zip(files.tables, changed.tables, strict=True))
        if len(set(pair)) > 1
    ]
    (madt,) = (table for table in parse_tables(files.tables) if table.signature == "APIC")
    assert differing == [madt.offset + 40]
    assert files.tables[differing[0]] == 1
    assert without_pic_flag(changed) == changed
