"""Near misses that need no inputs: edits of the predicted events, on platforms whose registers are chains of
them.

What each edit does follows from the rules by which the events were predicted:

- separators: before 2024.11, edk2 extended RTMR0 with the separator that belongs into RTMR1 (edk2 commit
  efaf8931bb), so the event only changes its register;
- systemd-stub: ``systemd_stub.measures_inner_kernel``;
- direct boot: OVMF adds ``initrd=initrd`` behind the command line, from 2025.08 on before it;
- Secure Boot: ``secure_boot``; while it is off no authority is measured;
- boot order: ``boot_entries``, the order and then every entry in it;
- development images extend ``dev-image`` first of all runtime events.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations, product
from typing import Any

from measurements.efi_variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, EfiVariable
from measurements.events import EventType
from measurements.linux_stub import COMMAND_LINE_DESCRIPTION
from measurements.near_miss import Change, Edit, NearMissKind, machine_words
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.reference import replay_register
from measurements.runtime_events import DEV_IMAGE, event_digest

INNER_KERNEL = "kernel inside the UKI"
INITRD_WORD = "initrd=initrd"
MAX_ORDERED = 5
"""Boot entries whose orders are all tried: 120 of them."""

_RUNTIME_REGISTERS = {Platform.TPM: "14", Platform.TDX: "rtmr3"}
_POLICY = {
    "PK": GLOBAL_VARIABLE,
    "KEK": GLOBAL_VARIABLE,
    "db": IMAGE_SECURITY_DATABASE,
    "dbx": IMAGE_SECURITY_DATABASE,
}
_STATES = {"absent": b"", "off": b"\0", "on": b"\x01"}
_POLICY_NAME = re.compile(r"\b(SecureBoot|PK|KEK|dbx|db)\b")
_ENTRY = re.compile(r"\bBoot([0-9A-F]{4})\b")
_ORDER = "BootOrder"


def edits(
    prediction: PlatformPrediction, *, inner_kernel: RegisterEvent | None = None
) -> Iterator[Change[Any]]:
    """All edits for ``prediction``. ``inner_kernel`` is the event of the kernel inside a UKI, where the
    prediction lacks it and the image is at hand.
    """
    if prediction.platform is Platform.NITRO:
        yield from debug_edits()
        return
    yield from separator_edits()
    yield from stub_edits(inner_kernel)
    yield from command_line_edits()
    yield from secure_boot_edits()
    yield from boot_order_edits(prediction)
    yield from dev_image_edits()


def with_events(prediction: PlatformPrediction, events: Sequence[RegisterEvent]) -> PlatformPrediction:
    """The prediction with other events, and the registers that they yield."""
    by_register: dict[str, list[RegisterEvent]] = {name: [] for name in prediction.registers}
    for event in events:
        by_register[event.register].append(event)
    registers = {
        name: {bank: replay_register(by_register[name], name, bank) for bank in banks}
        for name, banks in prediction.registers.items()
    }
    return replace(prediction, events=tuple(events), registers=registers)


def other_predictions(
    expected: PlatformPrediction, predictions: Sequence[PlatformPrediction]
) -> Iterator[Change[Any]]:
    """The other predictions of the same reference values, such as other members of a labelled set."""
    for other in predictions:
        if other is not expected and other.platform is expected.platform:
            words = "it is " + machine_words(other)
            edit = partial(_instead, other=other)
            yield _change(NearMissKind.PREDICTION, words, tuple(expected.registers), edit)


def separator_edits() -> Iterator[Change[Any]]:
    """Separators of TDX as edk2 placed them before and since 2024.11."""
    for words, source, number, target in (
        ("RTMR0 has the second separator, as in edk2 before 2024.11", "rtmr1", 0, "rtmr0"),
        ("RTMR1 has the second separator, as in edk2 2024.11 and later", "rtmr0", 1, "rtmr1"),
    ):
        edit = partial(_moved_separator, source=source, number=number, target=target)
        yield _change(NearMissKind.SEPARATOR, words, ("rtmr0", "rtmr1"), edit)


def stub_edits(inner_kernel: RegisterEvent | None) -> Iterator[Change[Any]]:
    """The kernel inside a UKI measured by firmware, or not."""
    words = "the inner kernel is not measured (systemd-stub 258 or later, or Secure Boot on)"
    yield _change(NearMissKind.STUB_RULE, words, ("4", "rtmr1"), _without_inner_kernel)
    if inner_kernel is not None:
        words = "the inner kernel is measured (systemd-stub 257 or earlier, and Secure Boot off)"
        edit = partial(_with_inner_kernel, inner_kernel=inner_kernel)
        yield _change(NearMissKind.STUB_RULE, words, ("4", "rtmr1"), edit)


def command_line_edits() -> Iterator[Change[Any]]:
    """Where firmware puts ``initrd=initrd`` in a direct boot."""
    for words, form in (
        ("is not on the command line", "{}"),
        ("ends the command line, as in edk2 before 2025.08", "{} " + INITRD_WORD),
        ("starts the command line, as in edk2 2025.08 and later", INITRD_WORD + " {}"),
    ):
        edit = partial(_other_command_line, form=form)
        yield _change(NearMissKind.COMMAND_LINE_PLACE, f"{INITRD_WORD} {words}", ("9", "rtmr2"), edit)


def secure_boot_edits() -> Iterator[Change[Any]]:
    """Secure Boot on, off or not built in; with the predicted keys, or off without any."""
    for state, keys in product(_STATES, (True, False)):
        if state == "on" and not keys:
            continue
        words = f"Secure Boot is {state}, " + ("with the predicted keys" if keys else "without keys")
        edit = partial(_other_secure_boot, value=_STATES[state], keys=keys)
        yield _change(NearMissKind.SECURE_BOOT, words, ("7", "rtmr0"), edit)


def boot_order_edits(prediction: PlatformPrediction) -> Iterator[Change[Any]]:
    """Every other order of the predicted boot entries."""
    numbers = [number for number, _ in _boot_entries(prediction)]
    if not 1 < len(numbers) <= MAX_ORDERED:
        return
    for order in permutations(numbers):
        words = "the boot order is " + " ".join(f"{number:04X}" for number in order)
        edit = partial(_other_boot_order, order=order)
        yield _change(NearMissKind.BOOT_ORDER, words, ("1", "rtmr0"), edit)


def dev_image_edits() -> Iterator[Change[Any]]:
    """The mark of a development image, set or not."""
    words = "the image is a development image, or is not one where one was predicted"
    yield _change(NearMissKind.DEV_IMAGE, words, tuple(_RUNTIME_REGISTERS.values()), _other_dev_mark)


def debug_edits() -> Iterator[Change[Any]]:
    """A Nitro enclave in debug mode, whose registers are all zero (AWS, nitro-cli ``--debug-mode``)."""
    words = "the enclave runs in debug mode, where every register is zero"
    registers = tuple(str(register) for register in range(16))
    yield _change(NearMissKind.DEBUG_MODE, words, registers, _in_debug_mode)


def _change(kind: NearMissKind, words: str, registers: Sequence[str], edit: Edit) -> Change[Any]:
    return Change(kind=kind, words=words, registers=frozenset(registers), edit=edit)


def _instead(prediction: PlatformPrediction, *, other: PlatformPrediction) -> PlatformPrediction | None:
    return other


def _without_inner_kernel(prediction: PlatformPrediction) -> PlatformPrediction | None:
    return _edited(prediction, [e for e in prediction.events if INNER_KERNEL not in e.description])


def _with_inner_kernel(
    prediction: PlatformPrediction, *, inner_kernel: RegisterEvent
) -> PlatformPrediction | None:
    if any(INNER_KERNEL in event.description for event in prediction.events):
        return None
    events = list(prediction.events)
    events.insert(_kernel_start(events), inner_kernel)
    return with_events(prediction, events)


def _other_dev_mark(prediction: PlatformPrediction) -> PlatformPrediction | None:
    register = _RUNTIME_REGISTERS.get(prediction.platform)
    if register is None or register not in prediction.registers:
        return None
    mark = _dev_event(prediction, register)
    events = [e for e in prediction.events if (e.register, e.digests) != (register, mark.digests)]
    if len(events) == len(prediction.events):
        place = next((i for i, e in enumerate(events) if e.register == register), len(events))
        events.insert(place, mark)
    return with_events(prediction, events)


def _in_debug_mode(prediction: PlatformPrediction) -> PlatformPrediction | None:
    return with_events(prediction, ())


def _moved_separator(
    prediction: PlatformPrediction, *, source: str, number: int, target: str
) -> PlatformPrediction | None:
    """The prediction with separator ``number`` (from 0) of ``source`` in ``target`` instead: in RTMR0 after
    the boot variables, in RTMR1 after the action that starts a boot option.
    """
    places = [
        index
        for index, event in enumerate(prediction.events)
        if event.register == source and event.event_type == EventType.EV_SEPARATOR.name
    ]
    if len(places) <= number or target not in prediction.registers:
        return None
    moved = replace(prediction.events[places[number]], register=target)
    events = [event for index, event in enumerate(prediction.events) if index != places[number]]
    last = EventType.EV_EFI_VARIABLE_BOOT if target == "rtmr0" else EventType.EV_EFI_ACTION
    before = [
        index
        for index, event in enumerate(events)
        if event.register == target and event.event_type == last.name and "Exit Boot" not in event.description
    ]
    events.insert(before[-1] + 1 if before else places[number], moved)
    return with_events(prediction, events)


def _kernel_start(events: Sequence[RegisterEvent]) -> int:
    """The place of the first event of the started kernel."""
    for index, event in enumerate(events):
        leaves = event.event_type == EventType.EV_EFI_ACTION.name and "Exit Boot" in event.description
        if event.event_type == EventType.EV_EVENT_TAG.name or leaves:
            return index
    return len(events)


def _other_command_line(prediction: PlatformPrediction, form: str) -> PlatformPrediction | None:
    def edited(event: RegisterEvent) -> RegisterEvent:
        if not event.description.startswith(COMMAND_LINE_DESCRIPTION):
            return event
        line = event.description.removeprefix(COMMAND_LINE_DESCRIPTION)
        plain = line.removeprefix(INITRD_WORD + " ").removesuffix(" " + INITRD_WORD)
        text = form.format(plain)
        return replace(
            _over(event, text.encode("utf-16-le") + b"\0\0"), description=COMMAND_LINE_DESCRIPTION + text
        )

    return _edited(prediction, [edited(event) for event in prediction.events])


def _other_secure_boot(
    prediction: PlatformPrediction, value: bytes, *, keys: bool
) -> PlatformPrediction | None:
    events = []
    for event in prediction.events:
        if event.event_type == EventType.EV_EFI_VARIABLE_AUTHORITY.name and value != b"\x01":
            continue
        events.append(_other_variable(event, value, keys=keys))
    return _edited(prediction, events)


def _other_variable(event: RegisterEvent, value: bytes, *, keys: bool) -> RegisterEvent:
    if event.event_type != EventType.EV_EFI_VARIABLE_DRIVER_CONFIG.name:
        return event
    found = _POLICY_NAME.search(event.description)
    name = "" if found is None else found[0]
    if name == "SecureBoot":
        return _over(event, EfiVariable(name=name, vendor=GLOBAL_VARIABLE, data=value).measured_bytes())
    if name in _POLICY and not keys:
        return _over(event, EfiVariable(name=name, vendor=_POLICY[name], data=b"").measured_bytes())
    return event


def _boot_entries(prediction: PlatformPrediction) -> list[tuple[int, int]]:
    """Number and place of each measured boot entry, in boot order."""
    found = []
    for index, event in enumerate(prediction.events):
        match = _ENTRY.search(event.description)
        if event.event_type == EventType.EV_EFI_VARIABLE_BOOT.name and match is not None:
            found.append((int(match[1], 16), index))
    return found


def _other_boot_order(prediction: PlatformPrediction, order: Sequence[int]) -> PlatformPrediction | None:
    entries = _boot_entries(prediction)
    events = list(prediction.events)
    at = next((index for index, event in enumerate(events) if _ORDER in event.description), None)
    numbers = [number for number, _ in entries]
    if at is None or sorted(numbers) != sorted(order):
        return None
    # edk2 measures the data alone, other firmware the whole variable (TCG PFP 1.06, section 10.4.1).
    form = next((form for form in (_data, _whole) if _over(events[at], form(numbers)) == events[at]), None)
    if form is None:
        return None
    events[at] = _over(events[at], form(order))
    by_number = {number: prediction.events[place] for number, place in entries}
    for number, (_, place) in zip(order, entries, strict=True):
        events[place] = by_number[number]
    return _edited(prediction, events)


def _data(order: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(order)}H", *order)


def _whole(order: Sequence[int]) -> bytes:
    return EfiVariable(name=_ORDER, vendor=GLOBAL_VARIABLE, data=_data(order)).measured_bytes()


def _dev_event(prediction: PlatformPrediction, register: str) -> RegisterEvent:
    return RegisterEvent(
        register=register,
        event_type=EventType.KEYTURN_RUNTIME.name,
        digests={bank: event_digest(DEV_IMAGE, algorithm=bank) for bank in prediction.registers[register]},
        description=f"runtime event {DEV_IMAGE.name}",
        origin="image.dev of the recipe",
    )


def _over(event: RegisterEvent, data: bytes) -> RegisterEvent:
    """The event with the hash of ``data``."""
    return replace(event, digests={bank: hashlib.new(bank, data).digest() for bank in event.digests})


def _edited(prediction: PlatformPrediction, events: Sequence[RegisterEvent]) -> PlatformPrediction | None:
    """The prediction with ``events``; None if they are the same."""
    return None if tuple(events) == tuple(prediction.events) else with_events(prediction, events)
