"""Explanations: each deliberate change of a boot is named, with the first difference and the fix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest

from measurements.alignment import DifferenceKind
from measurements.booted import Booted, tpm_log
from measurements.cause_inputs import Input
from measurements.errors import FormatError
from measurements.eventlog import Algorithm, parse_event_log
from measurements.events import Bank, EventType, event_over
from measurements.explain import Explanation, best_explanation, explain, explanation_document
from measurements.platforms import Platform, PlatformPrediction
from measurements.reference import tpm_prediction
from tests.support.boot_model import (
    ModelImage,
    ModelMachine,
    Shown,
    boot_log,
    file_path,
    image_load_data,
    predict,
)
from tests.support.event_log_writer import Record, write_log

MACHINE = ModelMachine()
IMAGE = ModelImage()


def reference(machine: ModelMachine = MACHINE, image: ModelImage = IMAGE) -> PlatformPrediction:
    return tpm_prediction(predict(machine, image), shape={"memory": f"{machine.memory_mib}MiB"})


def booted(data: bytes, **told: Any) -> Booted:
    return Booted(platform=Platform.TPM, log=tpm_log(parse_event_log(data)), **told)


def explained(
    machine: ModelMachine = MACHINE,
    image: ModelImage = IMAGE,
    *,
    extra: Sequence[tuple[int, Shown]] = (),
    files: Sequence[str] = (),
) -> Explanation:
    return explain(reference(), booted(boot_log(machine, image, extra=extra)), initrd_files=files)


def add_on() -> list[tuple[int, Shown]]:
    """What an add-on with a command line, next to the UKI, makes firmware and stub measure."""
    after = 1 + max(i for i, event in enumerate(predict(MACHINE, IMAGE).logged()) if event.pcr == 11)
    path = file_path("\\EFI\\BOOT\\BOOTX64.EFI.extra.d\\x.addon.efi")
    program = event_over(
        b"add-on", pcr=4, event_type=EventType.EV_EFI_BOOT_SERVICES_APPLICATION, description="", origin=""
    )
    line = "init=/bin/sh\0".encode("utf-16-le")
    parameter = event_over(line, pcr=12, event_type=EventType.EV_IPL, description="", origin="")
    return [
        (after, Shown(event=program, data=image_load_data(path))),
        (after, Shown(event=parameter, data=line)),
    ]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A deliberate change: what boots, the register of the first difference, and the input to be named."""

    machine: ModelMachine = MACHINE
    image: ModelImage = IMAGE
    extra: Sequence[tuple[int, Shown]] = ()
    files: Sequence[str] = ()
    register: str
    named: Input
    detail: str = ""


def changes() -> dict[str, Change]:
    return {
        "memory": Change(
            machine=replace(MACHINE, acpi=b"tables for 1024 MiB", memory_mib=1024),
            register="1",
            named=Input.MEMORY,
        ),
        "processors": Change(
            machine=replace(MACHINE, acpi=b"tables for 2 processors"), register="1", named=Input.MACHINE
        ),
        "command line": Change(
            image=replace(IMAGE, command_line=b"console=ttyS0 quiet"), register="4", named=Input.COMMAND_LINE
        ),
        "initrd byte": Change(image=replace(IMAGE, initrd=b"jnitrd"), register="4", named=Input.INITRD),
        "kernel": Change(image=replace(IMAGE, kernel_tail=b"\0" * 8), register="4", named=Input.KERNEL),
        "boot entry order": Change(
            machine=replace(MACHINE, order=(0, 1)), register="1", named=Input.BOOT_ORDER, detail="0000 0001"
        ),
        "disk GUID": Change(
            image=replace(IMAGE, disk_guid=UUID(int=5)),
            register="5",
            named=Input.PARTITIONS,
            detail=f"disk GUID {UUID(int=5)}",
        ),
        "partition GUID": Change(
            image=replace(IMAGE, root_guid=UUID(int=5)),
            register="5",
            named=Input.PARTITIONS,
            detail=f"partition root {UUID(int=5)}",
        ),
        "Secure Boot key": Change(
            machine=replace(MACHINE, keys={"db": b"another"}),
            register="7",
            named=Input.SECURE_BOOT_KEYS,
            detail="variable db",
        ),
        "firmware": Change(
            machine=replace(MACHINE, version="2024.02", code=b"other"),
            register="0",
            named=Input.FIRMWARE,
            detail="2024.02",
        ),
        "ESP add-on": Change(
            extra=add_on(), register="4", named=Input.ESP_ADD_ON, detail="BOOTX64.EFI.extra.d\\x.addon.efi"
        ),
        "UKI section changed": Change(
            image=replace(IMAGE, os_release=b"ID=other\n"),
            register="4",
            named=Input.UKI_SECTION,
            detail=".osrel",
        ),
        "UKI section removed": Change(
            image=replace(IMAGE, os_release=None), register="4", named=Input.UKI_SECTION, detail=".osrel"
        ),
        "verity root": Change(
            image=replace(IMAGE, initrd=b"other root"),
            files=["etc/keyturn/verity"],
            register="4",
            named=Input.VERITY_ROOT,
        ),
        "NIC": Change(machine=MACHINE.with_nic(), register="1", named=Input.NIC),
        "option ROM": Change(machine=replace(MACHINE, roms=(b"rom",)), register="2", named=Input.OPTION_ROM),
    }


