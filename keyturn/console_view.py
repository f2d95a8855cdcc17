"""What of a guest's console people see: everything but terminal control sequences and the lines of the boot
report.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from measurements.boot_report import BEGIN, PREFIX

_CONTROL = re.compile(rb"\x1b(?:\[[0-9;?=]*[ -/]*[@-~]|c|[()][A-Za-z0-9])|[\x00-\x08\x0b-\x1f\x7f]")
_HIDDEN = (BEGIN.encode(), PREFIX.encode(), b"-----END KEYTURN BOOT REPORT ")


class ConsoleView:
    """Writes whole lines of the console to ``stream``; ``feed`` is called from one thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._pending = b""

    def feed(self, data: bytes) -> None:
        """Take bytes from the guest."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._show(line)

    def finish(self) -> None:
        """Show a last line without an end."""
        if self._pending:
            self._show(self._pending)
            self._pending = b""

    def _show(self, line: bytes) -> None:
        clean = _CONTROL.sub(b"", line)
        if clean.startswith(_HIDDEN) or not clean.strip():
            return
        # A host's terminal must not obey what a guest prints: control sequences are gone by now.
        self._stream.write(clean + b"\n")
        self._stream.flush()
