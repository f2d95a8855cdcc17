"""The archive's snapshot service: packages that have left the mirrors, found by name and version.

Its machine interface answers ``/mr/binary/<name>/<version>/binfiles`` with JSON ``{"result":
[{"architecture", "hash"}]}``, the hash being SHA-1, and serves ``/file/<sha1>``. SHA-1 is only how the
service names a file; what comes is checked by SHA-256 like everything.
"""

from __future__ import annotations

import json
import os
import re

from image_builder.lockfile import LockedPackage
from image_builder.transport import Place, Transport, TransportError
from measurements.json_text import json_text

SNAPSHOT_VARIABLE = "KEYTURN_SNAPSHOT"
_DEFAULT_SERVICE = "https://snapshot.debian.org"
_ANSWER_LIMIT = 1 << 20
_SHA1 = re.compile(r"[0-9a-f]{40}")


def machine_snapshot() -> Place:
    """The service named by ``$KEYTURN_SNAPSHOT``, else Debian's."""
    return Place(os.environ.get(SNAPSHOT_VARIABLE) or _DEFAULT_SERVICE)


def snapshot_path(package: LockedPackage, *, service: Place, transport: Transport) -> str:
    """Path of the package's file below ``service``; raises :class:`TransportError`."""
    query = f"mr/binary/{package.name}/{package.version}/binfiles"
    answer = transport.read(service, query, limit=_ANSWER_LIMIT)
    sha1 = _sha1_of(answer, architecture=package.architecture)
    if sha1 is None:
        raise TransportError(
            f"the snapshot service does not know {package.name} {package.version}",
            subject=str(service),
            absent=True,
        )
    return f"file/{sha1}"


def _sha1_of(answer: bytes, *, architecture: str) -> str | None:
    try:
        entries = json.loads(json_text(answer))["result"]
        found = [entry["hash"] for entry in entries if entry["architecture"] == architecture]
    except (ValueError, KeyError, TypeError):
        return None
    good = [sha1 for sha1 in found if isinstance(sha1, str) and _SHA1.fullmatch(sha1)]
    return good[0] if good else None
