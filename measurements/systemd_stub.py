"""What systemd-stub does with a UKI: what it measures, the initrd and command line it hands to the kernel.

Rules by stub version (systemd ``src/boot/stub.c``, ``src/boot/cpio.c``, ``src/fundamental/uki.c``; confirmed
by boots of 252, 254, 255, 257, 259 and 262):

- PCR 11: for every section it knows and finds, in its own order and not the file's, ``H(name ‖ NUL)`` and
  ``H(first VirtualSize bytes)``; never ``.pcrsig``.
- From 257 on, a section ``.profile`` starts a profile, whose sections go before those ahead of the first one.
  The first profile is used: nothing chooses another in a boot without boot loader.
- The inner kernel is started through firmware, and measured into PCR 4, only by 252-257 and only while Secure
  Boot is off.
- The final initrd is ``.ucode``, ``.initrd``, then one cpio archive per embedded file that the version knows
  (``measurements.stub_archive``); if there are several parts each is padded with zeros to 4 bytes.
- The command line loses white space at both ends, and control characters inside become blanks.

What the stub takes up besides the UKI, and measures into PCR 1, 12 and 13, is in ``measurements.stub_run``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from measurements.errors import FormatError
from measurements.events import Bank, EventType, MeasuredEvent, event_over
from measurements.pe import parse_pe, section_content, section_data, stub_version
from measurements.stub_archive import archive, concatenated

PCR = 11
PROFILE = ".profile"
OLDEST = 252
NEWEST = 262
UNKNOWN = (253, 256, 260, 261)
"""Versions in the range whose rules no boot has confirmed."""

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
_CODE = ".text"
_CC_PROTOCOL = UUID("96751a3d-72f4-41a6-a794-ed5d0e67ae6b").bytes_le[:8]
"""Start of the GUID of EFI_CC_MEASUREMENT_PROTOCOL (UEFI 2.10, section 38.2.1), as code loads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Uki:
    """A UKI as its stub sees it: the stub's major version and the sections, each ``VirtualSize`` bytes.

    ``trust_domains``: whether the stub knows the protocol by which trust domains measure; of the versions
    here 252 and 254 do not.
    """

    version: int
    sections: Mapping[str, bytes]
    trust_domains: bool = True

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
            advice=f"use a stub from {OLDEST} to {NEWEST}, except {', '.join(map(str, UNKNOWN))}",
        )
    sections = _own_sections(image, version, subject)
    if ".linux" not in sections:
        raise FormatError(
            "holds no kernel",
            subject=subject,
            advice="give a unified kernel image (systemd-stub with .linux)",
        )
    code = section_data(parse_pe(image, subject=subject), image, _CODE, subject=subject)
    return Uki(version=version, sections=sections, trust_domains=_CC_PROTOCOL in code)


def _own_sections(image: bytes, version: int, subject: str) -> dict[str, bytes]:
    """The sections that the stub goes by; raises ``FormatError`` where one of them is there twice."""
    known = {*_SECTIONS_SINCE, ".pcrsig"}
    groups: list[dict[str, bytes]] = [{}]
    for section in parse_pe(image, subject=subject).sections:
        if section.name == PROFILE and version >= _SECTIONS_SINCE[PROFILE]:
            groups.append({})
        if section.name not in known or not section.virtual_size:
            continue
        if section.name in groups[-1]:
            raise FormatError(
                f"has the section {section.name} twice",
                subject=subject,
                advice="build the UKI again, with one section of each kind in each profile",
            )
        groups[-1][section.name] = section_content(section, image, subject=subject)
    return {name: data for group in groups[:2] for name, data in group.items()}


def measured_sections(uki: Uki) -> Iterator[tuple[str, bytes]]:
    """Name and data of the sections that the stub measures, in its order."""
    for name, since in _SECTIONS_SINCE.items():
        data = uki.sections.get(name)
        if data is not None and uki.version >= since:
            yield name, data


def section_events(
    uki: Uki, *, origin: str = "uki.efi", digests: Mapping[str, Mapping[Bank, bytes]] | None = None
) -> list[MeasuredEvent]:
    """PCR 11: name and data of each measured section. ``digests`` are those of the sections by name, if they
    are known already.
    """
    return [
        event_over(
            measured,
            pcr=PCR,
            event_type=EventType.EV_IPL,
            description=f"UKI section {name}: {what}",
            origin=f"section {name} of {origin}",
            digests=known,
        )
        for name, data in measured_sections(uki)
        for what, measured, known in (
            ("name", name.encode() + b"\0", None),
            ("data", data, None if digests is None else digests[name]),
        )
    ]


def measures_inner_kernel(uki: Uki, *, secure_boot: bool) -> bool:
    """Whether the inner kernel is measured into PCR 4."""
    return uki.version <= 257 and not secure_boot


def final_initrd(
    uki: Uki,
    *,
    microcode: Sequence[bytes] = (),
    sidecars: Sequence[bytes] = (),
    initrds: Sequence[bytes] = (),
) -> bytes:
    """The initrd that the kernel receives; empty if there is none. ``microcode`` and ``initrds`` come from
    add-ons, ``sidecars`` are the archives of files next to the UKI, all in the order of the stub.
    """
    parts = [*microcode, *(uki.sections[name] for name in (".ucode", ".initrd") if _takes(uki, name))]
    parts += sidecars
    for name, file_name, since in _EMBEDDED_FILES:
        if name in uki.sections and uki.version >= since:
            parts.append(archive(_FOLDER, {file_name: uki.sections[name]}))
    return concatenated([*parts, *initrds])


def final_command_line(uki: Uki) -> str:
    """The command line that the UKI alone gives the kernel. Raises ``FormatError`` if the section is not
    ASCII: the stub would widen each byte by itself.
    """
    return trimmed(section_text(uki.sections.get(".cmdline", b""), subject="UKI"))


def section_text(section: bytes, *, subject: str) -> str:
    """A command line as a section holds it: up to the first NUL; raises ``FormatError`` unless ASCII."""
    raw = section.split(b"\0", 1)[0]
    if not raw.isascii():
        raise FormatError(
            "has a command line that is not ASCII", subject=subject, advice="write the command line in ASCII"
        )
    return raw.decode("ascii")


def trimmed(line: str) -> str:
    """A command line without white space at its ends, with blanks for the control characters inside."""
    blanked = "".join(" " if ord(c) <= 0x20 or ord(c) == 0x7F else c for c in line)
    return blanked.strip(" ")


def _takes(uki: Uki, name: str) -> bool:
    return name in uki.sections and uki.version >= _SECTIONS_SINCE[name]
