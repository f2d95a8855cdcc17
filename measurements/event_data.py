"""What the data of a logged event says, in words, for explanations.

Layouts (TCG PC Client Platform Firmware Profile 1.06, section 10; little endian):

- ``UEFI_VARIABLE_DATA`` as in ``efi_variable``, ``UEFI_GPT_DATA`` as in ``gpt``;
- ``UEFI_IMAGE_LOAD_EVENT``: u64 address | u64 length | u64 link address | u64 path length | device path;
- ``UEFI_PLATFORM_FIRMWARE_BLOB``: u64 address | u64 length; ``..._BLOB2``: u8 length | name, before them;
- ``UEFI_HANDOFF_TABLE_POINTERS2``: u8 length | name | u64 count | count x (GUID | u64 address);
- tagged events: u32 tag | u32 length | text; tag 0x4141454C is an entry of an application's log
  (Confidential Containers, ``domain operation content``);
- text of shim, GRUB and systemd-stub: up to the first NUL, whatever lies behind (GRUB logs more than it has);
- configuration flags: ``ACPI DATA``; ``QEMU FW CFG`` NUL and 56 bytes name of an item (edk2 from 2025.05 on);
  16 bytes name, u64 length and content (td-shim); a name alone (early TDVF).
- ``EFI_LOAD_OPTION`` (UEFI 2.10, section 3.1.3): u32 attributes | u16 path length | description, UTF-16 with
  NUL | device path | optional data.

Data is **not** always what was hashed: a host can write any text next to an honest digest. So nothing here
decides anything; it only helps a reader. Data that does not parse is shown as hexadecimal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from measurements.efi_variable import GLOBAL_VARIABLE, EfiVariable, parse_variable_data
from measurements.errors import FormatError
from measurements.events import EventType

INNER_KERNEL = UUID("55c5d1f8-04cd-46b5-8a20-e56cbb3052d0")
"""Media GUID of the device path under which systemd-stub starts the kernel inside a UKI."""

_SHOWN_BYTES = 24
_AAEL_TAG = 0x4141454C
_FW_CFG = b"QEMU FW CFG\0"
_FW_CFG_NAME = 56
_TD_SHIM_HEAD = 24
_MAX_NODES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class EventFacts:
    """``title`` names what was measured, ``details`` are facts about it (all of them claims of the log)."""

    title: str
    details: Mapping[str, str] = field(default_factory=dict)


def type_name(event_type: int) -> str:
    """Name of an event type, its number in hexadecimal if it is not known."""
    known = {member.value: member.name for member in EventType}
    return known.get(event_type, f"{event_type:#010x}")


def decode_event(event_type: int, data: bytes) -> EventFacts:
    """Facts about one event's data, in printable characters only; never raises."""
    reader = _READERS.get(event_type)
    if reader is None:
        return _unknown(data)
    try:
        facts = reader(data)
    except (FormatError, struct.error, ValueError, IndexError):
        return _unknown(data)
    return EventFacts(
        title=_printable(facts.title),
        details={_printable(name): _printable(text) for name, text in facts.details.items()},
    )


def device_path_text(path: bytes) -> str:
    """A device path as text, in the notation of UEFI 2.10, section 10.6, as far as disk boots need it."""
    nodes: list[str] = []
    position = 0
    while position + 4 <= len(path) and len(nodes) < _MAX_NODES:
        kind, subtype, size = struct.unpack_from("<BBH", path, position)
        if size < 4 or position + size > len(path) or kind == 0x7F:
            break
        nodes.append(_node_text(kind, subtype, path[position + 4 : position + size]))
        position += size
    return "/".join(nodes)


def boot_option_facts(data: bytes) -> dict[str, str]:
    """Description and device path of an ``EFI_LOAD_OPTION``."""
    attributes, path_size = struct.unpack_from("<IH", data)
    end = 6
    while data[end : end + 2] != b"\0\0":
        end += 2
        if end >= len(data):
            raise ValueError("description has no end")
    path = data[end + 2 : end + 2 + path_size]
    return {
        "description": data[6:end].decode("utf-16-le"),
        "device path": device_path_text(path),
        "attributes": f"{attributes:#x}",
    }


