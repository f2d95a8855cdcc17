"""Report of a GPU or switch: an SPDM 1.1 exchange of measurements, request and response in one.

Layout (DMTF DSP0274 1.1, sections 10.11.1 and 10.11.2; little endian)::

    request   0  version 0x11, GET_MEASUREMENTS 0xE0, 0x01 (signed), 0xFF (all measurements)
              4  nonce of the requester, 32 bytes
             36  slot of the certificate chain
    response 37  version 0x11, MEASUREMENTS 0x60, 0, slot
             41  number of blocks, u8; length of the blocks, u24
             45  blocks: index u8 (from 1, ascending), specification u8 (1: DMTF), size u16,
                         value type u8, value size u16 (size - 3), value
                 nonce of the responder, 32 bytes
                 length of opaque data, u16; opaque data
                 ECDSA P-384, r ‖ s, 96 bytes, over all before it

NVIDIA's opaque data is a list of type u16, size u16, value; each type once. Types and their values are those
of NVIDIA/attestation-sdk (gpu_opaque_data_parser.hpp, switch_opaque_data_parser.hpp) and nvtrust
(spdm_msrt_resp_msg.py). Its newer form with a header ``NVDAOD`` is refused, and so are unknown types: nobody
knows what they would say.

Indices of measurements are given from 0, as NVIDIA's manifests count them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from measurements.errors import FormatError

MAX_REPORT = 16 << 10
NONCE_SIZE = 32
SIGNATURE_SIZE = 96
REQUEST_SIZE = 37

_REQUEST = b"\x11\xe0\x01\xff"
_RESPONSE = b"\x11\x60\x00"
_DMTF = 1
_VALUE_HEADER = 3
_DRIVER_VERSION = re.compile(r"[0-9]{3,4}(?:\.[0-9]{1,3}){1,3}")
_SWITCH_BIOS = re.compile(r"[0-9A-F]{2}(?:\.[0-9A-F]{2}){4}")
_VBIOS_SIZE = 8
_MAX_OPAQUE_VERSION = 1


class Opaque(IntEnum):
    """Types of opaque data. Some numbers mean another thing on switches; those names say ``SWITCH``."""

    CERT_ISSUER_NAME = 1
    CERT_AUTHORITY_KEY_IDENTIFIER = 2
    DRIVER_VERSION = 3
    GPU_INFO = 4
    SKU = 5
    VBIOS_VERSION = 6
    MANUFACTURER_ID = 7
    TAMPER_DETECTION = 8
    SMC = 9
    VPR = 10
    NVDEC0_STATUS = 11
    MEASUREMENT_COUNTS = 12
    CPR_INFO = 13
    BOARD_ID = 14
    CHIP_SKU = 15
    CHIP_SKU_MOD = 16
    PROJECT = 17
    PROJECT_SKU = 18
    PROJECT_SKU_MOD = 19
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    SWITCH_PDI = 22
    FLOORSWEPT_PORTS = 23
    POSITION_ID = 24
    LOCK_SWITCH_STATUS = 25
    SWITCH_GPU_PDIS = 26
    GPU_LINK_CONNECTIONS = 32
    SYSTEM_ENABLE_STATUS = 33
    OPAQUE_DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36


class SpdmError(FormatError):
    """Bytes that are no report of NVIDIA's form."""

    code = "gpu-report"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpdmReport:
    """A parsed report. ``nonce`` is the requester's; ``signed`` is what ``signature`` (r ‖ s) is over;
    ``measurements`` counts from 0.
    """

    nonce: bytes
    responder_nonce: bytes
    measurements: Mapping[int, bytes]
    opaque: Mapping[Opaque, bytes]
    signed: bytes
    signature: bytes

    @property
    def driver_version(self) -> str:
        """Version of the driver, ``570.86.10``; empty on a switch, which has none. Raises ``SpdmError``."""
        if Opaque.DRIVER_VERSION not in self.opaque:
            return ""
        return _versioned(self.text(Opaque.DRIVER_VERSION), _DRIVER_VERSION, "driver")

    @property
    def vbios_version(self) -> str:
        """Version of VBIOS or switch BIOS, ``96.00.5E.00.01``. Raises ``SpdmError``.

        GPUs carry it as 8 bytes: the first four reversed, then the fifth, and three zeros; switches as text.
        """
        raw = self.opaque.get(Opaque.VBIOS_VERSION, b"")
        if len(raw) == _VBIOS_SIZE and not any(raw[5:]):
            return ".".join(f"{byte:02X}" for byte in (*reversed(raw[:4]), raw[4]))
        return _versioned(self.text(Opaque.VBIOS_VERSION).upper(), _SWITCH_BIOS, "VBIOS")

    def text(self, field: Opaque) -> str:
        """A field of ASCII, zeros at its end cut off; empty if it is absent. Raises ``SpdmError``."""
        raw = self.opaque.get(field, b"").rstrip(b"\0")
        if not all(0x20 < byte < 0x7F for byte in raw):
            _refuse(f"field {field.name.lower()} is no printable text")
        return raw.decode("ascii")

    def number(self, field: Opaque) -> int | None:
        """A field that is a number; None if it is absent."""
        raw = self.opaque.get(field)
        return None if raw is None else int.from_bytes(raw, "little")


