"""Runs fuzz targets under atheris, each in a process of its own, and says what came out.

::

    python -m tests.fuzz.run NAME... | --all [--seconds 600] [--jobs 1] [--corpus build/fuzz]

Below the corpus folder ``NAME/`` keeps the inputs that reached something new (with the seeds, so a later run
goes on from there), ``crashes/NAME/`` the inputs at which the target failed, each with its trace: an
exception that is no refusal, more than ``--timeout`` seconds, more than ``--memory`` megabytes.
``results.json`` and a table on stdout say for each target: executions, executions per second, failures,
inputs added to the corpus, peak memory. Exit status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.targets import load, modules, named

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_LENGTH = 1 << 16
"""Bytes of an input; parsers are held to their limits up to 1 MiB by ``tests/test_fuzz_targets.py``."""
_STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long a target runs, and what one input may take."""

    seconds: int
    timeout: int
    memory: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FuzzResult:
    """What came out for one target; ``peak_rss`` in megabytes. ``failures`` are files, ``broken`` says
    how the process ended if it did not end in time.
    """

    name: str
    seconds: float
    executions: int
    per_second: int
    added: int
    peak_rss: int
    failures: tuple[str, ...]
    broken: str = ""


def main(arguments: list[str]) -> int:
    """Run and show; returns the exit status."""
    options = _parser().parse_args(arguments)
    chosen = modules() if options.all else [named(name) for name in options.names]
    if not chosen:
        raise SystemExit("name a target, or give --all")
    limits = Limits(seconds=options.seconds, timeout=options.timeout, memory=options.memory)
    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        results = list(pool.map(lambda module: fuzz(module, options.corpus, limits), chosen))
    (options.corpus / "results.json").write_text(
        json.dumps([asdict(one) for one in results], indent=1) + "\n"
    )
    sys.stdout.write(table(results))
    return 1 if any(result.failures or result.broken for result in results) else 0


def fuzz(module: str, folder: Path, limits: Limits) -> FuzzResult:
    """Fuzz the target of ``module``."""
    target = load(module)
    corpus, crashes = folder / target.name, folder / "crashes" / target.name
    for path in (corpus, crashes):
        path.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    before, known = _count(corpus), set(crashes.iterdir())
    log = crashes.with_name(f"{target.name}.log")
    log.write_text("")
    started = time.monotonic()
    status, text = _campaign(module, corpus, crashes, limits)
    seconds = time.monotonic() - started
    crashes.with_name(f"{target.name}.log").write_text(text)
    found = {name: int(value) for name, value in _STATISTIC.findall(text)}
    executions = found.get("number_of_executed_units", 0)
    ended = status == 0 and executions > 0
    failures = sorted(str(path) for path in set(crashes.iterdir()) - known if path.suffix != ".trace")
    return FuzzResult(
        name=target.name,
        seconds=round(seconds, 1),
        executions=executions,
        per_second=int(executions / seconds),
        added=_count(corpus) - before,
        peak_rss=found.get("peak_rss_mb", 0),
        failures=tuple(failures),
        broken="" if ended else f"ended with status {status}: {text.strip().splitlines()[-1:]}",
    )


def table(results: list[FuzzResult]) -> str:
    """The results for people, as a Markdown table."""
    head = "| target | seconds | executions | per second | failures | new inputs | peak MB |"
    rows = [
        f"| {one.name} | {one.seconds:.0f} | {one.executions} | {one.per_second} | {len(one.failures)} "
        f"| {one.added} | {one.peak_rss} |"
        for one in results
    ]
    notes = [f"{one.name}: {note}" for one in results for note in (*one.failures, one.broken) if note]
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows, "", *notes, ""])


def _campaign(module: str, corpus: Path, crashes: Path, limits: Limits) -> tuple[int, str]:
    """One process: its exit status and what it said."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.campaign", module),
            *(str(crashes.resolve()), str(limits.timeout), str(limits.memory)),
            f"-max_total_time={limits.seconds}",
            # For code that no signal reaches; libFuzzer ends the process then.
            f"-timeout={4 * limits.timeout}",
            f"-max_len={MAX_LENGTH}",
            f"-artifact_prefix={crashes.resolve()}/",
            "-rss_limit_mb=0",
            "-print_final_stats=1",
            str(corpus.resolve()),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.fuzz.run", description="Run fuzz targets under atheris.")
    parser.add_argument("names", nargs="*", help="targets, by name or by the end of their file's name")
    parser.add_argument("--all", action="store_true", help="every target")
    parser.add_argument("--seconds", type=int, default=600, help="time for each target (600)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time (1)")
    parser.add_argument("--corpus", type=Path, default=REPOSITORY / "build" / "fuzz", help="folder to keep")
    parser.add_argument("--timeout", type=int, default=5, help="seconds that one input may take (5)")
    parser.add_argument("--memory", type=int, default=512, help="megabytes that inputs may take (512)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
