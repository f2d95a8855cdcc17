"""Runs a helper program to its end: input by a pipe, never secrets in arguments, output bounded."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence

from measurements.errors import RefusedError

INPUT_LIMIT = 32 << 10
"""What is sure to fit into a pipe that nobody reads yet."""
OUTPUT_LIMIT = 64 << 10
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C"}
RESET_SIGNALS = (signal.SIGPIPE, signal.SIGTERM)
"""What the interpreter ignores or the agent blocks, and a program started by it must not."""


class ProgramError(RefusedError):
    """A helper program that failed."""

    code = "program"


def run(command: Sequence[str], *, given: bytes = b"", environment: Mapping[str, str] | None = None) -> str:
    """Run ``command`` (absolute path first) with ``given`` on its standard input; its output, both streams.

    Raises ``ProgramError`` with the last line of the output unless the program exits with 0.
    """
    status, output = attempt(command, given=given, environment=environment)
    if status != 0:
        lines = output.strip().splitlines()
        said = lines[-1] if lines else "it said nothing"
        raise ProgramError(
            f"ended with status {status}: {said}",
            subject=os.path.basename(command[0]),
            advice="look at the kernel's messages",
        )
    return output


def attempt(
    command: Sequence[str], *, given: bytes = b"", environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """As ``run``, but returns the exit status (negative: the signal) with the output."""
    if len(given) > INPUT_LIMIT:
        raise ProgramError("its input is too large", subject=command[0], advice="report this as a bug")
    source, feed = os.pipe()
    os.write(feed, given)
    os.close(feed)
    output, sink = os.pipe()
    actions = [
        (os.POSIX_SPAWN_DUP2, source, 0),
        (os.POSIX_SPAWN_DUP2, sink, 1),
        (os.POSIX_SPAWN_DUP2, sink, 2),
    ]
    try:
        pid = os.posix_spawn(
            command[0],
            list(command),
            {**ENVIRONMENT, **(environment or {})},
            file_actions=actions,
            setsigmask=(),
            setsigdef=RESET_SIGNALS,
        )
    finally:
        os.close(source)
        os.close(sink)
    text = _drain(output)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def _drain(descriptor: int) -> str:
    kept = b""
    with open(descriptor, "rb", buffering=0) as stream:
        while data := stream.read(4096):
            kept = (kept + data)[-OUTPUT_LIMIT:]
    return kept.decode("utf-8", "replace")
