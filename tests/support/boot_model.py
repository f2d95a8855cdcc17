"""A model of a boot for tests: a machine and an image, the prediction for them, and the log they would write.

The platform's events have the form of OVMF 2025.02; the image is a real UKI on the installed stub.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from uuid import UUID

import pytest

from image_builder.gpt import build_gpt
from image_builder.uki import SectionName, UkiSection, build_uki
from measurements.boot_sequence import ImageInputs, PlatformEvents, Prediction, assemble, measure_image
from measurements.efi_variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, EfiVariable
from measurements.eventlog import Algorithm
from measurements.events import Bank, EventType, MeasuredEvent, digests_of, event_over
from measurements.gpt import PRIMARY_SIZE, Partition, parse_gpt
from measurements.shape import TpmInterface
from measurements.varstore import VariableStore
from tests.support.event_log_writer import Record, write_log

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
KERNEL_CONFIG = {"CONFIG_IMA": "n"}
BANK_ALGORITHMS = {Bank.SHA256: Algorithm.SHA256, Bank.SHA384: Algorithm.SHA384}
DISK_GUID = UUID(int=0x11111111222233334444555555555555)
ROOT_GUID = UUID(int=0x11111111222233334444000000000002)
ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")

_PCI_ROOT = bytes.fromhex("02010c00d041030a00000000")
_END = bytes.fromhex("7fff0400")


@dataclass(frozen=True, kw_only=True)
class ModelMachine:
    """What a machine contributes; ``entries`` are names with device paths."""

    version: str = "2025.02-8"
    code: bytes = b"firmware volume"
    acpi: bytes = b"tables for 512 MiB"
    memory_mib: int = 512
    order: tuple[int, ...] = (1, 0)
    entries: tuple[tuple[str, bytes], ...] = (
        ("UiApp", b""),
        ("UEFI Misc Device", _PCI_ROOT + bytes.fromhex("010106000003") + _END),
    )
    keys: dict[str, bytes] = field(default_factory=dict)
    roms: tuple[bytes, ...] = ()

    def with_nic(self) -> ModelMachine:
        """The machine with a network card, which brings a boot entry and other tables."""
        mac = struct.pack("<BBH", 3, 11, 37) + bytes.fromhex("525400123456").ljust(32, b"\0") + b"\x01"
        path = _PCI_ROOT + bytes.fromhex("010106000010") + mac + _END
        entries = (*self.entries, ("UEFI PXEv4 (MAC:525400123456)", path))
        changed = {"order": (*self.order, 2), "entries": entries, "acpi": b"tables with a card"}
        return ModelMachine(**{**self.__dict__, **changed})


@dataclass(frozen=True, kw_only=True)
class ModelImage:
    """What an image contributes."""

    command_line: bytes = b"console=ttyS0"
    initrd: bytes = b"initrd"
    os_release: bytes | None = b"ID=test\n"
    kernel: bytes | None = None
    kernel_tail: bytes = b""
    disk_guid: UUID = DISK_GUID
    root_guid: UUID = ROOT_GUID
    dev: bool = False

    def inputs(self) -> ImageInputs:
        sections = {
            SectionName.LINUX: self.kernel or _stub() + self.kernel_tail,
            SectionName.CMDLINE: self.command_line,
            SectionName.INITRD: self.initrd,
        }
        if self.os_release is not None:
            sections[SectionName.OSREL] = self.os_release
        uki = build_uki(_stub(), [UkiSection(name=name, data=data) for name, data in sections.items()])
        return ImageInputs(
            uki=uki,
            partition_table=self._partition_table(),
            kernel_release="6.12.1",
            kernel_config=KERNEL_CONFIG,
            load_modules=tuple,
            dev=self.dev,
        )

    def _partition_table(self) -> bytes:
        esp = Partition(name="esp", type_guid=ESP_TYPE, guid=UUID(int=7), first_lba=2048, last_lba=4095)
        root = Partition(
            name="root", type_guid=UUID(int=9), guid=self.root_guid, first_lba=4096, last_lba=8191
        )
        return build_gpt(16384, self.disk_guid, [esp, root]).primary[:PRIMARY_SIZE]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One predicted event with the data that the log shows for it."""

    event: MeasuredEvent
    data: bytes


def predict(
    machine: ModelMachine, image: ModelImage, *, kernel_config: Mapping[str, str] = KERNEL_CONFIG
) -> Prediction:
    """The prediction for machine and image."""
    inputs = replace(image.inputs(), kernel_config=kernel_config)
    return assemble(measure_image(inputs), _platform(machine), tpm=TpmInterface.CRB)


def boot_log(machine: ModelMachine, image: ModelImage, *, extra: Iterable[tuple[int, Shown]] = ()) -> bytes:
    """The log of a boot; ``extra`` events are inserted after the event number of ``Prediction.logged``."""
    inputs = image.inputs()
    platform = {id_of(shown.event): shown.data for shown in _code(machine) + _configuration(machine)}
    policy = {variable_id(v): v.measured_bytes() for v in _policy_variables(machine)}
    table = parse_gpt(inputs.partition_table).event_data
    shown_events = [
        Shown(event=event, data=_data(event, {**platform, **policy}, table, machine))
        for event in predict(machine, image).logged()
    ]
    for shift, (position, added) in enumerate(sorted(extra, key=lambda pair: pair[0])):
        shown_events.insert(position + shift, added)
    return render(shown_events)


def render(shown: Sequence[Shown]) -> bytes:
    """The bytes of a log."""
    records = [
        Record(
            pcr=each.event.pcr,
            event_type=each.event.event_type,
            digests={BANK_ALGORITHMS[bank]: digest for bank, digest in each.event.digests.items()},
            data=each.data,
        )
        for each in shown
    ]
    return write_log(records, algorithms=list(BANK_ALGORITHMS.values()))


