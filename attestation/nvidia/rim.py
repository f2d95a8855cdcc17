"""NVIDIA's reference integrity manifests: which measurements a driver or a VBIOS may have.

A manifest is a SWID tag (ISO/IEC 19770-2:2015) with a payload of resources, signed as XML
(``attestation.nvidia.xml_signature``) under ``NVIDIA CoRIM signing Root CA``::

    SoftwareIdentity
      Entity
      Meta          colloquialVersion (of the driver or VBIOS), product (the chip)
      Payload
        Resource    type="Measurement", index from 0, active True or False, name, size in bytes,
                    alternatives: how many values there are, Hash0, Hash1… (hex), any of which may be found
      Signature

Anything else is refused, also resources of other types: newer manifests may demand what is not known here.
Only what the signature covers is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attestation.limited_cache import limited_cache
from attestation.nvidia.xml_signature import (
    DSIG,
    parse_signed_xml,
    refuse,
    signing_certificates,
    verified,
)
from attestation.x509_chain import Chain, build_chain, load_certificate
from measurements.errors import KeyturnError

MAX_MANIFESTS = 64
MAX_ALTERNATIVES = 64

_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")
_HEX = re.compile(r"(?:[0-9a-f]{2}){1,256}")
_ATTRIBUTES = {"type", "index", "active", "alternatives", "name", "size"}
_MAX_INDEX = 254


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """What one active measurement must be: one of ``values``."""

    index: int
    name: str
    values: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A manifest whose signature and chain hold; when, is for the caller. ``golden`` has the active
    measurements only.
    """

    version: str
    product: str
    tag_id: str
    golden: Mapping[int, Golden]
    chain: Chain


def load_manifest(data: bytes, pool: Iterable[bytes], roots: frozenset[bytes]) -> Manifest:
    """Read and verify one manifest, with missing issuers out of ``pool`` (DER); raises ``KeyturnError``."""
    found = _load_manifest(data, tuple(dict.fromkeys(pool)), roots)
    if isinstance(found, KeyturnError):
        raise found.with_traceback(None)
    return found


@limited_cache(maxsize=64, largest=256 << 10)
def named_by(data: bytes) -> tuple[str, str]:
    """What a manifest says that it is for, version and product, with nothing verified: tells cheaply which
    ones are worth it. Raises ``SignedXmlError``.
    """
    return _names(parse_signed_xml(data))


@limited_cache(maxsize=64, largest=256 << 10)
def _load_manifest(data: bytes, pool: tuple[bytes, ...], roots: frozenset[bytes]) -> Manifest | KeyturnError:
    """A refusal is kept, too: it costs as much."""
    try:
        return _verified_manifest(data, pool, roots)
    except KeyturnError as error:
        return error


def _verified_manifest(data: bytes, pool: tuple[bytes, ...], roots: frozenset[bytes]) -> Manifest:
    root = parse_signed_xml(data)
    certificates = signing_certificates(root)
    chain = build_chain(
        certificates[0], (*certificates[1:], *pool), roots=roots, what="the manifest's signer"
    )
    if chain.ders[: len(certificates)] != certificates:
        refuse("comes with certificates that are not one chain, leaf first")
    signed = verified(root, load_certificate(certificates[0]))
    return _read(signed, chain)


def _names(root: Any) -> tuple[str, str]:
    children = [one.tag for one in root if one.tag != f"{DSIG}Signature"]
    if root.tag != f"{_SWID}SoftwareIdentity" or children != [
        f"{_SWID}Entity",
        f"{_SWID}Meta",
        f"{_SWID}Payload",
    ]:
        refuse("is no SWID tag of entity, meta data and payload")
    version, product = root[1].get("colloquialVersion"), root[1].get("product")
    if not version or not product or not root.get("tagId") or len(root[0]) or len(root[1]):
        refuse("does not name its version, product and tag")
    return version, product


def _read(root: Any, chain: Chain) -> Manifest:
    version, product = _names(root)
    golden: dict[int, Golden] = {}
    seen: set[int] = set()
    for resource in root[2]:
        one, active = _golden(resource)
        if one.index in seen:
            refuse(f"has two measurements of index {one.index}")
        seen.add(one.index)
        if active:
            golden[one.index] = one
    if not golden:
        refuse("has no active measurement")
    return Manifest(version=version, product=product, tag_id=root.get("tagId"), golden=golden, chain=chain)


def _golden(resource: Any) -> tuple[Golden, bool]:
    if resource.tag != f"{_SWID}Resource" or len(resource) or resource.get("type") != "Measurement":
        refuse("has a payload of something besides measurements")
    index = _number(resource.get("index"), "index", _MAX_INDEX)
    count = _number(resource.get("alternatives"), f"number of alternatives of {index}", MAX_ALTERNATIVES)
    size = _number(resource.get("size"), f"size of measurement {index}", 256)
    active = resource.get("active")
    hashes = [f"{_HASH}{place}" for place in range(count)]
    if set(resource.attrib) != {*_ATTRIBUTES, *hashes} or not count or active not in ("True", "False"):
        refuse(f"has a measurement {index} with other attributes than are known")
    values = [resource.get(one) for one in hashes]
    if not all(_HEX.fullmatch(one) and len(one) == 2 * size for one in values):
        refuse(f"has a value of measurement {index} that is not {size} bytes of hex")
    golden = Golden(
        index=index, name=resource.get("name"), values=tuple(bytes.fromhex(one) for one in values)
    )
    return golden, active == "True"


def _number(text: str | None, what: str, limit: int) -> int:
    if text is None or not _NUMBER.fullmatch(text) or int(text) > limit:
        refuse(f"has no valid {what}")
    return int(text)
