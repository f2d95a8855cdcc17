"""Near misses of trust domains whose firmware is at hand.

Without QEMU, single events are replaced: the list of memory ranges, the kernel with and without QEMU's
changes to its header, MRTD in another page order or of another file. With QEMU, MRTD and RTMR0 are predicted
anew for other machines, and with what is booted RTMR1 and RTMR2 as well; the guest's own events and launch
values stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from measurements.boot_sequence import ImageEvents
from measurements.errors import FormatError, KeyturnError
from measurements.events import Bank, EventType
from measurements.near_miss import Change, Edit, NearMissKind
from measurements.near_miss_edits import with_events
from measurements.neighbours import MEMORY_MIB, shape_changes
from measurements.pe import authenticode_digest
from measurements.platforms import PlatformPrediction, RegisterEvent
from measurements.secure_boot import policy_events
from measurements.shape import MachineShape
from measurements.tdx.cc_mapping import CcRegister, in_trust_domain
from measurements.tdx.kernel_patch import patched_kernel
from measurements.tdx.mrtd import BANK, PageOrder, compute_mrtd
from measurements.tdx.predict import DirectBoot, TdxFirmware, TdxMachine, predict_tdx, rtmr0_inputs
from measurements.tdx.register_events import event_over
from measurements.tdx.rtmr0 import rtmr0_events
from measurements.tdx.td_hob import low_memory, td_hob

MRTD, RTMR0, RTMR1 = "mrtd", "rtmr0", "rtmr1"
ORDER_LABEL = "page-order"

_OF_THE_MACHINE = {
    NearMissKind.MEMORY: frozenset((RTMR0, RTMR1)),
    NearMissKind.CPUS: frozenset((RTMR0,)),
    NearMissKind.QEMU_VERSION: frozenset((RTMR0, RTMR1)),
    NearMissKind.NIC: frozenset((RTMR0,)),
    NearMissKind.DISK: frozenset((RTMR0,)),
    NearMissKind.MACHINE_SWITCH: frozenset((RTMR0,)),
    NearMissKind.ADDRESS_BITS: frozenset((RTMR0,)),
    NearMissKind.BOOT_ORDER: frozenset((RTMR0,)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxInputs:
    """What MRTD and RTMR0 are made of; ``boot``, where it is at hand, gives RTMR1 and RTMR2.

    ``qemu`` names a QEMU program.
    """

    firmware: TdxFirmware = field(repr=False)
    shape: MachineShape
    order: PageOrder
    boot: ImageEvents | DirectBoot | None = field(default=None, repr=False)
    qemu: str = ""


MachineReader = Callable[[TdxInputs], TdxMachine]
"""Reads from QEMU what a machine offers to its firmware."""


def tdx_edits(
    firmware: TdxFirmware,
    memory_mib: int,
    *,
    direct: DirectBoot | None = None,
    others: Sequence[TdxFirmware] = (),
    stores: Sequence[TdxFirmware] = (),
) -> Iterator[Change[Any]]:
    """Changes that need no QEMU.

    ``memory_mib`` is what was predicted, ``direct`` a direct boot; ``others`` is firmware to try, ``stores``
    the same firmware with other variable stores.
    """
    origin = f"memory of the shape, TDVF metadata of {firmware.tdvf.name}"
    yield from memory_edits(partial(td_hob, firmware.tdvf), origin=origin)
    for order in PageOrder:
        words = f"the hypervisor adds pages in the order {order.value}"
        yield _mrtd_change(NearMissKind.PAGE_ORDER, words, firmware, order, memory_mib)
    for other in others:
        for order in (PageOrder.SINGLE_PASS, PageOrder.TWO_PASS):
            words = f"the firmware is {other.tdvf.name}, pages in the order {order.value}"
            yield _mrtd_change(NearMissKind.FIRMWARE, words, other, order, memory_mib)
    for store in stores:
        words = f"the variable store is {store.store_name}"
        yield _change(NearMissKind.SECURE_BOOT, words, RTMR0, partial(_with_store, firmware=store))
    if direct is not None:
        yield from _kernels(direct)


def memory_edits(hob: Callable[[int], bytes], *, origin: str) -> Iterator[Change[Any]]:
    """Other memory sizes; ``hob`` gives the list of memory ranges for a number of bytes."""
    for memory in MEMORY_MIB:
        try:
            data = hob(memory << 20)
        except KeyturnError:
            continue
        event = event_over(
            data,
            CcRegister.RTMR0,
            EventType.EV_EFI_HANDOFF_TABLES2,
            description=f"TD HOB: {memory} MiB of memory in ranges",
            origin=origin,
        )
        edit = partial(_with_event, new=event, fits=_is_td_hob, shape={"memory": f"{memory}MiB"})
        words = f"memory is {memory} MiB, and the ACPI tables are the same"
        yield _change(NearMissKind.MEMORY, words, RTMR0, edit)


def tdx_changes(
    inputs: TdxInputs, *, programs: Sequence[str] = (), others: Sequence[TdxFirmware] = ()
) -> Iterator[Change[Any]]:
    """Other machines, read from QEMU; ``programs`` are names of other QEMUs, ``others`` firmware to try."""
    for other in others:
        yield Change(
            kind=NearMissKind.FIRMWARE,
            words=f"the firmware is {other.tdvf.name}",
            registers=frozenset((MRTD, RTMR0, RTMR1)),
            inputs=partial(_with_firmware, other=other),
            costly=True,
        )
    for name in programs:
        yield Change(
            kind=NearMissKind.QEMU_VERSION,
            words=f"the machine is started by {name}",
            registers=_OF_THE_MACHINE[NearMissKind.QEMU_VERSION],
            inputs=partial(_with_qemu, name=name),
            costly=True,
        )
    yield from shape_changes(inputs.shape, lambda kind: _OF_THE_MACHINE.get(kind, frozenset()), costly=True)


def tdx_predictor(
    expected: PlatformPrediction, machine_of: MachineReader
) -> Callable[[TdxInputs], PlatformPrediction]:
    """Predicts other inputs; registers that do not come from them are those of ``expected``."""

    def predict(inputs: TdxInputs) -> PlatformPrediction:
        machine = machine_of(inputs)
        events = (
            _platform_events(expected, inputs, machine)
            if inputs.boot is None
            else _all_events(inputs, machine, inputs.boot)
        )
        names = {event.register for event in events} & expected.registers.keys()
        kept = [event for event in expected.events if event.register not in names]
        new = [event for event in events if event.register in names]
        label = dict(expected.label)
        if inputs.qemu:
            label["qemu"] = inputs.qemu
        return replace(with_events(expected, [*new, *kept]), shape=inputs.shape.as_json(), label=label)

    return predict


def _platform_events(
    expected: PlatformPrediction, inputs: TdxInputs, machine: TdxMachine
) -> list[RegisterEvent]:
    """MRTD and RTMR0. Raises ``FormatError`` where Secure Boot is on: who accepts the image depends on it."""
    firmware = inputs.firmware
    if firmware.policy.enforced:
        raise FormatError(
            "a machine with Secure Boot on cannot be predicted without what it boots",
            subject="image",
            advice="give the image (--image)",
        )
    direct = not any(event.event_type == EventType.EV_EFI_GPT_EVENT.name for event in expected.events)
    rtmr0 = rtmr0_inputs(firmware, machine, (), direct=direct)
    return [*_mrtd_events(firmware, inputs.order, inputs.shape.memory_mib), *rtmr0_events(rtmr0)]


def _all_events(
    inputs: TdxInputs, machine: TdxMachine, boot: ImageEvents | DirectBoot
) -> list[RegisterEvent]:
    """MRTD and RTMR0 to RTMR2."""
    found = predict_tdx(inputs.firmware, machine, boot)
    same = next((each for each in found if each.label[ORDER_LABEL] == inputs.order.value), found[0])
    return [event for event in same.events if event.register in ("mrtd", "rtmr0", "rtmr1", "rtmr2")]


def _mrtd_events(firmware: TdxFirmware, order: PageOrder, memory_mib: int) -> Sequence[RegisterEvent]:
    hob = td_hob(firmware.tdvf, memory_mib << 20) if order is PageOrder.ALL_REGIONS else None
    return compute_mrtd(firmware.tdvf, order=order, td_hob=hob).events


def _kernels(boot: DirectBoot) -> Iterator[Change[Any]]:
    """The kernel as the file is, and as QEMU changes it for each size of memory below 4 GiB."""
    yield _kernel_change("QEMU hands over the kernel as it is (10.2 and later)", boot.kernel)
    for low in dict.fromkeys(low_memory(memory << 20) for memory in MEMORY_MIB):
        try:
            kernel = patched_kernel(
                boot.kernel, memory=low, initrd_size=len(boot.initrd), command_line=boot.command_line
            )
        except KeyturnError:
            continue
        words = f"QEMU changes the kernel's header (before 10.2), with {low >> 20} MiB of memory below 4 GiB"
        yield _kernel_change(words, kernel)


def _kernel_change(words: str, kernel: bytes) -> Change[Any]:
    event = RegisterEvent(
        register=RTMR1,
        event_type=EventType.EV_EFI_BOOT_SERVICES_APPLICATION.name,
        digests={BANK: authenticode_digest(kernel, Bank.SHA384, subject="kernel")},
        description=f"kernel (Authenticode): {words}",
        origin="kernel of the host",
    )
    edit = partial(_with_event, new=event, fits=_is_kernel, shape={})
    return _change(NearMissKind.KERNEL_PATCH, words, RTMR1, edit)


def _mrtd_change(
    kind: NearMissKind, words: str, firmware: TdxFirmware, order: PageOrder, memory_mib: int
) -> Change[Any]:
    edit = partial(_with_mrtd, firmware=firmware, order=order, memory_mib=memory_mib)
    return _change(kind, words, MRTD, edit)


def _with_mrtd(
    prediction: PlatformPrediction, *, firmware: TdxFirmware, order: PageOrder, memory_mib: int
) -> PlatformPrediction | None:
    if MRTD not in prediction.registers:
        return None
    kept = [event for event in prediction.events if event.register != MRTD]
    changed = with_events(prediction, [*_mrtd_events(firmware, order, memory_mib), *kept])
    return replace(changed, label={**prediction.label, ORDER_LABEL: order.value})


def _with_event(
    prediction: PlatformPrediction,
    *,
    new: RegisterEvent,
    fits: Callable[[RegisterEvent], bool],
    shape: dict[str, object],
) -> PlatformPrediction | None:
    """The prediction with ``new`` in the place of the one event that ``fits``."""
    places = [index for index, event in enumerate(prediction.events) if fits(event)]
    if len(places) != 1 or prediction.events[places[0]].digests == new.digests:
        return None
    events = list(prediction.events)
    events[places[0]] = new
    return replace(with_events(prediction, events), shape={**prediction.shape, **shape})


def _is_td_hob(event: RegisterEvent) -> bool:
    return (event.register, event.event_type) == (RTMR0, EventType.EV_EFI_HANDOFF_TABLES2.name)


def _is_kernel(event: RegisterEvent) -> bool:
    program = EventType.EV_EFI_BOOT_SERVICES_APPLICATION.name
    return (event.register, event.event_type) == (RTMR1, program)


def _with_store(prediction: PlatformPrediction, *, firmware: TdxFirmware) -> PlatformPrediction | None:
    """The prediction with another variable store; None where it would take what the image is signed with."""
    authority = EventType.EV_EFI_VARIABLE_AUTHORITY.name
    signed = any(event.event_type == authority for event in prediction.events)
    if firmware.policy.enforced and not signed:
        return None
    policy = iter(
        event
        for event in in_trust_domain(policy_events(firmware.policy, origin=firmware.store_name))
        if event.event_type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG.name
    )
    section = firmware.tdvf.configuration
    assert section is not None
    measured = hashlib.new(BANK, firmware.store.ljust(section.size, b"\0")).digest()
    events: list[RegisterEvent] = []
    for event in prediction.events:
        if event.event_type == EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB2.name:
            event = replace(event, digests={BANK: measured}, origin=firmware.store_name)
        elif event.event_type == EventType.EV_EFI_VARIABLE_DRIVER_CONFIG.name:
            event = next(policy, event)
        elif event.event_type == authority and not firmware.policy.enforced:
            continue
        events.append(event)
    return with_events(prediction, events)


def _with_firmware(inputs: TdxInputs, *, other: TdxFirmware) -> TdxInputs:
    return replace(inputs, firmware=other)


def _with_qemu(inputs: TdxInputs, *, name: str) -> TdxInputs:
    return replace(inputs, qemu=name)


def _change(kind: NearMissKind, words: str, register: str, edit: Edit) -> Change[Any]:
    return Change(kind=kind, words=words, registers=frozenset((register,)), edit=edit)
