"""What a dstack guest measures before its own events: the fixed log of its firmware.

dstack pins OVMF to edk2-stable202502 and boots its kernel directly, so RTMR0 to RTMR2 have one layout, which
its documents call ``pre202505`` (``dstack/dstack-mr/src/tdvf.rs`` and ``kernel.rs``). All digests are
SHA-384:

- RTMR0: TD HOB; configuration firmware volume; SecureBoot, PK, KEK, db, dbx, all empty; separator; ACPI
  loader script, RSDP and tables; BootOrder and Boot0000, the data alone;
- RTMR1: kernel (Authenticode); ``Calling EFI Application from Boot Option``; separator; the two exit actions;
- RTMR2: command line (UTF-16 with NUL); initrd.

Nothing is copied from a boot: variables, the boot entry of the firmware's menu and the empty variable store
are built from their layouts, which the modules named in the imports and ``empty_variable_store`` describe.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from measurements.boot_entries import ACTIVE, APPLICATION, HIDDEN, SETUP_FILE, BootEntry
from measurements.dstack.event_log import replay_digests
from measurements.efi_variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, EfiVariable
from measurements.events import EventType, Provenance
from measurements.ovmf import DXE_VOLUME
from measurements.platforms import RegisterEvent

BANK = "sha384"
INITRD_SUFFIX = " initrd=initrd"
"""What OVMF before edk2-stable202508 adds to the command line of a direct boot with an initrd."""

CALLING = b"Calling EFI Application from Boot Option"
EXIT_INVOCATION = b"Exit Boot Services Invocation"
EXIT_SUCCESS = b"Exit Boot Services Returned with Success"
SEPARATOR = bytes(4)

_LAYOUT = "edk2-stable202502, the firmware release of dstack"
_MENU_NAME = "UiApp"
_STORE_SIZE = 0x84000
_VARIABLES_SIZE, _EVENT_LOG_SIZE = 0x40000, 0x1000
_VOLUME = struct.Struct("<16x16sQ4sIHHHBBIIII")
_VOLUME_GUID = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
_VARIABLE_GUID = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
_WORKING_GUID = UUID("9e58292b-7c68-497d-a0ce-6500fd9f1b95")


class OvmfVariant(StrEnum):
    """Layouts of the firmware's log, in the words of dstack's documents."""

    PRE202505 = "pre202505"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One digest with the input that it comes from."""

    digest: bytes
    origin: str
    provenance: Provenance = Provenance.COMPUTED


@dataclass(frozen=True, kw_only=True, slots=True)
class AcpiDigests:
    """SHA-384 of the loader script, the RSDP and the tables, and where they come from."""

    loader: bytes
    rsdp: bytes
    tables: bytes
    origin: str
    provenance: Provenance = Provenance.COMPUTED

    def as_tuple(self) -> tuple[bytes, bytes, bytes]:
        """In the order in which firmware measures them."""
        return self.loader, self.rsdp, self.tables


def sha384(data: bytes) -> bytes:
    """SHA-384, which is what every event here is a digest of."""
    return hashlib.sha384(data).digest()


def rtmr0_events(*, td_hob: Measured, variables: Measured, acpi: AcpiDigests) -> list[RegisterEvent]:
    """The 13 events of RTMR0; ``variables`` is the digest of the configuration firmware volume."""
    menu = _fixed(menu_entry().data())
    parts: Sequence[tuple[EventType, str, Measured]] = (
        (EventType.EV_EFI_HANDOFF_TABLES2, "TD HOB", td_hob),
        (EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2, "configuration firmware volume", variables),
        *(
            (EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, f"empty variable {each.name}", _variable(each))
            for each in secure_boot_variables()
        ),
        (EventType.EV_SEPARATOR, "separator", _fixed(SEPARATOR)),
        *(
            (
                EventType.EV_PLATFORM_CONFIG_FLAGS,
                f"ACPI {name}",
                Measured(digest=digest, origin=acpi.origin, provenance=acpi.provenance),
            )
            for name, digest in zip(("loader", "RSDP", "tables"), acpi.as_tuple(), strict=True)
        ),
        (EventType.EV_EFI_VARIABLE_BOOT, "BootOrder", _fixed(bytes(2))),
        (EventType.EV_EFI_VARIABLE_BOOT, "Boot0000", menu),
    )
    return [_event("rtmr0", *part) for part in parts]


