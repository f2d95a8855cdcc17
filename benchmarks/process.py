"""Cost of a whole process: wall time and peak memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Cost:
    """``seconds`` of wall time; ``peak_bytes`` is the largest resident set of the process itself."""

    seconds: float
    peak_bytes: int
    stdout: str


def timed(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Cost:
    """Run ``command`` to its end; a failure shows what it printed and stops the benchmark."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        child = subprocess.Popen(command, cwd=cwd, env=dict(environment), stdout=output, stderr=errors)
        # wait4 instead of child.wait(): it tells the resources of this child alone.
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({child.returncode}):\n{texts[0]}{texts[1][-3000:]}")
    return Cost(seconds=seconds, peak_bytes=usage.ru_maxrss * 1024, stdout=texts[0])
