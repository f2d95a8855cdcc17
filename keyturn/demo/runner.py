"""Runs keyturn's own commands in the demo's folder: what the demo does, anybody can do with the same words.

Each command is written to ``commands.txt`` in that folder, in the order in which they were started, as it can
be pasted there.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from measurements.errors import ExitStatus, KeyturnError, RefusedError

COMMANDS_FILE = "commands.txt"
STOP_SECONDS = 60


class DemoError(KeyturnError):
    """A step of the demo failed."""

    code = "demo"


class DemoRefusedError(RefusedError):
    """Something did not hold that the demo shows to hold."""

    code = "demo"


class CommandError(DemoError):
    """A command of the demo ended with an error; the error's own text is the reason."""


class Runner:
    """Runs commands in ``folder``, from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] | None = []
        (folder / COMMANDS_FILE).write_text("")

    def run(self, *words: str) -> dict[str, Any]:
        """The JSON result of a command. Raises ``CommandError`` with that command's reason."""
        done = subprocess.run(
            [*self._command(*words), "--json"],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != ExitStatus.OK:
            raise CommandError(
                _failure(done.stdout, done.stderr, done.returncode),
                subject=f"keyturn {shlex.join(words)}",
                advice=f"the command can be tried alone in {self.folder}; then run the demo again",
            )
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    @contextmanager
    def background(self, *words: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A command that goes on; its output is in the file. It is interrupted when the block ends."""
        with output.open("wb") as sink:
            process = self._start(words, sink)
        try:
            yield process
        finally:
            stop(process)

    def stop_all(self) -> None:
        """End every command in the background; no other one starts."""
        with self._lock:
            running, self._running = self._running or [], None
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            stop(process)

    def _start(self, words: Sequence[str], sink: IO[bytes]) -> subprocess.Popen[bytes]:
        from measurements.qemu import die_with_parent

        command = [*die_with_parent(), *self._command(*words)]
        with self._lock:
            if self._running is None:
                raise DemoError("the demo ends", subject=words[0], advice="start it again")
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demo, which ends its commands in order.
                start_new_session=True,
            )
            self._running.append(process)
        return process

    def _command(self, *words: str) -> list[str]:
        with self._lock, (self.folder / COMMANDS_FILE).open("a") as stream:
            stream.write(f"keyturn {shlex.join(words)}\n")
        return [sys.executable, "-m", "keyturn", *words]


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command and wait for its end; it may have ended already."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _failure(stdout: str, stderr: str, status: int) -> str:
    try:
        # A refusal may follow the result on stdout, so the error is the last document.
        error = json.loads(stdout[stdout.rindex('{\n  "error"') :])["error"]
        return f"{error['subject']}: {error['reason']}"
    except (ValueError, KeyError, TypeError):
        pass
    try:
        return "these checks do not hold: " + ", ".join(json.loads(stdout)["failures"])
    except (ValueError, KeyError, TypeError):
        last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "")
        return f"it ended with exit status {status}: {last.strip()}"
