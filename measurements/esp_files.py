"""Files on the EFI system partition that systemd-stub takes up: add-ons, credentials, extensions.

Anyone who can write the partition can put them there, so they are measured. The stub looks in three places
of the partition that the UKI was started from (systemd-stub(7); systemd ``src/boot/stub.c`` and
``src/boot/cpio.c``; confirmed by boots of 252, 254, 257 and 262):

=========================  ===========================  ==================================================
folder                     names                        becomes
=========================  ===========================  ==================================================
``loader/addons``          ``*.addon.efi`` (from 254)   add-ons for every UKI
``<UKI>.extra.d``          ``*.addon.efi`` (from 254)   add-ons for this UKI
``<UKI>.extra.d``          ``*.cred``                   ``/.extra/credentials`` of the initrd
``loader/credentials``     ``*.cred``                   ``/.extra/global_credentials``
``<UKI>.extra.d``          ``*.raw``                    ``/.extra/sysext``
``loader/extensions``      ``*.raw`` (from 262)         ``/.extra/global_sysext``
``<UKI>.extra.d``          ``*.confext.raw``            ``/.extra/confext`` (from 257; before, as ``*.raw``)
``loader/extensions``      ``*.confext.raw`` (from 262) ``/.extra/global_confext``
=========================  ===========================  ==================================================

Names end so without regard to case, do not start with a dot, are ASCII, and are taken in the order of their
UTF-16 code units. Each folder's files become one cpio archive (``measurements.stub_archive``), measured into
PCR 12, or 13 for system extensions.

An add-on is a PE image that firmware loads, so its Authenticode digest is measured into PCR 4. What its
sections bring is measured into PCR 12: the command lines of all add-ons in one event, then (from 257) every
microcode in reverse order, then every initrd. An add-on whose ``.uname`` is not the UKI's, or that has a
kernel, is loaded and then ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from measurements.errors import FormatError
from measurements.pe import parse_pe, section_data
from measurements.stub_archive import archive

ADDONS_SINCE = 254
ADDONS_UNKNOWN = (255,)
INITRD_ADDONS_SINCE = 257
GLOBAL_EXTENSIONS_SINCE = 262
CONFEXT_SINCE = 257
SECRET_SINCE = 262
"""From here on the stub keeps a random secret in ``loader`` if it can, and hands it to the kernel."""

DEFAULT_UKI = "EFI/BOOT/BOOTX64.EFI"
CONFIG_PCR, EXTENSIONS_PCR = 12, 13
_LIMIT = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class EspFiles:
    """Files of an EFI system partition besides the UKI: path (with ``/``) to content.

    ``uki`` is the path of the UKI; ``writable`` tells whether firmware can write to the disk.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    uki: str = DEFAULT_UKI
    writable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Addon:
    """One add-on that the stub loads; what is ``None`` it does not bring."""

    path: str
    image: bytes
    command_line: bytes | None = None
    initrd: bytes | None = None
    microcode: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """The archive that the stub makes of one folder's files, and the register that it is measured into."""

    pcr: int
    description: str
    data: bytes
    origin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """One row of the table above; ``folder`` empty means the UKI's own. Stubs later than ``absent_until`` and
    earlier than ``since`` may do it or not.
    """

    folder: str
    suffix: str
    target: str
    description: str
    pcr: int = CONFIG_PCR
    since: int = 252
    absent_until: int = 0
    directory_mode: int = 0o555
    file_mode: int = 0o444


_CREDENTIAL = {"directory_mode": 0o500, "file_mode": 0o400}
_RULES = (
    _Rule(folder="", suffix=".cred", target="credentials", description="Credentials initrd", **_CREDENTIAL),
    _Rule(
        folder="loader/credentials",
        suffix=".cred",
        target="global_credentials",
        description="Global credentials initrd",
        **_CREDENTIAL,
    ),
    _Rule(
        folder="",
        suffix=".raw",
        target="sysext",
        description="System extension initrd",
        pcr=EXTENSIONS_PCR,
    ),
    _Rule(
        folder="loader/extensions",
        suffix=".raw",
        target="global_sysext",
        description="Global system extension initrd",
        pcr=EXTENSIONS_PCR,
        since=GLOBAL_EXTENSIONS_SINCE,
        absent_until=257,
    ),
    _Rule(
        folder="",
        suffix=".confext.raw",
        target="confext",
        description="Configuration extension initrd",
        since=CONFEXT_SINCE,
        absent_until=254,
    ),
    _Rule(
        folder="loader/extensions",
        suffix=".confext.raw",
        target="global_confext",
        description="Global configuration extension initrd",
        since=GLOBAL_EXTENSIONS_SINCE,
        absent_until=257,
    ),
)


