"""Looks whether an answer is the kind of thing that was asked for, and takes it apart. Signatures and chains
are not checked here.

Signed JSON of Intel's API (version 4, appendices A and B) is an object with the signed object under
``tcbInfo`` or ``enclaveIdentity`` and 64 bytes of ``signature`` in hex. The signature is over the exact text
of the inner object, which is therefore cut out and never written anew. Chains stand in headers, as PEM in
percent encoding.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.collateral_bundle import MAX_CHAIN, MAX_SIGNED_JSON
from attestation.collateral_import import CollateralImportError, from_hex, rim_of_answer
from attestation.collateral_summary import SummaryError, crl_item, read_published
from attestation.fetch.errors import FetchError
from attestation.fetch.http import Answer
from attestation.x509_chain import (
    MALFORMED,
    CertificateError,
    certificate_window,
    common_name,
    load_certificate,
    load_pem_certificates,
)
from measurements.canonical import CanonicalError, parse_json
from measurements.json_text import json_text

FOREVER = 253402300799
"""The end of what has no window: 9999-12-31T23:59:59Z."""

_SIGNATURE = re.compile(r"[0-9a-fA-F]{128}")
_BLANK = re.compile(r"[ \t\r\n]*")
_NAME = re.compile(r'"([A-Za-z]{1,32})"[ \t\r\n]*:[ \t\r\n]*')


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What an answer holds, with its window in seconds since 1970. Which fields are filled depends on what
    was asked for: signed JSON ``text`` and ``signature``; ``ders`` certificates, a list or a manifest;
    ``chain`` PEM out of a header.
    """

    start: int
    end: int
    text: str = ""
    signature: bytes = b""
    chain: str = ""
    ders: tuple[bytes, ...] = ()


class _UnexpectedError(ValueError):
    """What is wrong with an answer."""


def signed_json(answer: Answer, *, key: str, kind: str, fmspc: str | None, header: str) -> Content:
    """TCB info or QE identity with the id ``kind``, and the chain in ``header``; raises ``FetchError`` by
    way of ``checked``.
    """
    text, signature = _cut(_text(answer.body), key)
    try:
        head = read_published(text, what=key)
    except SummaryError as error:
        raise _UnexpectedError(f"its {key} {error.reason}") from error
    if head.id != kind:
        raise _UnexpectedError(f"its {key} is for {head.id}, and {kind} was asked for")
    if head.fmspc != fmspc:
        raise _UnexpectedError(f"its {key} is for FMSPC {head.fmspc}, and {fmspc} was asked for")
    return Content(
        start=head.issued,
        end=head.next_update,
        text=text,
        signature=signature,
        chain=_chain(answer, header),
    )


def revocation_list(answer: Answer, *, issuer: str, header: str | None = None) -> Content:
    """A list whose issuer's name holds ``issuer``: DER, PEM, or DER in hex, as a PCCS gives it."""
    der = from_hex(answer.body.strip()) or answer.body
    if der.startswith(b"-----BEGIN"):
        der = _pem_list(der)
    item = crl_item(der)
    if item.start is None or item.end is None:
        raise _UnexpectedError(f"is no revocation list: {item.problem or 'it names no next one'}")
    if issuer not in item.subject:
        raise _UnexpectedError(f"is a revocation list of {item.subject}, and one of {issuer} was asked for")
    chain = _chain(answer, header) if header is not None else ""
    return Content(start=item.start, end=item.end, ders=(der,), chain=chain)


def certificate_chain(answer: Answer, *, names: frozenset[str]) -> Content:
    """Certificates in PEM whose common names are exactly ``names``."""
    ders = load_pem_certificates(answer.body, what="the chain")
    return _certificates(ders, names)


def chip_certificate(answer: Answer) -> Content:
    """The certificate of a chip's key, DER."""
    return _certificates((answer.body,), frozenset({"SEV-VCEK"}))


def manifest(answer: Answer) -> Content:
    """A reference manifest out of the JSON of NVIDIA's service. It has no window of its own."""
    document = parse_json(answer.body, subject="the answer")
    if not isinstance(document, dict):
        raise _UnexpectedError("is no object")
    return Content(start=0, end=FOREVER, ders=(rim_of_answer(document, "the answer"),))


