"""Every kind of near miss, planted and found: the registers of another choice are told, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from measurements.efi_variable import GLOBAL_VARIABLE, EfiVariable
from measurements.events import EventType
from measurements.firmware_catalogue import catalogue
from measurements.linux_stub import COMMAND_LINE_DESCRIPTION
from measurements.near_miss import NearMissKind, Problem, values_to_explain
from measurements.near_miss_edits import edits, other_predictions, with_events
from measurements.near_miss_firmware import known_mrtd_edits
from measurements.near_miss_search import search
from measurements.near_miss_tpm import TpmInputs, tpm_changes
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.predict_tpm import FirmwareInputs
from measurements.qemu import QemuProgram
from measurements.reference import register_event, replay_register, tpm_prediction
from measurements.shape import BootOrder, CpuVendor, Disk, MachineShape, Nic, TpmInterface
from measurements.tdx.mrtd import PageOrder
from tests.support import planted_sev, planted_tdx
from tests.support.boot_model import ModelImage, ModelMachine, predict
from tests.support.planted import Planted, Plantings

BASE = MachineShape(memory_mib=2048, cpus=1, disks=(Disk(), Disk(slot=4)), nics=(Nic(),))


def event(register: str, event_type: EventType, data: bytes, description: str) -> RegisterEvent:
    return RegisterEvent(
        register=register,
        event_type=event_type.name,
        digests={"sha384": hashlib.sha384(data).digest()},
        description=description,
        origin="tests",
    )


def variable(name: str, data: bytes) -> RegisterEvent:
    measured = EfiVariable(name=name, vendor=GLOBAL_VARIABLE, data=data).measured_bytes()
    kind = EventType.EV_EFI_VARIABLE_DRIVER_CONFIG
    return event("rtmr0", kind, measured, f"variable {name}: {len(data)} bytes")


def separator(register: str) -> RegisterEvent:
    return event(register, EventType.EV_SEPARATOR, bytes(4), "separator")


def command_line(text: str) -> RegisterEvent:
    data = text.encode("utf-16-le") + b"\0\0"
    return event("rtmr2", EventType.EV_EVENT_TAG, data, COMMAND_LINE_DESCRIPTION + text)


def tdx(*events: RegisterEvent) -> PlatformPrediction:
    names = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
    return PlatformPrediction(
        platform=Platform.TDX,
        shape={},
        registers={name: {"sha384": replay_register(events, name, "sha384")} for name in names},
        events=events,
    )


TDX = (
    variable("SecureBoot", b"\x01"),
    variable("PK", b"owner"),
    separator("rtmr0"),
    event("rtmr0", EventType.EV_EFI_VARIABLE_AUTHORITY, b"key", "entry of db that accepts uki.efi"),
    event("rtmr1", EventType.EV_EFI_ACTION, b"boot", "Calling EFI Application from Boot Option"),
    separator("rtmr1"),
    command_line("console=ttyS0 initrd=initrd"),
)


def edited(found: PlatformPrediction, expected: PlatformPrediction, words: str) -> Planted:
    """Only registers are known, and no inputs are at hand."""
    problem: Problem[Any] = Problem(expected=expected, found=found.registers)
    return Planted(problem=problem, changes=list(edits(expected)), words=words)


def other_prediction() -> Planted:
    machines = [
        tdx(separator("rtmr0"), event("rtmr1", EventType.EV_ACTION, bytes([n]), "")) for n in range(4)
    ]
    machines = [replace(each, label={"vcpus": str(n)}) for n, each in enumerate(machines, start=1)]
    problem: Problem[Any] = Problem(expected=machines[0], found=machines[3].registers)
    return Planted(
        problem=problem,
        changes=list(other_predictions(machines[0], machines)),
        words="it is a 4 vCPU machine",
    )


def separator_place() -> Planted:
    events = [replace(each, register="rtmr0") if each is TDX[5] else each for each in TDX]
    return edited(tdx(*events), tdx(*TDX), "RTMR0 has the second separator, as in edk2 before 2024.11")


def stub_rule() -> Planted:
    machine, image = ModelMachine(), ModelImage()
    measured = tpm_prediction(predict(machine, image), shape={})
    kept = [each for each in measured.events if "kernel inside the UKI" not in each.description]
    assert len(kept) == len(measured.events) - 1
    words = "the inner kernel is not measured (systemd-stub 258 or later, or Secure Boot on)"
    found = values_to_explain(measured, with_events(measured, kept).registers)
    return Planted(
        problem=Problem(expected=measured, found=found), changes=list(edits(measured)), words=words
    )


def command_line_place() -> Planted:
    events = [command_line("initrd=initrd console=ttyS0") if each is TDX[6] else each for each in TDX]
    words = "initrd=initrd starts the command line, as in edk2 2025.08 and later"
    return edited(tdx(*events), tdx(*TDX), words)


def secure_boot() -> Planted:
    events = [variable("SecureBoot", b"\0") if each is TDX[0] else each for each in TDX if each is not TDX[3]]
    return edited(tdx(*events), tdx(*TDX), "Secure Boot is off, with the predicted keys")


def boot_order() -> Planted:
    expected = tpm_prediction(predict(ModelMachine(order=(1, 0)), ModelImage()), shape={})
    found = tpm_prediction(predict(ModelMachine(order=(0, 1)), ModelImage()), shape={})
    return Planted(
        problem=Problem(expected=expected, found=values_to_explain(expected, found.registers)),
        changes=list(edits(expected)),
        words="the boot order is 0000 0001",
    )


def dev_image() -> Planted:
    machine = ModelMachine()
    expected = tpm_prediction(predict(machine, ModelImage()), shape={})
    found = tpm_prediction(predict(machine, ModelImage(dev=True)), shape={})
    return edited(found, expected, "the image is a development image, or is not one where one was predicted")


def debug_mode() -> Planted:
    events = tuple(
        replace(event("0", EventType.EV_ACTION, b"image", ""), register=name, running=True)
        for name in ("0", "1", "2")
    )
    expected = PlatformPrediction(
        platform=Platform.NITRO,
        shape={},
        registers={each.register: each.digests for each in events},
        events=events,
    )
    zero = replace(expected, registers={name: {"sha384": bytes(48)} for name in expected.registers})
    return edited(zero, expected, "the enclave runs in debug mode, where every register is zero")


def model(inputs: TpmInputs) -> PlatformPrediction:
    """A machine on paper: PCR 1 is over the shape, PCR 0 over the firmware, PCR 7 over its variables."""
    measured = {
        "0": inputs.firmware.firmware.name,
        "1": json.dumps(inputs.shape.as_json()),
        "7": inputs.firmware.variables_name,
        "2": "" if inputs.qemu is None else inputs.qemu.name,
    }
    events = tuple(
        event(register, EventType.EV_EFI_ACTION, text.encode(), text) for register, text in measured.items()
    )
    return PlatformPrediction(
        platform=Platform.TPM,
        shape=inputs.shape.as_json(),
        registers={name: {"sha384": replay_register(events, name, "sha384")} for name in measured},
        events=events,
    )


@dataclass(frozen=True, kw_only=True)
class NamedFirmware:
    """A firmware of which only the name counts."""

    name: str


def firmware(name: str = "OVMF.fd", variables: str = "VARS.fd") -> Any:
    return FirmwareInputs(
        firmware=NamedFirmware(name=name),  # type: ignore[arg-type]
        variables=None,  # type: ignore[arg-type]
        variables_name=variables,
    )


def machine(words: str, **fields: Any) -> Callable[[], Planted]:
    def planted() -> Planted:
        inputs = TpmInputs(firmware=firmware(), shape=BASE)
        found = model(replace(inputs, shape=replace(BASE, **fields)))
        problem: Problem[Any] = Problem(
            expected=model(inputs), found=found.registers, inputs=inputs, predict=model
        )
        return Planted(problem=problem, changes=list(tpm_changes(inputs)), words=words, costly=True)

    return planted


def other_firmware(words: str, other: Any, **given: Any) -> Callable[[], Planted]:
    def planted() -> Planted:
        inputs = TpmInputs(firmware=firmware(), shape=BASE)
        problem: Problem[Any] = Problem(
            expected=model(inputs),
            found=model(replace(inputs, firmware=other)).registers,
            inputs=inputs,
            predict=model,
        )
        changes = list(tpm_changes(inputs, **given))
        return Planted(problem=problem, changes=changes, words=words, costly=True)

    return planted


def other_qemu() -> Planted:
    program = QemuProgram(command=("qemu-9.1/qemu-system-x86_64",))
    inputs = TpmInputs(firmware=firmware(), shape=BASE)
    problem: Problem[Any] = Problem(
        expected=model(inputs),
        found=model(replace(inputs, qemu=program)).registers,
        inputs=inputs,
        predict=model,
    )
    return Planted(
        problem=problem,
        changes=list(tpm_changes(inputs, programs=[program])),
        words="the machine is started by qemu-9.1/qemu-system-x86_64",
        costly=True,
    )


EDITS_AND_TPM: Plantings = {
    NearMissKind.PREDICTION: [other_prediction],
    NearMissKind.SEPARATOR: [separator_place],
    NearMissKind.STUB_RULE: [stub_rule],
    NearMissKind.COMMAND_LINE_PLACE: [command_line_place],
    NearMissKind.SECURE_BOOT: [
        secure_boot,
        other_firmware(
            "the variable store is OTHER.fd",
            firmware(variables="OTHER.fd"),
            stores=[firmware(variables="OTHER.fd")],
        ),
    ],
    NearMissKind.BOOT_ORDER: [
        boot_order,
        machine("the boot order is decided by firmware", boot_order=BootOrder.FIRMWARE),
    ],
    NearMissKind.DEV_IMAGE: [dev_image],
    NearMissKind.DEBUG_MODE: [debug_mode],
    NearMissKind.MEMORY: [machine("memory is 8192 MiB", memory_mib=8192)],
    NearMissKind.CPUS: [machine("there are 4 CPUs", cpus=4)],
    NearMissKind.CPU_VENDOR: [machine("the CPU's vendor is GenuineIntel", cpu_vendor=CpuVendor.INTEL)],
    NearMissKind.QEMU_VERSION: [
        machine("the machine is that of QEMU 9.1", machine="pc-q35-9.1"),
        other_qemu,
    ],
    NearMissKind.MACHINE_SWITCH: [
        machine("the high precision timer (HPET) is off", hpet=False),
        machine("the legacy interrupt controller (PIC) is off", pic=False),
        machine("the serial port is off", serial=False),
        machine("offering of the sleep states S3 and S4 is on", sleep=True),
        machine("hot plug by way of ACPI is off", acpi_hotplug=False),
    ],
    NearMissKind.ADDRESS_BITS: [machine("physical addresses have 46 bits", phys_bits=46)],
    NearMissKind.TPM_INTERFACE: [machine("the TPM's interface is tis", tpm=TpmInterface.TIS)],
    NearMissKind.NIC: [machine("a network card is missing", nics=())],
    NearMissKind.DISK: [
        machine("a disk is missing", disks=(Disk(),)),
        machine("there is a further disk", disks=(*BASE.disks, Disk(slot=5))),
    ],
    NearMissKind.FIRMWARE: [
        other_firmware(
            "the firmware is OTHER.fd", firmware(name="OTHER.fd"), firmware=[firmware(name="OTHER.fd")]
        )
    ],
}


def mrtd(value: bytes) -> PlatformPrediction:
    step = replace(event("mrtd", EventType.EV_ACTION, b"", "volume"), digests={"sha384": value}, running=True)
    registers = {"mrtd": {"sha384": value}}
    return PlatformPrediction(platform=Platform.TDX, shape={}, registers=registers, events=(step,))


def known_mrtd(found: bytes, words: str) -> Callable[[], Planted]:
    """The expected firmware is that of Ubuntu's ovmf 2025.02-3ubuntu2, in one pass."""

    def planted() -> Planted:
        expected = mrtd(UBUNTU.mrtd[PageOrder.SINGLE_PASS])
        problem: Problem[Any] = Problem(expected=expected, found=mrtd(found).registers)
        changes = list(known_mrtd_edits(catalogue(), expected))
        return Planted(problem=problem, changes=changes, words=words)

    return planted


