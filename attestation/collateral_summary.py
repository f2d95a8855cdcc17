"""What collateral says of itself: kind, what it is for, its number and its window. Nothing here checks a
signature; whoever made the bytes chose every field.

Signed JSON (Intel PCS API version 4, appendices A and B): of TCB info and enclave identity only ``id``,
``fmspc``, ``issueDate``, ``nextUpdate`` and ``tcbEvaluationDataNumber`` are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NoReturn

from cryptography import x509
from cryptography.x509 import ocsp

from attestation.collateral import Collateral, DcapCollateral
from attestation.limited_cache import limited_cache
from attestation.x509_chain import (
    MALFORMED,
    CertificateError,
    certificate_window,
    load_certificate,
    load_pem_certificates,
)
from measurements.errors import FormatError, KeyturnError
from measurements.json_text import json_text

SIMULATED = b"keyturn simulated TEE"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_FMSPC = re.compile(r"[0-9A-Fa-f]{12}")
_MAX_NUMBER = (1 << 31) - 1
_RIM_TAG = re.compile(rb"<(?:[\w-]{1,32}:)?SoftwareIdentity\b([^>]*)>")
_RIM_NAME = re.compile(rb"\sname=\"([^\"]{1,128})\"")
_RIM_VERSION = re.compile(rb"\scolloquialVersion=\"([^\"]{1,128})\"")


class SummaryError(FormatError):
    """Collateral that does not even say what it is."""

    code = "collateral-summary"


class ItemState(StrEnum):
    """Where a moment is in an item's window."""

    VALID = "valid"
    EXPIRED = "expired"
    NOT_YET = "not valid yet"
    UNREADABLE = "unreadable"
    NO_WINDOW = "no window"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedJson:
    """The head of TCB info (``SGX``, ``TDX``) or of a QE identity (``QE``, ``TD_QE``). ``fmspc`` is
    lower-case hex, None in identities; times are seconds since 1970.
    """

    id: str
    fmspc: str | None
    evaluation_number: int
    issued: int
    next_update: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing in a bundle. ``start`` and ``end`` are seconds since 1970, None where it has no window;
    ``problem`` says why it cannot be read.
    """

    what: str
    subject: str
    evaluation_number: int | None = None
    start: int | None = None
    end: int | None = None
    early: bool = False
    problem: str | None = None

    def state(self, now: int) -> ItemState:
        """Where ``now`` is in its window, both ends included."""
        if self.problem is not None:
            return ItemState.UNREADABLE
        if self.start is None or self.end is None:
            return ItemState.NO_WINDOW
        if now < self.start:
            return ItemState.NOT_YET
        return ItemState.VALID if now <= self.end else ItemState.EXPIRED

    def as_json(self, now: int) -> dict[str, Any]:
        """The item as ``--json`` shows it."""
        return {
            "what": self.what,
            "subject": self.subject,
            "evaluation_number": self.evaluation_number,
            "issued": self.start,
            "next_update": self.end,
            "early": self.early,
            "state": self.state(now).value,
            "problem": self.problem,
        }


def summarise(collateral: Collateral) -> tuple[Item, ...]:
    """Everything in the collateral, each item once: sets first, then what stands alone. Never raises."""
    items = [item for one in collateral.dcap for item in _set_items(one, early=False)]
    items += [item for one in collateral.early for item in _set_items(one, early=True)]
    items += [_certificate_item(der) for der in collateral.certificates]
    items += [crl_item(der) for der in collateral.crls]
    items += [_rim_item(data) for data in collateral.rims]
    items += [_ocsp_item(der) for der in collateral.ocsp]
    return tuple(dict.fromkeys(items))


def is_simulated(collateral: Collateral) -> bool:
    """Whether any of it says that it is of a simulated TEE, as ``keyturn sim`` has it in every issuer's
    name.
    """
    every = (*collateral.dcap, *collateral.early)
    lists = (*(one.root_ca_crl for one in every), *(one.pck_crl for one in every), *collateral.crls)
    return any(SIMULATED in one for one in (*lists, *collateral.certificates))


@limited_cache(maxsize=64, largest=64 << 10)
def read_published(text: str, *, what: str) -> PublishedJson:
    """The head of signed JSON; raises ``SummaryError``."""
    try:
        value = json.loads(json_text(text.encode()))
    except ValueError as error:
        _refuse(what, f"is not JSON: {error}")
    if not isinstance(value, dict):
        _refuse(what, "is not an object")
    fmspc, number, kind = (value.get(key) for key in ("fmspc", "tcbEvaluationDataNumber", "id"))
    if not isinstance(kind, str) or not kind.isascii() or len(kind) > 16:
        _refuse(what, "has no id")
    if fmspc is not None and not (isinstance(fmspc, str) and _FMSPC.fullmatch(fmspc)):
        _refuse(what, "has an fmspc that is not 12 hex digits")
    if type(number) is not int or not 0 <= number <= _MAX_NUMBER:
        _refuse(what, "has no tcbEvaluationDataNumber")
    return PublishedJson(
        id=kind,
        fmspc=None if fmspc is None else fmspc.lower(),
        evaluation_number=number,
        issued=_seconds(value.get("issueDate"), what, "issueDate"),
        next_update=_seconds(value.get("nextUpdate"), what, "nextUpdate"),
    )


@limited_cache(maxsize=64, largest=64 << 10)
def crl_item(der: bytes, *, early: bool = False) -> Item:
    """What a revocation list says of itself."""
    try:
        revoked = x509.load_der_x509_crl(der)
        name = _name(revoked.issuer)
        end = revoked.next_update_utc
        start = revoked.last_update_utc
    except MALFORMED as error:
        return _unreadable("revocation list", error)
    return Item(
        what="revocation list",
        subject=name,
        start=int(start.timestamp()),
        end=None if end is None else int(end.timestamp()),
        early=early,
    )


def rim_name(data: bytes) -> str | None:
    """Product and version of a SWID tag (ISO/IEC 19770-2), None if the bytes are no such XML."""
    head = data[:4096]
    tag = _RIM_TAG.search(head)
    name = _RIM_NAME.search(tag[1]) if tag else None
    if name is None:
        return None
    version = _RIM_VERSION.search(head)
    return b" ".join([name[1], *([version[1]] if version else [])]).decode("ascii", "replace")


def _set_items(one: DcapCollateral, *, early: bool) -> Iterator[Item]:
    yield _published_item("TCB info", one.tcb_info, early=early)
    yield _published_item("QE identity", one.qe_identity, early=early)
    yield crl_item(one.pck_crl)
    yield crl_item(one.root_ca_crl)
    for chain in (one.tcb_info_issuer_chain, one.qe_identity_issuer_chain, one.pck_crl_issuer_chain):
        try:
            yield from map(_certificate_item, load_pem_certificates(chain.encode("utf-8", "replace")))
        except CertificateError as error:
            yield _unreadable("issuer chain", error)


def _published_item(what: str, text: str, *, early: bool) -> Item:
    try:
        head = read_published(text, what=what)
    except KeyturnError as error:
        return _unreadable(what, error)
    return Item(
        what=what,
        subject=head.id if head.fmspc is None else f"{head.id} {head.fmspc}",
        evaluation_number=head.evaluation_number,
        start=head.issued,
        end=head.next_update,
        early=early,
    )


def _certificate_item(der: bytes) -> Item:
    try:
        certificate = load_certificate(der)
        window = certificate_window(certificate)
        name = _name(certificate.subject)
        if certificate.issuer != certificate.subject:
            name = f"{name} of {_name(certificate.issuer)}"
    except (CertificateError, *MALFORMED) as error:
        return _unreadable("certificate", error)
    return Item(what="certificate", subject=name, start=window.start, end=window.end)


def _rim_item(data: bytes) -> Item:
    name = rim_name(data)
    if name is None:
        return _unreadable("reference manifest", ValueError("is no SWID tag with a name"))
    return Item(what="reference manifest", subject=name)


def _ocsp_item(der: bytes) -> Item:
    try:
        answer = ocsp.load_der_ocsp_response(der)
        (one, *rest) = answer.responses
        start, end = one.this_update_utc, one.next_update_utc
        subject = f"serial {one.serial_number:x}" + (f" and {len(rest)} more" if rest else "")
    except MALFORMED as error:
        return _unreadable("OCSP answer", error)
    return Item(
        what="OCSP answer",
        subject=subject,
        start=int(start.timestamp()),
        end=None if end is None else int(end.timestamp()),
    )


def _name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else name.rfc4514_string()


def _unreadable(what: str, error: Exception) -> Item:
    reason = error.reason if isinstance(error, KeyturnError) else str(error)
    return Item(what=what, subject="?", problem=reason[:200])


def _seconds(value: object, what: str, key: str) -> int:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        _refuse(what, f"has no {key}")
    try:
        return int(datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        _refuse(what, f"has no date as its {key}")


def _refuse(subject: str, reason: str) -> NoReturn:
    raise SummaryError(reason, subject=subject, advice="take the collateral again from its source")
