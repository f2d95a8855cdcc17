"""TCG event logs: the binary log that firmware and kernel keep of everything that extended a TPM register.

Layout (TCG PC Client Platform Firmware Profile 1.06, sections 10.2.1 and 10.4.5; little endian, packed).

The first record always has the old form, ``TCG_PCR_EVENT``::

    u32 register index | u32 event type | 20 bytes SHA-1 digest | u32 data length | data

If it is an EV_NO_ACTION whose data is a ``TCG_EfiSpecIDEvent``::

    16 bytes "Spec ID Event03\\0" | u32 platform class | u8 minor | u8 major | u8 errata | u8 uintn size
    | u32 count | count x (u16 algorithm, u16 digest length) | u8 vendor length | vendor bytes

then every later record is a ``TCG_PCR_EVENT2``::

    u32 register index | u32 event type | u32 count | count x (u16 algorithm, digest) | u32 data length | data

otherwise (logs of TPM 1.2 form) every later record has the old form, too. The log ends with its bytes, or
with padding that is wholly zero or wholly 0xFF.

Only the standard library is used: this module ships in the guest. It reads bytes of a hostile host: every
length is checked before it is used, and anything irregular raises ``FormatError``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from measurements.errors import FormatError

MAX_LOG_SIZE = 16 << 20
"""Largest log that is read, in bytes; firmware reserves 64 KiB, and a kernel's whole log stays far below."""

MAX_RECORDS = 2048
"""Most records that are read: the longest real log at hand has 203."""

MAX_ALGORITHMS = 8

EV_NO_ACTION = 0x00000003
EV_EFI_HCRTM_EVENT = 0x80000010

SPEC_ID = b"Spec ID Event03\0"
STARTUP_LOCALITY = b"StartupLocality\0"
HCRTM_LOCALITY = 4

_RECORD_HEAD = struct.Struct("<III")
_OLD_HEAD = struct.Struct("<II20sI")
_SPEC_ID_HEAD = struct.Struct("<IBBBBI")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_NO_PCR = 0xFFFFFFFF
_ADVICE = "read the log again from the machine; a log that was cut or edited cannot be used"


class Algorithm(IntEnum):
    """Hash algorithms of a log (TCG Algorithm Registry 1.34, table 3)."""

    SHA1 = 0x0004
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    SM3_256 = 0x0012

    @property
    def digest_size(self) -> int:
        """Digest length in bytes."""
        return {4: 20, 0xB: 32, 0xC: 48, 0xD: 64, 0x12: 32}[self.value]

    @property
    def bank(self) -> str:
        """Name of the bank, as ``hashlib`` and TPM tools write it."""
        return self.name.lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEvent:
    """One record: ``digests`` holds raw bytes by algorithm, ``offset`` is its place in the log."""

    pcr: int
    event_type: int
    digests: Mapping[Algorithm, bytes]
    data: bytes
    offset: int

    @property
    def extends(self) -> bool:
        """Whether the record extended its register; EV_NO_ACTION only informs."""
        return self.event_type != EV_NO_ACTION


@dataclass(frozen=True, kw_only=True, slots=True)
class EventLog:
    """A parsed log; ``events`` holds all records after the one that names the algorithms."""

    algorithms: tuple[Algorithm, ...]
    crypto_agile: bool
    vendor_info: bytes
    events: tuple[LogEvent, ...]

    def start_value(self, pcr: int, algorithm: Algorithm) -> bytes:
        """Value of a register before its first event: zeros, but for PCR 0 the start-up locality in the last
        byte (TCG PC Client Platform Firmware Profile 1.06, sections 3.3.2 and 10.4.5.3). 17-22 start at ones.
        """
        if 17 <= pcr <= 22:
            return b"\xff" * algorithm.digest_size
        locality = _startup_locality(self.events) if pcr == 0 else 0
        return bytes(algorithm.digest_size - 1) + bytes([locality])

    def replay(self, algorithm: Algorithm) -> dict[int, bytes]:
        """Register values after the log, for every register with at least one extending record. Raises
        ``FormatError`` if a record lacks the algorithm's digest: such a bank cannot be replayed.
        """
        registers: dict[int, bytes] = {}
        hasher = _hasher(algorithm)
        for event in self.events:
            if not event.extends:
                continue
            digest = event.digests.get(algorithm)
            if digest is None:
                raise FormatError(
                    f"holds no {algorithm.bank} digest for the record at byte {event.offset}",
                    subject="event log",
                    advice="use a machine whose TPM has the bank switched on",
                )
            start = registers.get(event.pcr) or self.start_value(event.pcr, algorithm)
            registers[event.pcr] = hasher(start + digest).digest()
        return registers


