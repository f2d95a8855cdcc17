"""The one error tree of keyturn.

Every error carries a stable ``code`` (for machines), a ``subject`` (the input that is at fault), a ``reason``
and ``advice`` (what to do about it). Library code raises; only the command line turns an error into an exit
status.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitStatus(IntEnum):
    """Exit statuses of the command line (design 10)."""

    OK = 0
    REFUSED = 1
    INPUT = 2


class KeyturnError(Exception):
    """Base of all errors: bad input, which exits with status 2."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[ExitStatus] = ExitStatus.INPUT

    def __init__(self, reason: str, *, subject: str, advice: str) -> None:
        super().__init__(f"{subject}: {reason}")
        self.subject = subject
        self.reason = reason
        self.advice = advice

    def as_json(self) -> dict[str, str]:
        """The error as the ``--json`` output shows it."""
        return {"code": self.code, "subject": self.subject, "reason": self.reason, "advice": self.advice}


class RefusedError(KeyturnError):
    """A check was carried out and failed: not bad input but a "no", which exits with status 1."""

    code = "refused"
    exit_status = ExitStatus.REFUSED


class FormatError(KeyturnError):
    """Bytes that are not of the format they should be."""

    code = "format"


class MissingToolError(KeyturnError):
    """A program that is needed is not installed."""

    code = "missing-tool"
