"""What is known about firmware and hypervisors: data in ``profiles``, and which of it holds for a firmware
file.

``edk2.toml`` says how releases of edk2 measure, ``hypervisors.toml`` what hypervisors decide,
``firmware.toml`` which files are known by their SHA-256. Each file's head says what its keys mean; unknown
and missing keys are refused. Firmware that is neither known nor tells a known release is refused too, because
a guessed order of events gives values that look right.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from measurements.errors import FormatError, KeyturnError
from measurements.strict_fields import Fields
from measurements.tdx.dxe_facts import MODULES, SMBIOS_MODULE, DxeFacts
from measurements.tdx.mrtd import PageOrder

if TYPE_CHECKING:
    from measurements.canonical import Json

Item = TypeVar("Item")

_PROFILES = Path(__file__).parent / "profiles"
_SHA256_SIZE, _SHA384_SIZE = 32, 48
_RELEASE_TEXT = re.compile(r"(?:edk2-stable)?([0-9]{4})\.?([0-9]{2})(?![0-9.]).*")


class CatalogueError(FormatError):
    """A data file of the catalogue that is not as it should be."""

    code = "firmware-catalogue"


class UnknownFirmwareError(KeyturnError):
    """Firmware, a release or a hypervisor whose measurements are not known."""

    code = "unknown-firmware"


class Proof(StrEnum):
    """What confirmed that values come out as they are computed, the best first."""

    HARDWARE_QUOTE = "hardware-quote"
    REAL_BOOT = "real-boot"
    LOG = "log"
    SOURCE = "source"
    COMPUTED = "computed"


class EventGroup(StrEnum):
    """Groups of events whose order differs between releases."""

    TD_HOB = "td-hob"
    CFV = "cfv"
    FW_CFG = "fw-cfg"
    SECURE_BOOT = "secure-boot"
    SEPARATOR = "separator"
    ACPI = "acpi"
    SMBIOS = "smbios"
    BOOT_VARIABLES = "boot-variables"
    CALLING = "calling"
    PARTITION_TABLE = "partition-table"
    PROGRAMS = "programs"
    KERNEL = "kernel"
    EXIT = "exit"


class InitrdArgument(StrEnum):
    """Where OVMF puts ``initrd=initrd`` on the command line of a direct boot."""

    PREFIX = "prefix"
    SUFFIX = "suffix"


class LegacyLoader(StrEnum):
    """Whether OVMF starts kernels that UEFI cannot load."""

    ALWAYS = "always"
    NOT_IN_TDX = "not-in-tdx"
    OFF = "off"


class ByVersion(StrEnum):
    """Whether QEMU does something."""

    ALWAYS = "always"
    NEVER = "never"
    BY_VERSION = "by-version"


class HobForm(StrEnum):
    """How a hypervisor writes the list of memory ranges."""

    QEMU = "qemu"
    GCE = "gce"


@dataclass(frozen=True, kw_only=True, slots=True)
class Edk2Release:
    """How a release measures; ``unsupported`` says why its RTMRs are not predicted, else it is empty."""

    name: str
    unsupported: str
    rtmr0: tuple[EventGroup, ...]
    rtmr1_disk: tuple[EventGroup, ...]
    rtmr1_direct: tuple[EventGroup, ...]
    initrd_argument: InitrdArgument
    named_kernel: bool
    legacy_loader: LegacyLoader
    proof: Proof
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypervisor:
    """What a hypervisor decides; ``orders`` are all page orders that it may have used."""

    name: str
    words: str
    orders: tuple[PageOrder, ...]
    header_patch: ByVersion
    untouched_kernel: ByVersion
    td_hob: HobForm
    proof: Proof
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFirmware:
    """A file of a package: its MRTD by page order, SHA-384 of its variable store, facts of its DXE volume."""

    sha256: str
    file: str
    package: str
    distribution: str
    build: str
    release: str
    proof: Proof
    source: str
    mrtd: Mapping[PageOrder, bytes]
    cfv: bytes
    dxe: DxeFacts | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownMrtd:
    """An MRTD of firmware that is not at hand."""

    name: str
    mrtd: bytes
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareBuild:
    """A firmware file that was recognised: by its hash (``known``), or by the release that it names."""

    release: Edk2Release
    known: KnownFirmware | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """All of it."""

    releases: Mapping[str, Edk2Release]
    hypervisors: Mapping[str, Hypervisor]
    files: Mapping[str, KnownFirmware]
    mrtds: tuple[KnownMrtd, ...]


@functools.cache
def catalogue() -> Catalogue:
    """The data of this installation, read once."""
    known, mrtds = parse_firmware_files(_data("firmware.toml"))
    return Catalogue(
        releases=parse_releases(_data("edk2.toml")),
        hypervisors=parse_hypervisors(_data("hypervisors.toml")),
        files=known,
        mrtds=mrtds,
    )


def recognise(
    *, name: str, sha256: str, version_text: str | None = None, release: str | None = None
) -> FirmwareBuild:
    """The build of the firmware file ``name``.

    The hash alone is enough for known files; else the text that the firmware gives as its version; and
    ``release`` overrides both for builds that do not tell. Raises ``UnknownFirmwareError``.
    """
    known = catalogue().files.get(sha256)
    number = release or (known.release if known else None) or release_of(version_text or "")
    if number is None:
        told = f"gives its version as {version_text!r}" if version_text else "does not tell its version"
        raise UnknownFirmwareError(
            f"is not among the known files (SHA-256 {sha256}) and {told}: the order of its events is unknown",
            subject=name,
            advice="name the edk2 release that it was built from, one of " + ", ".join(catalogue().releases),
        )
    return FirmwareBuild(release=edk2_release(number, subject=name), known=known)


def release_of(version_text: str) -> str | None:
    """The edk2 release in the text that a build gives as its version: ``2025.02-8+deb13u1`` is of 2025.02."""
    match = _RELEASE_TEXT.fullmatch(version_text)
    return f"{match[1]}.{match[2]}" if match else None


def edk2_release(name: str, *, subject: str = "edk2 release") -> Edk2Release:
    """How a release measures; raises ``UnknownFirmwareError`` for one that is not in the data."""
    return _choose(catalogue().releases, name, subject=subject, what="edk2 release")


def hypervisor(name: str) -> Hypervisor:
    """What a hypervisor decides; raises ``UnknownFirmwareError`` for one that is not in the data."""
    return _choose(catalogue().hypervisors, name, subject="hypervisor", what="hypervisor")


def _choose(known: Mapping[str, Item], name: str, *, subject: str, what: str) -> Item:
    if name not in known:
        raise UnknownFirmwareError(
            f"the {what} {name!r} is not known", subject=subject, advice=f"use one of {', '.join(known)}"
        )
    return known[name]


def parse_releases(text: str) -> Mapping[str, Edk2Release]:
    """Read ``edk2.toml``."""
    keys = (
        "name", "unsupported", "rtmr0", "rtmr1-disk", "rtmr1-direct", "initrd-argument", "named-kernel",
        "legacy-loader", "proof", "source",
    )  # fmt: skip
    document = _document(text, "edk2.toml", "keyturn-edk2-profiles/1", ("release",))
    releases = document.objects("release", keys, _release)
    return _by_name(document, "release", {release.name: release for release in releases}, len(releases))


def parse_hypervisors(text: str) -> Mapping[str, Hypervisor]:
    """Read ``hypervisors.toml``."""
    keys = ("name", "words", "orders", "header-patch", "untouched-kernel", "td-hob", "proof", "source")
    document = _document(text, "hypervisors.toml", "keyturn-hypervisors/1", ("hypervisor",))
    found = document.objects("hypervisor", keys, _hypervisor)
    return _by_name(document, "hypervisor", {each.name: each for each in found}, len(found))


def parse_firmware_files(text: str) -> tuple[Mapping[str, KnownFirmware], tuple[KnownMrtd, ...]]:
    """Read ``firmware.toml``."""
    document = _document(text, "firmware.toml", "keyturn-firmware/1", ("file", "value"))
    raw = document.raw("file")
    files = [_file(document, item, index) for index, item in enumerate(raw if isinstance(raw, list) else [])]
    mrtds = document.objects("value", ("name", "mrtd", "source"), _value)
    return _by_name(document, "file", {file.sha256: file for file in files}, len(files)), mrtds


def _release(fields: Fields) -> Edk2Release:
    release = Edk2Release(
        name=fields.text("name", re.compile(r"[0-9]{4}\.[0-9]{2}")),
        unsupported=fields.text("unsupported"),
        rtmr0=_groups(fields, "rtmr0"),
        rtmr1_disk=_groups(fields, "rtmr1-disk"),
        rtmr1_direct=_groups(fields, "rtmr1-direct"),
        initrd_argument=fields.choice("initrd-argument", InitrdArgument),
        named_kernel=fields.boolean("named-kernel"),
        legacy_loader=fields.choice("legacy-loader", LegacyLoader),
        proof=fields.choice("proof", Proof),
        source=fields.text("source"),
    )
    if bool(release.unsupported) == bool(release.rtmr0 and release.rtmr1_disk and release.rtmr1_direct):
        fields.fail("unsupported", "goes with empty lists of events, and its absence with full ones")
    return release


def _groups(fields: Fields, key: str) -> tuple[EventGroup, ...]:
    known = {group.value: group for group in EventGroup}
    names = fields.texts(key, unique=False)
    for name in names:
        if name not in known:
            fields.fail(key, f"holds {name!r}, which is no group of events")
        if name != EventGroup.SEPARATOR and names.count(name) > 1:
            fields.fail(key, f"holds {name!r} twice")
    return tuple(known[name] for name in names)


def _hypervisor(fields: Fields) -> Hypervisor:
    known = {order.value: order for order in PageOrder}
    orders = fields.texts("orders")
    if not orders or not set(orders) <= known.keys():
        fields.fail("orders", f"is not a list of {', '.join(known)}")
    return Hypervisor(
        name=fields.text("name", re.compile(r"[a-z0-9.-]+")),
        words=fields.text("words"),
        orders=tuple(known[order] for order in orders),
        header_patch=fields.choice("header-patch", ByVersion),
        untouched_kernel=fields.choice("untouched-kernel", ByVersion),
        td_hob=fields.choice("td-hob", HobForm),
        proof=fields.choice("proof", Proof),
        source=fields.text("source"),
    )


def _file(document: Fields, item: Json, index: int) -> KnownFirmware:
    keys = [
        "sha256", "file", "package", "distribution", "build", "release", "proof", "source", "cfv", "mrtd",
    ]  # fmt: skip
    if isinstance(item, dict) and "dxe" in item:
        keys.append("dxe")
    fields = Fields(item, keys, path=f"file[{index}]", refuse=_refusal("firmware.toml"))
    orders = (PageOrder.SINGLE_PASS, PageOrder.TWO_PASS)
    mrtd = fields.object("mrtd", [order.value for order in orders])
    return KnownFirmware(
        sha256=fields.octets("sha256", _SHA256_SIZE).hex(),
        file=fields.text("file"),
        package=fields.text("package"),
        distribution=fields.text("distribution"),
        build=fields.text("build", re.compile("OvmfPkgX64|IntelTdxX64|AmdSevX64")),
        release=fields.text("release", re.compile(r"[0-9]{4}\.[0-9]{2}")),
        proof=fields.choice("proof", Proof),
        source=fields.text("source"),
        mrtd={order: mrtd.octets(order.value, _SHA384_SIZE) for order in orders},
        cfv=fields.octets("cfv", _SHA384_SIZE),
        dxe=_dxe(fields, item["dxe"]) if "dxe" in keys and isinstance(item, dict) else None,
    )


def _dxe(fields: Fields, item: Json) -> DxeFacts:
    has_bios = isinstance(item, dict) and "bios" in item
    dxe = fields.object("dxe", ("version", "modules", "bios") if has_bios else ("version", "modules"))
    modules = frozenset(dxe.texts("modules"))
    if not modules <= set(MODULES):
        dxe.fail("modules", f"holds a module that decides nothing: not one of {', '.join(MODULES)}")
    if has_bios != (SMBIOS_MODULE in modules):
        dxe.fail("modules", "and bios do not agree on whether SMBIOS is measured")
    bios = bytes.fromhex(dxe.text("bios", re.compile("([0-9a-f]{2}){4,512}"))) if has_bios else None
    return DxeFacts(name=fields.text("file"), version=dxe.text("version"), modules=modules, bios=bios)


def _value(fields: Fields) -> KnownMrtd:
    return KnownMrtd(
        name=fields.text("name"), mrtd=fields.octets("mrtd", _SHA384_SIZE), source=fields.text("source")
    )


def _by_name(document: Fields, key: str, found: Mapping[str, Item], count: int) -> Mapping[str, Item]:
    if len(found) != count or not count:
        document.fail(key, "is empty or has an entry twice")
    return found


def _document(text: str, name: str, schema: str, keys: Collection[str]) -> Fields:
    refuse = _refusal(name)
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise refuse(f"is no TOML: {problem}") from problem
    document = Fields(parsed, ("schema", *keys), path="", refuse=refuse)
    document.constant("schema", schema)
    return document


def _refusal(name: str) -> functools.partial[CatalogueError]:
    return functools.partial(CatalogueError, subject=name, advice="repair the file, or install keyturn again")


def _data(name: str) -> str:
    return (_PROFILES / name).read_text(encoding="utf-8")