def _variable(data: bytes) -> EventFacts:
    variable = parse_variable_data(data)
    return EventFacts(title=f"variable {variable.name}", details=_variable_details(variable))


def _variable_details(variable: EfiVariable) -> dict[str, str]:
    if variable.name == "BootOrder" and variable.vendor == GLOBAL_VARIABLE:
        numbers = struct.unpack(f"<{len(variable.data) // 2}H", variable.data)
        return {"order": " ".join(f"{number:04X}" for number in numbers)}
    if variable.name.startswith("Boot") and variable.vendor == GLOBAL_VARIABLE:
        return boot_option_facts(variable.data)
    if variable.name == "SecureBoot":
        return {"value": {b"\0": "off", b"\x01": "on", b"": "absent"}.get(variable.data, variable.data.hex())}
    return {"size": f"{len(variable.data)} bytes"} if variable.data else {"value": "empty or absent"}


def _image(data: bytes) -> EventFacts:
    address, length, _, path_size = struct.unpack_from("<QQQQ", data)
    path = device_path_text(data[32 : 32 + path_size])
    details = {"device path": path, "size in memory": f"{length} bytes", "loaded at": f"{address:#x}"}
    if str(INNER_KERNEL) in path:
        return EventFacts(title="kernel inside the UKI", details=details)
    file_name = path.rpartition("/")[2]
    return EventFacts(title=f"EFI image {file_name}" if "\\" in file_name else "EFI image", details=details)


def _gpt(data: bytes) -> EventFacts:
    (count,) = struct.unpack_from("<Q", data, 92)
    details = {"disk GUID": str(UUID(bytes_le=data[56:72]))}
    if len(data) != 100 + count * 128:
        raise ValueError("entries do not fill the event")
    for index in range(count):
        entry = data[100 + index * 128 : 228 + index * 128]
        name = entry[56:128].decode("utf-16-le").rstrip("\0")
        first, last = struct.unpack_from("<QQ", entry, 32)
        details[f"partition {name or index + 1}"] = f"{UUID(bytes_le=entry[16:32])}, blocks {first} to {last}"
    return EventFacts(title="GUID partition table", details=details)


def _blob(data: bytes) -> EventFacts:
    address, length = struct.unpack("<QQ", data)
    return EventFacts(
        title="firmware volume", details={"address": f"{address:#x}", "length": f"{length} bytes"}
    )


def _action(data: bytes) -> EventFacts:
    return EventFacts(title=data.decode("ascii"))


def _version(data: bytes) -> EventFacts:
    text = data.decode("utf-16-le").rstrip("\0")
    return EventFacts(title="firmware version", details={"version": text or "empty"})


def _tagged(data: bytes) -> EventFacts:
    tag, size = struct.unpack_from("<II", data)
    text = data[8 : 8 + size]
    decoded = text.decode("utf-16-le") if text[1:2] == b"\0" else text.decode("ascii")
    kind = {"entry": "application event log"} if tag == _AAEL_TAG else {}
    return EventFacts(title=decoded.rstrip("\0"), details={"tag": f"{tag:#010x}", **kind})


def _text(data: bytes) -> EventFacts:
    return EventFacts(title=_first_text(data))


def _first_text(data: bytes) -> str:
    if data[1:2] == b"\0" and data[:1] != b"\0":
        return data.decode("utf-16-le").split("\0")[0]
    text = data.split(b"\0")[0].decode("utf-8")
    if not text:
        raise ValueError("has no text")
    return text


def _information(data: bytes) -> EventFacts:
    signature = data[:16].rstrip(b"\0").decode("ascii")
    return EventFacts(title=f"information {signature}", details={"size": f"{len(data)} bytes"})


def _configuration(data: bytes) -> EventFacts:
    if data.startswith(_FW_CFG) and len(data) == len(_FW_CFG) + _FW_CFG_NAME:
        return EventFacts(title=f"QEMU fw_cfg item {_first_text(data[len(_FW_CFG) :])}")
    if len(data) >= _TD_SHIM_HEAD and int.from_bytes(data[16:24], "little") == len(data) - _TD_SHIM_HEAD:
        details = {"size": f"{len(data) - _TD_SHIM_HEAD} bytes"}
        return EventFacts(title=_first_text(data[:16]), details=details)
    return _text(data)