def check_esp(esp: EspFiles, *, stub: int) -> None:
    """Raise ``FormatError`` where the stub would write to the partition, after which nothing is certain: a
    boot of 262 that kept its secret there handed another initrd to the kernel, and had to leave boot services
    twice, which PCR 5 shows.
    """
    if esp.writable and any(_in_folder(path, "loader") for path in esp.files):
        _refuse(
            "loader",
            f"lets systemd-stub {stub} keep a random seed on the disk"
            + (", and a random secret that it adds to the initrd" if stub >= SECRET_SINCE else ""),
            "attach the disk read-only, or leave the folder out",
        )


def sidecars(esp: EspFiles, *, stub: int) -> list[Sidecar]:
    """The archives of a stub of version ``stub``, in the order in which it measures and appends them.

    Raises ``FormatError`` for a file of which is not known what this version does with it.
    """
    found = []
    for rule in _RULES:
        names = dict(_matching(esp, rule, stub=stub)) if stub > rule.absent_until else {}
        if not names:
            continue
        if stub < rule.since:
            _refuse(
                f"{rule.folder or _own_folder(esp)}/{next(iter(names))}",
                f"may be taken up by systemd-stub {stub} or not, which no boot has shown",
                f"use a stub of {rule.since}, or remove the file",
            )
        data = archive(
            f".extra/{rule.target}",
            names,
            directory_mode=rule.directory_mode,
            file_mode=rule.file_mode,
        )
        folder = rule.folder or _own_folder(esp)
        origin = f"{', '.join(names)} in {folder} of the EFI system partition"
        found.append(Sidecar(pcr=rule.pcr, description=rule.description, data=data, origin=origin))
    return found


def addons(esp: EspFiles, *, stub: int, uname: bytes | None) -> list[Addon]:
    """The add-ons that a stub of version ``stub`` loads for a UKI with the section ``.uname``, in order.

    Raises ``FormatError`` for one that is no PE image, or brings a device tree.
    """
    if stub < ADDONS_SINCE:
        return []
    folders = ("loader/addons", _own_folder(esp))
    paths = [found for folder in folders for found in _sorted_names(esp, folder, ".addon.efi")]
    if paths and stub in ADDONS_UNKNOWN:
        _refuse(
            paths[0][1],
            f"is an add-on, and how systemd-stub {stub} measures those is not known",
            "use a stub of 254 or 257, or remove the add-on",
        )
    return [_addon(path, esp.files[path], stub=stub, uname=uname) for _, path in paths]


def _addon(path: str, image: bytes, *, stub: int, uname: bytes | None) -> Addon:
    pe = parse_pe(image, subject=path)
    present = {section.name for section in pe.sections if section.virtual_size}

    def section(name: str) -> bytes | None:
        return section_data(pe, image, name, subject=path) if name in present else None

    if present & {".dtb", ".dtbauto"}:
        _refuse(path, "brings a device tree, which x86 machines do not use", "remove the add-on")
    wanted = section(".uname")
    if ".linux" in present or (wanted is not None and uname is not None and not _same(uname, wanted)):
        return Addon(path=path, image=image)
    late = stub >= INITRD_ADDONS_SINCE
    return Addon(
        path=path,
        image=image,
        command_line=section(".cmdline"),
        initrd=section(".initrd") if late else None,
        microcode=section(".ucode") if late else None,
    )


def _same(uname: bytes, wanted: bytes) -> bool:
    """C's ``strncmp`` of ``uname`` with ``wanted``, up to the length of ``wanted``."""
    left, right = (text[: len(wanted)].split(b"\0", 1)[0] for text in (uname, wanted))
    return left == right


def _matching(esp: EspFiles, rule: _Rule, *, stub: int) -> Iterator[tuple[str, bytes]]:
    for name, path in _sorted_names(esp, rule.folder or _own_folder(esp), rule.suffix):
        confext = name.lower().endswith(".confext.raw")
        if rule.suffix == ".raw" and confext and stub >= CONFEXT_SINCE:
            continue
        yield name, esp.files[path]


def _sorted_names(esp: EspFiles, folder: str, suffix: str) -> list[tuple[str, str]]:
    """Name and path of the files in ``folder`` that end so, in the stub's order."""
    found = []
    for path in esp.files:
        name = path.rpartition("/")[2]
        if (
            _in_folder(path, folder, direct=True)
            and name.lower().endswith(suffix)
            and not name.startswith(".")
            and name.isascii()
            and len(name) <= _LIMIT
        ):
            found.append((name, path))
    return sorted(found)


def _in_folder(path: str, folder: str, *, direct: bool = False) -> bool:
    parent = path.rpartition("/")[0].lower()
    folder = folder.lower()
    return parent == folder or (not direct and parent.startswith(f"{folder}/"))


def _own_folder(esp: EspFiles) -> str:
    return f"{esp.uki}.extra.d"


def _refuse(subject: str, reason: str, advice: str) -> NoReturn:
    raise FormatError(reason, subject=f"EFI system partition: {subject}", advice=advice)
