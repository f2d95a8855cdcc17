"""Small PE images with given sections, as UKIs and add-ons are."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_START = 0x400


def pe_image(sections: Sequence[tuple[str, bytes]]) -> bytes:
    """An x86-64 PE image with these sections (name, content) in this order; not one that runs."""
    table, body = b"", b""
    for number, (name, data) in enumerate(sections):
        padded = data + bytes(-len(data) % 512)
        place = (len(data), 0x1000 * (number + 1), len(padded), _START + len(body))
        table += struct.pack("<8sIIII12xI", name.encode(), *place, 0x40000040)
        body += padded
    optional = bytearray(112)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<II", optional, 32, 0x1000, 0x200)
    struct.pack_into("<II", optional, 56, 0x10000, _START)
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, len(optional), 0x22E)
    head = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0" + coff + bytes(optional) + table
    return head.ljust(_START, b"\0") + body
