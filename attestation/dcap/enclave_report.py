"""Reports of SGX enclaves: the body of an SGX quote, and what vouches for a quoting enclave.

Layout (Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4, "Enclave Report Body"; little endian), 384
bytes::

    16 CPU SVN | u32 MISCSELECT | 28 | 16 attributes | 32 MRENCLAVE | 32 | 32 MRSIGNER | 96 | u16 product id
    | u16 SVN | 60 | 64 report data

The parts without a name hold key separation values (KSS) or zeros; nothing here depends on them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from measurements.errors import FormatError

REPORT_SIZE = 384

_FIELDS = struct.Struct("<16s4s28s16s32s32s32s96s2s2s60s64s")
ATTRIBUTE_INIT, ATTRIBUTE_DEBUG = 1, 2
"""Bits of the first byte of the attributes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnclaveReport:
    """One report; all but the two numbers are raw bytes of fixed size."""

    cpu_svn: bytes
    misc_select: bytes
    attributes: bytes
    mrenclave: bytes
    mrsigner: bytes
    product_id: int
    isv_svn: int
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the host may read and change the enclave."""
        return bool(self.attributes[0] & ATTRIBUTE_DEBUG)

    def registers(self) -> Mapping[str, bytes]:
        """The measurements under the names of policies; numbers as the report has them, little endian."""
        return {
            "mrenclave": self.mrenclave,
            "mrsigner": self.mrsigner,
            "isv_prod_id": self.product_id.to_bytes(2, "little"),
            "isv_svn": self.isv_svn.to_bytes(2, "little"),
            "attributes": self.attributes,
            "miscselect": self.misc_select,
        }


def parse_enclave_report(data: bytes) -> EnclaveReport:
    """Read 384 bytes; raises ``FormatError`` for any other number."""
    if len(data) != REPORT_SIZE:
        raise FormatError(
            f"has {len(data)} bytes, {REPORT_SIZE} expected",
            subject="enclave report",
            advice="give the quote as the platform wrote it",
        )
    fields = _FIELDS.unpack(data)
    return EnclaveReport(
        cpu_svn=fields[0],
        misc_select=fields[1],
        attributes=fields[3],
        mrenclave=fields[4],
        mrsigner=fields[6],
        product_id=int.from_bytes(fields[8], "little"),
        isv_svn=int.from_bytes(fields[9], "little"),
        report_data=fields[11],
    )
