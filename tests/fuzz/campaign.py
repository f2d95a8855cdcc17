"""One process of a fuzz run: ``python -m tests.fuzz.campaign MODULE FOLDER SECONDS MEGABYTES [libFuzzer
options] CORPUS``.

``attestation`` and ``measurements`` are instrumented while the target is imported, so atheris sees which of
their branches an input takes. What fails is kept here, not by libFuzzer, so that fuzzing goes on after a
failure: the first input of each place in the code at which an exception arises, an input that takes more
than ``SECONDS`` of processor time, one that needs more than ``MEGABYTES`` on top of what the process has.
``FOLDER`` gets the input and, beside it, the trace.
"""

from __future__ import annotations

import hashlib
import importlib
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

INSTRUMENTED = ["attestation", "measurements"]
_STATUS = Path("/proc/self/statm")


class TooSlowError(BaseException):
    """An input that takes too long. Not an ``Exception``: no reader may take it for one of its own."""


class FailureKeeper:
    """Calls the target, and keeps what fails in ``folder``."""

    def __init__(self, run: Callable[[bytes], None], folder: Path, seconds: float) -> None:
        self._run = run
        self._folder = folder
        self._seconds = seconds
        self._places: set[str] = set()
        self._data = b""
        signal.signal(signal.SIGVTALRM, _too_slow)

    def __call__(self, data: bytes) -> None:
        """One input."""
        self._data = data
        with self:
            self._run(data)

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, self._seconds)

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        """Keep the input if it failed, also by a panic of compiled code, and go on."""
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if error is None or isinstance(error, KeyboardInterrupt | SystemExit):
            return False
        self._keep(self._data, error)
        return True

    def _keep(self, data: bytes, error: BaseException) -> None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        slow = isinstance(error, TooSlowError)
        place = type(error).__name__ if slow else f"{type(error).__name__} {last.filename}:{last.lineno}"
        if place in self._places:
            return
        self._places.add(place)
        name = f"{type(error).__name__}-{hashlib.sha256(data).hexdigest()[:16]}"
        (self._folder / name).write_bytes(data)
        (self._folder / f"{name}.trace").write_text("".join(traceback.format_exception(error)))


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlowError


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer's own options end it."""
    import atheris

    module, folder, seconds, megabytes, *options = arguments
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = importlib.import_module(module).target
    atheris.Setup([module, *options], FailureKeeper(target, Path(folder), float(seconds)))
    limit = int(_STATUS.read_text().split()[0]) * resource.getpagesize() + (int(megabytes) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
