"""The fields of an Intel TDX quote, version 4 and 5.

Nothing here checks the signature: whoever made the bytes chose every field. Use it to read what a quote says,
and the attestation verifier to find out whether a trust domain said so.

Layout (Intel TDX DCAP Quoting Library API, appendix A; little endian). Header, 48 bytes::

    u16 version | u16 attestation key type 2 | u32 TEE type 0x81 | u16 | u16 | 16 bytes QE vendor
    | 20 bytes user data

Version 4: a body of 584 bytes. Version 5: u16 body type (2: TDX 1.0, 584 bytes; 3: TDX 1.5, 648 bytes; 4: TDX
1.5 extended, 885 bytes), u32 body size, the body. Then u32 size and that many bytes of signature data.
Drivers return quotes in a larger buffer, so zeros may follow. The body holds, in this order, the fields of
``TdBody`` with the sizes of ``_FIELDS``, and those of ``TdExtension`` (layout of body type 4: dcap-qvl 0.7.0,
``src/quote.rs``, ``TDReport15Ex``).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from measurements.errors import FormatError

MAX_QUOTE = 64 << 10
RTMRS = 4

_HEADER = struct.Struct("<HHIHH16s20s")
_BODY_HEADER = struct.Struct("<HI")
_FIELDS = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_FIELDS_1_5 = struct.Struct("<16s48s")
_FIELDS_EXTENDED = struct.Struct("<B32s48s48s8s16s16s12s48s8s")
_VERSION_4, _VERSION_5 = 4, 5
_ECDSA_P256, _TEE_TDX, _TEE_SGX = 2, 0x81, 0
_DEBUG = 1


class QuoteError(FormatError):
    """Bytes that are no TDX quote of a known version."""

    code = "tdx-quote"


class BodyType(IntEnum):
    """What the body of a quote holds, in the numbers of version 5."""

    TDX_1_0 = 2
    TDX_1_5 = 3
    TDX_1_5_EXTENDED = 4

    @property
    def size(self) -> int:
        """Length in bytes."""
        later = _FIELDS_1_5.size if self >= BodyType.TDX_1_5 else 0
        return _FIELDS.size + later + (_FIELDS_EXTENDED.size if self is BodyType.TDX_1_5_EXTENDED else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TdExtension:
    """What the extended body of TDX 1.5 adds. ``initial_…`` is of when the domain was created; ``td_id`` is
    kept when the module is updated below it and when it migrates.
    """

    vm_index: int
    td_id: bytes
    device_info: bytes
    initial_service_td_hash: bytes
    initial_service_td_attributes: bytes
    initial_cpu_svn: bytes
    initial_tee_tcb_svn: bytes
    initial_fmspc: bytes
    service_td_hash: bytes
    service_td_attributes: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class TdBody:
    """What a quote says about the trust domain; all fields are raw bytes of fixed size.

    ``tee_tcb_svn_2`` and ``mrservicetd`` exist only in bodies of TDX 1.5, ``extension`` only in extended
    ones.
    """

    kind: BodyType
    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn_2: bytes | None = None
    mrservicetd: bytes | None = None
    extension: TdExtension | None = None

    @property
    def debug(self) -> bool:
        """Whether the host may read and change the trust domain."""
        return bool(self.td_attributes[0] & _DEBUG)

    def registers(self) -> Mapping[str, bytes]:
        """The measurements under the names that predictions use."""
        rtmrs = {f"rtmr{number}": value for number, value in enumerate(self.rtmrs)}
        return {
            "mrtd": self.mrtd,
            **rtmrs,
            "mrconfigid": self.mrconfigid,
            "mrowner": self.mrowner,
            "mrownerconfig": self.mrownerconfig,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TdQuote:
    """A quote: header fields, body, and the signature data, which are not looked at."""

    version: int
    qe_vendor: bytes
    user_data: bytes
    body: TdBody
    signature_data: bytes


def parse_quote(data: bytes, *, subject: str = "quote") -> TdQuote:
    """Read a quote; raises ``QuoteError`` unless every length is right and nothing but zeros follows."""
    if len(data) > MAX_QUOTE:
        raise _error(subject, f"is larger than {MAX_QUOTE} bytes")
    if len(data) < _HEADER.size:
        raise _error(subject, f"has {len(data)} bytes, less than a quote's header of {_HEADER.size}")
    version, key_type, tee_type, _, _, vendor, user_data = _HEADER.unpack_from(data)
    if version not in (_VERSION_4, _VERSION_5):
        raise _error(subject, f"has version {version}; 4 or 5 is expected")
    if tee_type != _TEE_TDX:
        what = "an SGX enclave" if tee_type == _TEE_SGX else f"TEE type {tee_type:#x}"
        raise _error(subject, f"is of {what} (byte 4), not of a trust domain")
    if key_type != _ECDSA_P256:
        raise _error(subject, f"has attestation key type {key_type} (byte 2), 2 expected")
    kind, start = _body_type(data, version, subject)
    end = start + kind.size
    signature, rest = _sized(data, end, subject)
    if rest.strip(b"\0"):
        raise _error(subject, f"is followed by {len(rest)} bytes that are not zero")
    return TdQuote(
        version=version,
        qe_vendor=vendor,
        user_data=user_data,
        body=parse_td_body(data[start:end], kind),
        signature_data=signature,
    )


def parse_td_body(data: bytes, kind: BodyType, *, subject: str = "quote") -> TdBody:
    """Read a body of exactly ``kind.size`` bytes; raises ``QuoteError``."""
    if len(data) != kind.size:
        raise _error(subject, f"has a body of {len(data)} bytes, {kind.size} expected")
    fields = _FIELDS.unpack_from(data)
    later = _FIELDS_1_5.unpack_from(data, _FIELDS.size) if kind >= BodyType.TDX_1_5 else (None, None)
    return TdBody(
        kind=kind,
        tee_tcb_svn=fields[0],
        mrseam=fields[1],
        mrsignerseam=fields[2],
        seam_attributes=fields[3],
        td_attributes=fields[4],
        xfam=fields[5],
        mrtd=fields[6],
        mrconfigid=fields[7],
        mrowner=fields[8],
        mrownerconfig=fields[9],
        rtmrs=(fields[10], fields[11], fields[12], fields[13]),
        report_data=fields[14],
        tee_tcb_svn_2=later[0],
        mrservicetd=later[1],
        extension=_extension(data) if kind is BodyType.TDX_1_5_EXTENDED else None,
    )


def _extension(data: bytes) -> TdExtension:
    fields = _FIELDS_EXTENDED.unpack_from(data, _FIELDS.size + _FIELDS_1_5.size)
    return TdExtension(
        vm_index=fields[0],
        td_id=fields[1],
        device_info=fields[2],
        initial_service_td_hash=fields[3],
        initial_service_td_attributes=fields[4],
        initial_cpu_svn=fields[5],
        initial_tee_tcb_svn=fields[6],
        initial_fmspc=fields[7],
        service_td_hash=fields[8],
        service_td_attributes=fields[9],
    )


def _body_type(data: bytes, version: int, subject: str) -> tuple[BodyType, int]:
    """Type of the body and where it starts."""
    if version == _VERSION_4:
        return BodyType.TDX_1_0, _HEADER.size
    if len(data) < _HEADER.size + _BODY_HEADER.size:
        raise _error(subject, f"ends at byte {len(data)}, before the type of its body")
    number, size = _BODY_HEADER.unpack_from(data, _HEADER.size)
    if number not in BodyType.__members__.values():
        raise _error(subject, f"has a body of type {number} (byte {_HEADER.size}), 2, 3 or 4 expected")
    kind = BodyType(number)
    if size != kind.size:
        raise _error(subject, f"has a body of {size} bytes (byte {_HEADER.size + 2}), {kind.size} expected")
    return kind, _HEADER.size + _BODY_HEADER.size


def _sized(data: bytes, place: int, subject: str) -> tuple[bytes, bytes]:
    """The signature data whose size stands at ``place``, and what follows."""
    if len(data) < place + 4:
        raise _error(subject, f"ends at byte {len(data)}, inside of its body")
    end = place + 4 + int.from_bytes(data[place : place + 4], "little")
    if end == place + 4 or end > len(data):
        raise _error(
            subject, f"has signature data to byte {end} (size at byte {place}), but {len(data)} bytes"
        )
    return data[place + 4 : end], data[end:]


def _error(subject: str, reason: str) -> QuoteError:
    return QuoteError(reason, subject=subject, advice="give an Intel TDX quote of version 4 or 5, as bytes")