def image_load_data(path: bytes, *, address: int = 0x1D265018, size: int = 0x600000) -> bytes:
    """``UEFI_IMAGE_LOAD_EVENT`` with a device path."""
    return struct.pack("<QQQQ", address, size, 0, len(path)) + path


def file_path(text: str) -> bytes:
    """A device path of one file."""
    name = (text + "\0").encode("utf-16-le")
    return struct.pack("<BBH", 4, 4, 4 + len(name)) + name + _END


def id_of(event: MeasuredEvent) -> tuple[int, bytes]:
    return event.pcr, event.digests[Bank.SHA256]


def variable_id(variable: EfiVariable) -> tuple[int, bytes]:
    return 7, digests_of(variable.measured_bytes())[Bank.SHA256]


@cache
def _stub() -> bytes:
    if not STUB.exists():
        pytest.skip("no systemd-stub (package systemd-boot-efi)")
    return STUB.read_bytes()


def _platform(machine: ModelMachine) -> PlatformEvents:
    return PlatformEvents(
        code=[shown.event for shown in _code(machine)],
        configuration=[shown.event for shown in _configuration(machine)],
        variables=_store(machine),
        variables_name="OVMF_VARS.fd",
        secure_boot_supported=False,
    )


def _store(machine: ModelMachine) -> VariableStore:
    vendors = {"db": IMAGE_SECURITY_DATABASE, "dbx": IMAGE_SECURITY_DATABASE}
    return VariableStore(
        variables=tuple(
            EfiVariable(name=name, vendor=vendors.get(name, GLOBAL_VARIABLE), data=data)
            for name, data in machine.keys.items()
        )
    )


def _policy_variables(machine: ModelMachine) -> list[EfiVariable]:
    store = _store(machine)
    variables = [EfiVariable(name="SecureBoot", vendor=GLOBAL_VARIABLE, data=b"")]
    for name, vendor in (
        ("PK", GLOBAL_VARIABLE),
        ("KEK", GLOBAL_VARIABLE),
        ("db", IMAGE_SECURITY_DATABASE),
        ("dbx", IMAGE_SECURITY_DATABASE),
    ):
        variables.append(EfiVariable(name=name, vendor=vendor, data=store.get(name, vendor) or b""))
    return variables


def _code(machine: ModelMachine) -> list[Shown]:
    version = (machine.version + "\0").encode("utf-16-le")
    return [
        _shown(version, pcr=0, event_type=EventType.EV_S_CRTM_VERSION, description="firmware version"),
        _shown(
            machine.code,
            pcr=0,
            event_type=EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB,
            description="firmware volume",
            data=struct.pack("<QQ", 0x820000, 0xE0000),
        ),
    ]


def _configuration(machine: ModelMachine) -> list[Shown]:
    shown = [
        _shown(rom, pcr=2, event_type=EventType.EV_EFI_BOOT_SERVICES_DRIVER, description="option ROM")
        for rom in machine.roms
    ]
    shown.append(
        _shown(
            machine.acpi,
            pcr=1,
            event_type=EventType.EV_PLATFORM_CONFIG_FLAGS,
            description="ACPI tables",
            data=b"ACPI DATA",
        )
    )
    order = struct.pack(f"<{len(machine.order)}H", *machine.order)
    shown.append(_boot_variable("BootOrder", order))
    for number in machine.order:
        name, path = machine.entries[number]
        option = struct.pack("<IH", 1, len(path)) + (name + "\0").encode("utf-16-le") + path
        shown.append(_boot_variable(f"Boot{number:04X}", option))
    return shown


def _boot_variable(name: str, data: bytes) -> Shown:
    variable = EfiVariable(name=name, vendor=GLOBAL_VARIABLE, data=data)
    return _shown(
        variable.measured_bytes(),
        pcr=1,
        event_type=EventType.EV_EFI_VARIABLE_BOOT,
        description=f"variable {name}",
    )


def _shown(
    measured: bytes, *, pcr: int, event_type: EventType, description: str, data: bytes | None = None
) -> Shown:
    event = event_over(measured, pcr=pcr, event_type=event_type, description=description, origin="machine")
    return Shown(event=event, data=measured if data is None else data)


def _data(
    event: MeasuredEvent, known: dict[tuple[int, bytes], bytes], table: bytes, machine: ModelMachine
) -> bytes:
    """What firmware, stub and kernel write next to the digest of ``event``."""
    found = known.get(id_of(event))
    if found is not None:
        return found
    if event.event_type is EventType.EV_EFI_GPT_EVENT:
        return table
    if event.event_type is EventType.EV_SEPARATOR:
        return bytes(4)
    if event.event_type is EventType.EV_EFI_BOOT_SERVICES_APPLICATION:
        top = (machine.memory_mib << 20) - 0x2000000
        inner = struct.pack("<BBH", 4, 3, 20) + UUID("55c5d1f8-04cd-46b5-8a20-e56cbb3052d0").bytes_le + _END
        path = inner if "kernel inside" in event.description else file_path("\\EFI\\BOOT\\BOOTX64.EFI")
        return image_load_data(path, address=top)
    if event.event_type is EventType.EV_IPL:
        return (event.origin.split()[1] + "\0").encode("utf-16-le")
    if event.event_type is EventType.EV_EVENT_TAG:
        text = "LOADED_IMAGE::LoadOptions" if "LoadOptions" in event.description else "Linux initrd"
        return struct.pack("<II", 0x8F3B22EC, len(text) + 1) + text.encode() + b"\0"
    return event.description.encode("ascii")
