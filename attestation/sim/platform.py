"""What a simulated platform is: the contents of its PCK certificate's SGX extension.

Layout (Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5),
extension 1.2.840.113741.1.13.1, not critical, DER. It is a sequence of pairs (object identifier, value)::

    .1 PPID, octets 16 | .2 TCB: sequence of pairs .2.1 to .2.16 component SVNs, integer; .2.17 PCE SVN,
    integer; .2.18 CPU SVN, octets 16 | .3 PCE id, octets 2 | .4 FMSPC, octets 6 | .5 SGX type, enumerated
    and of the Platform CA alone: .6 platform instance id, octets 16 | .7 configuration: sequence of pairs
    .7.1 dynamic platform | .7.2 cached keys | .7.3 SMT, boolean
"""

from __future__ import annotations

from dataclasses import dataclass

SGX_EXTENSION = "1.2.840.113741.1.13.1"
COMPONENTS = 16

_OID_PREFIX = bytes.fromhex("2a864886f84d010d01")
_BOOLEAN, _INTEGER, _OCTETS, _OBJECT_IDENTIFIER, _ENUMERATED, _SEQUENCE = 1, 2, 4, 6, 10, 0x30


@dataclass(frozen=True, kw_only=True, slots=True)
class SimPlatform:
    """One machine. Flags and ``platform_instance`` are written only for platforms of the Platform CA."""

    ppid: bytes = b"keyturn sim ppid"
    components: tuple[int, ...] = (4, 4, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
    """SGX component SVNs, 16 of them."""
    pce_svn: int = 11
    pce_id: bytes = bytes(2)
    fmspc: bytes = b"KTSIM\0"
    sgx_type: int = 1
    platform_instance: bytes = b"keyturn sim box1"
    dynamic_platform: bool = False
    cached_keys: bool = False
    smt: bool = False

    @property
    def cpu_svn(self) -> bytes:
        """The components as 16 bytes."""
        return bytes(self.components)


def sgx_extension(platform: SimPlatform, *, processor_ca: bool = False) -> bytes:
    """DER of the extension's value."""
    tcb = [_pair((2, place), _integer(svn)) for place, svn in enumerate(platform.components, start=1)]
    tcb += [
        _pair((2, COMPONENTS + 1), _integer(platform.pce_svn)),
        _pair((2, COMPONENTS + 2), _element(_OCTETS, platform.cpu_svn)),
    ]
    pairs = [
        _pair((1,), _element(_OCTETS, platform.ppid)),
        _pair((2,), _sequence(tcb)),
        _pair((3,), _element(_OCTETS, platform.pce_id)),
        _pair((4,), _element(_OCTETS, platform.fmspc)),
        _pair((5,), _element(_ENUMERATED, bytes([platform.sgx_type]))),
    ]
    if not processor_ca:
        flags = (platform.dynamic_platform, platform.cached_keys, platform.smt)
        configuration = [_pair((7, place), _boolean(flag)) for place, flag in enumerate(flags, start=1)]
        pairs += [
            _pair((6,), _element(_OCTETS, platform.platform_instance)),
            _pair((7,), _sequence(configuration)),
        ]
    return _sequence(pairs)


def _pair(arcs: tuple[int, ...], value: bytes) -> bytes:
    return _sequence([_element(_OBJECT_IDENTIFIER, _OID_PREFIX + bytes(arcs)), value])


def _integer(value: int) -> bytes:
    return _element(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _boolean(value: bool) -> bytes:
    return _element(_BOOLEAN, b"\xff" if value else b"\0")


def _sequence(parts: list[bytes]) -> bytes:
    return _element(_SEQUENCE, b"".join(parts))


def _element(tag: int, contents: bytes) -> bytes:
    size = len(contents)
    if size < 0x80:
        return bytes([tag, size]) + contents
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + contents
