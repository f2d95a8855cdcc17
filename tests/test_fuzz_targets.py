"""Every fuzz target without a fuzzer: its seeds, mutations of them, and inputs that are made to be costly.

The limits are those of the project (a refusal of up to 1 MiB takes at most 100 ms and 64 MB) with room for
slow machines: processor time is measured, the better of two tries counts.
"""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from functools import cache
from pathlib import Path

import pytest

from tests.fuzz.run import FuzzResult, Limits, fuzz, table
from tests.fuzz.targets import FuzzTarget, load, modules, named
from tests.support.hostile import hostile_inputs, mutations
from tests.support.limits import BUSY_SECONDS
from tests.support.vectors import vectors_folder

MUTATIONS = 300
MUTATION_SECONDS = 3.0
"""Processor time for the mutations of one target; each gets at least 30."""
MAX_SECONDS = BUSY_SECONDS
MAX_MEMORY = 64 << 20

TARGETS = pytest.mark.parametrize("module", modules())


@cache
def loaded(module: str) -> FuzzTarget:
    return load(module)


@cache
def seeds(module: str) -> list[bytes]:
    return loaded(module).seeds()


def test_there_are_targets_with_names_of_their_own() -> None:
    names = [loaded(module).name for module in modules()]
    assert names
    assert len(set(names)) == len(names)


@TARGETS
def test_the_target_takes_its_seeds(module: str) -> None:
    found = seeds(module)
    if not found and vectors_folder() is None:
        pytest.skip("all its seeds are made from vectors: run `make vectors`")
    assert found
    assert all(len(seed) <= 1 << 20 for seed in found)
    for seed in found:
        loaded(module).run(seed)


@TARGETS
def test_mutations_give_refusals_only(module: str) -> None:
    target = loaded(module)
    started = time.process_time()
    for number, data in enumerate(mutations(seeds(module), MUTATIONS, name=target.name)):
        if number >= 30 and time.process_time() - started > MUTATION_SECONDS:
            break
        target.run(data)


@TARGETS
def test_a_hostile_megabyte_is_cheap(module: str) -> None:
    target = loaded(module)
    slow, large = [], []
    for what, data in hostile_inputs(seeds(module)[:2]):
        seconds = min(spent(target, data) for _ in range(2))
        if seconds > MAX_SECONDS:
            slow.append(f"{what}: {seconds * 1000:.0f} ms")
        tracemalloc.start()
        target.run(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak > MAX_MEMORY:
            large.append(f"{what}: {peak >> 20} MB")
    assert (slow, large) == ([], [])


def spent(target: FuzzTarget, data: bytes) -> float:
    started = time.process_time()
    target.run(data)
    return time.process_time() - started


def test_a_target_is_found_by_its_name() -> None:
    assert named("container") == "tests.fuzz.fuzz_container"
    with pytest.raises(SystemExit, match="no fuzz target 'nothing'"):
        named("nothing")


def test_a_run_finds_and_keeps_what_fails(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    result = fuzz("tests.support.failing_fuzz_target", tmp_path, Limits(seconds=10, timeout=3, memory=256))
    assert result.executions > 0
    assert result.peak_rss > 0
    assert not result.broken
    kinds = {Path(path).name.partition("-")[0]: Path(path).read_bytes() for path in result.failures}
    assert {kind: data[:1] for kind, data in kinds.items()} == {
        "RuntimeError": b"r",
        "TooSlowError": b"s",
        "MemoryError": b"m",
    }
    assert "RuntimeError: found" in "".join(path.read_text() for path in tmp_path.rglob("Runtime*.trace"))


def test_a_run_without_a_target_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "name a target" in done.stderr


def test_the_table_names_what_failed() -> None:
    result = FuzzResult(
        name="quote",
        seconds=600.2,
        executions=120,
        per_second=2,
        added=3,
        peak_rss=90,
        failures=("crashes/quote/crash-1",),
    )
    text = table([result])
    assert "| quote | 600 | 120 | 2 | 1 | 3 | 90 |" in text
    assert "quote: crashes/quote/crash-1" in text