UBUNTU = catalogue().files["9e807cb2cd4313406a3aa4becc0836671a5c64ca7bdc08a45e15260184b446bf"]
DEBIAN = next(each for each in catalogue().files.values() if each.package.startswith("ovmf 2022.11-6+deb12"))
KNOWN: Plantings = {
    NearMissKind.PAGE_ORDER: [
        known_mrtd(UBUNTU.mrtd[PageOrder.TWO_PASS], "the hypervisor adds pages in the order two-pass")
    ],
    NearMissKind.FIRMWARE: [
        known_mrtd(
            DEBIAN.mrtd[PageOrder.SINGLE_PASS],
            f"the firmware is OVMF.fd of {DEBIAN.package} (Debian 12), pages in the order single-pass",
        )
    ],
}

PLANTED: Plantings = {
    kind: [
        make
        for plantings in (EDITS_AND_TPM, KNOWN, planted_sev.PLANTED, planted_tdx.PLANTED)
        for make in plantings.get(kind, ())
    ]
    for kind in NearMissKind
}

CASES = [
    pytest.param(kind, make, id=f"{kind.name}-{number}")
    for kind, planted in PLANTED.items()
    for number, make in enumerate(planted)
]


def test_every_kind_of_near_miss_is_planted() -> None:
    assert [kind for kind in NearMissKind if not PLANTED[kind]] == []