@pytest.mark.parametrize("name", changes())
def test_each_deliberate_change_is_named_at_its_first_difference(name: str) -> None:
    change = changes()[name]
    explanation = explained(change.machine, change.image, extra=change.extra, files=change.files)
    assert not explanation.equal
    first = explanation.findings[0]
    assert (first.difference.register, first.cause.input) == (change.register, change.named)
    assert change.detail in first.cause.detail
    assert first.cause.fix


def test_the_same_boot_is_equal() -> None:
    explanation = explained()
    assert explanation.equal
    assert explanation.findings == ()
    assert explanation.hints == ()
    assert explanation.compared == len(predict(MACHINE, IMAGE).logged())
    assert explanation.registers == (*map(str, range(10)), "11", "12", "13")
    assert explanation.uncompared == ("10", "14")


def test_every_further_difference_is_shown() -> None:
    explanation = explained(replace(MACHINE, version="2024.02"), replace(IMAGE, initrd=b"other"))
    found = [(f.difference.register, f.cause.input) for f in explanation.findings]
    assert found == [
        ("0", Input.FIRMWARE),
        ("4", Input.INITRD),
        ("11", Input.INITRD),
        ("9", Input.INITRD),
    ]
    assert all(f.difference.kind is DifferenceKind.CHANGED for f in explanation.findings)


@pytest.mark.parametrize(
    ("told", "detail"), [("console=ttyS0 quiet", "added quiet"), ("console=ttyS0 loud", ""), (None, "")]
)
def test_a_command_line_is_shown_if_the_log_proves_it(told: str | None, detail: str) -> None:
    image = replace(IMAGE, command_line=b"console=ttyS0 quiet")
    first = explain(reference(), booted(boot_log(MACHINE, image), command_line=told)).findings[0]
    assert first.cause.input is Input.COMMAND_LINE
    assert first.cause.detail.partition("differs; ")[2] == detail


def test_a_log_without_a_predicted_bank_is_refused() -> None:
    sha1 = Record(pcr=4, event_type=5, digests={Algorithm.SHA1: bytes(20)})
    log = write_log([sha1], algorithms=[Algorithm.SHA1])
    with pytest.raises(FormatError, match="neither SHA-256 nor SHA-384 digests, but sha1"):
        booted(log)


def test_a_log_of_one_predicted_bank_is_enough() -> None:
    records = [
        Record(pcr=e.pcr, event_type=e.event_type, digests={Algorithm.SHA384: e.digests[Bank.SHA384]})
        for e in predict(MACHINE, IMAGE).logged()
    ]
    assert explain(reference(), booted(write_log(records, algorithms=[Algorithm.SHA384]))).equal


def test_a_network_card_is_the_cause_of_all_it_changes() -> None:
    explanation = explained(MACHINE.with_nic())
    assert {f.cause.input for f in explanation.findings} == {Input.NIC}
    kinds = [(f.difference.kind, f.difference.facts.title) for f in explanation.findings]
    assert (DifferenceKind.EXTRA, "variable Boot0002") in kinds


