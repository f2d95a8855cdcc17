"""Policies that the command line reads: TOML files, and canonical documents made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from attestation.policy import Policy


class PolicyUsageError(KeyturnError):
    """Arguments that say nothing that can be done."""

    code = "usage"


def read_policy(path: Path) -> Policy:
    """The policy in a TOML file, which may name files of reference values beside it, or in a canonical JSON
    document. Raises ``KeyturnError`` that names file, key, reason and remedy.
    """
    from attestation.policy_document import parse_policy_document
    from attestation.policy_file import parse_policy
    from keyturn.input_files import read_limited

    data = read_limited(path)
    if data.startswith(b"{"):  # no TOML document begins so
        return parse_policy_document(data, subject=str(path))
    return parse_policy(data, subject=str(path), read_file=lambda name: read_limited(path.parent / name))


def parse_moment(text: str) -> int:
    """Seconds since 1970 from digits, or from a date or time of ISO 8601 in UTC. Raises
    ``PolicyUsageError``.
    """
    from datetime import UTC, datetime, timedelta

    try:
        if text.isascii() and text.isdigit():
            return int(datetime.fromtimestamp(int(text), UTC).timestamp())
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        moment = None
    if moment is not None and moment.tzinfo is None and "T" not in text:
        moment = moment.replace(tzinfo=UTC)
    if moment is None or moment.utcoffset() != timedelta(0):
        raise PolicyUsageError(
            f"{text!r} is no time in UTC",
            subject="--now",
            advice="write 2026-12-31, 2026-12-31T12:00:00Z, or seconds since 1970",
        )
    return int(moment.timestamp())
