"""The evidence container as JSON, for people and for tools without CBOR.

The structure is that of ``attestation.container_codec``, in canonical JSON (RFC 8785) with the same limits.
Bytes are standard base64 in its one canonical form, except register values and nonces, which are lower-case
hex; register numbers are decimal texts, as JSON has no other keys.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NoReturn

from attestation.container import EvidenceContainer
from attestation.container_codec import (
    MAX_CONTAINER,
    container_document,
    encode_container,
    parse_container_document,
    refusal,
)
from measurements.canonical import Json, encode_canonical, parse_canonical
from measurements.json_text import MAX_MARKS

MAX_JSON = 6 << 20
"""Bytes: what the largest container makes in base64, and some for names."""

_BASE64 = {
    "report",
    "certificates",
    "quote",
    "signature",
    "ak_public",
    "ek_certificate",
    "ak_certificate",
    "hcl_report",
    "nitro_document",
    "activated_secret",
    "data",
    "app_manifest",
    "shape",
    "reference",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_signature",
    "qe_identity_signature",
    "crls",
    "rims",
    "ocsp",
}
"""Keys whose values, or the items of whose lists, are bytes."""
_HEX_KEYS = {"nonce"}
_PCRS = "pcrs"
_HEX = re.compile(r"[0-9a-f]*")
_NUMBER = re.compile(r"0|[1-9][0-9]?")


def container_json(container: EvidenceContainer) -> bytes:
    """The canonical JSON; raises what ``encode_container`` raises."""
    return encode_canonical(container_json_document(container), subject="evidence container")


def container_json_document(container: EvidenceContainer) -> dict[str, Json]:
    """The JSON object; raises what ``encode_container`` raises."""
    encode_container(container)
    return {key: _written(key, value) for key, value in container_document(container).items()}


def parse_container_json(data: bytes) -> EvidenceContainer:
    """Read the canonical JSON; raises ``ContainerError``, ``BundleError`` or ``CanonicalError`` for anything
    else, also for a container whose CBOR would be too large.
    """
    if len(data) > MAX_JSON:
        _refuse("", f"has {len(data)} bytes, more than {MAX_JSON}")
    document = parse_canonical(data, subject="evidence container", marks=MAX_MARKS)
    if not isinstance(document, dict):
        _refuse("document", "is not an object")
    container = parse_container_document({key: _read(key, value, key) for key, value in document.items()})
    encode_container(container)
    return container


def _written(key: str, value: object) -> Json:
    """The JSON of a value that stands under ``key``."""
    if isinstance(value, bytes):
        return value.hex() if key in _HEX_KEYS else base64.b64encode(value).decode("ascii")
    if key == _PCRS and isinstance(value, dict):
        return {
            bank: {str(number): content.hex() for number, content in registers.items()}
            for bank, registers in value.items()
        }
    if isinstance(value, dict):
        return {str(name): _written(str(name), item) for name, item in value.items()}
    if isinstance(value, list):
        return [_written(key, item) for item in value]
    if value is not None and not isinstance(value, str):
        _refuse(key, f"is a {type(value).__name__}")
    return value


def _read(key: str, value: Json, path: str) -> object:
    """What ``_written`` made of."""
    if isinstance(value, str):
        return _octets(key, value, path) if key in _BASE64 | _HEX_KEYS else value
    if key == _PCRS:
        return _read_pcrs(value, path)
    if isinstance(value, dict):
        return {name: _read(name, item, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_read(key, item, f"{path}[{index}]") for index, item in enumerate(value)]
    return value


def _read_pcrs(value: Json, path: str) -> object:
    if not isinstance(value, dict):
        return value
    found: dict[str, object] = {}
    for bank, registers in value.items():
        if not isinstance(registers, dict):
            _refuse(f"{path}.{bank}", "is not an object")
        found[bank] = {
            _number(number, f"{path}.{bank}"): _from_hex(content, f"{path}.{bank}.{number}")
            for number, content in registers.items()
        }
    return found


def _number(text: str, path: str) -> int:
    if not _NUMBER.fullmatch(text):
        _refuse(path, f"has a register {text[:16]!r}")
    return int(text)


def _octets(key: str, text: str, path: str) -> bytes:
    if key in _HEX_KEYS:
        return _from_hex(text, path)
    if len(text) > MAX_CONTAINER * 4 // 3 + 4:
        _refuse(path, "is too long")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _refuse(path, "is not base64")
    if base64.b64encode(data).decode("ascii") != text:
        _refuse(path, "is not base64 in its canonical form")
    return data


def _from_hex(text: Json, path: str) -> bytes:
    if not isinstance(text, str) or len(text) % 2 or not _HEX.fullmatch(text):
        _refuse(path, "is not lower-case hex")
    return bytes.fromhex(text)


def _refuse(path: str, reason: str) -> NoReturn:
    raise refusal(f"{path} {reason}" if path else reason)
