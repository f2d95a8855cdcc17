"""What all importers share: the error, the files beside the evidence, bytes written as text, strict JSON."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NoReturn, TypeAlias, TypeVar

from attestation.container_codec import MAX_CONTAINER
from measurements.errors import FormatError
from measurements.json_text import MAX_MARKS, json_text

SUBJECT = "evidence"
_HEX = re.compile(r"[0-9a-fA-F]*")
_BLANKS = b" \t\r\n"
_Item = TypeVar("_Item")


class EvidenceImportError(FormatError):
    """Bytes that are no evidence of a known format, or a broken one."""

    code = "evidence-import"


class SideFile(StrEnum):
    """Files that go with evidence, by what they are."""

    AUXBLOB = "auxblob"
    """Of configfs-tsm: the certificates that the host gives with an SNP report."""
    PROVIDER = "provider"
    """Of configfs-tsm: the name of the driver."""
    HCL_REPORT = "hcl-report"
    """Azure's HCL report, where the evidence is a bare TPM quote."""
    TD_QUOTE = "td-quote"
    """The quote of the trust domain below Azure's TPM."""
    CERTIFICATES = "certificates"
    """PEM or DER."""
    TCG2_LOG = "tcg2-log"
    CCEL_LOG = "ccel-log"
    DSTACK_LOG = "dstack-log"
    GPU = "gpu"
    """Evidence of GPUs, in a form of ``attestation.nvidia.evidence_files``."""
    GPU_CERTIFICATES = "gpu-certificates"
    COLLATERAL = "collateral"
    """In any form of ``attestation.collateral_import``."""
    APP_MANIFEST = "app-manifest"
    SHAPE = "shape"
    REFERENCE = "reference"
    EK_CERTIFICATE = "ek-certificate"
    """Certificate of the machine's endorsement key, DER or PEM."""
    ACTIVATED = "activated-secret"
    """What the machine's TPM opened: the secret of the verifier's credential, 32 bytes."""


SideFiles: TypeAlias = Mapping[SideFile, bytes]
JsonObject: TypeAlias = Mapping[str, object]


def refuse(reason: str, *, what: str = SUBJECT) -> NoReturn:
    """Raise ``EvidenceImportError``."""
    raise EvidenceImportError(
        reason, subject=what, advice="give the evidence as the software that made it wrote it"
    )


def parse_json(data: bytes, *, what: str = SUBJECT) -> object:
    """Any JSON with each key once; bounded before it is parsed."""
    if len(data) > 2 * MAX_CONTAINER:
        refuse(f"has {len(data)} bytes, more than {2 * MAX_CONTAINER}", what=what)
    try:
        return json.loads(
            json_text(data, marks=MAX_MARKS), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except ValueError as error:
        refuse(f"is no JSON: {error}", what=what)


def closed(value: object, required: str, optional: str = "", *, what: str) -> JsonObject:
    """An object that has the ``required`` keys (parted by blanks) and besides only ``optional`` ones."""
    if not isinstance(value, dict):
        refuse("is not an object", what=what)
    missing = [key for key in required.split() if key not in value]
    unknown = [key for key in value if key not in {*required.split(), *optional.split()}]
    if missing or unknown:
        reason = f"key {missing[0]} is missing" if missing else f"key {str(unknown[0])[:64]!r} is unknown"
        refuse(reason, what=what)
    return value


def text(value: object, *, what: str) -> str:
    """A text that has a form in UTF-8."""
    if not isinstance(value, str):
        refuse("is not a text", what=what)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        refuse("holds a lone surrogate", what=what)
    return value


def hex_octets(value: object, *, what: str) -> bytes:
    """Bytes in hex, of one case or the other."""
    if not isinstance(value, str) or len(value) % 2 or not _HEX.fullmatch(value):
        refuse("is not hex", what=what)
    return bytes.fromhex(value)


def base64_octets(value: object, *, what: str, url: bool = False) -> bytes:
    """Bytes in base64 (RFC 4648 section 4, or section 5 where ``url``), in its canonical form."""
    written = text(value, what=what)
    try:
        data = base64.b64decode(written.encode("ascii"), altchars=b"-_" if url else None, validate=True)
    except (binascii.Error, ValueError):
        refuse("is not base64", what=what)
    again = base64.urlsafe_b64encode(data) if url else base64.b64encode(data)
    if again.decode("ascii") != written:
        refuse("is not base64 in its canonical form", what=what)
    return data


def octet_list(value: object, *, what: str) -> bytes:
    """Bytes as a list of numbers from 0 to 255."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 256 for item in value):
        refuse("is not a list of bytes", what=what)
    return bytes(value)


def items(value: object, most: int, read: Callable[[object, str], _Item], *, what: str) -> tuple[_Item, ...]:
    """The items of a list of at most ``most``, each read with its place."""
    if not isinstance(value, list) or len(value) > most:
        refuse(f"is not a list of up to {most} items", what=what)
    return tuple(read(item, f"{what}[{index}]") for index, item in enumerate(value))


def decodings(data: bytes) -> tuple[bytes, ...]:
    """What text may stand for: itself, and the bytes if it is hex (with or without ``0x``) or base64, with
    blanks around and inside.
    """
    found = [data]
    squeezed = data.translate(None, _BLANKS)
    if squeezed and squeezed.isascii():
        written = squeezed.decode("ascii").removeprefix("0x")
        if len(written) % 2 == 0 and _HEX.fullmatch(written):
            found.append(bytes.fromhex(written))
        if len(written) % 4 == 0:
            try:
                plain = base64.b64decode(squeezed, validate=True)
            except binascii.Error:
                plain = b""
            if base64.b64encode(plain) == squeezed:
                found.append(plain)
    return tuple(found)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
