"""DCAP quotes of version 3, 4 and 5, whole: header, body and signature data, with nothing after them.

Layout (Intel SGX ECDSA QuoteLibReference DCAP API, appendix A; Intel TDX DCAP Quoting Library API, appendix
A; little endian). Header, 48 bytes::

    u16 version | u16 attestation key type | u32 TEE type (0 SGX, 0x81 TDX) | u16 QE SVN | u16 PCE SVN
    | 16 QE vendor | 20 user data

In version 4 and 5 the two SVNs are reserved. Version 3 has the report of an enclave as body, version 4 that
or a TDX 1.0 body, version 5 a u16 type (1 enclave, 2 TDX 1.0, 3 TDX 1.5, 4 TDX 1.5 extended) and u32 size
before the body. Then u32 size and the signature data::

    64 signature (r ‖ s) | 64 attestation key (x ‖ y) | certification data

Certification data is u16 type, u32 size and the value. In version 4 and 5 its type is 6, and its value is
what version 3 has in its place::

    384 QE report | 64 QE report signature | u16 size and QE authentication data | certification data

The inner certification data is of type 5, the PCK's chain in PEM; types 1 to 4 name a PCK that one has to
look up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn

from attestation.dcap.enclave_report import REPORT_SIZE, EnclaveReport, parse_enclave_report
from measurements.errors import FormatError
from measurements.tdx.quote import MAX_QUOTE, BodyType, TdBody, parse_td_body

HEADER_SIZE = 48
SIGNATURE_SIZE = 64
KEY_SIZE = 64
VERSIONS = (3, 4, 5)

_HEADER = struct.Struct("<HHIHH16s20s")
_BODY_TYPE = struct.Struct("<HI")
_CERTIFICATION = struct.Struct("<HI")
_SIZE = struct.Struct("<I")
_SIGNATURE = struct.Struct(f"<{SIGNATURE_SIZE}s{KEY_SIZE}s")
_QE_REPORT = struct.Struct(f"<{REPORT_SIZE}s{SIGNATURE_SIZE}sH")
_ENCLAVE_BODY = 1
_QE_REPORT_TYPE = 6


class DcapQuoteError(FormatError):
    """Bytes that are no DCAP quote."""

    code = "dcap-quote"


class TeeType(IntEnum):
    """What a quote says that it is of."""

    SGX = 0
    TDX = 0x81


_TEE_TYPES = frozenset(TeeType)
_BODY_TYPES = frozenset((_ENCLAVE_BODY, *BodyType))


@dataclass(frozen=True, kw_only=True, slots=True)
class QuoteHeader:
    """The header; ``tee_type`` may be none that is known."""

    version: int
    key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor: bytes
    user_data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class DcapQuote:
    """A quote. ``signed`` is what the attestation key signs: header, body type and body.

    ``qe_report`` is 384 raw bytes, signed by the PCK; ``certification_data`` is of ``certification_type``.
    """

    header: QuoteHeader
    body: TdBody | EnclaveReport
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_authentication: bytes
    certification_type: int
    certification_data: bytes

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the domain or enclave chose."""
        return self.body.report_data


class _Reader:
    """Takes fields off the front; every one has to be there."""

    __slots__ = ("_data", "_what", "place")

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self.place = data, what, 0

    def take(self, size: int, name: str) -> bytes:
        """The next ``size`` bytes."""
        start, end = self.place, self.place + size
        if end > len(self._data):
            _refuse(f"{self._what} ends at byte {len(self._data)}, inside of {name} that reaches to {end}")
        self.place = end
        return self._data[start:end]

    def unpack(self, layout: struct.Struct, name: str) -> tuple[Any, ...]:
        """The next fields."""
        return layout.unpack(self.take(layout.size, name))

    def last(self, size: int, name: str) -> bytes:
        """The next ``size`` bytes, which have to be all that is left."""
        found = self.take(size, name)
        if self.place != len(self._data):
            rest = len(self._data) - self.place
            _refuse(f"{self._what} is followed by {rest} bytes that belong to nothing")
        return found


def parse_dcap_quote(data: bytes) -> DcapQuote:
    """Read a quote; raises ``DcapQuoteError``. What parses is exactly these bytes: every length fits, and
    nothing follows.
    """
    if len(data) > MAX_QUOTE:
        _refuse(f"has {len(data)} bytes, at most {MAX_QUOTE} are read")
    reader = _Reader(data, "the quote")
    header = _header(reader.take(HEADER_SIZE, "its header"))
    if header.version not in VERSIONS:
        _refuse(f"has version {header.version}; 3, 4 or 5 is expected")
    body = _body(reader, header)
    signed = data[: reader.place]
    (size,) = reader.unpack(_SIZE, "the size of the signature data")
    section = _Reader(reader.last(size, "the signature data"), "the signature data")
    signature, key = section.unpack(_SIGNATURE, "signature and key")
    certified = section if header.version == VERSIONS[0] else _nested(section)
    report, report_signature, length = certified.unpack(_QE_REPORT, "the QE report")
    authentication = certified.take(length, "the QE authentication data")
    kind, value = _certification(certified)
    return DcapQuote(
        header=header,
        body=body,
        signed=signed,
        signature=signature,
        attestation_key=key,
        qe_report=report,
        qe_report_signature=report_signature,
        qe_authentication=authentication,
        certification_type=kind,
        certification_data=value,
    )


def _header(data: bytes) -> QuoteHeader:
    version, key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack(data)
    return QuoteHeader(
        version=version,
        key_type=key_type,
        tee_type=tee_type,
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        qe_vendor=vendor,
        user_data=user_data,
    )


def _body(reader: _Reader, header: QuoteHeader) -> TdBody | EnclaveReport:
    kind = _body_kind(reader, header)
    if kind is None:
        return parse_enclave_report(reader.take(REPORT_SIZE, "the report of an enclave"))
    return parse_td_body(reader.take(kind.size, "the body"), kind)


def _body_kind(reader: _Reader, header: QuoteHeader) -> BodyType | None:
    """Which body comes; None for the report of an enclave."""
    if header.tee_type not in _TEE_TYPES:
        _refuse(f"is of TEE type {header.tee_type:#x}; 0 (SGX) or 0x81 (TDX) is expected")
    enclave = header.tee_type == TeeType.SGX
    if header.version == 3 and not enclave:
        _refuse("has version 3, which is for enclaves, and is of a trust domain")
    if header.version < 5:
        return None if enclave else BodyType.TDX_1_0
    number, size = reader.unpack(_BODY_TYPE, "the type of its body")
    if enclave != (number == _ENCLAVE_BODY) or number not in _BODY_TYPES:
        _refuse(f"has a body of type {number}, which TEE type {header.tee_type:#x} does not have")
    kind = None if enclave else BodyType(number)
    expected = REPORT_SIZE if kind is None else kind.size
    if size != expected:
        _refuse(f"says that its body has {size} bytes; type {number} has {expected}")
    return kind


def _nested(section: _Reader) -> _Reader:
    """What certification data of type 6 holds."""
    kind, value = _certification(section)
    if kind != _QE_REPORT_TYPE:
        _refuse(f"has certification data of type {kind}, {_QE_REPORT_TYPE} expected")
    return _Reader(value, "certification data")


def _certification(reader: _Reader) -> tuple[int, bytes]:
    """The last thing in a part: type and value."""
    kind, size = reader.unpack(_CERTIFICATION, "the type of certification data")
    return kind, reader.last(size, "certification data")


def _refuse(reason: str) -> NoReturn:
    raise DcapQuoteError(
        reason, subject="quote", advice="give the quote as the platform wrote it, without padding"
    )
