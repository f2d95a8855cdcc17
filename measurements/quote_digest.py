"""The part of a TPM quote that binds registers: which ones, and the digest over their values.

Layout (TPM 2.0 Library part 2, sections 10.12.8 and 10.12.12; big endian), as ``tpm2_quote --message`` writes
it::

    u32 0xff544347 | u16 0x8018 | TPM2B signer | TPM2B extra data | 17 bytes clock | u64 firmware version
    | u32 count | count x (u16 hash | u8 size | bitmap) | TPM2B digest

A TPM2B is a u16 length and that many bytes. **No signature is checked here**: an explanation helps a reader
who already has a verdict, it is no verdict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from measurements.errors import FormatError
from measurements.events import Bank

_MAGIC = 0xFF544347
_QUOTE = 0x8018
_MAX_SELECTIONS = 8
_BANKS = {0x000B: Bank.SHA256, 0x000C: Bank.SHA384}


@dataclass(frozen=True, kw_only=True, slots=True)
class QuotedRegisters:
    """The quoted registers in order, by bank, and the digest over their concatenated values."""

    selection: tuple[tuple[Bank, tuple[int, ...]], ...]
    digest: bytes

    def matches(self, registers: Mapping[Bank, Mapping[int, bytes]]) -> bool:
        """Whether the digest is that of these register values; absent ones count as zero."""
        values = b"".join(
            registers.get(bank, {}).get(pcr, bytes(bank.size))
            for bank, pcrs in self.selection
            for pcr in pcrs
        )
        name = {32: "sha256", 48: "sha384"}.get(len(self.digest))
        return name is not None and hashlib.new(name, values).digest() == self.digest


def parse_quote(data: bytes, *, subject: str = "quote") -> QuotedRegisters:
    """Read a quote; raises ``FormatError`` unless it is one to its last byte, over known banks only."""
    reader = _Reader(data, subject)
    if reader.number(4) != _MAGIC or reader.number(2) != _QUOTE:
        raise reader.error("is not a TPM quote")
    reader.sized()
    reader.sized()
    reader.take(17 + 8)
    count = reader.number(4)
    if count > _MAX_SELECTIONS:
        raise reader.error(f"selects registers of {count} banks")
    selection = tuple(_selection(reader) for _ in range(count))
    digest = reader.sized()
    if reader.left:
        raise reader.error("has bytes after its end")
    return QuotedRegisters(selection=selection, digest=digest)


class _Reader:
    def __init__(self, data: bytes, subject: str) -> None:
        self._data = data
        self._at = 0
        self._subject = subject

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise self.error("is cut short")
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        return self.take(self.number(2))

    def error(self, reason: str) -> FormatError:
        return FormatError(
            reason, subject=self._subject, advice="give the file that tpm2_quote --message writes"
        )


def _selection(reader: _Reader) -> tuple[Bank, tuple[int, ...]]:
    number = reader.number(2)
    bank = _BANKS.get(number)
    if bank is None:
        raise reader.error(f"selects registers of bank {number:#06x}, which is not predicted")
    bitmap = reader.take(reader.number(1))
    pcrs = tuple(pcr for pcr in range(8 * len(bitmap)) if bitmap[pcr // 8] >> (pcr % 8) & 1)
    return bank, pcrs
