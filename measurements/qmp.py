"""Client of QEMU's machine protocol: JSON objects, one per line, over a stream socket.

A greeting comes first; a command is ``{"execute": name, "arguments": {…}}``; its reply carries ``return`` or
``error``; events may come between (QEMU's docs/interop/qmp-spec.rst).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from measurements.errors import KeyturnError

MAX_LINE = 1 << 22


class MonitorError(KeyturnError):
    """QEMU refused a command or ended the conversation."""

    code = "qemu-monitor"


class Monitor:
    """One conversation with a running QEMU; not for use from several threads at once."""

    def __init__(self, connection: socket.socket, *, timeout: float = 30.0) -> None:
        connection.settimeout(timeout)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self.events: list[str] = []

    def greet(self) -> str:
        """Reads the greeting and leaves negotiation mode; the version of QEMU as ``7.2.22``."""
        version = self._read()["QMP"]["version"]["qemu"]
        self.execute("qmp_capabilities")
        return f"{version['major']}.{version['minor']}.{version['micro']}"

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """The ``return`` value of ``command``; an error of QEMU's becomes a MonitorError."""
        message = {"execute": command, **({"arguments": dict(arguments)} if arguments else {})}
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as problem:
            raise self._gone(command) from problem
        while True:
            reply = self._read()
            if "event" in reply:
                self.events.append(str(reply["event"]))
            elif "error" in reply:
                raise MonitorError(
                    f"QEMU refuses: {reply['error'].get('desc')}", subject=command, advice="see the reason"
                )
            else:
                return reply["return"]

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline(MAX_LINE)
        except OSError as problem:
            raise self._gone("QEMU") from problem
        if not line.endswith(b"\n"):
            raise self._gone("QEMU")
        reply = json.loads(line)
        if not isinstance(reply, dict):
            raise MonitorError(
                "QEMU's answer is not an object", subject="QEMU", advice="check the QEMU program"
            )
        return reply

    @staticmethod
    def _gone(subject: str) -> MonitorError:
        return MonitorError("QEMU ended or does not answer", subject=subject, advice="see QEMU's own message")

    def close(self) -> None:
        """Closes the connection."""
        self._lines.close()
        self._connection.close()
