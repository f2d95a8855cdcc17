"""Inputs that are made to cost their reader time or memory, and mutations of good ones. All the same in every
run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

MEBIBYTE = 1 << 20


def hostile_inputs(seeds: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """Up to 1 MiB each, with what it is."""
    yield "nothing", b""
    yield "zeros", bytes(MEBIBYTE)
    yield "ones", b"\xff" * MEBIBYTE
    yield "blanks", b" " * MEBIBYTE
    yield "letters", b"A" * MEBIBYTE
    yield "digits", b"1" * MEBIBYTE
    yield "noise", random.Random(1).randbytes(MEBIBYTE)
    yield "JSON lists", b"[" * MEBIBYTE
    yield "JSON empty objects", b"[" + b"{}," * (MEBIBYTE // 3 - 1) + b"{}]"
    yield "JSON objects in objects", b'{"a":' * (MEBIBYTE // 5)
    yield "JSON numbers", b"[" + b"0," * (MEBIBYTE // 2 - 2) + b"0]"
    yield "JSON quotes", b'"' * MEBIBYTE
    yield "JSON backslashes", b'"' + b"\\" * (MEBIBYTE - 1)
    yield "JSON escapes", b'{"a":"' + b"\\u0041" * (MEBIBYTE // 6 - 2) + b'"}'
    yield "JSON many digits", b"[" + b"9" * (MEBIBYTE - 2) + b"]"
    yield "CBOR empty arrays", b"\x9a\x00\x0f\xff\xf0" + b"\x80" * 0xFFFF0
    yield "CBOR arrays in arrays", b"\x81" * MEBIBYTE
    yield "CBOR tags", b"\xc2" * MEBIBYTE
    yield "CBOR long array", b"\x9b\x00\x00\x00\xff\xff\xff\xff\xff" + bytes(64)
    yield "DER in DER", b"\x30\x83\x0f\xff\xf0" * (MEBIBYTE // 5)
    yield "PEM heads", b"-----BEGIN CERTIFICATE-----\n" * (MEBIBYTE // 28)
    yield "XML in XML", b"<a>" * (MEBIBYTE // 3)
    for number, seed in enumerate(seeds):
        if 0 < len(seed) < MEBIBYTE:
            yield f"seed {number} and zeros", seed + bytes(MEBIBYTE - len(seed))
            yield f"seed {number} again and again", seed * (MEBIBYTE // len(seed))


def mutations(seeds: Sequence[bytes], count: int, *, name: str) -> Iterator[bytes]:
    """``count`` inputs near the seeds, chosen by ``name``."""
    chance = random.Random(name)
    pool = [seed for seed in seeds if seed] or [b"\0"]
    for _ in range(count):
        data = bytearray(chance.choice(pool))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            _mutate(data, chance, pool)
        yield bytes(data)


def _mutate(data: bytearray, chance: random.Random, pool: Sequence[bytes]) -> None:
    at = chance.randrange(len(data)) if data else 0
    end = min(len(data), at + chance.choice((1, 2, 4, 8, 64)))
    kind = chance.randrange(7)
    if kind == 0 and data:
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1 and data:
        data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at:end]
    elif kind == 4:
        data[at:at] = chance.randbytes(end - at)
    elif kind == 5:
        data[at:at] = data[at:end]
    else:
        other = chance.choice(pool)
        start = chance.randrange(len(other))
        data[at:end] = other[start : start + end - at]
