"""Decoding of event data for readers: facts of real logs, and nothing that a hostile host can break."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.efi_variable import GLOBAL_VARIABLE, EfiVariable
from measurements.event_data import decode_event, device_path_text, type_name
from measurements.eventlog import parse_event_log
from measurements.events import EventType
from tests.support.vectors import vector


def test_facts_of_a_real_log() -> None:
    log = parse_event_log(vector("tpm-eventlogs/go-tpm-tools/ubuntu-2104-no-secure-boot.bin").read_bytes())
    facts = [decode_event(event.event_type, event.data) for event in log.events]
    titles = [each.title for each in facts]
    assert "variable SecureBoot" in titles
    assert "GUID partition table" in titles
    assert "Exit Boot Services Invocation" in titles
    shim = next(each for each in facts if "shimx64.efi" in each.title.lower())
    assert shim.details["device path"].startswith("PciRoot(0x0)/Pci(")
    assert "/HD(15,GPT," in shim.details["device path"]


def variable(name: str, data: bytes) -> bytes:
    return EfiVariable(name=name, vendor=GLOBAL_VARIABLE, data=data).measured_bytes()


def test_a_boot_order_is_shown_as_numbers() -> None:
    data = variable("BootOrder", struct.pack("<3H", 2, 0, 10))
    assert decode_event(EventType.EV_EFI_VARIABLE_BOOT, data).details == {"order": "0002 0000 000A"}


def test_a_boot_entry_is_shown_by_description_and_path() -> None:
    path = bytes.fromhex("02010c00d041030a000000000101060000037fff0400")
    option = struct.pack("<IH", 1, len(path)) + "Disk\0".encode("utf-16-le") + path
    details = decode_event(EventType.EV_EFI_VARIABLE_BOOT, variable("Boot0001", option)).details
    assert details == {
        "description": "Disk",
        "device path": "PciRoot(0x0)/Pci(0x3,0x0)",
        "attributes": "0x1",
    }


def test_partition_tables_are_shown_with_their_guids() -> None:
    guid = UUID(int=7)
    header = bytes(56) + guid.bytes_le + bytes(20)
    entry = UUID(int=9).bytes_le + UUID(int=8).bytes_le + struct.pack("<QQQ", 34, 99, 0)
    entry += "root".encode("utf-16-le").ljust(72, b"\0")
    details = decode_event(EventType.EV_EFI_GPT_EVENT, header + struct.pack("<Q", 1) + entry).details
    assert details == {"disk GUID": str(guid), "partition root": f"{UUID(int=8)}, blocks 34 to 99"}


@pytest.mark.parametrize("name", ["\x1b[2Jx", "a\nb", "\u202eabc"])
def test_control_characters_of_a_log_are_replaced(name: str) -> None:
    facts = decode_event(EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, variable(name, b"x"))
    assert facts.title.isprintable()
    path = (name + "\0").encode("utf-16-le")
    option = struct.pack("<IH", 1, 0) + path
    facts = decode_event(EventType.EV_EFI_VARIABLE_BOOT, variable("Boot0001", option))
    assert all(text.isprintable() for text in facts.details.values())


def test_a_device_path_that_is_cut_ends_there() -> None:
    assert device_path_text(bytes.fromhex("02010c00d041030a000000000101ff0000")) == "PciRoot(0x0)"
    assert device_path_text(bytes.fromhex("01010000")) == ""


def test_unknown_types_are_shown_as_numbers() -> None:
    assert type_name(0x80000003) == "EV_EFI_BOOT_SERVICES_APPLICATION"
    assert type_name(0x12345678) == "0x12345678"
    assert decode_event(0x12345678, b"\1\2").title == "event data 0102"


@given(st.sampled_from(list(EventType)), st.binary(max_size=300))
def test_arbitrary_data_never_raises_and_stays_printable(event_type: EventType, data: bytes) -> None:
    facts = decode_event(event_type, data)
    assert facts.title.isprintable()
    assert all(text.isprintable() for pair in facts.details.items() for text in pair)


@given(st.binary(max_size=120))
def test_boot_variables_of_arbitrary_content_never_raise(data: bytes) -> None:
    for name in ("BootOrder", "Boot0001", "SecureBoot", "db"):
        assert decode_event(EventType.EV_EFI_VARIABLE_BOOT, variable(name, data)).title


FW_CFG_ITEM = b"QEMU FW CFG\0" + b"BootMenu".ljust(56, b"\0")
TD_SHIM_HOB = b"td_hob".ljust(16, b"\0") + struct.pack("<Q", 3) + b"abc"


@pytest.mark.parametrize(
    ("event_type", "data", "title"),
    [
        (EventType.EV_PLATFORM_CONFIG_FLAGS, FW_CFG_ITEM, "QEMU fw_cfg item BootMenu"),
        (EventType.EV_PLATFORM_CONFIG_FLAGS, "kernel\0".encode("utf-16-le"), "kernel"),
        (EventType.EV_PLATFORM_CONFIG_FLAGS, TD_SHIM_HOB, "td_hob"),
        (EventType.EV_IPL, b"grub_cmd: [ xy = xy ]\0\xf3\x01", "grub_cmd: [ xy = xy ]"),
        (EventType.EV_IPL, b"\0\0", "event data 0000"),
        (EventType.EV_POST_CODE, b"ACPI DATA", "ACPI DATA"),
        (EventType.EV_NO_ACTION, b"SP800-155 Event3" + bytes(20), "information SP800-155 Event3"),
        (EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\x02ab" + bytes(16), "firmware volume ab"),
        (EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\xffab" + bytes(16), "event data ff6162" + "00" * 16),
    ],
)  # fmt: skip
def test_titles_of_events_of_loaders_and_trust_domains(event_type: int, data: bytes, title: str) -> None:
    assert decode_event(event_type, data).title == title


def test_handoff_tables_are_listed() -> None:
    data = b"\x09TdxTable\0" + struct.pack("<Q", 1) + UUID(int=5).bytes_le + struct.pack("<Q", 0x809000)
    facts = decode_event(EventType.EV_EFI_HANDOFF_TABLES2, data)
    assert facts.title == "handoff table TdxTable"
    assert facts.details == {f"table {UUID(int=5)}": "at 0x809000"}
    bomb = b"\x09TdxTable\0" + struct.pack("<Q", 1 << 60) + bytes(24)
    assert decode_event(EventType.EV_EFI_HANDOFF_TABLES2, bomb).title.startswith("event data")


def test_entries_of_an_applications_log_are_marked() -> None:
    data = struct.pack("<II", 0x4141454C, 9) + b"a.b op xy"
    facts = decode_event(EventType.EV_EVENT_TAG, data)
    assert facts.title == "a.b op xy"
    assert facts.details["entry"] == "application event log"
