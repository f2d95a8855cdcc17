"""The image's manifest and the image id.

``manifest.json`` is canonical JSON (RFC 8785): no paths of a machine, no times, no host names. The image id
is ``SHA-256("keyturn-image-id/1" ‖ 0x00 ‖ manifest)``. Hashes are lower-case hex, sizes are bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from measurements.errors import FormatError
from measurements.json_text import json_text

MANIFEST_NAME = "manifest.json"
SCHEMA = "keyturn-image/1"
_ID_DOMAIN = b"keyturn-image-id/1\0"
_KEYS = frozenset(
    {
        "schema",
        "name",
        "version",
        "architecture",
        "dev",
        "lock_sha256",
        "recipe_sha256",
        "artefacts",
        "verity",
        "uki",
        "kernel",
        "disk",
        "cmdline",
    }
)


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The canonical form of ``manifest``, which must have exactly the known keys."""
    import rfc8785

    _check_keys(manifest)
    return rfc8785.dumps(dict(manifest))


def parse_manifest(data: bytes) -> dict[str, Any]:
    """The manifest in ``data``; raises ``FormatError`` unless it is one, in canonical form."""
    try:
        manifest = json.loads(json_text(data))
    except ValueError as error:
        raise _bad(f"not JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise _bad("not a JSON object")
    if manifest_bytes(manifest) != data:
        raise _bad("not in canonical form (RFC 8785)")
    return manifest


def image_id(data: bytes) -> str:
    """The image id for the manifest bytes ``data``, in lower-case hex."""
    return hashlib.sha256(_ID_DOMAIN + data).hexdigest()


def _check_keys(manifest: Mapping[str, Any]) -> None:
    if manifest.get("schema") != SCHEMA:
        raise _bad(f"schema is {manifest.get('schema')!r}, not {SCHEMA!r}")
    wrong = sorted(_KEYS ^ set(manifest))
    if wrong:
        raise _bad(f"keys that are missing or unknown: {', '.join(wrong)}")


def _bad(reason: str) -> FormatError:
    return FormatError(reason, subject=MANIFEST_NAME, advice="build the image again")
