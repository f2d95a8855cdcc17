"""Near misses of TPM systems whose inputs are at hand: other machines, variable stores and firmware files.

With the image the whole boot is predicted anew. Without it, only what firmware measures before it tries a
boot option is replaced in the list of events (PCR 0 to 2 without their separators, and PCR 7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from measurements.boot_sequence import ImageEvents, PlatformEvents, assemble
from measurements.errors import FormatError
from measurements.events import EventType
from measurements.near_miss import Change, NearMissKind
from measurements.near_miss_edits import with_events
from measurements.neighbours import shape_changes
from measurements.platforms import PlatformPrediction, RegisterEvent
from measurements.predict_tpm import FirmwareInputs, platform_events
from measurements.qemu import QemuProgram
from measurements.reference import register_event, tpm_prediction
from measurements.secure_boot import policy_events, secure_boot_policy
from measurements.shape import MachineShape

_PLATFORM_REGISTERS = ("0", "1", "2")
_POLICY_REGISTER = "7"
_SEPARATOR = EventType.EV_SEPARATOR.name
_REGISTERS: Mapping[NearMissKind, frozenset[str]] = {
    NearMissKind.MEMORY: frozenset(("0", "1")),
    NearMissKind.CPUS: frozenset(("0", "1")),
    NearMissKind.QEMU_VERSION: frozenset(("0", "1", "2")),
    NearMissKind.NIC: frozenset(("0", "1", "2")),
    NearMissKind.DISK: frozenset(("1",)),
    NearMissKind.MACHINE_SWITCH: frozenset(("0", "1")),
    NearMissKind.ADDRESS_BITS: frozenset(("0", "1")),
    NearMissKind.TPM_INTERFACE: frozenset(("0", "1")),
    NearMissKind.CPU_VENDOR: frozenset(("0", "1")),
    NearMissKind.BOOT_ORDER: frozenset(("1",)),
    NearMissKind.SECURE_BOOT: frozenset(("4", "7")),
    NearMissKind.FIRMWARE: frozenset(("0", "1", "7")),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TpmInputs:
    """What a TPM system's prediction is made of; ``image`` only where it is at hand, ``qemu`` None for the
    installed one.
    """

    firmware: FirmwareInputs
    shape: MachineShape
    image: ImageEvents | None = None
    qemu: QemuProgram | None = None


def tpm_changes(
    inputs: TpmInputs,
    *,
    stores: Sequence[FirmwareInputs] = (),
    firmware: Sequence[FirmwareInputs] = (),
    programs: Sequence[QemuProgram] = (),
) -> Iterator[Change[Any]]:
    """Changes of ``inputs``: each given variable store, firmware and QEMU, then each neighbour of the
    machine.

    ``stores`` are firmware inputs of which only the variables are taken.
    """
    for store in stores:
        words = f"the variable store is {store.variables_name}"
        yield _change(NearMissKind.SECURE_BOOT, words, _with_store(store))
    for other in firmware:
        words = f"the firmware is {other.firmware.name}"
        yield _change(NearMissKind.FIRMWARE, words, _with_firmware(other))
    for program in programs:
        words = f"the machine is started by {program.name}"
        yield _change(NearMissKind.QEMU_VERSION, words, partial(_with_qemu, program=program))
    yield from shape_changes(inputs.shape, lambda kind: _REGISTERS.get(kind, frozenset()), costly=True)


def tpm_predictor(expected: PlatformPrediction) -> Callable[[TpmInputs], PlatformPrediction]:
    """The prediction of other inputs; without an image by changing ``expected``."""

    def predict(inputs: TpmInputs) -> PlatformPrediction:
        platform = platform_events(inputs.firmware, inputs.shape, program=inputs.qemu)
        shape = inputs.shape.as_json()
        if inputs.image is not None:
            return tpm_prediction(assemble(inputs.image, platform, tpm=inputs.shape.tpm), shape=shape)
        return replace(_with_platform(expected, platform), shape=shape)

    return predict


def _with_platform(expected: PlatformPrediction, platform: PlatformEvents) -> PlatformPrediction:
    """``expected`` with other events of the platform: code, Secure Boot policy, configuration; then the rest.

    Raises ``FormatError`` if Secure Boot would be on, since who accepts the image cannot be known without it.
    """
    policy = secure_boot_policy(platform.variables, supported=platform.secure_boot_supported)
    if policy.enforced:
        raise FormatError(
            "a machine with Secure Boot on cannot be predicted without the image",
            subject="image",
            advice="give the image (--image)",
        )
    before = [
        *platform.code,
        *policy_events(policy, origin=platform.variables_name),
        *platform.configuration,
        *platform.boot_choice,
    ]
    kept = [event for event in expected.events if not _of_platform(event)]
    separators = [index for index, event in enumerate(kept) if event.event_type == _SEPARATOR]
    place = separators[-1] + 1 if separators else 0
    events = [
        *map(register_event, before),
        *kept[:place],
        *map(register_event, platform.after_separators),
        *kept[place:],
    ]
    return with_events(expected, events)


def _of_platform(event: RegisterEvent) -> bool:
    if event.register == _POLICY_REGISTER:
        return True
    return event.register in _PLATFORM_REGISTERS and event.event_type != _SEPARATOR


def _change(kind: NearMissKind, words: str, inputs: Callable[[TpmInputs], TpmInputs]) -> Change[Any]:
    return Change(kind=kind, words=words, registers=_REGISTERS[kind], inputs=inputs, costly=True)


def _with_store(store: FirmwareInputs) -> Callable[[TpmInputs], TpmInputs]:
    def changed(inputs: TpmInputs) -> TpmInputs:
        firmware = replace(inputs.firmware, variables=store.variables, variables_name=store.variables_name)
        return replace(inputs, firmware=firmware)

    return changed


def _with_firmware(other: FirmwareInputs) -> Callable[[TpmInputs], TpmInputs]:
    def changed(inputs: TpmInputs) -> TpmInputs:
        return replace(inputs, firmware=other)

    return changed


def _with_qemu(inputs: TpmInputs, *, program: QemuProgram) -> TpmInputs:
    return replace(inputs, qemu=program)
