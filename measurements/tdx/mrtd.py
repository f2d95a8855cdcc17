"""MRTD: what the VMM put into a trust domain before it ran.

Source: Intel TDX Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND. MRTD is SHA-384 over a stream of records:

- a page is added: 128 bytes, ``MEM.PAGE.ADD`` at 0, u64 little endian guest physical address at 16, else
  zero;
- 256 bytes of it are measured: 128 bytes, ``MR.EXTEND`` at 0, u64 address of the bytes at 16, else zero; then
  the 256 bytes.

Sections of the firmware come in the order of its metadata. How the records of one section are mixed is the
VMM's choice, so a firmware has one MRTD per order (``PageOrder``).
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from measurements.platforms import RegisterEvent
from measurements.tdx.tdvf import PAGE, Section, SectionType, Tdvf, TdvfError

CHUNK = 256
BANK = "sha384"
SIZE = 48

_CHUNKS = PAGE // CHUNK
_ADD = struct.Struct("<16sQ104x")
_EXTENDS = struct.Struct("<" + f"16sQ104x{CHUNK}s" * _CHUNKS)
_ADDED, _EXTENDED = b"MEM.PAGE.ADD", b"MR.EXTEND"
_RECORDS_AT_ONCE = 64


class PageOrder(StrEnum):
    """How a VMM orders the records of a section.

    ``ALL_REGIONS`` is a defect of early Google hypervisors, which measured the contents of every region,
    whatever the metadata say (google/gce-tcb-verifier, ``tdx/measurement.go``).
    """

    SINGLE_PASS = "single-pass"
    TWO_PASS = "two-pass"
    ALL_REGIONS = "all-regions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mrtd:
    """The value and one event per section, whose digest is the value up to there."""

    value: bytes
    events: tuple[RegisterEvent, ...]


def compute_mrtd(firmware: Tdvf, *, order: PageOrder, td_hob: bytes | None = None) -> Mrtd:
    """MRTD of ``firmware`` under a VMM that orders pages by ``order``.

    Only ``ALL_REGIONS`` needs ``td_hob``, the list of memory ranges as the VMM wrote it.
    """
    stream = hashlib.sha384()
    events: list[RegisterEvent] = []
    # One thread hashes while this one makes the next records; both take about the same time.
    with ThreadPoolExecutor(max_workers=1) as hasher:
        for section in firmware.sections:
            if not section.added:
                continue
            for piece in _records(firmware, section, order, td_hob):
                hasher.submit(stream.update, piece)
                # Lets the other thread have the interpreter, or it would wait milliseconds for each piece.
                time.sleep(0)
            value = hasher.submit(stream.digest).result()
            events.append(_event(firmware, section, order, value))
    return Mrtd(value=value, events=tuple(events))


def measured(section: Section, order: PageOrder) -> bool:
    """Whether MRTD covers the contents of ``section``, and not only that it is there."""
    return section.added and (section.extended or order is PageOrder.ALL_REGIONS)


def _records(firmware: Tdvf, section: Section, order: PageOrder, td_hob: bytes | None) -> Iterator[bytes]:
    if not measured(section, order):
        yield from _joined(_added(section))
    elif order is PageOrder.TWO_PASS:
        yield from _joined(_added(section))
        yield from _joined(_extended(section, _contents(firmware, section, td_hob)))
    else:
        contents = _contents(firmware, section, td_hob)
        pairs = zip(_added(section), _extended(section, contents), strict=True)
        yield from _joined(record for pair in pairs for record in pair)


def _joined(records: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in large pieces: hashing many small ones would cost more than the hash."""
    while batch := [record for _, record in zip(range(_RECORDS_AT_ONCE), records, strict=False)]:
        yield b"".join(batch)


def _added(section: Section) -> Iterator[bytes]:
    for address in range(section.address, section.end, PAGE):
        yield _ADD.pack(_ADDED, address)


def _extended(section: Section, contents: bytes) -> Iterator[bytes]:
    """The 16 records of each page."""
    for place in range(0, section.size, PAGE):
        fields: list[bytes | int] = []
        for chunk in range(place, place + PAGE, CHUNK):
            fields += (_EXTENDED, section.address + chunk, contents[chunk : chunk + CHUNK])
        yield _EXTENDS.pack(*fields)


def _contents(firmware: Tdvf, section: Section, td_hob: bytes | None) -> bytes:
    if section.kind is not SectionType.TD_HOB:
        return bytes(firmware.contents(section)).ljust(section.size, b"\0")
    if td_hob is None or len(td_hob) > section.size:
        raise TdvfError(
            f"has a measured TD HOB section of {section.size} bytes, for which no fitting contents are given",
            subject=firmware.name,
            advice="give the TD HOB that the hypervisor writes for the machine's memory",
        )
    return td_hob.ljust(section.size, b"\0")


def _event(firmware: Tdvf, section: Section, order: PageOrder, value: bytes) -> RegisterEvent:
    what = "pages and contents" if measured(section, order) else "pages"
    return RegisterEvent(
        register="mrtd",
        event_type="MRTD section",
        digests={BANK: value},
        description=f"{section.words()}: {what}, {order.value}",
        origin=f"TDVF metadata and bytes of {firmware.name}",
        running=True,
    )
