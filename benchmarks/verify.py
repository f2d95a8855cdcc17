"""Benchmark of verification: ``python benchmarks/verify.py``.

One process. For each platform one good piece of evidence is verified under a full policy: warm (what does not
depend on the evidence has been read before) by turns with ``dcap-qvl`` alone on one quote, and cold
(every cache of keyturn emptied before each run). Prints p50 and p99 in milliseconds beside the project's
targets; asserts nothing but that the verdicts are good.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dcap_qvl

from attestation.verify import verify_evidence
from tests.support.vectors import vector
from tests.support.whole_cases import (
    DCAP,
    WholeCase,
    dcap_case,
    dstack_case,
    nitro_case,
    snp_case,
    tpm_case,
)

RUNS, COLD_RUNS, IN_A_ROW = 600, 15, 20
OWN_PACKAGES = ("attestation", "measurements")
TARGETS = {
    "tdx, quote and log": "p50 <= 1.3 x dcap-qvl",
    "snp": "p50 <= 1.5 ms",
    "nitro": "p50 <= 2.5 ms",
    "tpm, log of 100 events": "p50 <= 2 ms",
}


@dataclass(frozen=True, kw_only=True)
class Times:
    """Times of many runs, in milliseconds."""

    values: Sequence[float]

    @property
    def p50(self) -> float:
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.values, n=100)[98]


def time_once(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def by_turns(works: dict[str, Callable[[], object]], runs: int) -> dict[str, Times]:
    """Each work ``IN_A_ROW`` times in every round, as in a service that gets evidence of one kind; rounds, so
    that a slow moment of the machine hits all of them.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(max(1, runs // IN_A_ROW)):
        for name, work in works.items():
            found[name] += [time_once(work) for _ in range(IN_A_ROW)]
    return {name: Times(values=values) for name, values in found.items()}


def cold(work: Callable[[], object], runs: int) -> Times:
    """Times with every cache of keyturn emptied before each run."""
    found = []
    for _ in range(runs):
        empty_caches()
        found.append(time_once(work))
    return Times(values=found)


def empty_caches() -> None:
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in OWN_PACKAGES:
            for value in vars(module).values():
                clear = getattr(value, "cache_clear", None)
                if callable(clear):
                    clear()


def library_alone(case: dict[str, Any]) -> tuple[Callable[[], object], Callable[[], object]]:
    """``dcap-qvl`` on the same quote: with its collateral read before, and reading it each time."""
    quote = vector(f"{DCAP}/{case['quote']}").read_bytes()
    text = vector(f"{DCAP}/{case['collateral']}").read_text()
    root = vector(f"{DCAP}/intel_sgx_root_ca.der").read_bytes()
    kept = dcap_qvl.QuoteCollateralV3.from_json(text)

    def warm() -> object:
        return dcap_qvl.verify_with_root_ca(quote, kept, root, case["now"])

    def reading() -> object:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(text)
        return dcap_qvl.verify_with_root_ca(quote, collateral, root, case["now"])

    return warm, reading


def cases() -> dict[str, WholeCase]:
    found = {
        "tdx, quote and log": dstack_case(),
        "snp": snp_case(),
        "nitro": nitro_case(),
        "tpm, log of 100 events": tpm_case(100),
    }
    for name, case in found.items():
        verdict = case.verify()
        if not verdict.passed:
            raise SystemExit(f"{name}: {[check.reason for check in verdict.tree.failures]}")
    return found


def prepared(case: WholeCase) -> Callable[[], object]:
    """The verification alone: a service has read its policy and anchors once."""
    return partial(
        verify_evidence,
        case.evidence,
        collateral=case.collateral,
        anchors=case.anchors,
        policy=case.policy,
        now=case.now,
    )


def row(name: str, work: Callable[[], object], library: Callable[[], object], runs: int) -> dict[str, Any]:
    """One line: the work by turns with ``dcap-qvl`` alone, which has read its collateral before."""
    times = by_turns({"library": library, "work": work}, runs)
    return {
        "what": name,
        "p50": round(times["work"].p50, 3),
        "p99": round(times["work"].p99, 3),
        "cold_p50": round(cold(work, COLD_RUNS).p50, 3),
        "dcap_qvl_p50": round(times["library"].p50, 3),
        "ratio": round(times["work"].p50 / times["library"].p50, 2),
        "target": TARGETS.get(name, ""),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time verification of evidence.")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    warm_library, reading_library = library_alone(dcap_case("dstack-quote-report@2026-03-18"))
    works: dict[str, Callable[[], object]] = {
        "dcap-qvl, reading its collateral": reading_library,
        **{name: prepared(case) for name, case in cases().items()},
    }
    gc.collect()
    gc.freeze()
    rows = [row(name, work, warm_library, options.runs) for name, work in works.items()]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    head = ("what", "warm p50 ms", "warm p99 ms", "cold p50 ms", "dcap-qvl p50 ms", "ratio", "target")
    lines = [head, *(tuple(str(value) for value in row.values()) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    main()
