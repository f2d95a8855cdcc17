"""RTMR0: values and logs of real trust domains, and that every input has its place."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from measurements.acpi_blob import AcpiFiles, derive_files
from measurements.errors import FormatError
from measurements.events import Bank, EventType
from measurements.platforms import RegisterEvent
from measurements.secure_boot import secure_boot_policy
from measurements.shape import BootOrder, BootSource, Disk, MachineShape
from measurements.tdx.boot_variables import boot_variable_events
from measurements.tdx.ccel import parse_cc_log
from measurements.tdx.dxe_facts import SECURE_BOOT_MODULE, SMBIOS_MODULE
from measurements.tdx.predict import DirectBoot, TdxFirmware, TdxMachine, predict_tdx
from measurements.tdx.quote import parse_quote
from measurements.tdx.register_events import replay
from measurements.tdx.rtmr0 import FW_CFG_ITEMS, Rtmr0Inputs, rtmr0_events
from measurements.varstore import parse_variable_store
from tests.measurements.tdx.tdx_boots import ACPI, DIRECT, as_release, image, machine, ubuntu_firmware
from tests.support.debian_packages import debian_package
from tests.support.secure_boot_keys import enrol, make_key, sign_image
from tests.support.tools import unavailable
from tests.support.vectors import vector

FIXTURES = "tdx-platform/virtee-tdx-measure-fixtures"
TEMPLATE = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
SIMULATOR = "tdx-ccel-pairs/dstack-simulator"
GIB = 1 << 30


def inputs(
    firmware: TdxFirmware, on: TdxMachine, *, memory: int = 2 * GIB, direct: bool = True
) -> Rtmr0Inputs:
    return Rtmr0Inputs(
        firmware=firmware.tdvf,
        facts=firmware.facts,
        release=firmware.build.release,
        memory=memory,
        store=firmware.store,
        store_name=firmware.store_name,
        policy=firmware.policy,
        acpi=on.acpi,
        acpi_origin=on.acpi_origin,
        fw_cfg=on.fw_cfg,
        smbios=on.smbios,
        boot_variables=boot_variable_events(firmware.facts, on.shape),
        started=(),
        direct=direct,
    )


def plain(**changes: Any) -> Rtmr0Inputs:
    return replace(inputs(ubuntu_firmware(), machine(direct=True)), **changes)


def value(given: Rtmr0Inputs) -> bytes:
    return replay(rtmr0_events(given))["rtmr0"]


def hexes(events: list[RegisterEvent]) -> list[tuple[str, str]]:
    return [(event.event_type, event.digests["sha384"].hex()) for event in events]


@pytest.mark.parametrize("name", ["canonical-defaults", "q35-with-hpet", "runtime-capture"])
def test_published_fixtures_are_reproduced(name: str) -> None:
    # virtee/tdx-measure: runtime-capture comes from a live trust domain, whose quote Intel's key signed.
    metadata = json.loads(vector(f"{FIXTURES}/{name}/metadata.json").read_text())["boot_config"]
    expected = json.loads(vector(f"{FIXTURES}/{name}/expected.json").read_text())
    acpi = derive_files(vector(f"{FIXTURES}/{name}/acpi_tables.bin").read_bytes())
    on = replace(machine(direct=True), acpi=acpi)
    memory = int(metadata["memory"].removesuffix("M")) << 20
    found = rtmr0_events(inputs(ubuntu_firmware(), on, memory=memory))
    assert replay(found)["rtmr0"].hex() == expected["rtmr0"]
    assert len(found) == 13


def dstack_log(name: str) -> tuple[list[tuple[str, str]], bytes]:
    """Types and digests of RTMR0's events in one of dstack's JSON logs, and RTMR0 of its quote."""
    if name == SIMULATOR:
        entries = json.loads(vector(f"{name}/eventlog.json").read_text())
        quote = vector(f"{name}/quote.hex").read_text().strip().removeprefix("0x")
    else:
        report = json.loads(vector(name).read_text())
        entries, quote = json.loads(report["event_log"]), report["quote"]
    events = [
        (EventType(entry["event_type"]).name, entry["digest"]) for entry in entries if entry["imr"] == 0
    ]
    return events, parse_quote(bytes.fromhex(quote)).body.rtmrs[0]


@pytest.mark.parametrize(
    ("name", "heap", "memory"),
    [
        (SIMULATOR, 0x811000, 2 * GIB),
        ("tdx-ccel-pairs/dstack-examples/report.json", 0x811000, GIB),
        ("dstack/quote-report.json", 0x810000, 64 * GIB),
    ],
)
def test_only_the_acpi_tables_of_dstacks_quotes_are_missing(name: str, heap: int, memory: int) -> None:
    # Firmware of edk2 2025.02 in both memory maps; QEMU's tables for dstack's devices are not public.
    real, quoted = dstack_log(name)
    given = plain(memory=memory)
    sections = tuple(
        replace(section, address=heap, size=section.end - heap) if section.address == 0x811000 else section
        for section in given.firmware.sections
    )
    events = rtmr0_events(replace(given, firmware=replace(given.firmware, sections=sections)))
    ours = hexes(events)
    assert [kind for kind, _ in ours] == [kind for kind, _ in real]
    differ = [position for position, (one, other) in enumerate(zip(ours, real, strict=True)) if one != other]
    assert differ == [8, 9, 10]
    assert [events[position].description for position in differ] == [
        "ACPI data: etc/table-loader",
        "ACPI data: etc/acpi/rsdp",
        "ACPI data: etc/acpi/tables",
    ]
    for position in differ:
        events[position] = replace(events[position], digests={"sha384": bytes.fromhex(real[position][1])})
    assert replay(events)["rtmr0"] == quoted


def test_releases_before_2024_11_end_with_a_second_separator() -> None:
    log = parse_cc_log(vector("tdx-ccel-logs/trustee/CCEL_data_ovmf").read_bytes())
    real = [EventType(event.event_type).name for event in log.events if event.pcr == 1]
    old = inputs(as_release(ubuntu_firmware(), "2024.02"), machine(direct=True))
    assert [event.event_type for event in rtmr0_events(old)] == real
    assert value(old) != value(plain())


def test_boot_variables_of_a_disk_boot_are_those_of_a_quoted_log() -> None:
    # cc-api/cc-trusted-api: a build with Secure Boot, without shell; a virtio disk in slot 3, no bootindex.
    log = parse_cc_log(vector("tdx-ccel-pairs/cc-trusted-api/ccel_data.bin").read_bytes())
    kinds = {EventType.EV_EFI_VARIABLE_BOOT, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG}
    real = [next(iter(event.digests.values())) for event in log.events if event.event_type in kinds]
    base = ubuntu_firmware()
    facts = replace(base.facts, modules=frozenset({"TdTcg2Dxe", "UiApp", SECURE_BOOT_MODULE}))
    policy = secure_boot_policy(parse_variable_store(base.store), supported=True)
    shape = MachineShape(boot_order=BootOrder.FIRMWARE, disks=(Disk(slot=3),))
    on = replace(machine(direct=False), shape=shape)
    firmware = as_release(replace(base, facts=facts, policy=policy), "2024.02")
    found = rtmr0_events(inputs(firmware, on, direct=False))
    names = {kind.name for kind in kinds}
    assert [event.digests["sha384"] for event in found if event.event_type in names] == real
    assert [event.event_type for event in found] == [
        EventType(event.event_type).name
        for event in log.events
        if event.pcr == 1 and event.event_type != EventType.EV_EFI_VARIABLE_AUTHORITY
    ]


CHANGES: dict[str, Callable[[Rtmr0Inputs], Rtmr0Inputs]] = {
    "memory": lambda given: replace(given, memory=4 * GIB),
    "variable store": lambda given: replace(given, store=given.store[:-1] + b"\x00"),
    "ACPI loader": lambda given: replace(given, acpi=AcpiFiles(loader=b"l", files=ACPI.files)),
    "ACPI file": lambda given: replace(given, acpi=AcpiFiles(loader=b"loader", files=ACPI.files[:1])),
    "ACPI order": lambda given: replace(given, acpi=AcpiFiles(loader=b"loader", files=ACPI.files[::-1])),
    "boot variables": lambda given: replace(given, boot_variables=given.boot_variables[:1]),
    "Secure Boot": lambda given: replace(
        given, policy=secure_boot_policy(parse_variable_store(given.store), supported=True)
    ),
    "release": lambda given: replace(given, release=as_release(ubuntu_firmware(), "2024.02").build.release),
    "fw_cfg": lambda given: replace(given, release=as_release(ubuntu_firmware(), "2025.05").build.release),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_input_counts(what: str) -> None:
    assert value(CHANGES[what](plain())) != value(plain())


def newest(fw_cfg: dict[str, bytes] | None) -> Rtmr0Inputs:
    given = inputs(as_release(ubuntu_firmware(), "2026.08"), machine(direct=True))
    return replace(given, fw_cfg=fw_cfg)


def items(given: Rtmr0Inputs) -> list[str]:
    return [
        event.description.removeprefix("QEMU fw_cfg item ")
        for event in rtmr0_events(given)
        if event.description.startswith("QEMU fw_cfg item")
    ]


def test_configuration_items_have_a_fixed_order_and_size() -> None:
    every = {name: bytes(size or 5) for name, size in sorted(FW_CFG_ITEMS.items())}
    assert items(newest(every)) == list(FW_CFG_ITEMS)
    assert items(newest({"BootMenu": b"\1\0", "etc/e820": b"x"})) == ["BootMenu"]
    assert items(newest({"BootMenu": b"\1", "bootorder": b""})) == []
    events = [event.event_type for event in rtmr0_events(newest(every))]
    assert events[2:8] == ["EV_PLATFORM_CONFIG_FLAGS"] * 6
    assert events[:2] == ["EV_EFI_HANDOFF_TABLES2", "EV_EFI_PLATFORM_FIRMWARE_BLOB2"]


def test_what_is_measured_but_not_given_is_an_error() -> None:
    with pytest.raises(FormatError, match=r"items of QEMU.*edk2 2026.08 measures them"):
        rtmr0_events(newest(None))
    with pytest.raises(FormatError, match=r"items of QEMU.*edk2 2026.08 measures them"):
        rtmr0_events(newest({"bootorder": b"x"}))
    base = newest({"BootMenu": bytes(2)})
    facts = replace(base.facts, modules=base.facts.modules | {SMBIOS_MODULE}, bios=bytes((0, 4, 0, 0, 0, 0)))
    with pytest.raises(FormatError, match="SMBIOS tables: are not given"):
        rtmr0_events(replace(base, facts=facts))
    ours = replace(base, facts=facts, smbios=bytes((127, 4, 0, 0, 0, 0)))
    found = [event.event_type for event in rtmr0_events(ours)]
    assert found.index("EV_EFI_HANDOFF_TABLES") == found.index("EV_EFI_VARIABLE_BOOT") - 1


@pytest.mark.network
def test_virt_firmware_agrees_on_enrolled_variables(tmp_path: Path) -> None:
    # Red Hat's virt-firmware computes PCR 7 of the same file. Both agree where the build has Secure Boot.
    path = next(debian_package("ovmf-inteltdx", suite="sid").rglob("OVMF.inteltdx.ms.fd"))
    firmware = TdxFirmware.parse(path.read_bytes(), name=path.name)
    assert firmware.policy.enforced
    assert virt_firmware(path) == variables(firmware)


def test_virt_firmware_takes_secure_boot_as_on_where_the_build_has_none(tmp_path: Path) -> None:
    # It says SecureBoot = 1; every log of such a build has the empty variable, so ours is right.
    path = tmp_path / "OVMF.fd"
    path.write_bytes(ubuntu_firmware().tdvf.data)
    log = parse_cc_log(vector("tdx-ccel-logs/dstack/ccel.bin").read_bytes())
    real = [
        next(iter(event.digests.values())).hex()
        for event in log.events
        if event.event_type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG
    ]
    assert variables(ubuntu_firmware()) == real
    assert virt_firmware(path)[0] != real[0]


def virt_firmware(path: Path) -> list[str]:
    tool = Path(sys.executable).with_name("virt-fw-measure")
    command: list[str | Path] = [tool, "--image", path, "--bank", "sha384"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [
        record["digests"][0]["digest"]
        for record in json.loads(done.stdout)["records"]
        if record["content"]["event_type"] == "EV_EFI_VARIABLE_DRIVER_CONFIG"
    ]


def variables(firmware: TdxFirmware) -> list[str]:
    return [hashlib.sha384(variable.measured_bytes()).hexdigest() for variable in firmware.policy.variables]


@pytest.fixture(scope="module")
def own_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[TdxFirmware, DirectBoot]:
    """The firmware with Secure Boot, own keys in its store, and a kernel that they accept."""
    if not TEMPLATE.exists():
        unavailable(f"{TEMPLATE} is absent (package ovmf)")
    folder = tmp_path_factory.mktemp("keys")
    key = make_key(folder, "db")
    store = enrol(TEMPLATE, folder / "vars.fd", platform=key, exchange=key, db=[key]).read_bytes()
    (folder / "kernel").write_bytes(DIRECT.kernel)
    signed = sign_image(key, folder / "kernel", folder / "signed").read_bytes()
    base = ubuntu_firmware()
    firmware = replace(
        base,
        facts=replace(base.facts, modules=base.facts.modules | {SECURE_BOOT_MODULE}),
        store=store,
        store_name="vars.fd",
        policy=secure_boot_policy(parse_variable_store(store), supported=True),
    )
    return firmware, replace(DIRECT, kernel=signed)


def test_the_authority_of_a_direct_kernel_comes_before_the_boot_variables(
    own_keys: tuple[TdxFirmware, DirectBoot],
) -> None:
    firmware, boot = own_keys
    assert firmware.policy.enforced
    (found,) = predict_tdx(firmware, machine(direct=True), boot)
    kinds = [event.event_type for event in found.events if event.register == "rtmr0"]
    assert kinds[-4:] == [
        "EV_PLATFORM_CONFIG_FLAGS",
        "EV_EFI_VARIABLE_AUTHORITY",
        "EV_EFI_VARIABLE_BOOT",
        "EV_EFI_VARIABLE_BOOT",
    ]
    assert any("variable db" in origin for origin in found.inputs("rtmr0"))


def test_a_kernel_that_secure_boot_refuses_is_not_predicted(
    own_keys: tuple[TdxFirmware, DirectBoot],
) -> None:
    firmware, _ = own_keys
    with pytest.raises(FormatError, match="kernel"):
        predict_tdx(firmware, machine(direct=True), DIRECT)
    with pytest.raises(FormatError, match=r"uki\.efi"):
        predict_tdx(firmware, machine(direct=False), image())


def test_a_direct_boot_has_the_boot_managers_entries_only() -> None:
    facts = ubuntu_firmware().facts
    direct = boot_variable_events(facts, MachineShape(boot=BootSource.DIRECT))
    # Digests of BootOrder 0000 and of UiApp's entry in every log of a direct boot.
    assert [event.digests[Bank.SHA384].hex()[:8] for event in direct] == ["1dd6f7b4", "23ada07f"]
    assert len(boot_variable_events(facts, MachineShape())) == 4


def test_applications_outside_of_the_dxe_volume_have_no_entry() -> None:
    facts = replace(ubuntu_firmware().facts, modules=frozenset({"TdTcg2Dxe", "BootManagerMenuApp"}))
    found = boot_variable_events(facts, MachineShape(boot=BootSource.DIRECT))
    assert [event.description.split(":")[0] for event in found] == ["BootOrder", "Boot0000"]
