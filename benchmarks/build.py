"""Benchmark of the builder: ``python benchmarks/build.py``.

Measures, in one run on one machine: a cold build (packages in the store, nothing derived from them), a
rebuild after one local file has changed, their peak memory, the image's size, the time from kernel start to
agent by the guest's own clock, and mkosi with the same package list from a filled package cache (with the
kernel of the base suite: apt does not mix in backports by itself). Prints a table with ratios; asserts
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mkosi_peer import build as mkosi_build
from benchmarks.mkosi_peer import installed_mkosi, unpacked_mkosi
from benchmarks.process import Cost, timed
from image_builder.lockfile import PackageRole, read_lock
from image_builder.mirrors import DEBIAN, machine_mirrors
from image_builder.recipe import Recipe, read_recipe
from image_builder.store import Store, default_store_root
from tests.support.debian_packages import debian_package

KEYTURN = (sys.executable, "-m", "keyturn")
MOTD = '\n[[file]]\nsource = "motd"\npath = "/etc/motd"\nowner = "root"\ngroup = "root"\nmode = "0644"\n'


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A project folder and the environment of its commands (a store of its own, filled from the user's)."""

    folder: Path
    store: Path
    runs: int

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command; Python keeps byte code, as for any installed program."""
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        return {**kept, "KEYTURN_CACHE": str(self.store)}

    def keyturn(self, *words: str) -> Cost:
        """Run one keyturn command in the project."""
        return timed([*KEYTURN, *words], cwd=self.folder, environment=self.environment)


def prepare(folder: Path, runs: int) -> tuple[Bench, Recipe]:
    """The default recipe with one local file, locked and fetched."""
    bench = Bench(folder=folder / "project", store=folder / "store", runs=runs)
    bench.folder.mkdir()
    bench.keyturn("init")
    recipe = bench.folder / "keyturn.toml"
    recipe.write_text(recipe.read_text() + MOTD)
    (bench.folder / "motd").write_text("first\n")
    bench.keyturn("lock")
    user_store = Store(default_store_root())
    timed([*KEYTURN, "fetch"], cwd=bench.folder, environment=os.environ)
    bench.keyturn("fetch", "--store", str(user_store.root))
    return bench, read_recipe(recipe)


def cold_builds(bench: Bench) -> list[Cost]:
    """Builds with nothing but the locked inputs in the store."""
    costs = []
    for _ in range(bench.runs):
        shutil.rmtree(bench.store / "derived", ignore_errors=True)
        shutil.rmtree(bench.folder / "image", ignore_errors=True)
        costs.append(bench.keyturn("build", "--json"))
    return costs


def rebuilds(bench: Bench) -> tuple[list[Cost], list[Cost]]:
    """After a change of one local file: refreshing the lock, and building."""
    locks, builds = [], []
    for number in range(bench.runs):
        (bench.folder / "motd").write_text(f"change {number}\n")
        locks.append(bench.keyturn("lock", "--local"))
        builds.append(bench.keyturn("build", "--json"))
    return locks, builds


def boot(bench: Bench) -> dict[str, Any]:
    """One boot's report."""
    cost = bench.keyturn("run", "image", "--until-report", "--json")
    report: dict[str, Any] = json.loads(cost.stdout)["report"]
    return report


def peer(bench: Bench, recipe: Recipe, work: Path) -> tuple[str, Cost] | None:
    """mkosi's version and cost for the same package list, or None where it cannot run."""
    mkosi = installed_mkosi() or unpacked_mkosi(debian_package("mkosi"))
    if mkosi is None:
        return None
    lock = read_lock(bench.folder / "keyturn.lock")
    packages = sorted(package.name for package in lock.with_role(PackageRole.ROOT))
    cost = mkosi_build(
        mkosi,
        work=work,
        packages=[*packages, recipe.kernel.package],
        mirror=str(machine_mirrors(()).of(DEBIAN)[0]),
        keyring=str(recipe.archive.keyring),
        suite=recipe.archive.suites[0],
    )
    return mkosi.version, cost


def seconds(costs: list[Cost]) -> float:
    """Median wall time."""
    return statistics.median(cost.seconds for cost in costs)


def shown(costs: list[Cost]) -> str:
    """Median wall time, with the shortest and the longest."""
    times = [cost.seconds for cost in costs]
    return f"{seconds(costs):.2f} s ({min(times):.2f}-{max(times):.2f})"


def peak(costs: list[Cost]) -> int:
    """Largest resident set in MiB."""
    return max(cost.peak_bytes for cost in costs) >> 20


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="builds of each kind; medians are shown")
    parser.add_argument("--no-peer", action="store_true", help="leave mkosi out")
    parser.add_argument("--no-boot", action="store_true", help="do not boot the image")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyturn-bench-") as name:
        folder = Path(name)
        bench, recipe = prepare(folder, options.runs)
        cold = cold_builds(bench)
        locks, warm = rebuilds(bench)
        rows = [
            ("cold build (packages in the store)", shown(cold), "≤ 5 s"),
            ("rebuild after a file change", shown(warm), "≤ 1 s"),
            ("  and `keyturn lock --local` before it", shown(locks), ""),
            ("peak memory, cold / rebuild", f"{peak(cold)} / {peak(warm)} MiB", "< 600 MiB"),
            ("disk image", f"{(bench.folder / 'image/disk.raw').stat().st_size / 1e6:.1f} MB", "≤ 120 MB"),
        ]
        if not options.no_boot:
            report = boot(bench)
            started = f"{report['time_us']['agent_start'] / 1e6:.2f} s"
            rows.append(("kernel start → agent (guest clock)", started, ""))
        if not options.no_peer:
            measured = peer(bench, recipe, folder / "mkosi")
            if measured is None:
                rows.append(("mkosi", "cannot run here", ""))
            else:
                version, cost = measured
                rows.append((f"mkosi {version}, same packages, filled cache", f"{cost.seconds:.1f} s", ""))
                rows.append(("mkosi ÷ cold build", f"{cost.seconds / seconds(cold):.1f} x", "≥ 20 x"))
                rows.append(("mkosi ÷ rebuild", f"{cost.seconds / seconds(warm):.1f} x", ""))
    width = max(len(row[0]) for row in rows)
    print(f"{'what':{width}}  {'measured':>20}  budget   (median, shortest-longest of {options.runs})")
    for what, measured_text, budget in rows:
        print(f"{what:{width}}  {measured_text:>20}  {budget}")


if __name__ == "__main__":
    main()
