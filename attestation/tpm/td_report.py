"""TDREPORT: what a TDX module says of a trust domain, before it becomes a quote.

Layout (Intel TDX Module ABI specification, "TDREPORT_STRUCT"; 1024 bytes, little endian)::

    0    REPORTMACSTRUCT: u8 type 0x81 | u8 subtype 0 | u8 version | u8 0 | 12 bytes 0 | CPUSVN 16
         | SHA-384 of TEE_TCB_INFO | SHA-384 of TDINFO | report data 64 | 32 bytes 0 | MAC 32
    256  TEE_TCB_INFO, 239 bytes: u64 valid | TEE TCB SVN 16 | MRSEAM 48 | MRSIGNERSEAM 48
         | attributes 8 | TEE TCB SVN 2 16 | reserved;  then 17 bytes 0
    512  TDINFO, 512 bytes: attributes 8 | XFAM 8 | MRTD 48 | MRCONFIGID 48 | MROWNER 48
         | MROWNERCONFIG 48 | RTMR0 to 3, 48 each | hash of service TDs 48 | reserved

Only the CPU that made it can check the MAC, so nothing in it is proven. It is compared with a quote that was
verified; besides what the quote repeats there is CPUSVN and the MAC, which nobody reads.
"""

from __future__ import annotations

import hashlib
from typing import NoReturn

from measurements.errors import FormatError
from measurements.tdx.quote import TdBody

SIZE = 1024
UNREAD = (*range(16, 32), *range(224, 256))
"""Bytes of CPUSVN and MAC."""

_TYPE = b"\x81\x00"
_RESERVED = ((3, 16), (192, 224), (495, 512))
_TCB_HASH, _INFO_HASH = slice(32, 80), slice(80, 128)
_TCB, _INFO = slice(256, 495), slice(512, 1024)
_FIELDS = {
    "report_data": (128, 64),
    "tee_tcb_svn": (264, 16),
    "mrseam": (280, 48),
    "mrsignerseam": (328, 48),
    "seam_attributes": (376, 8),
    "td_attributes": (512, 8),
    "xfam": (520, 8),
    "mrtd": (528, 48),
    "mrconfigid": (576, 48),
    "mrowner": (624, 48),
    "mrownerconfig": (672, 48),
}
_RTMRS, _RTMR_SIZE = 720, 48


class TdReportError(FormatError):
    """Bytes that are no TDREPORT, or one of another trust domain."""

    code = "td-report"


def check_same_domain(report: bytes, body: TdBody) -> None:
    """Raises ``TdReportError`` unless ``report`` says of its trust domain what the body of a quote says."""
    if len(report) != SIZE or report[:2] != _TYPE or report[2] > 1:
        _refuse("is not a report of 1024 bytes on a trust domain")
    if any(any(report[start:end]) for start, end in _RESERVED):
        _refuse("has reserved bytes that are not zero")
    hashes = hashlib.sha384(report[_TCB]).digest(), hashlib.sha384(report[_INFO]).digest()
    if hashes != (report[_TCB_HASH], report[_INFO_HASH]):
        _refuse("has parts that are not those it hashes")
    wrong = [name for name, (at, size) in _FIELDS.items() if report[at : at + size] != getattr(body, name)]
    rtmrs = [report[_RTMRS + _RTMR_SIZE * number :][:_RTMR_SIZE] for number in range(len(body.rtmrs))]
    wrong += [f"rtmr{number}" for number, value in enumerate(body.rtmrs) if rtmrs[number] != value]
    if wrong:
        _refuse(f"differs from the quote in {', '.join(wrong)}")


def _refuse(reason: str) -> NoReturn:
    raise TdReportError(reason, subject="TDREPORT", advice="take HCL report and quote of the same machine")
