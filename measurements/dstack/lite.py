"""dstack's measurement documents: what its image measures, for whoever does not have the image.

CBOR, written by the image's build (``dstack/dstack-types/src/lib.rs``; digests are byte strings).
``measurement.tdx.cbor``, version 3::

    {version, image: {cmdline_sha384, kernel_authenticode, initrd_sha384},
     tdvf: {ovmf: "pre202505", mrtd: {single_pass, two_pass}, td_hob}}

``td_hob`` is the list of memory that the firmware finds ready, as unsigned LEB128 numbers of 4 KiB pages:
base, TD HOB minus base, number of ranges, then per range start minus base and length. The kernel's digest
holds for machines whose memory QEMU does not let show in the kernel's header: 2 GiB, or 0xB0000000 and more.

``measurement.snp.cbor``, version 3: ``version, cmdline, ovmf_hash`` (launch digest after the firmware's
pages), ``kernel_hash, initrd_hash`` (SHA-256), ``hashes_table_gpa, reset_eip`` and ``ovmf_sections``, a list
of ``gpa, size, type``.

A document counts only through ``sha256sum.txt``, whose SHA-256 is the OS image's hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from measurements.dstack.boot_log import OvmfVariant
from measurements.dstack.errors import DstackFormatError, DstackInputError
from measurements.strict_cbor import parse_cbor
from measurements.tdx.td_hob import LOW_MEMORY_LIMIT, td_hob
from measurements.tdx.tdvf import PAGE, Section, SectionAttribute, SectionType, Tdvf

TDX_FILE = "measurement.tdx.cbor"
SNP_FILE = "measurement.snp.cbor"
MAX_DOCUMENT = 1 << 20
MAX_RANGES = 32
MAX_SNP_SECTIONS = 64
VERSION = 3

_SHA384_SIZE, _SHA256_SIZE = 48, 32
_PAGES = 1 << 40
_COMPATIBLE_MEMORY = 2 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadyRange:
    """Pages of memory that the guest finds ready: byte address and size."""

    address: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TdHobWitness:
    """Where the firmware finds its TD HOB, and the memory that is ready, in the document's order."""

    hob_address: int
    ranges: tuple[ReadyRange, ...]

    def td_hob(self, memory: int) -> bytes:
        """The measured bytes of the TD HOB on a machine with ``memory`` bytes."""
        return td_hob(self._firmware(), memory)

    def _firmware(self) -> Tdvf:
        """As much of a firmware as the TD HOB depends on."""
        sections = tuple(
            Section(
                offset=0,
                raw_size=0,
                address=each.address,
                size=each.size,
                kind=SectionType.TD_HOB if each.address == self.hob_address else SectionType.TEMPORARY_MEMORY,
                attributes=SectionAttribute(0),
            )
            for each in self.ranges
        )
        return Tdvf(name=TDX_FILE, data=b"", sections=sections)


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxMeasurement:
    """The fields of ``measurement.tdx.cbor``; digests are SHA-384."""

    command_line: bytes
    kernel: bytes
    initrd: bytes
    variant: OvmfVariant
    mrtd_single_pass: bytes
    mrtd_two_pass: bytes
    witness: TdHobWitness


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpSection:
    """One region of the firmware's SNP metadata."""

    gpa: int
    size: int
    kind: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpMeasurement:
    """The fields of ``measurement.snp.cbor``."""

    command_line: str
    firmware: bytes
    kernel: bytes
    initrd: bytes
    hashes_gpa: int
    reset_eip: int
    sections: tuple[SnpSection, ...]


def parse_tdx_measurement(data: bytes) -> TdxMeasurement:
    """Read ``measurement.tdx.cbor``; raises ``DstackFormatError`` for any other form or version."""
    fields = _map(parse_cbor(data, limit=MAX_DOCUMENT, subject=TDX_FILE), TDX_FILE, "version image tdvf")
    _check_version(fields["version"], TDX_FILE)
    image = _map(fields["image"], TDX_FILE, "cmdline_sha384 kernel_authenticode initrd_sha384")
    tdvf = _map(fields["tdvf"], TDX_FILE, "ovmf mrtd td_hob")
    mrtd = _map(tdvf["mrtd"], TDX_FILE, "single_pass two_pass")
    if tdvf["ovmf"] != OvmfVariant.PRE202505.value:
        _refuse(TDX_FILE, f"has the firmware layout {tdvf['ovmf']!r}, not {OvmfVariant.PRE202505.value}")

    def digest(container: Mapping[str, object], name: str) -> bytes:
        return _octets(container[name], f"{TDX_FILE}, {name}", _SHA384_SIZE)

    witness = tdvf["td_hob"]
    if not isinstance(witness, bytes):
        _refuse(TDX_FILE, "td_hob is not a byte string")
    return TdxMeasurement(
        command_line=digest(image, "cmdline_sha384"),
        kernel=digest(image, "kernel_authenticode"),
        initrd=digest(image, "initrd_sha384"),
        variant=OvmfVariant.PRE202505,
        mrtd_single_pass=digest(mrtd, "single_pass"),
        mrtd_two_pass=digest(mrtd, "two_pass"),
        witness=parse_witness(witness),
    )