def parse_report(data: bytes) -> SpdmReport:
    """Read a report to its last byte; raises ``SpdmError``."""
    if len(data) > MAX_REPORT:
        _refuse(f"is {len(data)} bytes long, more than {MAX_REPORT}")
    cursor = _Cursor(data)
    if cursor.take(4, "request") != _REQUEST:
        _refuse("does not begin with an SPDM 1.1 request for all measurements, signed")
    nonce = cursor.take(NONCE_SIZE, "nonce")
    slot = cursor.take(1, "slot")
    if cursor.take(4, "response") != _RESPONSE + slot:
        _refuse("holds no SPDM 1.1 response for the same slot")
    count = cursor.number(1, "number of blocks")
    blocks = cursor.take(cursor.number(3, "length of the blocks"), "measurement blocks")
    responder_nonce = cursor.take(NONCE_SIZE, "nonce of the responder")
    opaque = cursor.take(cursor.number(2, "length of the opaque data"), "opaque data")
    signed = data[: cursor.position]
    signature = cursor.take(SIGNATURE_SIZE, "signature")
    cursor.finish("report")
    return SpdmReport(
        nonce=nonce,
        responder_nonce=responder_nonce,
        measurements=_parse_blocks(blocks, count),
        opaque=_parse_opaque(opaque),
        signed=signed,
        signature=signature,
    )


def _parse_blocks(data: bytes, count: int) -> dict[int, bytes]:
    cursor = _Cursor(data)
    found: dict[int, bytes] = {}
    for expected in range(1, count + 1):
        index = cursor.number(1, "measurement block")
        if index != expected:
            _refuse(f"has measurement block {index} where {expected} belongs: each stands once, in order")
        if cursor.number(1, "measurement block") != _DMTF:
            _refuse(f"measurement block {index} is not of DMTF's form")
        size = cursor.number(2, "measurement block")
        cursor.take(1, "type of a measurement")
        value_size = cursor.number(2, "measurement block")
        if value_size != size - _VALUE_HEADER or not value_size:
            _refuse(f"measurement block {index} has sizes that do not agree")
        found[index - 1] = cursor.take(value_size, f"measurement {index}")
    cursor.finish("list of measurements")
    if not found:
        _refuse("has no measurements")
    return found


def _parse_opaque(data: bytes) -> dict[Opaque, bytes]:
    if data.startswith(b"NVDAOD"):
        _refuse("has opaque data of the newer form NVDAOD, which is not supported")
    cursor = _Cursor(data)
    found: dict[Opaque, bytes] = {}
    while cursor.position < len(data):
        number = cursor.number(2, "opaque data")
        value = cursor.take(cursor.number(2, "opaque data"), f"field {number} of the opaque data")
        try:
            field = Opaque(number)
        except ValueError:
            _refuse(f"has opaque data of the unknown type {number}")
        if field in found:
            _refuse(f"has two fields {field.name.lower()}")
        found[field] = value
    version = int.from_bytes(found.get(Opaque.OPAQUE_DATA_VERSION, b""), "little")
    if version > _MAX_OPAQUE_VERSION:
        _refuse(f"has opaque data of version {version}, which is not supported")
    return found


def _versioned(text: str, form: re.Pattern[str], what: str) -> str:
    if not form.fullmatch(text):
        _refuse(f"names no {what} version of a known form: {text[:40]!r}")
    return text


class _Cursor:
    """Reads fields one after another and refuses to read past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, size: int, what: str) -> bytes:
        value = self._data[self.position : self.position + size]
        if len(value) != size:
            _refuse(f"ends within the {what}")
        self.position += size
        return value

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def finish(self, what: str) -> None:
        left = len(self._data) - self.position
        if left:
            _refuse(f"has {left} bytes after the {what}")


def _refuse(reason: str) -> NoReturn:
    raise SpdmError(reason, subject="GPU report", advice="take new evidence from the device")