def ocsp_answer(answer: Answer, *, serial: int) -> Content:
    """An answer of an OCSP responder (RFC 6960) that speaks of the certificate with this number."""
    try:
        response = ocsp.load_der_ocsp_response(answer.body)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise _UnexpectedError(f"says {response.response_status.name.lower()}")
        windows = [
            (one.this_update_utc, one.next_update_utc)
            for one in response.responses
            if one.serial_number == serial
        ]
    except MALFORMED as error:
        raise _UnexpectedError(f"is no OCSP answer: {error}") from error
    if not windows:
        raise _UnexpectedError("speaks of other certificates")
    ends = [int(end.timestamp()) for _, end in windows if end is not None]
    if len(ends) < len(windows):
        raise _UnexpectedError("does not say when the next answer comes")
    start = max(int(start.timestamp()) for start, _ in windows)
    return Content(start=start, end=min(ends), ders=(answer.body,))


def unexpected(error: Exception, answer: Answer, url: str) -> FetchError:
    """The error for an answer that is not what was asked for."""
    reason = getattr(error, "reason", None) or str(error)
    kind = answer.headers.get("content-type", "")[:80]
    shown = answer.body[:32].decode("ascii", "replace").strip()
    return FetchError(
        f"sends what was not asked for: {reason}; the answer is {kind or 'of no named type'} and begins with "
        f"{shown!r}",
        subject=url,
        advice="check that the address is one of this API, without a login page or filter before it",
    )


UNEXPECTED = (_UnexpectedError, CertificateError, CanonicalError, CollateralImportError)
"""What the readers raise."""


def _certificates(ders: tuple[bytes, ...], names: frozenset[str]) -> Content:
    certificates = [load_certificate(der) for der in ders]
    found = frozenset(common_name(one) for one in certificates)
    if found != names:
        raise _UnexpectedError(
            f"has certificates of {', '.join(sorted(found))}, and {', '.join(sorted(names))} were asked for"
        )
    windows = [certificate_window(one) for one in certificates]
    return Content(start=max(one.start for one in windows), end=min(one.end for one in windows), ders=ders)


def _pem_list(pem: bytes) -> bytes:
    try:
        return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)
    except MALFORMED as error:
        raise _UnexpectedError(f"is no revocation list: {error}") from error


def _text(body: bytes) -> str:
    if len(body) > MAX_SIGNED_JSON:
        _refuse(f"has {len(body)} bytes, more than {MAX_SIGNED_JSON}")
    try:
        return json_text(body)
    except ValueError as error:
        raise _UnexpectedError(f"is no JSON: {error}") from error


def _cut(text: str, key: str) -> tuple[str, bytes]:
    """The exact text under ``key``, and the signature beside it; nothing else may be there."""
    decoder = json.JSONDecoder()
    found: dict[str, tuple[str, object]] = {}
    place = _skip(text, _expect(text, _skip(text, 0), "{"))
    while True:
        name = _NAME.match(text, place)
        if name is None or name[1] in found:
            _refuse("is no object with each key once")
        try:
            value, end = decoder.raw_decode(text, name.end())
        except ValueError as error:
            raise _UnexpectedError(f"is no whole JSON: {error}") from error
        found[name[1]] = (text[name.end() : end], value)
        place = _skip(text, end)
        if text[place : place + 1] != ",":
            break
        place = _skip(text, place + 1)
    if _skip(text, _expect(text, place, "}")) != len(text) or set(found) != {key, "signature"}:
        _refuse(f"has not exactly the keys {key} and signature")
    signature = found["signature"][1]
    if not isinstance(signature, str) or not _SIGNATURE.fullmatch(signature):
        _refuse("has a signature that is not 64 bytes in hex")
    return found[key][0], bytes.fromhex(signature)


def _skip(text: str, place: int) -> int:
    blank = _BLANK.match(text, place)
    return blank.end() if blank else place


def _expect(text: str, place: int, mark: str) -> int:
    if text[place : place + 1] != mark:
        _refuse("is no JSON object")
    return place + 1


def _chain(answer: Answer, header: str) -> str:
    """The chain in ``header`` or, as some services name it, in the same with ``SGX-`` before it."""
    value = answer.headers.get(header.lower()) or answer.headers.get(f"sgx-{header.lower()}")
    if value is None:
        _refuse(f"has no header {header}, in which the issuer's certificates come")
    if len(value) > 3 * MAX_CHAIN:
        _refuse(f"has a header {header} of {len(value)} characters")
    try:
        chain = unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise _UnexpectedError(f"has a header {header} that is no text") from error
    load_pem_certificates(chain.encode(), what=f"the header {header}")
    return chain


def _refuse(reason: str) -> NoReturn:
    raise _UnexpectedError(reason)