def test_an_initrd_without_images_at_hand_says_what_it_may_be() -> None:
    (first, *_) = explained(image=replace(IMAGE, initrd=b"other")).findings
    assert "verity root" in first.cause.detail
    (first, *_) = explained(image=replace(IMAGE, initrd=b"other"), files=["init", "modules/a.ko"]).findings
    assert first.cause.input is Input.INITRD
    assert "init, modules/a.ko" in first.cause.detail


def test_memory_that_no_register_shows_is_a_hint_only() -> None:
    explanation = explained(replace(MACHINE, memory_mib=1024))
    assert explanation.equal
    (hint,) = explanation.hints
    assert "1024 MiB" in hint
    assert "512 MiB" in hint


def registers_of(prediction: PlatformPrediction) -> dict[str, dict[str, bytes]]:
    return {name: dict(banks) for name, banks in prediction.registers.items()}


def test_registers_that_the_log_does_not_yield_are_faults() -> None:
    expected, log = reference(), boot_log(MACHINE, IMAGE)
    registers = registers_of(expected)
    assert explain(expected, booted(log, reported=registers)).equal
    registers["9"]["sha384"] = bytes(48)
    (fault,) = explain(expected, booted(log, reported=registers)).faults
    assert (fault.bank, fault.register) == ("sha384", "9")
    assert "log does not yield" in fault.reason


@pytest.mark.parametrize(("register", "reason"), [("10", "IMA"), ("14", "development image")])
def test_registers_beyond_the_firmwares_log_are_compared(register: str, reason: str) -> None:
    expected = reference()
    registers = registers_of(expected)
    registers[register]["sha256"] = b"\1" * 32
    (fault,) = explain(expected, booted(boot_log(MACHINE, IMAGE), reported=registers)).faults
    assert fault.register == register
    assert reason in fault.reason


def test_a_development_image_shows_in_its_register() -> None:
    image = replace(IMAGE, dev=True)
    registers = registers_of(reference(image=image))
    explanation = explain(reference(), booted(boot_log(MACHINE, image), reported=registers))
    assert [fault.register for fault in explanation.faults] == ["14", "14"]


def test_registers_alone_say_which_one_differs() -> None:
    found = Booted(platform=Platform.TPM, reported=registers_of(reference(image=replace(IMAGE, initrd=b"x"))))
    explanation = explain(reference(), found)
    assert {fault.register for fault in explanation.faults} == {"4", "9", "11"}
    assert explanation.compared == 0
    assert explanation.registers == tuple(str(pcr) for pcr in range(15))


def test_of_several_predictions_the_one_that_fits_best_is_taken() -> None:
    log = booted(boot_log(MACHINE, replace(IMAGE, initrd=b"x")))
    far, near = (explain(reference(machine), log) for machine in (replace(MACHINE, acpi=b"other"), MACHINE))
    assert best_explanation([far, near]) is near
    same = explain(reference(image=replace(IMAGE, initrd=b"x")), log)
    assert best_explanation([far, near, same]).equal


def test_a_boot_of_another_platform_is_refused() -> None:
    found = Booted(platform=Platform.TDX, reported={"rtmr0": {"sha384": bytes(48)}})
    with pytest.raises(FormatError, match="holds values for tpm, and the boot is one of tdx"):
        explain(reference(), found)


@pytest.mark.parametrize(
    ("registers", "reason"),
    [
        ({"23": {"sha256": bytes(32)}}, "and the boot tells 23"),
        ({}, "and the boot tells none"),
        ({"4": {"sha1": bytes(20)}}, "holds sha256, sha384 for register 4, and the boot tells sha1"),
    ],
)
def test_a_boot_that_shares_nothing_is_refused(registers: dict[str, dict[str, bytes]], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        explain(reference(), Booted(platform=Platform.TPM, reported=registers))


def test_the_document_names_the_first_difference() -> None:
    document = explanation_document(explained(replace(MACHINE, version="2024.02")))
    assert document["equal"] is False
    assert document["first"]["input"] == "firmware"
    assert document["first"]["origin"] == "machine"
    assert json.loads(json.dumps(document)) == document