def _named_blob(data: bytes) -> EventFacts:
    name, rest = data[1 : 1 + data[0]], data[1 + data[0] :]
    blob = _blob(rest)
    return EventFacts(title=f"firmware volume {_first_text(name)}", details=blob.details)


def _named_tables(data: bytes) -> EventFacts:
    name, rest = data[1 : 1 + data[0]], data[1 + data[0] :]
    (count,) = struct.unpack_from("<Q", rest)
    if len(rest) != 8 + count * 24:
        raise ValueError("tables do not fill the event")
    tables = {
        f"table {UUID(bytes_le=guid)}": f"at {address:#x}"
        for guid, address in struct.iter_unpack("<16sQ", rest[8:])
    }
    return EventFacts(title=f"handoff table {_first_text(name)}", details=tables)


def _separator(data: bytes) -> EventFacts:
    return EventFacts(title="separator" if data in (bytes(4), b"\xff" * 4) else f"separator {data.hex()}")


def _unknown(data: bytes) -> EventFacts:
    shown = data[:_SHOWN_BYTES].hex() + ("…" if len(data) > _SHOWN_BYTES else "")
    return EventFacts(title="event data " + shown if data else "no event data")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)[:400]


def _node_text(kind: int, subtype: int, body: bytes) -> str:
    reader = _NODES.get((kind, subtype))
    if reader is None:
        return f"Path({kind},{subtype},{body.hex()})"
    return reader(body)


def _pci(body: bytes) -> str:
    return f"Pci({body[1]:#x},{body[0]:#x})"


def _acpi(body: bytes) -> str:
    hid, uid = struct.unpack_from("<II", body)
    return f"PciRoot({uid:#x})" if hid == 0x0A0341D0 else f"Acpi({hid:#x},{uid:#x})"


def _hard_drive(body: bytes) -> str:
    number, start, size = struct.unpack_from("<IQQ", body)
    return f"HD({number},GPT,{UUID(bytes_le=body[20:36])},{start:#x},{size:#x})"


def _file_path(body: bytes) -> str:
    return body.decode("utf-16-le").rstrip("\0")


def _mac(body: bytes) -> str:
    return f"MAC({body[:6].hex()},{body[32]:#x})"


_NODES: Mapping[tuple[int, int], Callable[[bytes], str]] = {
    (1, 1): _pci,
    (2, 1): _acpi,
    (3, 11): _mac,
    (3, 12): lambda body: "IPv4",
    (3, 13): lambda body: "IPv6",
    (3, 24): lambda body: "Uri",
    (4, 1): _hard_drive,
    (4, 3): lambda body: f"VenMedia({UUID(bytes_le=body[:16])})",
    (4, 4): _file_path,
    (4, 6): lambda body: f"FvFile({UUID(bytes_le=body[:16])})",
    (4, 7): lambda body: f"Fv({UUID(bytes_le=body[:16])})",
}

_READERS: Mapping[int, Callable[[bytes], EventFacts]] = {
    EventType.EV_EFI_VARIABLE_DRIVER_CONFIG: _variable,
    EventType.EV_EFI_VARIABLE_BOOT: _variable,
    EventType.EV_EFI_VARIABLE_BOOT2: _variable,
    EventType.EV_EFI_VARIABLE_AUTHORITY: _variable,
    EventType.EV_EFI_BOOT_SERVICES_APPLICATION: _image,
    EventType.EV_EFI_BOOT_SERVICES_DRIVER: _image,
    EventType.EV_EFI_GPT_EVENT: _gpt,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB: _blob,
    EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _named_blob,
    EventType.EV_EFI_HANDOFF_TABLES2: _named_tables,
    EventType.EV_EFI_ACTION: _action,
    EventType.EV_ACTION: _action,
    EventType.EV_NO_ACTION: _information,
    EventType.EV_POST_CODE: _text,
    EventType.EV_PLATFORM_CONFIG_FLAGS: _configuration,
    EventType.EV_S_CRTM_VERSION: _version,
    EventType.EV_EVENT_TAG: _tagged,
    EventType.EV_IPL: _text,
    EventType.EV_SEPARATOR: _separator,
}
