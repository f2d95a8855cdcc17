"""``keyturn demo``: the whole chain on one machine, told step by step, and nothing left of it at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.interrupts import signals_interrupt
from keyturn.output import JsonOption, Output, escape

if TYPE_CHECKING:
    from keyturn.demo.performance import Performance

DEFAULT_FOLDER = Path("build/demo")
MOST_AT_ONCE = 4
KEPT = ("base", "locks")
"""What one demo leaves to the next: the base image's project, and locks."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where all of it lies; made anew each time.")] = (
        DEFAULT_FOLDER
    ),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave chain, KMS and app running until Ctrl-C, and print where.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measured boot, KMS, contracts, keys, a running app, and every refusal, on this machine alone."""
    from keyturn.demo.performance import Performance

    out = Output(json=json)
    with _owned(folder), signals_interrupt(), contextlib.ExitStack() as stack:
        # Guests die with the thread that starts them, so the threads outlive the guests.
        pool = stack.enter_context(ThreadPoolExecutor(max(2, min(os.cpu_count() or 1, MOST_AT_ONCE))))
        performance = Performance(out, folder.resolve(), ports=(free_port(), free_port()))
        try:
            performance.play(stack, pool)
        except BaseException:
            performance.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        performance.conclude()
        if keep:
            _wait(out, performance)
        with performance.story.step("stops everything") as step:
            performance.stop()
            stack.close()
            step.result = "nothing is left running"


def _wait(out: Output, performance: Performance) -> None:
    addresses: dict[str, Any] = performance.addresses()
    rows = [(name, escape(value)) for name, value in addresses.items()]
    out.table("still running; Ctrl-C ends it", ("what", "where"), rows)
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """The folder, for this demo alone, without what an earlier one has left but ``KEPT``."""
    from keyturn.demo.runner import DemoError

    marker = folder / "demo.lock"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise DemoError(
            "is not empty and not of a demo", subject=str(folder), advice="name a new folder with --folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with marker.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoError(
                "is used by another demo", subject=str(folder), advice="end that one, or give --folder"
            ) from None
        for path in folder.iterdir():
            if path.name in KEPT or path == marker:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        yield


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
