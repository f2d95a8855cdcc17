"""Fetches the vectors named in ``tests/vectors.json`` into ``vectors``: what ``make vectors`` runs.

The table names, for each vector, the public repository, the commit, the path there, how the file is encoded,
and the SHA-256 of the decoded bytes. A file with other bytes is never kept. Vectors that other projects
publish only inside their test code (expected register values) are not in the table; tests that need those
skip, saying so.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

TABLE = Path(__file__).resolve().parents[1] / "vectors.json"
FOLDER = TABLE.parents[1] / "vectors"
SOURCE = "https://raw.githubusercontent.com"
TIMEOUT = 60


@dataclass(frozen=True, kw_only=True)
class Vector:
    """One row of the table."""

    vector: str
    repository: str
    commit: str
    path: str
    encoding: str
    sha256: str


def read_table(path: Path = TABLE) -> list[Vector]:
    """All rows."""
    return [Vector(**row) for row in json.loads(path.read_text())]


def fetch(vector: Vector, folder: Path, source: str) -> str:
    """Fetch one vector unless it is there; says what was done. Raises ``ValueError`` for other bytes."""
    target = folder / vector.vector
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == vector.sha256:
        return "present"
    raw = _read(source, f"{vector.repository}/{vector.commit}/{vector.path}")
    data = base64.b64decode(raw) if vector.encoding == "base64" else raw
    found = hashlib.sha256(data).hexdigest()
    if found != vector.sha256:
        raise ValueError(f"expected SHA-256 {vector.sha256}, found {found}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_bytes(data)
    part.replace(target)
    return "fetched"


def _read(source: str, path: str) -> bytes:
    """Bytes below a web address or a folder."""
    if not source.startswith("https://"):
        return Path(source, path).read_bytes()
    response = requests.get(f"{source}/{path}", timeout=TIMEOUT)
    response.raise_for_status()
    return response.content


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch everything; the exit status tells whether all vectors are there."""
    parser = argparse.ArgumentParser(description="Fetch the test vectors.")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--source", default=SOURCE, help="base address; an https mirror or a folder")
    options = parser.parse_args(arguments)
    failed = 0
    for vector in read_table():
        try:
            state = fetch(vector, options.folder, options.source)
        except (OSError, ValueError) as error:
            failed += 1
            state = f"failed: {error}"
        sys.stdout.write(f"{vector.vector}: {state}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
