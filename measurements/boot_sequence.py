"""The prediction for TPM platforms: every event of PCR 0 to 14 in the order of the boot, and the registers.

The order is that of OVMF with a UKI on a GPT disk, confirmed by logs of real boots (edk2 2022.11, 2024.02 and
2025.02):

1. the firmware's own code (PCR 0);
2. the Secure Boot policy with its separator (PCR 7);
3. option ROMs, ACPI, boot order and boot entries (PCR 2, 1);
4. the boot manager's action and the separators (PCR 4, then 0 to 6);
5. with Secure Boot the authority that accepts the UKI (PCR 7); the partition table (PCR 5), the UKI (PCR 4);
6. the UKI's sections (PCR 11), what the stub takes up besides them (PCR 1, 4, 12, 13), the inner kernel if
   the stub starts it through firmware (PCR 4);
7. command line and initrd (PCR 9), the end of boot services (PCR 5);
8. IMA (PCR 10) and the guest's own events (PCR 14), which the firmware's log does not show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from measurements.boot_applications import (
    exit_events,
    partition_table_event,
    program_event,
    ready_to_boot_events,
)
from measurements.errors import FormatError
from measurements.esp_files import EspFiles
from measurements.events import Bank, EventType, MeasuredEvent, replay
from measurements.gpt import parse_gpt
from measurements.ima import LoadedModule, ima_events
from measurements.linux_stub import check_kernel_release, command_line_event, initrd_event
from measurements.runtime_events import DEV_IMAGE, RUNTIME_PCR, event_digest
from measurements.secure_boot import (
    SecureBootPolicy,
    StartedImage,
    authority_events,
    policy_events,
    secure_boot_policy,
)
from measurements.shape import ShapeError, TpmInterface
from measurements.stub_run import StubRun, kernel_command_line, prepare_run, stub_events
from measurements.systemd_stub import Uki, measures_inner_kernel, parse_uki, section_events
from measurements.uki_digests import Hasher, hash_uki
from measurements.varstore import VariableStore

if TYPE_CHECKING:
    from measurements.smbios import Structure

PREDICTED_PCRS = range(15)
UNLOGGED_PCRS = (10, 14)
"""Registers whose events are not in the firmware's log: IMA and the guest keep their own."""

_LOADING_PCRS = (4, 7)
"""Registers that firmware extends when a program asks it to load another."""

