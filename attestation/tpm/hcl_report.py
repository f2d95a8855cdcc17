"""Azure's HCL report: the TEE report of a confidential VM, and what its paravisor put in the report data.

The paravisor (HCL) keeps it in the vTPM's NV index 0x01400001. Layout (little endian; Microsoft Learn,
"Guest attestation for confidential VMs, design detail"; structures of kinvolk/azure-cvm-tooling, az-cvm-vtpm
``hcl``)::

    32 bytes    header: "HCLA" | u32 version 1 or 2 | u32 size of all that follows up to the padding, with
                the header | u32 request type 2 | u32 status 0 | 12 bytes 0
    1184 bytes  TEE report: of SEV-SNP, or a TDREPORT (``attestation.tpm.td_report``) and 160 zeros
    20 bytes    request data: u32 size, with these 20 bytes | u32 version 1 | u32 report type (2: SEV-SNP,
                4: TDX) | u32 hash type 1 (SHA-256) | u32 size of the run-time data
    n bytes     run-time data: JSON
    zeros       up to the size of the NV index

The first 32 bytes of the TEE report's report data are SHA-256 of the run-time data, the other 32 are zero.
The run-time data is an object whose ``keys`` are JSON Web Keys; the vTPM's attestation key is the one with
``"kid": "HCLAkPub"``, RSA, exponent 65537. Nothing here checks a signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric import rsa

from attestation.tpm.ak_public import standard_ak_public
from measurements.canonical import parse_json
from measurements.errors import FormatError

MAX_REPORT = 16 << 10
SNP_REPORT_SIZE = 1184
TD_REPORT_SIZE = 1024
AK_NAME = "HCLAkPub"

_HEADER = struct.Struct("<4sIIII12s")
_REQUEST = struct.Struct("<IIIII")
_REQUEST_AT = _HEADER.size + SNP_REPORT_SIZE
_DATA_AT = _REQUEST_AT + _REQUEST.size
_SHA256 = 1
_MAX_MODULUS = 1024


class HclReportError(FormatError):
    """Bytes that are no HCL report."""

    code = "hcl-report"


class HclReportType(IntEnum):
    """Whose report is inside."""

    SNP = 2
    TDX = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class HclReport:
    """One report. ``modulus`` is that of the attestation key, big endian without leading zeros;
    ``configuration`` what the paravisor says of the machine.
    """

    version: int
    kind: HclReportType
    tee_report: bytes
    runtime_data: bytes
    modulus: bytes
    exponent: int
    configuration: Mapping[str, str]

    @property
    def report_data(self) -> bytes:
        """What the TEE report's 64 bytes of report data must be."""
        return hashlib.sha256(self.runtime_data).digest() + bytes(32)

    @property
    def ak_public(self) -> bytes:
        """TPMT_PUBLIC of the attestation key. The report has the key alone, not its template; that it is the
        standard one is confirmed by the name in each quote.
        """
        return standard_ak_public(rsa.RSAPublicNumbers(self.exponent, int.from_bytes(self.modulus, "big")))


@lru_cache(maxsize=64)
def parse_hcl_report(data: bytes) -> HclReport:
    """Read a report; raises ``FormatError`` for anything but the layout above."""
    if not _DATA_AT < len(data) <= MAX_REPORT:
        _refuse(f"has {len(data)} bytes, {_DATA_AT} to {MAX_REPORT} expected")
    magic, version, size, request, status, reserved = _HEADER.unpack_from(data)
    if magic != b"HCLA" or version not in (1, 2):
        _refuse("does not start with HCLA and version 1 or 2")
    if (request, status) != (2, 0) or any(reserved):
        _refuse("has another request type or status, or reserved bytes that are not zero (bytes 12 to 31)")
    total, data_version, kind, hash_type, length = _REQUEST.unpack_from(data, _REQUEST_AT)
    end = _DATA_AT + length
    if kind not in set(HclReportType) or data_version != 1 or hash_type != _SHA256:
        _refuse(f"has request data of version {data_version}, type {kind}, hash {hash_type}")
    if (total, size) != (_REQUEST.size + length, end) or end > len(data):
        _refuse("has sizes that do not agree with each other")
    if any(data[end:]):
        _refuse("has bytes after the run-time data that are not zero")
    tee_report = data[_HEADER.size : _REQUEST_AT]
    if kind == HclReportType.TDX:
        if any(tee_report[TD_REPORT_SIZE:]):
            _refuse("has bytes after the TDREPORT that are not zero")
        tee_report = tee_report[:TD_REPORT_SIZE]
    runtime_data = data[_DATA_AT:end]
    claims = _claims(runtime_data)
    modulus, exponent = _attestation_key(claims)
    return HclReport(
        version=version,
        kind=HclReportType(kind),
        tee_report=tee_report,
        runtime_data=runtime_data,
        modulus=modulus,
        exponent=exponent,
        configuration=_configuration(claims.get("vm-configuration")),
    )


def _claims(data: bytes) -> Mapping[str, object]:
    claims = parse_json(data, subject="HCL report, run-time data")
    if not isinstance(claims, dict):
        _refuse("has run-time data that is no object")
    return claims


def _attestation_key(claims: Mapping[str, object]) -> tuple[bytes, int]:
    keys = claims.get("keys")
    if not isinstance(keys, list):
        _refuse("has run-time data without keys")
    named = [key for key in keys if isinstance(key, dict) and key.get("kid") == AK_NAME]
    if len(named) != 1:
        _refuse(f"names {len(named)} keys {AK_NAME}, not one")
    key = named[0]
    if key.get("kty") != "RSA" or key.get("key_ops") != ["sign"]:
        _refuse(f"has a key {AK_NAME} that is not RSA for signatures")
    modulus, exponent = _number(key.get("n")), _number(key.get("e"))
    if not modulus or not modulus[0] or not exponent or len(exponent) > 4:
        _refuse(f"has a key {AK_NAME} without a modulus or exponent")
    return modulus, int.from_bytes(exponent, "big")


def _number(value: object) -> bytes:
    """Base64url without padding (RFC 7515, section 2), in its one encoding."""
    if not isinstance(value, str) or len(value) > _MAX_MODULUS or not value.isascii():
        _refuse(f"has a key {AK_NAME} with a number that is no text")
    try:
        number = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        _refuse(f"has a key {AK_NAME} with a number that is not base64url: {error}")
    if base64.urlsafe_b64encode(number).rstrip(b"=").decode() != value:
        _refuse(f"has a key {AK_NAME} with a number in another encoding")
    return number


def _configuration(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        return {}
    plain = {key: one for key, one in value.items() if isinstance(one, str | bool | int)}
    return {key: str(one).lower() if isinstance(one, bool) else str(one) for key, one in plain.items()}


def _refuse(reason: str) -> NoReturn:
    raise HclReportError(
        reason, subject="HCL report", advice="read it again from the vTPM's NV index 0x01400001"
    )
