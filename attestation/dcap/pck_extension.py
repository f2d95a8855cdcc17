"""The SGX extension of PCK certificates: which machine it is, and its TCB.

Layout (Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5): DER
under 1.2.840.113741.1.13.1, a sequence of pairs (object identifier, value)::

    .1 PPID, octets 16 | .2 TCB: pairs .2.1 to .2.16 component SVNs, integer; .2.17 PCE SVN, integer; .2.18
    CPU SVN, octets 16 | .3 PCE id, octets 2 | .4 FMSPC, octets 6 | .5 SGX type, enumerated (0 standard,
    1 scalable, 2 scalable with integrity)
    and of the Platform CA: .6 platform instance id, octets 16 | .7 configuration: pairs .7.1 dynamic
    platform, .7.2 cached keys, .7.3 SMT, boolean

Every identifier occurs once, and no other occurs. Values are in their one encoding: integers in the
shortest form, booleans 0x00 or 0xff, nothing after them. The 16 components must be the bytes of the CPU SVN.
Part .6 and .7, and any flag in .7, may be absent: a flag that is absent is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from measurements.der import OBJECT_IDENTIFIER, SEQUENCE, Element, elements
from measurements.errors import FormatError

SGX_EXTENSION = "1.2.840.113741.1.13.1"
COMPONENTS = 16
MAX_EXTENSION = 4096

_PREFIX = bytes.fromhex("2a864886f84d010d01")
_BOOLEAN, _INTEGER, _OCTETS, _ENUMERATED = 0x01, 0x02, 0x04, 0x0A
_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE, _INSTANCE, _CONFIGURATION = range(1, 8)
_PCE_SVN, _CPU_SVN = COMPONENTS + 1, COMPONENTS + 2
_SGX_TYPES = (0, 1, 2)
_FLAGS = ("dynamic platform", "cached keys", "SMT")


class PckExtensionError(FormatError):
    """An SGX extension that is not as specified."""

    code = "pck-extension"


@dataclass(frozen=True, kw_only=True, slots=True)
class PckExtension:
    """One machine as its PCK certificate names it. A flag that is None is not known."""

    ppid: bytes
    components: tuple[int, ...]
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance: bytes | None
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt: bool | None


def parse_pck_extension(data: bytes) -> PckExtension:
    """Read the extension's value; raises ``PckExtensionError``."""
    if len(data) > MAX_EXTENSION:
        _refuse(f"has {len(data)} bytes, at most {MAX_EXTENSION} are read")
    try:
        return _parse(data)
    except PckExtensionError:
        raise
    except FormatError as error:
        _refuse(error.reason)


def _parse(data: bytes) -> PckExtension:
    whole = list(elements(data))
    if len(whole) != 1 or whole[0].tag != SEQUENCE:
        _refuse("is not one sequence")
    parts = _pairs(whole[0], (), required=range(1, 6), optional=(_INSTANCE, _CONFIGURATION))
    tcb = _pairs(_typed(parts[_TCB], SEQUENCE, "TCB"), (_TCB,), required=range(1, _CPU_SVN + 1))
    components = tuple(_integer(tcb[place], f"component {place}", 0xFF) for place in range(1, COMPONENTS + 1))
    cpu_svn = _octets(tcb[_CPU_SVN], "CPU SVN", COMPONENTS)
    if bytes(components) != cpu_svn:
        _refuse("has components that are not those of its CPU SVN")
    sgx_type = _integer(_typed(parts[_SGX_TYPE], _ENUMERATED, "SGX type"), "SGX type", 0xFF, _ENUMERATED)
    if sgx_type not in _SGX_TYPES:
        _refuse(f"has SGX type {sgx_type}; 0, 1 or 2 is expected")
    flags = _flags(parts.get(_CONFIGURATION))
    return PckExtension(
        ppid=_octets(parts[_PPID], "PPID", 16),
        components=components,
        cpu_svn=cpu_svn,
        pce_svn=_integer(tcb[_PCE_SVN], "PCE SVN", 0xFFFF),
        pce_id=_octets(parts[_PCE_ID], "PCE id", 2),
        fmspc=_octets(parts[_FMSPC], "FMSPC", 6),
        sgx_type=sgx_type,
        platform_instance=(
            _octets(parts[_INSTANCE], "platform instance", 16) if _INSTANCE in parts else None
        ),
        dynamic_platform=flags[0],
        cached_keys=flags[1],
        smt=flags[2],
    )


def _pairs(
    parent: Element, arcs: Sequence[int], *, required: Sequence[int], optional: Sequence[int] = ()
) -> Mapping[int, Element]:
    """Values by the last arc of their identifier: every required one, each once, no other."""
    found: dict[int, Element] = {}
    for pair in parent.children():
        children = pair.children() if pair.tag == SEQUENCE else ()
        if len(children) != 2 or children[0].tag != OBJECT_IDENTIFIER:
            _refuse("has a part that is no pair of identifier and value")
        arc = _last_arc(children[0].contents, arcs)
        if arc in found:
            _refuse(f"has part {_path((*arcs, arc))} twice")
        found[arc] = children[1]
    unknown = sorted(set(found) - set(required) - set(optional))
    missing = sorted(set(required) - set(found))
    if unknown or missing:
        what = f"unknown part {unknown[0]}" if unknown else f"no part {missing[0]}"
        _refuse(f"has {what} under {_path(arcs) or 'its root'}")
    return found


def _last_arc(identifier: bytes, arcs: Sequence[int]) -> int:
    prefix = _PREFIX + bytes(arcs)
    if identifier[:-1] != prefix or identifier[-1] >= 0x80:
        _refuse(f"has an identifier that is not one arc under {_path(arcs) or 'its root'}")
    return identifier[-1]


def _flags(configuration: Element | None) -> tuple[bool | None, ...]:
    if configuration is None:
        return (None,) * len(_FLAGS)
    places = range(1, len(_FLAGS) + 1)
    found = _pairs(
        _typed(configuration, SEQUENCE, "configuration"), (_CONFIGURATION,), required=(), optional=places
    )
    return tuple(_boolean(found[place], _FLAGS[place - 1]) if place in found else None for place in places)


def _typed(element: Element, tag: int, what: str) -> Element:
    if element.tag != tag:
        _refuse(f"has {what} with tag {element.tag:#04x}, {tag:#04x} expected")
    return element


def _octets(element: Element, what: str, size: int) -> bytes:
    value = _typed(element, _OCTETS, what).contents
    if len(value) != size:
        _refuse(f"has {what} of {len(value)} bytes, {size} expected")
    return value


def _integer(element: Element, what: str, highest: int, tag: int = _INTEGER) -> int:
    value = _typed(element, tag, what).contents
    shortest = len(value) == 1 or (len(value) > 1 and (value[0] != 0 or value[1] >= 0x80))
    number = int.from_bytes(value, "big", signed=True)
    if not shortest or not 0 <= number <= highest:
        _refuse(f"has {what} that is no integer from 0 to {highest} in the shortest form")
    return number


def _boolean(element: Element, what: str) -> bool:
    value = _typed(element, _BOOLEAN, what).contents
    if value not in (b"\x00", b"\xff"):
        _refuse(f"has a flag {what} that is neither 0x00 nor 0xff")
    return value == b"\xff"


def _path(arcs: Sequence[int]) -> str:
    return "".join(f".{arc}" for arc in arcs)


def _refuse(reason: str) -> NoReturn:
    raise PckExtensionError(
        reason, subject="SGX extension of the PCK certificate", advice="take a new quote from the platform"
    )
