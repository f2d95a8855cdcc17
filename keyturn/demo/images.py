"""The demo's images: recipes locked, fetched and built; the registers of a machine, predicted and booted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyturn.demo.guest import SHAPE
from keyturn.demo.runner import CommandError, DemoError, DemoRefusedError, Runner
from keyturn.demo.story import Story
from keyturn.output import Output
from keyturn.register_names import COVERS

BASE = "base"
CHANGED = "changed"
RECIPE = "keyturn.toml"
LOCK = "keyturn.lock"
REFERENCE = "reference.json"
COMMAND_LINE = "command-line = [] "
SHOWN_DIGITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseImage:
    """The image of all guests and what their machine will measure."""

    image_id: str
    predicted: dict[str, dict[str, str]]
    reference_digest: str


def make_base_image(story: Story, runner: Runner) -> BaseImage:
    """Lock, fetch, build and predict."""
    if not (runner.folder / BASE / RECIPE).exists():
        runner.run("init", "--template", "apps", BASE)
    with story.step("locks every input byte of the base image, and fetches what is missing") as step:
        step.result = lock_and_fetch(story, runner, BASE)
    with story.step("builds the base image: no root, no network") as step:
        built = runner.run("build", f"{BASE}/{RECIPE}")
        step.result = f"image id {built['image_id']}"
    with story.step("predicts every register of its machine, before anything boots") as step:
        predicted = runner.run("predict", f"{BASE}/image", *SHAPE, "--output", REFERENCE)
        registers = sum(len(values) for values in predicted["banks"].values())
        step.result = f"{len(predicted['events'])} events, {registers} registers"
    return BaseImage(
        image_id=built["image_id"],
        predicted=predicted["banks"],
        reference_digest=predicted["reference_digest"],
    )


def make_changed_image(runner: Runner) -> str:
    """The same image with one more word on the kernel's command line; its id."""
    folder = runner.folder / CHANGED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    recipe = (runner.folder / BASE / RECIPE).read_text(encoding="utf-8")
    changed = recipe.replace(COMMAND_LINE, 'command-line = ["quiet"] ')
    if changed == recipe:
        raise DemoError(
            "has no empty command-line to add a word to",
            subject=f"{BASE}/{RECIPE}",
            advice="remove the demo's folder, so that it starts from a recipe of its own",
        )
    (folder / RECIPE).write_text(changed, encoding="utf-8")
    shutil.copyfile(runner.folder / BASE / LOCK, folder / LOCK)
    runner.run("lock", "--local", f"{CHANGED}/{RECIPE}")
    return str(runner.run("build", f"{CHANGED}/{RECIPE}")["image_id"])


def lock_and_fetch(story: Story, runner: Runner, project: str) -> str:
    """Lock a project and have every input in the store; an old lock whose files are gone is made afresh."""
    recipe = f"{project}/{RECIPE}"
    lock = runner.folder / project / LOCK
    try:
        locked = runner.run("lock", recipe)
    except CommandError as error:
        if not lock.exists():
            raise
        lock.replace(lock.with_name(f"{LOCK}.old"))
        story.remark(f"{error.reason}; put aside as {LOCK}.old")
        locked = runner.run("lock", recipe)
    try:
        runner.run("fetch", recipe)
    except CommandError as error:
        story.remark(f"{error.reason.splitlines()[0]}; the mirror no longer has it, so the demo locks afresh")
        locked = runner.run("lock", "--update", recipe)
        runner.run("fetch", recipe)
    return f"{locked['packages']} packages, {locked['wheels']} wheels"


def keep_lock(runner: Runner, project: str, kept: Path) -> None:
    """Keep a project's lock over demos, so that the next one does not resolve again."""
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(runner.folder / project / LOCK, kept)


def compare_registers(
    out: Output, predicted: Mapping[str, Mapping[str, str]], report: Path
) -> dict[str, Any]:
    """The table of registers, predicted and booted. Raises ``DemoRefusedError`` if any differs."""
    found = json.loads(report.read_text(encoding="utf-8"))["report"]["banks"]
    rows, different = [], []
    for pcr in sorted(COVERS):
        values = {bank: (registers[str(pcr)], found[bank][str(pcr)]) for bank, registers in predicted.items()}
        unequal = [bank for bank, (wanted, seen) in values.items() if wanted != seen]
        if unequal:
            different.append(pcr)
        wanted, seen = values["sha256"]
        verdict = f"[red]NO ({', '.join(unequal)})[/red]" if unequal else "[green]yes[/green]"
        rows.append(
            (f"PCR {pcr}", f"{wanted[:SHOWN_DIGITS]}…", f"{seen[:SHOWN_DIGITS]}…", verdict, COVERS[pcr])
        )
    out.table(
        f"Registers of the KMS guest ({' and '.join(predicted)} compared, first digits of sha256 shown)",
        ("register", "predicted", "booted", "equal", "covers"),
        rows,
    )
    if different:
        raise DemoRefusedError(
            f"PCR {', '.join(map(str, different))} differ from the prediction",
            subject="booted machine",
            advice=f"run `keyturn explain --expected {REFERENCE} --log LOG` to see the event that differs",
        )
    return {"equal": not different, "different": different, "predicted": predicted, "booted": found}
