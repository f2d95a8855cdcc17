"""``keyturn run``: boots an image in QEMU, shows its console, compares registers, leaves nothing running."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.interrupts import signals_interrupt
from keyturn.output import JsonOption, Output
from keyturn.run_inputs import app_disks, disk_files, find_firmware, parse_forward
from keyturn.shape_options import (
    CpusOption,
    DiskOption,
    MachineOption,
    MemoryOption,
    NicOption,
    OptionError,
    ShapeOption,
    TpmOption,
    make_shape,
)
from measurements.errors import RefusedError

if TYPE_CHECKING:
    from image_builder.image import Image
    from measurements.boot_report import BootReport
    from measurements.qemu import Machine, MachineSpec
    from measurements.reference import Reference
    from measurements.register_comparison import RegisterDifference
    from measurements.shape import MachineShape

POWER_OFF_SECONDS = 30.0
POLL_SECONDS = 0.2


class GuestError(RefusedError):
    """The guest ended, or said nothing in time, instead of reporting."""

    code = "guest"


class RegistersError(RefusedError):
    """The booted registers are not the predicted ones."""

    code = "registers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What one run does: how long to wait for the report (seconds), what to compare, where to keep it, when
    to end.
    """

    report_seconds: float
    reference: Reference | None
    report_file: Path | None
    until_report: bool


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("run")(run)


