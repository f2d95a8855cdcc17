"""Confidential computing event logs: the ACPI table that points to one, and what its events yield.

Table ``CCEL`` (ACPI 6.5, section 5.2.34; 56 bytes, little endian)::

    36 bytes ACPI header (signature "CCEL", u32 length 56, u8 revision, u8 checksum, ...)
    | u8 CC type (2: TDX) | u8 CC subtype | u16 reserved | u64 length of the log area | u64 its address

The log has the form of ``measurements.eventlog``, but its register indices are those of ``cc_mapping``: 0 is
MRTD, which nothing can extend, 1 to 4 are RTMR0 to RTMR3. An informative record may carry 0xFFFFFFFF. After
the last record only zeros or 0xFF follow. Of hash algorithms a trust domain has SHA-384 alone; logs of Hygon
CSV machines have the same form with SM3.

The log is the word of the guest's firmware and kernel: only a replay that equals a quote's registers makes
its digests true, and even then not the data beside them.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from measurements.errors import FormatError
from measurements.eventlog import Algorithm, EventLog, parse_event_log
from measurements.tdx.cc_mapping import CcRegister

TABLE_SIZE = 56
CC_TYPE_TDX = 2
MAX_IMA_LINES = 1 << 16

_TABLE = struct.Struct("<4sIBB6s8sIII BBHQQ")
_IMA_LINE = re.compile(r" ?([0-9]{1,2}) ([0-9a-f]{2,128}) (\S+) .*")
_IMA_REGISTER = 2
_NO_REGISTER = 0xFFFFFFFF
_ADVICE = "read table and log again from /sys/firmware/acpi/tables of the trust domain"


class CcelError(FormatError):
    """A table or log that is not that of a trust domain."""

    code = "ccel"


@dataclass(frozen=True, kw_only=True, slots=True)
class CcelTable:
    """Where the log is in guest memory, in bytes."""

    length: int
    address: int


def parse_ccel_table(data: bytes, *, subject: str = "CCEL table") -> CcelTable:
    """Read the ACPI table; raises ``CcelError`` unless it is a whole one for TDX."""
    if len(data) != TABLE_SIZE:
        raise _error(subject, f"has {len(data)} bytes, {TABLE_SIZE} expected")
    signature, length, *_, kind, subtype, _, area, address = _TABLE.unpack(data)
    if signature != b"CCEL" or length != TABLE_SIZE:
        raise _error(
            subject, f"starts with {signature!r} and length {length}, b'CCEL' and {TABLE_SIZE} expected"
        )
    if sum(data) & 0xFF:
        raise _error(subject, "has a wrong checksum (byte 9)")
    if kind != CC_TYPE_TDX:
        raise _error(subject, f"is of CC type {kind}, subtype {subtype} (byte 36); 2 is expected for TDX")
    return CcelTable(length=area, address=address)


def parse_cc_log(data: bytes, *, subject: str = "CC event log") -> EventLog:
    """Read a log of a trust domain; raises ``CcelError`` or ``FormatError`` for any other."""
    log = parse_event_log(data, subject=subject)
    if log.algorithms != (Algorithm.SHA384,):
        names = ", ".join(algorithm.bank for algorithm in log.algorithms)
        hygon = " (a log of a Hygon CSV machine)" if Algorithm.SM3_256 in log.algorithms else ""
        raise _error(subject, f"has digests of {names}{hygon}, but a trust domain has sha384 only")
    for event in log.events:
        if event.extends and event.pcr not in range(CcRegister.RTMR0, CcRegister.RTMR3 + 1):
            raise _error(
                subject, f"extends register {event.pcr} at byte {event.offset}; 1 to 4 can be extended"
            )
        if not event.extends and event.pcr > CcRegister.RTMR3 and event.pcr != _NO_REGISTER:
            raise _error(
                subject, f"has a record for register {event.pcr} at byte {event.offset}; 0 to 4 exist"
            )
    return log


def replay_rtmrs(log: EventLog, *, ima: Iterable[bytes] = ()) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0 to RTMR3 after ``log`` and then the template digests ``ima``, which extend RTMR2."""
    values = log.replay(Algorithm.SHA384)
    start = bytes(Algorithm.SHA384.digest_size)
    rtmr0, rtmr1, rtmr2, rtmr3 = (values.get(index, start) for index in range(1, 5))
    for digest in ima:
        rtmr2 = hashlib.sha384(rtmr2 + digest.ljust(len(start), b"\0")).digest()
    return rtmr0, rtmr1, rtmr2, rtmr3


def parse_ima_log(text: str, *, subject: str = "IMA log") -> Sequence[bytes]:
    """Template digests of the ASCII measurement list of a kernel whose IMA extends RTMR2.

    cc-trusted-api's kernels do. A line is ``2 <template digest> <template> <fields>``; shorter digests are
    padded with zeros when extended.
    """
    lines = text.splitlines()
    if len(lines) > MAX_IMA_LINES:
        raise _error(subject, f"has more than {MAX_IMA_LINES} lines")
    digests: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        match = _IMA_LINE.fullmatch(line)
        if match is None or len(match[2]) % 2 or int(match[1]) != _IMA_REGISTER:
            raise _error(subject, f"has a line {number} that is no measurement into RTMR2")
        digest = bytes.fromhex(match[2])
        if len(digest) > Algorithm.SHA384.digest_size:
            raise _error(
                subject, f"has a digest of {len(digest)} bytes in line {number}, at most 48 expected"
            )
        digests.append(digest)
    return digests


def _error(subject: str, reason: str) -> CcelError:
    return CcelError(reason, subject=subject, advice=_ADVICE)
