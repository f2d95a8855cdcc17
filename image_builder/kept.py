"""What was found or made from inputs before, kept in the store by the hash of all it depends on.

``derived/<kind>/<key>/<SHA-256 of the bytes>``: a file whose name is not the hash of its bytes is ignored,
and what it held is made again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from image_builder.store import Store, clear_disk_errors


def kept(store: Store, kind: str, key: str) -> Path | None:
    """The file that :func:`keep` made for ``key``."""
    for path in sorted(store.derived(kind, key).glob("*")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == path.name:
            return path
    return None


def keep(store: Store, kind: str, key: str, data: bytes) -> Path:
    """Keep ``data`` for ``key``; its file."""
    folder = store.derived(kind, key)
    with clear_disk_errors(kind):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / hashlib.sha256(data).hexdigest()
        with tempfile.NamedTemporaryFile(dir=store.root, prefix=f"{kind}-", delete=False) as stream:
            stream.write(data)
        Path(stream.name).replace(path)
    return path


class KeptFacts:
    """JSON values that took long to find; without a store they are found anew each time."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store

    def of(self, kind: str, key: str, find: Callable[[], Any]) -> Any:
        """What ``find`` returned for ``key`` once: a value that JSON holds and ``key`` alone decides."""
        if self._store is None:
            return find()
        path = kept(self._store, kind, key)
        if path is None:
            path = keep(self._store, kind, key, json.dumps(find()).encode())
        return json.loads(path.read_bytes())


NO_FACTS = KeptFacts()
"""KeptFacts without a store."""