def parse_event_log(data: bytes, *, subject: str = "event log") -> EventLog:
    """Parse a whole log. Raises ``FormatError`` for anything that is not exactly a log with its padding."""
    if len(data) > MAX_LOG_SIZE:
        raise FormatError(f"is larger than {MAX_LOG_SIZE} bytes", subject=subject, advice=_ADVICE)
    reader = _Reader(data, subject)
    first = _old_record(reader)
    if first.event_type == EV_NO_ACTION and first.data.startswith(SPEC_ID):
        algorithms, vendor_info = _spec_id(first, subject)
        sizes = {algorithm.value: (algorithm, algorithm.digest_size) for algorithm in algorithms}
        events = _records(reader, lambda: _record(reader, sizes))
        return EventLog(
            algorithms=algorithms, crypto_agile=True, vendor_info=vendor_info, events=tuple(events)
        )
    events = [first, *_records(reader, lambda: _old_record(reader))]
    return EventLog(algorithms=(Algorithm.SHA1,), crypto_agile=False, vendor_info=b"", events=tuple(events))


def _records(reader: _Reader, read: Callable[[], LogEvent]) -> list[LogEvent]:
    """All records up to the padding."""
    events: list[LogEvent] = []
    while not reader.at_end():
        if len(events) == MAX_RECORDS:
            raise reader.error(f"has more than {MAX_RECORDS} records")
        events.append(read())
    return events


class _Reader:
    """Bytes of the log with a position; every read is bounded."""

    def __init__(self, data: bytes, subject: str) -> None:
        self._data = data
        self._subject = subject
        self._end = min(len(data.rstrip(b"\0")), len(data.rstrip(b"\xff")))
        """From here on there is only padding. An event cannot start like it: type 0 does not come with PCR 0,
        no algorithms and no data, and 0xFFFFFFFF is no type.
        """
        self.position = 0

    def take(self, size: int, what: str) -> bytes:
        start, end = self.position, self.position + size
        if end > len(self._data):
            raise self._short(size, what)
        self.position = end
        return self._data[start:end]

    def unpack(self, form: struct.Struct, what: str) -> tuple[Any, ...]:
        start = self.position
        self.position += form.size
        if self.position > len(self._data):
            self.position = start
            raise self._short(form.size, what)
        return form.unpack_from(self._data, start)

    def at_end(self) -> bool:
        """Whether only padding is left."""
        return self.position >= self._end

    def error(self, reason: str) -> FormatError:
        return FormatError(f"{reason} (at byte {self.position})", subject=self._subject, advice=_ADVICE)

    def _short(self, size: int, what: str) -> FormatError:
        return self.error(f"{what} needs {size} bytes, but {len(self._data) - self.position} are left")


def _old_record(reader: _Reader) -> LogEvent:
    offset = reader.position
    pcr, event_type, digest, length = reader.unpack(_OLD_HEAD, "a record's head")
    data = reader.take(length, "event data")
    _check_register(reader, pcr, event_type)
    return LogEvent(
        pcr=pcr, event_type=event_type, digests={Algorithm.SHA1: digest}, data=data, offset=offset
    )


