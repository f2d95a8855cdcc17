"""Reads evidence of GPUs as NVIDIA's tools and others write it. Nothing is verified here.

Forms:

- the array of NVIDIA/attestation-sdk (``nvattest collect-evidence``; also what veraison keeps): objects of
  ``arch``, ``nonce`` (hex), ``evidence`` (the report) and ``certificate`` (PEM, leaf first), both in base64;
  ``version``, ``driver_version`` and ``vbios_version`` may stand beside them and must be the report's,
- one report as hex text or as bytes (nvtrust's samples), whose chain is a second file of PEM. Such files do
  not carry the nonce apart from the report, so the report's own stands for it, and it has to be compared with
  what was asked for: by ``gpu.bound`` or a list of report data.

The JSON of dstack's ``gpu_attestation`` holds the claims of a verifier that ran in the guest, and no report:
it is refused with that reason.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NoReturn

from attestation.container import GpuPart
from attestation.nvidia.device import Architecture, claimed_architecture
from attestation.nvidia.spdm import MAX_REPORT, NONCE_SIZE, parse_report
from attestation.x509_chain import load_pem_certificates
from measurements.errors import FormatError
from measurements.json_text import MAX_MARKS, json_text

MAX_FILE = 1 << 20
MAX_DEVICES = 32

_REQUIRED = {"arch", "nonce", "evidence", "certificate"}
_OPTIONAL = {"version", "driver_version", "vbios_version"}
_CLAIMS = {"claims", "detached_eat", "result_code"}
_NONCE = re.compile(rf"[0-9a-f]{{{2 * NONCE_SIZE}}}")
_HEX_TEXT = re.compile(rb"(?:[0-9a-fA-F]{2})+")


class GpuEvidenceError(FormatError):
    """A file that is no evidence of GPUs in a known form."""

    code = "gpu-evidence"


def read_gpu_evidence(data: bytes, *, certificates: bytes | None = None) -> tuple[GpuPart, ...]:
    """The devices of a file, in its order; ``certificates`` is the PEM file beside a bare report. Raises
    ``KeyturnError``.
    """
    if len(data) > MAX_FILE or (certificates is not None and len(certificates) > MAX_FILE):
        _refuse(f"is larger than {MAX_FILE} bytes")
    if data.lstrip()[:1] in (b"[", b"{"):
        if certificates is not None:
            _refuse("carries its own certificates, so a second file is one too many")
        return _read_json(data)
    report = _report(data)
    if certificates is None:
        _refuse("is a report without its certificates: give the file with the chain as well")
    nonce = parse_report(report).nonce
    chain = load_pem_certificates(certificates, what="the GPU's chain")
    return (
        GpuPart(
            architecture=claimed_architecture(chain[0]).value,
            report=report,
            certificates=chain,
            nonce=nonce,
        ),
    )


def _report(data: bytes) -> bytes:
    """The report in hex text, or the bytes themselves; the limit keeps the match cheap."""
    text = data.strip()
    if len(text) <= 2 * MAX_REPORT and _HEX_TEXT.fullmatch(text):
        return bytes.fromhex(text.decode("ascii"))
    return data


def looks_like_gpu_evidence(data: bytes) -> bool:
    """Whether a file seems to be of one of these forms; an answer to find a reader by, and no proof."""
    start = data[:4096].lstrip()
    if start[:1] in (b"[", b"{"):
        return b'"arch"' in start or (b'"claims"' in start and b"x-nvidia" in data[:MAX_FILE])
    return start.startswith((b"\x11\xe0\x01\xff", b"11e001ff", b"11E001FF"))


def _read_json(data: bytes) -> tuple[GpuPart, ...]:
    try:
        document = json.loads(json_text(data, marks=MAX_MARKS), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        _refuse(f"is no JSON: {error}")
    if isinstance(document, dict) and set(document) >= _CLAIMS:
        _refuse("holds what a verifier in the guest claims, and no report of a device: send the evidence")
    if not isinstance(document, list) or not 0 < len(document) <= MAX_DEVICES:
        _refuse(f"is no list of 1 to {MAX_DEVICES} devices")
    return tuple(_part(entry, f"device {place}") for place, entry in enumerate(document))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _part(entry: Any, what: str) -> GpuPart:
    if not isinstance(entry, dict) or not set(entry) >= _REQUIRED or set(entry) - _REQUIRED - _OPTIONAL:
        _refuse(f"{what} is not {', '.join(sorted(_REQUIRED))} and nothing unknown")
    if not all(isinstance(value, str) for value in entry.values()):
        _refuse(f"{what} has a value that is no text")
    if entry["arch"] not in set(Architecture):
        _refuse(f"{what} is of the unknown architecture {entry['arch'][:40]!r}")
    if not _NONCE.fullmatch(entry["nonce"]):
        _refuse(f"{what} has no nonce of {NONCE_SIZE} bytes in lower-case hex")
    report = _decoded(entry["evidence"], f"{what}: evidence", MAX_REPORT)
    _check_claims(entry, report, what)
    chain = _decoded(entry["certificate"], f"{what}: certificate", MAX_FILE)
    return GpuPart(
        architecture=entry["arch"],
        report=report,
        certificates=load_pem_certificates(chain, what=f"the chain of {what}"),
        nonce=bytes.fromhex(entry["nonce"]),
    )


def _check_claims(entry: dict[str, str], report: bytes, what: str) -> None:
    """A version beside the report must be the one in it, so that nobody reads something that is not so."""
    if not _OPTIONAL & set(entry):
        return
    parsed = parse_report(report)
    actual = {
        "version": "1.0",
        "driver_version": parsed.driver_version,
        "vbios_version": parsed.vbios_version,
    }
    for key in sorted(_OPTIONAL & set(entry)):
        if entry[key].upper() != actual[key].upper():
            _refuse(f"{what}: {key} is {entry[key][:40]!r}, but the report says {actual[key]!r}")


def _decoded(text: str, what: str, limit: int) -> bytes:
    try:
        value = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        _refuse(f"{what} is no base64")
    if len(value) > limit:
        _refuse(f"{what} is larger than {limit} bytes")
    if base64.b64encode(value).decode("ascii") != text:
        _refuse(f"{what} is no base64 in its one form")
    return value


def _refuse(reason: str) -> NoReturn:
    raise GpuEvidenceError(
        reason,
        subject="GPU evidence",
        advice="give the JSON of nvattest collect-evidence, or a report and its PEM chain",
    )