def rtmr1_events(kernel: Measured) -> list[RegisterEvent]:
    """The 5 events of RTMR1."""
    return [
        _event("rtmr1", EventType.EV_EFI_BOOT_SERVICES_APPLICATION, "kernel", kernel),
        _event("rtmr1", EventType.EV_EFI_ACTION, CALLING.decode(), _fixed(CALLING)),
        _event("rtmr1", EventType.EV_SEPARATOR, "separator", _fixed(SEPARATOR)),
        _event("rtmr1", EventType.EV_EFI_ACTION, EXIT_INVOCATION.decode(), _fixed(EXIT_INVOCATION)),
        _event("rtmr1", EventType.EV_EFI_ACTION, EXIT_SUCCESS.decode(), _fixed(EXIT_SUCCESS)),
    ]


def rtmr2_events(*, command_line: Measured, initrd: Measured) -> list[RegisterEvent]:
    """The 2 events of RTMR2."""
    return [
        _event("rtmr2", EventType.EV_EVENT_TAG, "kernel command line", command_line),
        _event("rtmr2", EventType.EV_EVENT_TAG, "initrd", initrd),
    ]


def command_line_digest(command_line: str) -> bytes:
    """Digest of what the kernel measures: the image's command line with OVMF's addition, UTF-16 with NUL."""
    return sha384((command_line + INITRD_SUFFIX + "\0").encode("utf-16-le"))


def replayed(events: Iterable[RegisterEvent]) -> bytes:
    """The register after the events of one register."""
    return replay_digests(event.digests[BANK] for event in events)


def secure_boot_variables() -> list[EfiVariable]:
    """The variables of RTMR0, none of which a dstack guest has."""
    names = (
        ("SecureBoot", GLOBAL_VARIABLE),
        ("PK", GLOBAL_VARIABLE),
        ("KEK", GLOBAL_VARIABLE),
        ("db", IMAGE_SECURITY_DATABASE),
        ("dbx", IMAGE_SECURITY_DATABASE),
    )
    return [EfiVariable(name=name, vendor=vendor, data=b"") for name, vendor in names]


def menu_entry() -> BootEntry:
    """Boot0000: the firmware's own menu, the only entry that exists when the kernel starts."""
    volume = b"\x04\x07\x14\x00" + DXE_VOLUME.bytes_le
    path = volume + b"\x04\x06\x14\x00" + SETUP_FILE.bytes_le + bytes.fromhex("7fff0400")
    return BootEntry(
        description=_MENU_NAME, attributes=ACTIVE | HIDDEN | APPLICATION, path=path, device=False
    )


def empty_variable_store() -> bytes:
    """The configuration firmware volume of a 4 MiB OVMF without variables.

    Layout (edk2, ``OvmfPkg/Include/Fdf/VarStore.fdf.inc`` and ``MdePkg/Include/Pi/PiFirmwareVolume.h``;
    little endian): volume header (16 zero bytes, GUID, u64 size, ``_FVH``, u32 attributes, u16 header size,
    u16 checksum, u16 0, u8 0, u8 revision 2, block map of u32 count and u32 size, and its end), variable
    store header (GUID, u32 size, u8 formatted 0x5a, u8 healthy 0xfe, 6 zero bytes), erased bytes; after the
    event log the working block's header (GUID, u32 CRC32 of it with itself and the state erased, u8 state
    0xfe, 3 bytes 0xff, u64 queue size), erased bytes.
    """
    volume_size = _VOLUME.size
    fields = (_VOLUME_GUID.bytes_le, _STORE_SIZE, b"_FVH", 0x4FEFF, volume_size)
    blocks = (0, 0, 2, _STORE_SIZE // 0x1000, 0x1000, 0, 0)
    words = struct.unpack(f"<{volume_size // 2}H", _VOLUME.pack(*fields, 0, *blocks))
    store = _VOLUME.pack(*fields, -sum(words) & 0xFFFF, *blocks)
    store += _VARIABLE_GUID.bytes_le + struct.pack("<IBB6x", _VARIABLES_SIZE - volume_size, 0x5A, 0xFE)
    store = store.ljust(_VARIABLES_SIZE + _EVENT_LOG_SIZE, b"\xff")
    queue = struct.pack("<Q", 0xFE0)
    crc = zlib.crc32(_WORKING_GUID.bytes_le + b"\xff" * 8 + queue)
    store += _WORKING_GUID.bytes_le + struct.pack("<I", crc) + b"\xfe\xff\xff\xff" + queue
    return store.ljust(_STORE_SIZE, b"\xff")


def _variable(variable: EfiVariable) -> Measured:
    return _fixed(variable.measured_bytes())


def _fixed(data: bytes) -> Measured:
    return Measured(digest=sha384(data), origin=_LAYOUT)


def _event(register: str, kind: EventType, description: str, measured: Measured) -> RegisterEvent:
    return RegisterEvent(
        register=register,
        event_type=kind.name,
        digests={BANK: measured.digest},
        description=description,
        origin=measured.origin,
        provenance=measured.provenance,
    )