def parse_witness(data: bytes) -> TdHobWitness:
    """Read the numbers of ``td_hob``; raises ``DstackFormatError`` unless they are all of it."""
    numbers = list(_leb128(data))
    if len(numbers) < 3 or numbers[2] > MAX_RANGES or len(numbers) != 3 + 2 * numbers[2]:
        _refuse(TDX_FILE, f"td_hob is not base, distance, up to {MAX_RANGES} ranges and nothing more")
    base, distance, _, *pairs = numbers
    ranges = tuple(
        ReadyRange(address=(base + start) * PAGE, size=pages * PAGE)
        for start, pages in zip(pairs[::2], pairs[1::2], strict=True)
    )
    hob = (base + distance) * PAGE
    in_order = sorted(ranges, key=lambda each: each.address)
    overlap = any(one.address + one.size > other.address for one, other in pairwise(in_order))
    if overlap or not all(each.size for each in ranges) or hob not in {each.address for each in ranges}:
        _refuse(TDX_FILE, "td_hob has ranges that are empty or overlap, or none at the TD HOB")
    return TdHobWitness(hob_address=hob, ranges=ranges)


def require_stable_kernel(memory: int) -> None:
    """Refuse memory sizes for which the document's kernel digest does not hold."""
    if memory != _COMPATIBLE_MEMORY and memory < LOW_MEMORY_LIMIT:
        raise DstackInputError(
            f"has a kernel digest that holds for 2 GiB and for {LOW_MEMORY_LIMIT:#x} bytes or more, "
            f"not for {memory:#x}",
            subject=TDX_FILE,
            advice="predict from the release's folder, which has the kernel itself",
        )


def parse_snp_measurement(data: bytes) -> SnpMeasurement:
    """Read ``measurement.snp.cbor``; raises ``DstackFormatError`` for any other form or version."""
    keys = "version cmdline ovmf_hash kernel_hash initrd_hash hashes_table_gpa reset_eip ovmf_sections"
    fields = _map(parse_cbor(data, limit=MAX_DOCUMENT, subject=SNP_FILE), SNP_FILE, keys)
    _check_version(fields["version"], SNP_FILE)
    command_line, sections = fields["cmdline"], fields["ovmf_sections"]
    if not isinstance(command_line, str) or not command_line.isascii() or "\0" in command_line:
        _refuse(SNP_FILE, "cmdline is not an ASCII text")
    if not isinstance(sections, list) or not 0 < len(sections) <= MAX_SNP_SECTIONS:
        _refuse(SNP_FILE, f"ovmf_sections is not a list of 1 to {MAX_SNP_SECTIONS}")
    return SnpMeasurement(
        command_line=command_line,
        firmware=_octets(fields["ovmf_hash"], f"{SNP_FILE}, ovmf_hash", _SHA384_SIZE),
        kernel=_octets(fields["kernel_hash"], f"{SNP_FILE}, kernel_hash", _SHA256_SIZE),
        initrd=_octets(fields["initrd_hash"], f"{SNP_FILE}, initrd_hash", _SHA256_SIZE),
        hashes_gpa=_number(fields["hashes_table_gpa"], f"{SNP_FILE}, hashes_table_gpa"),
        reset_eip=_number(fields["reset_eip"], f"{SNP_FILE}, reset_eip"),
        sections=tuple(_snp_sections(sections)),
    )


def _snp_sections(values: Sequence[object]) -> Iterator[SnpSection]:
    for number, value in enumerate(values):
        where = f"{SNP_FILE}, section {number}"
        fields = _map(value, where, "gpa size type")
        gpa, size, kind = (_number(fields[name], f"{where}, {name}") for name in ("gpa", "size", "type"))
        if gpa % PAGE or size % PAGE or not size:
            _refuse(where, "is not one or more whole pages")
        yield SnpSection(gpa=gpa, size=size, kind=kind)


def _leb128(data: bytes) -> Iterator[int]:
    """Unsigned numbers, each in its shortest form and within a machine's pages."""
    value = shift = 0
    for place, byte in enumerate(data):
        value |= (byte & 0x7F) << shift
        if value >= _PAGES or shift > 63:
            _refuse(TDX_FILE, f"td_hob has a number beyond memory at byte {place}")
        shift += 7
        if byte & 0x80:
            continue
        if not byte and shift > 7:
            _refuse(TDX_FILE, f"td_hob has a number that is not in its shortest form at byte {place}")
        yield value
        value = shift = 0
    if shift:
        _refuse(TDX_FILE, "td_hob ends inside a number")


def _map(value: object, subject: str, keys: str) -> Mapping[str, object]:
    if not isinstance(value, dict) or set(value) != set(keys.split()):
        _refuse(subject, f"has no map of exactly {keys.replace(' ', ', ')} where one must be")
    return value


def _octets(value: object, subject: str, size: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != size or not any(value):
        _refuse(subject, f"is not a digest of {size} bytes")
    return value


def _number(value: object, subject: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
        _refuse(subject, "is not a number of 32 bits")
    return value


def _check_version(value: object, subject: str) -> None:
    if type(value) is not int or value != VERSION:
        _refuse(subject, f"has version {value!r}, not {VERSION}")


def _refuse(subject: str, reason: str) -> NoReturn:
    raise DstackFormatError(
        reason, subject=subject, advice="give the document of a dstack release whose form is known here"
    )