@pytest.mark.parametrize(("kind", "make"), CASES)
def test_what_was_planted_is_found(kind: NearMissKind, make: Callable[[], Planted]) -> None:
    planted = make()
    assert planted.problem.wrong
    result = planted.search()
    assert result.complete
    complete = [miss for miss in result.found if not miss.left]
    assert [(miss.kinds, miss.words) for miss in complete] == [((kind,), (planted.words,))]
    for name in result.wrong:
        assert complete[0].prediction.registers[name] == planted.problem.found[name]


@pytest.mark.parametrize(("kind", "make"), CASES)
def test_a_flipped_bit_of_what_was_planted_is_not_explained(
    kind: NearMissKind, make: Callable[[], Planted]
) -> None:
    planted = make()
    found = {
        name: {bank: bytes([value[0] ^ 1]) + value[1:] for bank, value in banks.items()}
        for name, banks in planted.problem.found.items()
        if name in planted.problem.wrong
    }
    changes = [change for change in planted.changes if change.kind is kind]
    flipped = replace(planted, problem=replace(planted.problem, found=found), changes=changes)
    assert flipped.search().found == ()


def test_the_inner_kernel_is_put_back_where_the_image_is_at_hand() -> None:
    machine_, image = ModelMachine(), ModelImage()
    measured = tpm_prediction(predict(machine_, image), shape={})
    inner = next(each for each in measured.events if "kernel inside the UKI" in each.description)
    expected = with_events(measured, [each for each in measured.events if each is not inner])
    problem: Problem[Any] = Problem(expected=expected, found=values_to_explain(expected, measured.registers))
    assert search(problem, list(edits(expected))).found == ()
    (miss,) = search(problem, list(edits(expected, inner_kernel=inner))).found
    assert miss.prediction.events == measured.events
    assert miss.kinds == (NearMissKind.STUB_RULE,)


