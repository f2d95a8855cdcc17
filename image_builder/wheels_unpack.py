"""Unpacks Python wheels into ``/usr/lib/python3/dist-packages``.

Layout (PyPA "Binary distribution format" 1.0): a zip archive; everything outside of ``NAME.data`` belongs
into the module folder; ``NAME.dist-info/RECORD`` is CSV with path, ``sha256=`` and the digest in URL-safe
base64 without padding, size. Each file must be in RECORD with the right hash, except RECORD itself. A wheel
that wants files elsewhere (``NAME.data``) is refused; console scripts are not made, since nothing in an image
calls them.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from image_builder.tree import BytesContent, Kind, Node, Tree
from image_builder.tree_paths import missing_parents
from measurements.errors import KeyturnError

FOLDER = "usr/lib/python3/dist-packages"
_SYMLINK = 0o120000


class WheelError(KeyturnError):
    """A wheel that is damaged or wants something an image does not do."""

    code = "wheel"


def wheel_nodes(path: Path, *, name: str) -> Tree:
    """The nodes of the wheel file ``path``; ``name`` is how errors call it. Raises ``WheelError``."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = {
                info.filename: _data(archive, info, name) for info in archive.infolist() if not info.is_dir()
            }
    except (zipfile.BadZipFile, NotImplementedError) as error:
        _refuse(name, f"not a wheel: {error}")
    _check_record(files, name)
    tree = {
        f"{FOLDER}/{member}": Node(
            path=f"{FOLDER}/{member}", kind=Kind.FILE, mode=0o644, content=BytesContent(data), origin=name
        )
        for member, data in sorted(files.items())
    }
    return tree | missing_parents(tree)


def _data(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    parts = info.filename.split("/")
    if info.filename.startswith("/") or "\\" in info.filename or {"", ".", ".."} & set(parts):
        _refuse(name, f"{info.filename} leaves the module folder")
    if (info.external_attr >> 16) & 0o170000 == _SYMLINK:
        _refuse(name, f"{info.filename} is a symbolic link")
    if parts[0].endswith(".data"):
        _refuse(name, f"wants {info.filename} outside of the module folder")
    return archive.read(info)


def _check_record(files: Mapping[str, bytes], name: str) -> None:
    records = [path for path in files if path.endswith(".dist-info/RECORD") and path.count("/") == 1]
    if len(records) != 1:
        _refuse(name, "has no RECORD")
    rows = csv.reader(io.StringIO(files[records[0]].decode("utf-8", "replace")))
    hashes = {row[0]: row[1] for row in rows if len(row) >= 2}
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        if path != records[0] and hashes.get(path) != f"sha256={digest}":
            _refuse(name, f"{path} is not what RECORD says")


def _refuse(name: str, reason: str) -> NoReturn:
    raise WheelError(
        reason, subject=f"wheel {name}", advice="choose another version of the wheel, and lock again"
    )
