"""The error of everything that can go wrong on the way to collateral."""

from __future__ import annotations

from measurements.errors import KeyturnError

OFFLINE = "or take a bundle that was made elsewhere: keyturn collateral bundle"


class FetchError(KeyturnError):
    """Collateral that cannot be had. ``status`` is the HTTP status of the answer, if there was one that
    decides.
    """

    code = "collateral-fetch"

    def __init__(self, reason: str, *, subject: str, advice: str, status: int | None = None) -> None:
        super().__init__(reason, subject=subject, advice=advice)
        self.status = status