_TPM_DRIVERS = {TpmInterface.CRB: "CONFIG_TCG_CRB", TpmInterface.TIS: "CONFIG_TCG_TIS"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInputs:
    """What of an image is measured.

    ``partition_table`` is the start of the disk (``gpt.PRIMARY_SIZE`` bytes), ``kernel_config`` the kernel's
    options by name; ``load_modules`` gives the kernel modules in the order in which the initrd loads them.
    ``esp`` are files next to the UKI that its stub takes up: an image has none.
    """

    uki: bytes
    partition_table: bytes
    kernel_release: str
    kernel_config: Mapping[str, str]
    load_modules: Callable[[], Sequence[LoadedModule]]
    dev: bool
    esp: EspFiles = field(default_factory=EspFiles)


def _unread_smbios() -> Sequence[Structure]:
    raise FormatError(
        "the SMBIOS tables of the machine, which this UKI's stub measures, are not given",
        subject="machine",
        advice="predict with the machine's shape",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformEvents:
    """What firmware and machine contribute before a boot option is tried.

    ``code`` comes before the Secure Boot policy, ``configuration`` after it, ``boot_choice`` (SMBIOS, boot
    entries) when the boot manager is ready, ``after_separators`` last; ``variables`` is the store that
    the firmware starts with, under the name ``variables_name``. ``oem_strings`` are the machine's SMBIOS
    strings of type 11; ``smbios`` reads its SMBIOS structures, which few images need. ``direct``
    says that the machine boots a kernel that the host gives.
    """

    code: Sequence[MeasuredEvent]
    configuration: Sequence[MeasuredEvent]
    boot_choice: Sequence[MeasuredEvent] = ()
    after_separators: Sequence[MeasuredEvent] = ()
    variables: VariableStore
    variables_name: str
    secure_boot_supported: bool
    oem_strings: Sequence[bytes] = ()
    smbios: Callable[[], Sequence[Structure]] = _unread_smbios
    direct: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Ordered events and the registers that they yield, by bank and PCR."""

    events: tuple[MeasuredEvent, ...]
    registers: Mapping[Bank, Mapping[int, bytes]]

    def logged(self) -> tuple[MeasuredEvent, ...]:
        """The events that the firmware's log shows."""
        return tuple(event for event in self.events if event.pcr not in UNLOGGED_PCRS)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEvents:
    """The events of an image, for any machine; ``inner_kernel`` is measured by some boots only."""

    inputs: ImageInputs
    uki: Uki
    partition_table: MeasuredEvent
    program: MeasuredEvent
    sections: Sequence[MeasuredEvent]
    run: StubRun
    addons: Mapping[str, MeasuredEvent]
    inner_kernel: MeasuredEvent
    initrd: Sequence[MeasuredEvent]


def measure_image(image: ImageInputs, *, hasher: Hasher = hash_uki) -> ImageEvents:
    """Hash the image; ``hasher`` hashes the UKI, or knows what that gives.

    Raises ``FormatError`` for an image whose parts measure by rules that are not known.
    """
    check_kernel_release(image.kernel_release)
    uki = parse_uki(image.uki, subject="uki.efi")
    digests = hasher(image.uki, uki)
    run = prepare_run(uki, image.esp)
    return ImageEvents(
        inputs=image,
        uki=uki,
        partition_table=partition_table_event(parse_gpt(image.partition_table)),
        program=program_event(
            image.uki,
            description="unified kernel image (Authenticode)",
            origin="uki.efi",
            digests=digests.program,
        ),
        sections=section_events(uki, digests=digests.sections),
        run=run,
        addons={
            addon.path: program_event(addon.image, description="add-on (Authenticode)", origin=addon.path)
            for addon in run.addons
        },
        inner_kernel=program_event(
            uki.kernel,
            description="kernel inside the UKI (Authenticode)",
            origin="section .linux of uki.efi",
            digests=digests.kernel,
        ),
        initrd=initrd_event(
            run.initrd,
            origin="section .initrd of uki.efi, and what the stub appends",
            digests=digests.initrd if image.esp == EspFiles() else None,
        ),
    )


def assemble(image: ImageEvents, platform: PlatformEvents, *, tpm: TpmInterface) -> Prediction:
    """The whole boot of ``image`` on ``platform``.

    Raises ``FormatError`` for an image that the platform would not start.
    """
    if platform.direct:
        raise ShapeError(
            "the machine boots a kernel from the host, not the image's disk",
            subject="boot",
            advice='use boot = "disk"',
        )
    policy = secure_boot_policy(platform.variables, supported=platform.secure_boot_supported)
    events = [
        *platform.code,
        *policy_events(policy, origin=platform.variables_name),
        *platform.configuration,
        *platform.boot_choice,
        *ready_to_boot_events(),
        *platform.after_separators,
        *started_events(
            image,
            policy,
            variables_name=platform.variables_name,
            oem_strings=platform.oem_strings,
            smbios=platform.smbios,
        ),
    ]
    events += later_events(
        events,
        kernel_config=image.inputs.kernel_config,
        load_modules=image.inputs.load_modules,
        dev=image.inputs.dev,
        tpm=tpm,
        secure_boot=policy.enforced,
        command_line=kernel_command_line(image.run, platform.oem_strings),
    )
    return Prediction(events=tuple(events), registers=replay(events, pcrs=PREDICTED_PCRS))


def later_events(
    earlier: Sequence[MeasuredEvent],
    *,
    kernel_config: Mapping[str, str],
    load_modules: Callable[[], Sequence[LoadedModule]],
    dev: bool,
    tpm: TpmInterface,
    secure_boot: bool,
    command_line: str,
) -> list[MeasuredEvent]:
    """What kernel and guest measure after boot services have ended: PCR 10 and 14."""
    if tpm not in _TPM_DRIVERS:
        raise ShapeError(
            "the machine has no TPM, so no PCRs", subject="tpm", advice='use a shape with tpm = "crb"'
        )
    measured = ima_events(
        kernel_config,
        earlier=earlier,
        tpm_driver=_TPM_DRIVERS[tpm],
        secure_boot=secure_boot,
        command_line=command_line,
        load_modules=load_modules,
    )
    return [*measured, *_runtime_events(dev=dev)]


def started_events(
    image: ImageEvents,
    policy: SecureBootPolicy,
    *,
    variables_name: str,
    oem_strings: Sequence[bytes] = (),
    smbios: Callable[[], Sequence[Structure]] = _unread_smbios,
    trust_domain: bool = False,
) -> list[MeasuredEvent]:
    """From the first program that firmware starts to the end of boot services, as PCR events.

    In a confidential machine the stub ignores the host's strings: then ``oem_strings`` stay empty. A stub
    that does not know how trust domains measure leaves out all of its own there; firmware does not.
    """
    authorities = _Authorities(policy, variables_name)
    command_line = kernel_command_line(image.run, oem_strings)
    accepted = authorities.of("uki.efi", image.inputs.uki)
    by_stub = [
        *image.sections,
        *stub_events(
            image.run,
            load=lambda addon: [*authorities.of(addon.path, addon.image), image.addons[addon.path]],
            oem_strings=oem_strings,
            smbios=smbios,
        ),
    ]
    silent = trust_domain and not image.uki.trust_domains
    return [
        *accepted,
        image.partition_table,
        image.program,
        *(event for event in by_stub if not silent or event.pcr in _LOADING_PCRS),
        *([image.inner_kernel] if measures_inner_kernel(image.uki, secure_boot=policy.enforced) else []),
        *command_line_event(command_line, origin="section .cmdline of uki.efi, and what the stub appends"),
        *image.initrd,
        *exit_events(),
    ]


class _Authorities:
    """The authorities of started images, each measured once."""

    def __init__(self, policy: SecureBootPolicy, variables_name: str) -> None:
        self._policy = policy
        self._name = variables_name
        self._started: list[StartedImage] = []
        self._known = 0

    def of(self, name: str, image: bytes) -> list[MeasuredEvent]:
        """The authority of the next image, if it is a new one; raises ``FormatError`` if there is none."""
        self._started.append(StartedImage(name=name, data=image))
        events = authority_events(self._policy, self._started, origin=self._name)
        new = events[self._known :]
        self._known = len(events)
        return new


def _runtime_events(*, dev: bool) -> list[MeasuredEvent]:
    if not dev:
        return []
    return [
        MeasuredEvent(
            pcr=RUNTIME_PCR,
            event_type=EventType.KEYTURN_RUNTIME,
            digests={bank: event_digest(DEV_IMAGE, algorithm=bank.value) for bank in Bank},
            description=f"runtime event {DEV_IMAGE.name}",
            origin="image.dev of the recipe",
        )
    ]