def run(
    image: Annotated[Path, typer.Argument(help="An image folder.")],
    shape: ShapeOption = None,
    memory: MemoryOption = None,
    cpus: CpusOption = None,
    machine: MachineOption = None,
    disk: DiskOption = None,
    nic: NicOption = None,
    tpm: TpmOption = None,
    attach: Annotated[
        list[Path] | None,
        typer.Option("--attach", help="Raw file behind a further disk of the shape; else it is empty."),
    ] = None,
    app: Annotated[
        Path | None, typer.Option("--app", help="App folder; its disk is the second disk of the shape.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Config disk of the app, the third disk of the shape.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="File behind the app's encrypted disk, the fourth disk of the shape."),
    ] = None,
    firmware_code: Annotated[Path | None, typer.Option("--firmware-code", help="OVMF's code file.")] = None,
    firmware_vars: Annotated[
        Path | None, typer.Option("--firmware-vars", help="OVMF's variables; the guest gets a copy.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder that keeps the TPM; else it is fresh each time.")
    ] = None,
    port: Annotated[
        list[str] | None, typer.Option("--port", help="HOST:GUEST, a TCP port that leads into the guest.")
    ] = None,
    expect: Annotated[
        Path | None,
        typer.Option("--expect", help="Predicted registers (predict --json); exits with 1 if any differs."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="File for what --json prints, written when the guest has reported."),
    ] = None,
    until_report: Annotated[
        bool, typer.Option("--until-report", help="Power off once the guest has reported.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the report.")] = 180.0,
    json: JsonOption = False,
) -> None:
    """Boot an image in QEMU until it powers off or is interrupted, with a TPM and measured firmware."""
    from image_builder.image import load_image
    from measurements.qemu_args import DiskFile
    from measurements.reference import read_reference

    out = Output(json=json)
    reference = read_reference(expect) if expect is not None else None
    wanted = make_shape(shape=shape, memory=memory, cpus=cpus, machine=machine, disks=disk, nics=nic, tpm=tpm)
    forwards = [parse_forward(text) for text in port or ()]
    if forwards and not wanted.nics:
        raise OptionError("needs a network card", subject="--port", advice="add --nic virtio-net-pci")
    firmware = find_firmware(firmware_code, firmware_vars)
    loaded = load_image(image)
    _warn_about_shape(out, reference, wanted)
    plan = Plan(report_seconds=timeout, reference=reference, report_file=report, until_report=until_report)
    attached = [
        *app_disks(app, config, data),
        *(DiskFile(path=path, read_only=False) for path in attach or ()),
    ]
    with signals_interrupt(), disk_files(loaded, wanted, attached) as disks:
        from measurements.qemu import MachineSpec

        spec = MachineSpec(shape=wanted, firmware=firmware, disks=disks, tpm_state=state, forwards=forwards)
        _boot(out, loaded, spec, plan)


def _warn_about_shape(out: Output, reference: Reference | None, shape: MachineShape) -> None:
    if reference is not None and reference.shape != shape.as_json():
        keys = [key for key, value in shape.as_json().items() if reference.shape.get(key) != value]
        out.warn(
            f"the registers were predicted for another shape ({', '.join(keys) or 'further keys'} differ)"
        )


def _boot(out: Output, image: Image, spec: MachineSpec, plan: Plan) -> None:
    from keyturn.console_view import ConsoleView
    from measurements.qemu import Machine
    from measurements.register_comparison import register_differences

    view = ConsoleView(sys.stderr.buffer if out.json else sys.stdout.buffer)
    with Machine.start(spec, listener=view.feed) as machine:
        report: BootReport | None = None
        differences: tuple[RegisterDifference, ...] = ()
        version = machine.qemu_version
        # An interrupt is the usual way to end a machine that nobody asks for a report.
        with contextlib.suppress(KeyboardInterrupt):
            report = _await_report(machine, plan)
            if report is not None and plan.reference is not None:
                differences = register_differences(plan.reference.registers, report.banks)
            if report is not None and plan.report_file is not None:
                document = _document(image, spec, plan, report, differences, qemu=version)
                _write_whole(plan.report_file, document)
            if not plan.until_report and not differences:
                _until_exit(machine)
        _power_off(machine)
        view.finish()
    out.result(_document(image, spec, plan, report, differences, qemu=version))
    _conclude(out, plan, report, differences)


def _await_report(machine: Machine, plan: Plan) -> BootReport | None:
    """The report; None if none came and nobody asked for it. Raises ``GuestError``."""
    from measurements.boot_report import find_report, has_report

    deadline = time.monotonic() + plan.report_seconds
    wanted = plan.reference is not None or plan.report_file is not None or plan.until_report
    try:
        while machine.running and not has_report(machine.console.data):
            if wanted and time.monotonic() > deadline:
                raise _silent(machine, f"has not reported after {plan.report_seconds:.0f} s")
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        if wanted:
            raise _silent(machine, "was interrupted before its report") from None
        raise
    if not machine.running:
        # The console's last bytes may still be on their way.
        time.sleep(POLL_SECONDS)
    if not has_report(machine.console.data):
        if wanted:
            raise _silent(machine, "ended without a boot report")
        return None
    return find_report(machine.console.data)


def _silent(machine: Machine, reason: str) -> GuestError:
    lines = machine.console.data.decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return GuestError(
        f"{reason}; its last line: {last}",
        subject="guest",
        advice="read the console output; --timeout gives it more time",
    )


def _until_exit(machine: Machine) -> None:
    while machine.running:
        time.sleep(POLL_SECONDS)


def _power_off(machine: Machine) -> None:
    """End the machine: with the power button once the agent listens, at once before that.

    A guest that does not react is ended by leaving the machine.
    """
    from measurements.boot_report import has_report
    from measurements.qemu import MachineError
    from measurements.qmp import MonitorError

    with contextlib.suppress(MachineError, MonitorError, KeyboardInterrupt):
        if not machine.running:
            return
        if not has_report(machine.console.data):
            machine.quit()
            return
        machine.power_button()
        machine.wait_exit(seconds=POWER_OFF_SECONDS)


def _document(
    image: Image,
    spec: MachineSpec,
    plan: Plan,
    report: BootReport | None,
    differences: Sequence[RegisterDifference],
    *,
    qemu: str,
) -> Mapping[str, Any]:
    from measurements.boot_report import encode_report

    return {
        "image": {"name": image.name, "id": image.id},
        "shape": spec.shape.as_json(),
        "qemu": qemu,
        "report": _parsed(encode_report(report)) if report is not None else None,
        "equal": not differences if plan.reference is not None else None,
        "differences": [difference.as_json() for difference in differences],
    }


def _write_whole(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file that others see either whole or not at all."""
    import json

    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)


def _parsed(data: bytes) -> Any:
    import json

    return json.loads(data)


def _conclude(
    out: Output, plan: Plan, report: BootReport | None, differences: Sequence[RegisterDifference]
) -> None:
    if report is not None:
        started, reported = report.agent_start_us / 1e6, report.report_us / 1e6
        out.line(f"kernel start → agent {started:.2f} s, → report {reported:.2f} s (guest clock)")
    if plan.reference is None:
        return
    if not differences:
        count = sum(len(registers) for registers in plan.reference.registers.values())
        out.line(f"[green]all {count} predicted registers are equal[/green]")
        return
    rows = [
        (str(each.pcr), each.bank.value, each.expected.hex(), each.booted.hex() if each.booted else "absent")
        for each in differences
    ]
    out.table("registers that differ", ("PCR", "bank", "predicted", "booted"), rows)
    pcrs = sorted({difference.pcr for difference in differences})
    raise RegistersError(
        f"PCR {', '.join(map(str, pcrs))} {'is' if len(pcrs) == 1 else 'are'} not as predicted",
        subject="booted machine",
        advice="see what drives each with `keyturn explain --expected REFERENCE --log LOG`",
    )