def _record(reader: _Reader, sizes: Mapping[int, tuple[Algorithm, int]]) -> LogEvent:
    offset = reader.position
    pcr, event_type, count = reader.unpack(_RECORD_HEAD, "a record's head")
    _check_register(reader, pcr, event_type)
    if not 1 <= count <= len(sizes):
        raise reader.error(f"a record has {count} digests, but the log names {len(sizes)} algorithms")
    digests: dict[Algorithm, bytes] = {}
    for _ in range(count):
        (number,) = reader.unpack(_U16, "an algorithm")
        algorithm, size = sizes.get(number, (None, 0))
        if algorithm is None or algorithm in digests:
            raise reader.error(f"a digest of algorithm {number:#06x} is not announced, or comes twice")
        digests[algorithm] = reader.take(size, "a digest")
    (length,) = reader.unpack(_U32, "a data length")
    data = reader.take(length, "event data")
    return LogEvent(pcr=pcr, event_type=event_type, digests=digests, data=data, offset=offset)


def _check_register(reader: _Reader, pcr: int, event_type: int) -> None:
    """A TPM has 24 registers; informative records (SP 800-155) may carry 0xFFFFFFFF instead."""
    if pcr > 23 and not (pcr == _NO_PCR and event_type == EV_NO_ACTION):
        raise reader.error(f"register index {pcr} does not exist")


def _spec_id(first: LogEvent, subject: str) -> tuple[tuple[Algorithm, ...], bytes]:
    """Algorithms and vendor bytes of the ``TCG_EfiSpecIDEvent`` in the first record, which is of PCR 0 (CC
    logs: also of index 1), has a digest of zeros, and nothing that no field accounts for.
    """
    reader = _Reader(first.data, subject)
    reader.take(len(SPEC_ID), "the Spec ID signature")
    platform_class, minor, major, _, uintn_size, count = reader.unpack(_SPEC_ID_HEAD, "the Spec ID header")
    known = (platform_class in (0, 1), (major, minor) == (2, 0), uintn_size in (1, 2))
    if first.pcr not in (0, 1) or any(first.digests[Algorithm.SHA1]) or not all(known):
        raise reader.error("the first record is not one of TPM 2.0's")
    if not 1 <= count <= MAX_ALGORITHMS:
        raise reader.error(f"{count} algorithms announced, 1 to {MAX_ALGORITHMS} expected")
    algorithms: list[Algorithm] = []
    for _ in range(count):
        number, size = struct.unpack("<HH", reader.take(4, "an algorithm entry"))
        algorithm = next((known for known in Algorithm if known == number), None)
        if algorithm is None or algorithm.digest_size != size or algorithm in algorithms:
            raise reader.error(f"algorithm {number:#06x} with digests of {size} bytes is not known, or twice")
        algorithms.append(algorithm)
    vendor_info = reader.take(reader.take(1, "a vendor length")[0], "vendor information")
    if reader.position != len(first.data):
        raise reader.error("the first record goes on after its vendor information")
    return tuple(algorithms), vendor_info


def _startup_locality(events: tuple[LogEvent, ...]) -> int:
    """Locality that started the TPM: from a StartupLocality record before PCR 0's first extend; or 4 if
    that first extend is an H-CRTM event; else 0.
    """
    for event in events:
        if event.pcr != 0:
            continue
        if event.extends:
            return HCRTM_LOCALITY if event.event_type == EV_EFI_HCRTM_EVENT else 0
        if event.data.startswith(STARTUP_LOCALITY) and len(event.data) == len(STARTUP_LOCALITY) + 1:
            return event.data[-1]
    return 0


def _hasher(algorithm: Algorithm) -> Callable[[bytes], hashlib._Hash]:
    """The hash of one algorithm; SM3 is one of OpenSSL's, which may be built without it."""
    if algorithm is not Algorithm.SM3_256:
        constructor: Callable[[bytes], hashlib._Hash] = getattr(hashlib, algorithm.bank)
        return constructor
    try:
        hashlib.new("sm3")
    except ValueError as error:
        raise FormatError(
            "needs the hash sm3, which this Python lacks", subject="event log", advice="use another bank"
        ) from error
    return lambda data: hashlib.new("sm3", data)
