"""``keyturn demo``: from a recipe to equal registers, each step a command that can be pasted."""

from __future__ import annotations

import json as json_module
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from keyturn.output import JsonOption, Output, escape
from keyturn.register_names import COVERS
from measurements.errors import ExitStatus, KeyturnError, RefusedError

SHOWN_DIGITS = 16


class DemoError(KeyturnError):
    """A step of the demo failed; the step's own error is above."""

    code = "demo"


class DemoRefusedError(RefusedError):
    """The machine did not boot with the predicted registers."""

    code = "demo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One finished command: its JSON result and how long it took, in seconds."""

    document: Mapping[str, Any]
    seconds: float


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where recipe, lock and image are kept.")] = Path(
        "build/demo"
    ),
    json: JsonOption = False,
) -> None:
    """Lock, fetch, build, predict and boot the default image; show that all registers are as predicted."""
    out = Output(json=json)
    folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(folder=folder, out=out)
    lock_and_fetch(runner)
    built = runner.run("build", "keyturn.toml", says="builds the image: no root, no network")
    predicted = runner.run("predict", "image", says="computes every register before anything boots")
    reference = folder / "reference.json"
    reference.write_text(json_module.dumps(predicted.document))
    booted = boot(runner)
    show(out, built=built, predicted=predicted, booted=booted)


class Runner:
    """Runs keyturn commands in one folder and narrates them."""

    def __init__(self, *, folder: Path, out: Output) -> None:
        self.folder = folder
        self.out = out

    def run(self, *words: str, says: str) -> Step:
        """Run one command; a failure ends the demo with that command's error."""
        step, failure = self.attempt(*words, says=says)
        if failure is not None or step is None:
            raise DemoError(
                f"failed: {failure}",
                subject=f"keyturn {shlex.join(words)}",
                advice=f"the command can be tried alone in {self.folder}; then run `make demo` again",
            )
        return step

    def attempt(self, *words: str, says: str) -> tuple[Step | None, str | None]:
        """Run one command; its result, or the reason of its failure."""
        command = f"keyturn {shlex.join(words)}"
        self.out.line(f"[bold]$ {escape(command)}[/bold]  [dim]# {escape(says)}[/dim]")
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "keyturn", *words, "--json"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            # Progress bars pass through; the guest's console, which `run` shows there, would hide the story.
            stderr=subprocess.DEVNULL if words[0] == "run" else None,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        if done.returncode != ExitStatus.OK:
            return None, _failure(done.stdout, done.returncode)
        self.out.line(f"  done in {seconds:.1f} s")
        return Step(document=json_module.loads(done.stdout), seconds=seconds), None


def _failure(stdout: str, status: int) -> str:
    try:
        error = json_module.loads(stdout)["error"]
        return f"{error['subject']}: {error['reason']}"
    except (ValueError, KeyError, TypeError):
        return f"it ended with exit status {status}"


def lock_and_fetch(runner: Runner) -> None:
    """A recipe, its lock, and every input in the store; an old lock whose files are gone is made afresh."""
    if not (runner.folder / "keyturn.toml").exists():
        runner.run("init", says="writes a recipe that builds as it is")
    says = "names every input byte by SHA-256, from a signature-checked index"
    _, failure = runner.attempt("lock", says=says)
    if failure is not None:
        old = runner.folder / "keyturn.lock"
        if old.exists():
            old.replace(old.with_name("keyturn.lock.old"))
            runner.out.line(f"  [yellow]{escape(failure)}[/yellow]; put aside as keyturn.lock.old")
        runner.run("lock", says=says)
    _, failure = runner.attempt("fetch", says="fills the store; every file is checked by hash")
    if failure is None:
        return
    runner.out.line(f"  [yellow]{escape(failure.splitlines()[0])}[/yellow]")
    runner.out.line("  the mirror no longer has what the lock names, so the demo locks afresh")
    runner.run("lock", "--update", says="takes the versions that the mirror holds today")
    runner.run("fetch", says="fills the store; every file is checked by hash")


def boot(runner: Runner) -> Step:
    """The booted machine's report. An emulated machine is now and then lost by the emulator: one more try."""
    words = ("run", "image", "--until-report")
    says = "boots it in QEMU with OVMF and a software TPM"
    step, failure = runner.attempt(*words, says=says)
    if step is not None:
        return step
    runner.out.line(f"  [yellow]{escape(str(failure))}[/yellow]; once more")
    return runner.run(*words, says=says)


def show(out: Output, *, built: Step, predicted: Step, booted: Step) -> None:
    """The table of registers; raises ``DemoRefusedError`` if any differs."""
    expected = predicted.document["banks"]
    found = booted.document["report"]["banks"]
    rows, different = [], []
    for pcr in sorted(COVERS):
        values = {bank: (registers[str(pcr)], found[bank][str(pcr)]) for bank, registers in expected.items()}
        unequal = [bank for bank, (wanted, seen) in values.items() if wanted != seen]
        if unequal:
            different.append(pcr)
        wanted, seen = values["sha256"]
        verdict = f"[red]NO ({', '.join(unequal)})[/red]" if unequal else "[green]yes[/green]"
        rows.append(
            (f"PCR {pcr}", f"{wanted[:SHOWN_DIGITS]}…", f"{seen[:SHOWN_DIGITS]}…", verdict, COVERS[pcr])
        )
    out.table(
        f"Registers ({' and '.join(expected)} compared, first digits of sha256 shown)",
        ("register", "predicted", "booted", "equal", "covers"),
        rows,
    )
    _summary(out, built=built, predicted=predicted, booted=booted)
    out.result(
        {
            "image_id": built.document["image_id"],
            "equal": not different,
            "different": different,
            "predicted": expected,
            "booted": found,
            "seconds": {"build": built.seconds, "predict": predicted.seconds, "boot": booted.seconds},
        }
    )
    if different:
        raise DemoRefusedError(
            f"PCR {', '.join(map(str, different))} differ from the prediction",
            subject="booted machine",
            advice="run `keyturn explain --expected reference.json --log LOG` to see the event that differs",
        )


def _summary(out: Output, *, built: Step, predicted: Step, booted: Step) -> None:
    dry = sorted({event["pcr"] for event in predicted.document["events"] if event["source"] != "computed"})
    out.line(f"image id {built.document['image_id']}")
    out.line(
        f"{len(predicted.document['events'])} events predicted; "
        + (f"from a dry boot of the firmware: PCR {', '.join(map(str, dry))}" if dry else "all computed")
    )
    out.line(
        f"build {built.seconds:.1f} s, predict {predicted.seconds:.1f} s, "
        f"boot to report {booted.seconds:.1f} s (QEMU {booted.document['qemu']})"
    )
