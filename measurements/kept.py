"""Results that are kept between runs because making them again takes long: a file each in the user's cache.

An entry is one file in ``measured`` below keyturn's cache folder, named by its key (hex SHA-256 over the kind
of result, its version and all that it is made from): 32 bytes SHA-256 of the rest, then the rest. An entry
that is damaged in any way counts as absent and is made anew; without a place to keep it, the result is as
good.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

FOLDER = "measured"
MAX_ENTRY = 64 << 20
_DIGEST_SIZE = 32


def kept(kind: str, source: bytes, make: Callable[[], bytes], *, folder: Path | None = None) -> bytes:
    """The result of ``make`` for ``source`` (a digest of all inputs), made only if it is not kept in
    ``folder`` (None: the user's). ``kind`` names what is made, with the version of how.
    """
    key = hashlib.sha256(kind.encode() + b"\0" + source).hexdigest()
    path = (cache_folder(FOLDER) if folder is None else folder) / key
    found = _read(path)
    if found is not None:
        return found
    made = make()
    with contextlib.suppress(OSError):
        write_whole(path, hashlib.sha256(made).digest() + made)
    return made


def cache_folder(name: str) -> Path:
    """``name`` in ``$KEYTURN_CACHE``, else in ``$XDG_CACHE_HOME/keyturn`` or ``~/.cache/keyturn``."""
    named = os.environ.get("KEYTURN_CACHE")
    if named:
        return Path(named) / name
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "keyturn" / name


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as stream:
        try:
            stream.write(data)
            stream.close()
            os.replace(stream.name, path)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_ENTRY + 1)
    except OSError:
        return None
    digest, content = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
    return content if len(data) <= MAX_ENTRY and hashlib.sha256(content).digest() == digest else None
