"""What systemd-stub does with a UKI: what it measures, the initrd and command line it hands to the kernel.

Rules by stub version (systemd ``src/boot/stub.c``, ``src/boot/cpio.c``, ``src/fundamental/uki.c``; confirmed
by boots of 252, 255 and 257):

- PCR 11: for every section it knows and finds, in its own order and not the file's, ``H(name ‖ NUL)`` and
  ``H(first VirtualSize bytes)``; never ``.pcrsig``.
- The inner kernel is started through firmware, and measured into PCR 4, only by 252-257 and only while Secure
  Boot is off.
- The final initrd is ``.ucode``, ``.initrd``, then one cpio archive per embedded file that the version knows;
  if there are several parts each is padded with zeros to 4 bytes.
- The command line loses white space at both ends, and control characters inside become blanks.

The archives are of newc form (Linux ``Documentation/driver-api/early-userspace/buffer-format.rst``): inode
numbers from 1, all owners and times zero, one link, lower-case hexadecimal except in the trailer.

PCR 12 and 13 take add-ons, credentials and extensions that lie on the ESP. Our disks have none there, so the
stub measures nothing into them, and both stay zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from measurements.errors import FormatError
from measurements.events import EventType, MeasuredEvent, event_over
from measurements.pe import parse_pe, section_data, stub_version

PCR = 11
OLDEST = 252
NEWEST = 259
UNKNOWN = (253, 256)
"""Versions in the range whose rules are not known; from 260 on, stubs add events to PCR 1."""

_SECTIONS_SINCE: Mapping[str, int] = {
    ".linux": 252,
    ".osrel": 252,
    ".cmdline": 252,
    ".initrd": 252,
    ".ucode": 256,
    ".splash": 252,
    ".dtb": 252,
    ".uname": 254,
    ".sbat": 254,
    ".pcrpkey": 252,
    ".profile": 257,
    ".dtbauto": 257,
    ".hwids": 257,
    ".efifw": 258,
}
"""Measured sections in the stub's order, with the first version that measures each."""

_EMBEDDED_FILES = (
    (".pcrsig", "tpm2-pcr-signature.json", 252),
    (".pcrpkey", "tpm2-pcr-public-key.pem", 252),
    (".osrel", "os-release", 257),
    (".profile", "profile", 257),
)
"""Sections that become files in ``/.extra`` of the initrd, in order, with the first version that does so."""

_FOLDER = ".extra"
_MODE_FOLDER = 0o040555
_MODE_FILE = 0o100444
_TRAILER = b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0\0\0\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Uki:
    """A UKI as its stub sees it: the stub's major version and the sections, each ``VirtualSize`` bytes."""

    version: int
    sections: Mapping[str, bytes]

    @property
    def kernel(self) -> bytes:
        """The inner kernel."""
        return self.sections[".linux"]


def parse_uki(image: bytes, *, subject: str = "UKI") -> Uki:
    """Read a UKI; raises ``FormatError`` if it is none, or its stub's rules are not known."""
    version = stub_version(image, subject=subject).major
    if not OLDEST <= version <= NEWEST or version in UNKNOWN:
        raise FormatError(
            f"is built on systemd-stub {version}, whose measurements are not known",
            subject=subject,
            advice=f"use a stub from {OLDEST} to {NEWEST}, except {' and '.join(map(str, UNKNOWN))}",
        )
    pe = parse_pe(image, subject=subject)
    known = {*_SECTIONS_SINCE, ".pcrsig"}
    sections = {
        section.name: section_data(pe, image, section.name, subject=subject)
        for section in pe.sections
        if section.name in known and section.virtual_size
    }
    if ".linux" not in sections:
        raise FormatError(
            "holds no kernel",
            subject=subject,
            advice="give a unified kernel image (systemd-stub with .linux)",
        )
    return Uki(version=version, sections=sections)


def section_events(uki: Uki, *, origin: str = "uki.efi") -> list[MeasuredEvent]:
    """PCR 11: name and data of each measured section."""
    events: list[MeasuredEvent] = []
    for name, since in _SECTIONS_SINCE.items():
        data = uki.sections.get(name)
        if data is None or uki.version < since:
            continue
        for what, measured in (("name", name.encode() + b"\0"), ("data", data)):
            events.append(
                event_over(
                    measured,
                    pcr=PCR,
                    event_type=EventType.EV_IPL,
                    description=f"UKI section {name}: {what}",
                    origin=f"section {name} of {origin}",
                )
            )
    return events


def measures_inner_kernel(uki: Uki, *, secure_boot: bool) -> bool:
    """Whether the inner kernel is measured into PCR 4."""
    return uki.version <= 257 and not secure_boot


def final_initrd(uki: Uki) -> bytes:
    """The initrd that the kernel receives; empty if there is none."""
    parts = [uki.sections[name] for name in (".ucode", ".initrd") if _takes(uki, name)]
    for name, file_name, since in _EMBEDDED_FILES:
        if name in uki.sections and uki.version >= since:
            parts.append(_archive(file_name, uki.sections[name]))
    if len(parts) < 2:
        return b"".join(parts)
    return b"".join(_padded(part) for part in parts)


def final_command_line(uki: Uki) -> str:
    """The command line that the kernel receives. Raises ``FormatError`` if the section is not ASCII: the stub
    would widen each byte by itself.
    """
    raw = uki.sections.get(".cmdline", b"").split(b"\0", 1)[0]
    if not raw.isascii():
        raise FormatError(
            "has a command line that is not ASCII", subject="UKI", advice="write the command line in ASCII"
        )
    blanked = "".join(" " if ord(c) <= 0x20 or ord(c) == 0x7F else c for c in raw.decode("ascii"))
    return blanked.strip(" ")


def _takes(uki: Uki, name: str) -> bool:
    return name in uki.sections and uki.version >= _SECTIONS_SINCE[name]


def _archive(file_name: str, data: bytes) -> bytes:
    """The archive with one file in ``/.extra``."""
    return b"".join(_records(file_name, data))


def _records(file_name: str, data: bytes) -> Iterator[bytes]:
    yield _record(1, _MODE_FOLDER, _FOLDER, b"")
    yield _record(2, _MODE_FILE, f"{_FOLDER}/{file_name}", data)
    yield _TRAILER


def _record(inode: int, mode: int, path: str, data: bytes) -> bytes:
    name = path.encode("ascii") + b"\0"
    words = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % word for word in words) + name
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