def test_two_edits_of_one_register_are_found_together() -> None:
    """RTMR0 has the second separator and Secure Boot is off: only a pair yields it."""
    events = [
        variable("SecureBoot", b"\0")
        if each is TDX[0]
        else replace(each, register="rtmr0")
        if each is TDX[5]
        else each
        for each in TDX
        if each is not TDX[3]
    ]
    expected = tdx(*TDX)
    problem: Problem[Any] = Problem(expected=expected, found=tdx(*events).registers)
    best = search(problem, list(edits(expected))).found[0]
    assert set(best.kinds) == {NearMissKind.SEPARATOR, NearMissKind.SECURE_BOOT}
    assert best.left == ()


def test_pcr_10_has_to_be_explained_only_where_it_need_not_differ() -> None:
    expected = tpm_prediction(predict(ModelMachine(), ModelImage()), shape={})
    registers = {name: dict(banks) for name, banks in expected.registers.items()}
    registers["10"]["sha256"] = bytes(32)
    assert "10" in values_to_explain(expected, registers)
    registers["4"]["sha256"] = bytes(32)
    assert "10" not in values_to_explain(expected, registers)


def test_events_of_a_prediction_are_those_of_the_boot() -> None:
    prediction = predict(ModelMachine(), ModelImage())
    assert [register_event(each) for each in prediction.events] == list(
        tpm_prediction(prediction, shape={}).events
    )
