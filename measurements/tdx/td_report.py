"""The fields of a TDREPORT, which the TDX module makes for use on the same machine.

Its authentication code can be checked by that machine's processor only, so on its own a report proves
nothing.

Layout (Intel TDX Module ABI, TDREPORT_STRUCT, 1024 bytes): REPORTMACSTRUCT at 0 (u8 type 0x81, u8 subtype, u8
version, 13 reserved bytes, 16 bytes CPU SVN, SHA-384 of TEE_TCB_INFO at 32, SHA-384 of TDINFO at 80, 64 bytes
report data at 128, 32 reserved bytes, 32 bytes MAC at 224); TEE_TCB_INFO at 256 (239 bytes: valid bits 8, SVN
16, MRSEAM 48, MRSIGNERSEAM 48, attributes 8, ...); TDINFO at 512: attributes 8, XFAM 8, MRTD 48, MRCONFIGID
48, MROWNER 48, MROWNERCONFIG 48, four RTMRs, SERVTD hash 48 (zero before TDX 1.5).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from measurements.errors import FormatError

SIZE = 1024

_MAC_STRUCT = struct.Struct("<BBBB12s16s48s48s64s32s32s")
_TCB_INFO_AT, _TCB_INFO_SIZE, _TD_INFO_AT = 256, 239, 512
_TCB_INFO = struct.Struct("<8s16s48s48s8s")
_TD_INFO = struct.Struct("<8s8s48s48s48s48s48s48s48s48s48s")
_TYPE_TDX = 0x81
_VERSIONS = (0, 1)


class TdReportError(FormatError):
    """Bytes that are no TDREPORT."""

    code = "tdx-report"


@dataclass(frozen=True, kw_only=True, slots=True)
class TdReport:
    """What a report says; all fields are raw bytes of fixed size."""

    cpu_svn: bytes
    report_data: bytes
    mac: bytes
    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    td_attributes: bytes
    xfam: bytes
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    servtd_hash: bytes

    @property
    def debug(self) -> bool:
        """Whether the host may read and change the trust domain."""
        return bool(self.td_attributes[0] & 1)

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


def parse_td_report(data: bytes, *, subject: str = "TDREPORT") -> TdReport:
    """Read a report; raises ``TdReportError`` unless it is one and holds what its own hashes cover."""
    if len(data) != SIZE:
        raise _error(subject, f"has {len(data)} bytes, {SIZE} expected")
    kind, subtype, version, *rest = _MAC_STRUCT.unpack_from(data)
    if kind != _TYPE_TDX or subtype or version not in _VERSIONS:
        raise _error(subject, f"is of type {kind:#x}, subtype {subtype}, version {version} (bytes 0 to 2)")
    _, _, cpu_svn, tcb_hash, info_hash, report_data, _, mac = rest
    if hashlib.sha384(data[_TCB_INFO_AT : _TCB_INFO_AT + _TCB_INFO_SIZE]).digest() != tcb_hash:
        raise _error(subject, f"does not hold the TEE_TCB_INFO (byte {_TCB_INFO_AT}) of its hash")
    if hashlib.sha384(data[_TD_INFO_AT:]).digest() != info_hash:
        raise _error(subject, f"does not hold the TDINFO (byte {_TD_INFO_AT}) of its hash")
    _, svn, mrseam, mrsignerseam, _ = _TCB_INFO.unpack_from(data, _TCB_INFO_AT)
    fields = _TD_INFO.unpack_from(data, _TD_INFO_AT)
    return TdReport(
        cpu_svn=cpu_svn,
        report_data=report_data,
        mac=mac,
        tee_tcb_svn=svn,
        mrseam=mrseam,
        mrsignerseam=mrsignerseam,
        td_attributes=fields[0],
        xfam=fields[1],
        mrtd=fields[2],
        mrconfigid=fields[3],
        mrowner=fields[4],
        mrownerconfig=fields[5],
        rtmrs=(fields[6], fields[7], fields[8], fields[9]),
        servtd_hash=fields[10],
    )


def _error(subject: str, reason: str) -> TdReportError:
    return TdReportError(reason, subject=subject, advice="give the 1024 bytes that the TDX driver returned")
