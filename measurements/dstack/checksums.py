"""``sha256sum.txt`` of a dstack release: the file whose SHA-256 is the OS image's hash.

Form (``dstack/dstack-types/src/sha256sum.rs`` since August 2026): lines of 64 lower-case hex digits, two
blanks, a file name of letters, digits, dots, hyphens and underscores that starts with a letter or digit,
newline. Each name once. Nothing else binds the image's hash to its files, so nothing else is taken.
"""

from __future__ import annotations

import re

from measurements.dstack.json_documents import refuse

FILE_NAME = "sha256sum.txt"
MAX_FILE = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")


def parse_checksums(data: bytes, *, subject: str = FILE_NAME) -> dict[str, bytes]:
    """Digests by file name, in the file's order; raises ``DstackFormatError``."""
    if not 0 < len(data) <= MAX_FILE or not data.endswith(b"\n") or not data.isascii():
        refuse(subject, f"is not 1 to {MAX_FILE} bytes of ASCII that end with a newline")
    found: dict[str, bytes] = {}
    for number, line in enumerate(data[:-1].decode("ascii").split("\n"), start=1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] == FILE_NAME:
            refuse(subject, f"line {number} is not a lower-case SHA-256, two blanks and a file name")
        if match[2] in found:
            refuse(subject, f"line {number} names {match[2]} again")
        found[match[2]] = bytes.fromhex(match[1])
    return found
