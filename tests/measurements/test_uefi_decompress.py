"""The decompressor of option ROMs, on streams made by hand."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.uefi_decompress import MAX_SIZE, decompress


def _stream(bits: str, size: int) -> bytes:
    padded = bits.replace(" ", "")
    padded += "0" * (-len(padded) % 8)
    data = bytes(int(padded[index : index + 8], 2) for index in range(0, len(padded), 8))
    return struct.pack("<II", len(data), size) + data


def _number(value: int, width: int) -> str:
    return f"{value:0{width}b}"


def _one_symbol_block(symbol: int, count: int) -> str:
    return (
        _number(count, 16)
        + _number(0, 5) * 2
        + _number(0, 9)
        + _number(symbol, 9)
        + _number(0, 4)
        + _number(0, 4)
    )


def _literal_and_match_block() -> str:
    # Extra codes: 19 lengths, of which code 2 (long runs of zero) has 1 bit and code 3 (length 1) has 1 bit.
    extra = _number(4, 5) + "000" * 2 + "001" + "00" + "001"
    # Symbols: 65 zeros, "A" with 1 bit, 190 zeros, match of length 3 (symbol 256) with 1 bit.
    symbols = _number(257, 9) + "0" + _number(45, 9) + "1" + "0" + _number(170, 9) + "1"
    # One literal, then one match; the only distance code is 0, the byte before.
    return _number(2, 16) + extra + symbols + _number(0, 4) + _number(0, 4) + "0" + "1"


def test_block_of_one_symbol() -> None:
    assert decompress(_stream(_one_symbol_block(65, 300), 300), subject="rom") == b"A" * 300


def test_blocks_follow_each_other() -> None:
    bits = _one_symbol_block(65, 2) + _one_symbol_block(66, 1)
    assert decompress(_stream(bits, 3), subject="rom") == b"AAB"


def test_match_repeats_what_came_before() -> None:
    assert decompress(_stream(_literal_and_match_block(), 4), subject="rom") == b"AAAA"


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"1234567", "cut short"),
        (struct.pack("<II", 100, 10) + bytes(10), "impossible size"),
        (struct.pack("<II", 0, MAX_SIZE + 1), "impossible size"),
        (_stream(_one_symbol_block(65, 300), 301)[:-1], "impossible size"),
        (_stream(_one_symbol_block(65, 3), 2), "longer than it claims"),
        (_stream(_one_symbol_block(65, 0), 2), "empty block"),
        (_stream(_one_symbol_block(256, 1), 3), "before its start"),
        (_stream(_one_symbol_block(65, 2), 100), "cut short"),
    ],
)
def test_damaged_streams_are_refused(stream: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        decompress(stream, subject="rom")


@given(data=st.binary(max_size=300), size=st.integers(0, 5000))
def test_any_bits_give_the_size_or_an_error(data: bytes, size: int) -> None:
    with suppress(FormatError):
        assert len(decompress(struct.pack("<II", len(data), size) + data, subject="rom")) == size
