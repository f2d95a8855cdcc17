"""The compression of UEFI option ROMs (UEFI 2.10, chapter 19: LZ77 with Huffman codes).

A stream is u32 compressed size, u32 size (little endian), then bits, highest first, in blocks: u16 number
of symbols, three code length tables, the symbols. Symbols below 256 are bytes; 256 and up are matches of
length symbol - 253, followed by a distance code: 0 and 1 stand for themselves, n > 1 for 2^(n-1) plus the
next n-1 bits.
"""

from __future__ import annotations

import struct

from measurements.errors import FormatError

MAX_SIZE = 16 << 20
_HEADER = struct.Struct("<II")
_SYMBOLS, _SYMBOL_BITS = 510, 9
_EXTRA, _EXTRA_BITS, _EXTRA_GAP = 19, 5, 3
_DISTANCES, _DISTANCE_BITS = 14, 4
_LONGEST_CODE = 16
_FIRST_MATCH, _SHORTEST_MATCH = 256, 3

Codes = dict[tuple[int, int], int]


def decompress(data: bytes, *, subject: str) -> bytes:
    """The content of a stream; raises FormatError if it is damaged or larger than ``MAX_SIZE``."""
    if len(data) < _HEADER.size:
        raise _bad(subject, "is cut short")
    packed, size = _HEADER.unpack_from(data)
    if size > MAX_SIZE or _HEADER.size + packed > len(data):
        raise _bad(subject, "claims an impossible size")
    bits = _Bits(data[_HEADER.size : _HEADER.size + packed], subject)
    output = bytearray()
    while len(output) < size:
        _block(bits, output, size)
    return bytes(output)


class _Bits:
    """Reads bits, highest first."""

    def __init__(self, data: bytes, subject: str) -> None:
        self._data = data
        self._position = 0
        self._buffer = 0
        self._held = 0
        self.subject = subject

    def take(self, count: int) -> int:
        while self._held < count:
            if self._position >= len(self._data):
                raise _bad(self.subject, "is cut short")
            self._buffer = (self._buffer << 8 | self._data[self._position]) & 0xFFFFFFFF
            self._position += 1
            self._held += 8
        self._held -= count
        return self._buffer >> self._held & ((1 << count) - 1)

    def symbol(self, codes: Codes) -> int:
        """The symbol of the next code; an only symbol has a code of no bits."""
        code = 0
        for length in range(_LONGEST_CODE + 1):
            found = codes.get((length, code))
            if found is not None:
                return found
            code = code << 1 | self.take(1)
        raise _bad(self.subject, "has a code that stands for nothing")


def _block(bits: _Bits, output: bytearray, size: int) -> None:
    count = bits.take(16)
    extra = _lengths(bits, _EXTRA, _EXTRA_BITS, gap=_EXTRA_GAP)
    symbols = _symbol_lengths(bits, extra)
    distances = _lengths(bits, _DISTANCES, _DISTANCE_BITS, gap=None)
    if not count:
        raise _bad(bits.subject, "has an empty block")
    for _ in range(count):
        symbol = bits.symbol(symbols)
        if symbol < _FIRST_MATCH:
            output.append(symbol)
        else:
            _copy(output, _distance(bits, distances), symbol - _FIRST_MATCH + _SHORTEST_MATCH, bits.subject)
        if len(output) > size:
            raise _bad(bits.subject, "is longer than it claims")


def _distance(bits: _Bits, codes: Codes) -> int:
    code = bits.symbol(codes)
    return code if code <= 1 else (1 << (code - 1)) + bits.take(code - 1)


def _copy(output: bytearray, distance: int, length: int, subject: str) -> None:
    start = len(output) - distance - 1
    if start < 0:
        raise _bad(subject, "refers to bytes before its start")
    for index in range(start, start + length):
        output.append(output[index])


def _lengths(bits: _Bits, limit: int, width: int, *, gap: int | None) -> Codes:
    count = bits.take(width)
    if not count:
        return {(0, 0): bits.take(width)}
    lengths: list[int] = []
    while len(lengths) < count:
        length = bits.take(3)
        while length >= 7 and bits.take(1):
            length += 1
        lengths.append(length)
        if len(lengths) == gap:
            lengths += [0] * bits.take(2)
    return _codes(lengths, limit, bits.subject)


def _symbol_lengths(bits: _Bits, extra: Codes) -> Codes:
    count = bits.take(_SYMBOL_BITS)
    if not count:
        return {(0, 0): bits.take(_SYMBOL_BITS)}
    lengths: list[int] = []
    while len(lengths) < count:
        code = bits.symbol(extra)
        if code == 0:
            lengths.append(0)
        elif code == 1:
            lengths += [0] * (bits.take(4) + 3)
        elif code == 2:
            lengths += [0] * (bits.take(_SYMBOL_BITS) + 20)
        else:
            lengths.append(code - 2)
    return _codes(lengths, _SYMBOLS, bits.subject)


def _codes(lengths: list[int], limit: int, subject: str) -> Codes:
    """Canonical codes: by length, then by symbol."""
    if len(lengths) > limit or max(lengths, default=0) > _LONGEST_CODE:
        raise _bad(subject, "has an impossible code table")
    codes: Codes = {}
    code = 0
    for length in range(1, _LONGEST_CODE + 1):
        for symbol, own in enumerate(lengths):
            if own == length:
                codes[length, code] = symbol
                code += 1
        code <<= 1
    return codes


def _bad(subject: str, reason: str) -> FormatError:
    return FormatError(f"its compressed data {reason}", subject=subject, advice="give an intact option ROM")
