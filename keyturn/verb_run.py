"""``keyturn run``: boots an image in QEMU, shows its console, compares registers, leaves nothing running."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from keyturn.output import JsonOption, Output
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
from measurements.errors import MissingToolError, RefusedError

if TYPE_CHECKING:
    from image_builder.image import Image
    from measurements.boot_report import BootReport
    from measurements.qemu import Machine, MachineSpec
    from measurements.qemu_args import DiskFile, FirmwareFiles, PortForward
    from measurements.reference import Reference
    from measurements.register_comparison import RegisterDifference
    from measurements.shape import MachineShape

FIRMWARE_PAIRS = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
"""Where distributions put OVMF: code and empty variables."""

APP_DISK = "app.disk"
SPARE_DISK_BYTES = 64 << 20
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
    """What one run does: how long to wait for the report (seconds), what to compare, when to end."""

    report_seconds: float
    reference: Reference | None
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
    plan = Plan(report_seconds=timeout, reference=reference, until_report=until_report)
    attached = [
        *app_disks(app, config, data),
        *(DiskFile(path=path, read_only=False) for path in attach or ()),
    ]
    with _signals_interrupt(), _disk_files(loaded, wanted, attached) as disks:
        from measurements.qemu import MachineSpec

        spec = MachineSpec(shape=wanted, firmware=firmware, disks=disks, tpm_state=state, forwards=forwards)
        _boot(out, loaded, spec, plan)


def find_firmware(code: Path | None, variables: Path | None) -> FirmwareFiles:
    """The named firmware, or the distribution's. Raises ``OptionError`` or ``MissingToolError``."""
    from measurements.qemu_args import FirmwareFiles

    if (code is None) != (variables is None):
        raise OptionError(
            "needs the other one too",
            subject="--firmware-code" if variables is None else "--firmware-vars",
            advice="give both --firmware-code and --firmware-vars",
        )
    if code is not None and variables is not None:
        return FirmwareFiles(code=code, variables=variables)
    for pair in FIRMWARE_PAIRS:
        first, second = map(Path, pair)
        if first.is_file() and second.is_file():
            return FirmwareFiles(code=first, variables=second)
    raise MissingToolError(
        "is not installed",
        subject="OVMF firmware",
        advice="install it: apt install ovmf; or name --firmware-code and --firmware-vars",
    )


def parse_forward(text: str) -> PortForward:
    """``HOST:GUEST`` as a forwarded port; raises ``OptionError``."""
    from measurements.qemu_args import PortForward

    host, _, guest = text.partition(":")
    numbers = [int(part) for part in (host, guest) if part.isascii() and part.isdigit()]
    if len(numbers) != 2 or not all(1 <= number <= 65535 for number in numbers):
        raise OptionError(
            f"{text!r} is not HOST:GUEST", subject="--port", advice="write two port numbers, as in 8080:80"
        )
    return PortForward(host=numbers[0], guest=numbers[1])


def app_disks(app: Path | None, config: Path | None, data: Path | None) -> list[DiskFile]:
    """The disks of an app with the names by which the agent finds them; raises ``OptionError``."""
    from measurements.qemu_args import DiskFile

    if app is None and config is None and data is None:
        return []
    if app is None or config is None:
        raise OptionError(
            "an app needs both its disk and its config disk",
            subject="--app" if app is None else "--config",
            advice="give --app FOLDER and --config FILE (keyturn app config writes it)",
        )
    disks = [
        DiskFile(path=app / APP_DISK, serial="keyturn-app"),
        DiskFile(path=config, serial="keyturn-config"),
    ]
    if data is not None:
        disks.append(DiskFile(path=data, read_only=False, serial="keyturn-data"))
    return disks


@contextlib.contextmanager
def _disk_files(image: Image, shape: MachineShape, attached: Sequence[DiskFile]) -> Iterator[list[DiskFile]]:
    """The boot disk, then one file for each further disk of the shape: an attached one or an empty one."""
    from image_builder.image import Artefact
    from measurements.qemu_args import DiskFile

    further = len(shape.disks) - 1
    if len(attached) > further:
        raise OptionError(
            f"the shape has {further} further disks and {len(attached)} files are attached",
            subject="--attach",
            advice="describe each disk with --disk, the boot disk first",
        )
    with tempfile.TemporaryDirectory(prefix="keyturn-disks-") as folder:
        disks = [DiskFile(path=image.path(Artefact.DISK))]
        disks += attached
        for index in range(len(attached), further):
            empty = Path(folder, f"empty-{index}.raw")
            with empty.open("wb") as stream:
                stream.truncate(SPARE_DISK_BYTES)
            disks.append(DiskFile(path=empty, read_only=False))
        yield disks


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Every way to stop the command cleans up, also where a background shell has it ignore SIGINT."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
        # An interrupt is the usual way to end a machine that nobody asks for a report.
        with contextlib.suppress(KeyboardInterrupt):
            report = _await_report(machine, plan)
            if report is not None and plan.reference is not None:
                differences = register_differences(plan.reference.registers, report.banks)
            if not plan.until_report and not differences:
                _until_exit(machine)
        _power_off(machine)
        view.finish()
        version = machine.qemu_version
    out.result(_document(image, spec, plan, report, differences, qemu=version))
    _conclude(out, plan, report, differences)


def _await_report(machine: Machine, plan: Plan) -> BootReport | None:
    """The report; None if none came and nobody asked for it. Raises ``GuestError``."""
    from measurements.boot_report import find_report, has_report

    deadline = time.monotonic() + plan.report_seconds
    wanted = plan.reference is not None or plan.until_report
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
