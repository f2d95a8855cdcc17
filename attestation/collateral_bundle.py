"""Collateral as a file: ``keyturn-collateral/1``, and the same structure inside an evidence container.

One CBOR map (RFC 8949, core deterministic encoding of section 4.2.1), with nothing after it::

    "type"          "keyturn-collateral/1"            (in files only)
    "dcap"          [set, …]                          current sets for DCAP quotes
    "early"         [set, …]                          sets of the next TCB recovery
    "certificates"  [bytes, …]                        DER
    "crls"          [bytes, …]                        DER
    "rims"          [bytes, …]                        signed SWID XML
    "ocsp"          [bytes, …]                        DER

A set is a map of the nine fields of ``DcapCollateral`` under their names: chains (PEM, ASCII) and the signed
JSON are texts, revocation lists and signatures (64 bytes) are bytes. Each list has each item once; all keys
are there. The bytes are exactly those of the vendors: nothing is written anew, so signatures stay good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import NoReturn, TypeVar

from attestation.collateral import Collateral, DcapCollateral
from attestation.x509_chain import MAX_CERTIFICATE, MAX_CRL
from measurements.errors import FormatError
from measurements.strict_cbor import encode_deterministic_cbor, parse_deterministic_cbor

TYPE = "keyturn-collateral/1"
MAX_BUNDLE = 16 << 20
"""Bytes of a file."""
MAX_ITEMS = 64
"""Items of each list: as many certificates as a chain is built from."""
MAX_SIGNED_JSON = 256 << 10
"""Bytes of TCB info or QE identity; those of today have up to 7 KiB."""
MAX_CHAIN = 32 << 10
"""Characters of an issuer chain; those of today have 2 KiB."""
MAX_RIM = 2 << 20
MAX_OCSP = 64 << 10
SIGNATURE_SIZE = 64

_TEXTS = {
    "pck_crl_issuer_chain": MAX_CHAIN,
    "tcb_info_issuer_chain": MAX_CHAIN,
    "qe_identity_issuer_chain": MAX_CHAIN,
    "tcb_info": MAX_SIGNED_JSON,
    "qe_identity": MAX_SIGNED_JSON,
}
_BYTES = {
    "root_ca_crl": (1, MAX_CRL),
    "pck_crl": (1, MAX_CRL),
    "tcb_info_signature": (SIGNATURE_SIZE, SIGNATURE_SIZE),
    "qe_identity_signature": (SIGNATURE_SIZE, SIGNATURE_SIZE),
}
_SETS = ("dcap", "early")
_LISTS = {"certificates": MAX_CERTIFICATE, "crls": MAX_CRL, "rims": MAX_RIM, "ocsp": MAX_OCSP}

_Item = TypeVar("_Item")


class BundleError(FormatError):
    """Collateral that is not of the form, or beyond a limit."""

    code = "collateral-bundle"


def encode_bundle(collateral: Collateral) -> bytes:
    """The file; raises ``BundleError`` for collateral that the reader would refuse."""
    document = collateral_document(collateral)
    parse_collateral_document(document, "collateral")
    data = encode_deterministic_cbor({"type": TYPE, **document})
    if len(data) > MAX_BUNDLE:
        _refuse("collateral", f"makes a bundle of {len(data)} bytes, more than {MAX_BUNDLE}")
    return data


def decode_bundle(data: bytes, *, subject: str = "collateral bundle") -> Collateral:
    """Read a file; raises ``BundleError`` or ``CborError`` for anything but what ``encode_bundle`` writes."""
    item = parse_deterministic_cbor(data, limit=MAX_BUNDLE, subject=subject)
    if not isinstance(item, dict) or item.get("type") != TYPE:
        _refuse(subject, f"is not of type {TYPE}")
    return parse_collateral_document({key: item[key] for key in item if key != "type"}, subject)


def collateral_document(collateral: Collateral) -> dict[str, object]:
    """The structure of the module docstring without ``type``: maps, lists, texts and bytes. Each item
    stands once, in the order in which it came.
    """
    once = Collateral().joined(collateral)
    sets = {key: [_set_document(one) for one in getattr(once, key)] for key in _SETS}
    return {**sets, **{key: list(getattr(once, key)) for key in _LISTS}}


def parse_collateral_document(value: object, path: str) -> Collateral:
    """Collateral from its structure, which stands at ``path`` of a larger document; raises
    ``BundleError``.
    """
    items = _map(value, {*_SETS, *_LISTS}, path)
    dcap, early = (_list(items[key], _parse_set, f"{path}.{key}") for key in _SETS)
    lists = {
        key: _list(items[key], _octets_parser(1, limit), f"{path}.{key}") for key, limit in _LISTS.items()
    }
    return Collateral(
        dcap=dcap,
        early=early,
        certificates=lists["certificates"],
        crls=lists["crls"],
        rims=lists["rims"],
        ocsp=lists["ocsp"],
    )


def _set_document(one: DcapCollateral) -> dict[str, object]:
    return {field.name: getattr(one, field.name) for field in fields(one)}


def _parse_set(value: object, path: str) -> DcapCollateral:
    items = _map(value, {*_TEXTS, *_BYTES}, path)
    texts = {key: _text(items[key], limit, f"{path}.{key}") for key, limit in _TEXTS.items()}
    data = {key: _octets_parser(*sizes)(items[key], f"{path}.{key}") for key, sizes in _BYTES.items()}
    for key, text in texts.items():
        if key.endswith("_chain") and not text.isascii():
            _refuse(f"{path}.{key}", "is not ASCII, as PEM is")
    return DcapCollateral(
        pck_crl_issuer_chain=texts["pck_crl_issuer_chain"],
        root_ca_crl=data["root_ca_crl"],
        pck_crl=data["pck_crl"],
        tcb_info_issuer_chain=texts["tcb_info_issuer_chain"],
        tcb_info=texts["tcb_info"],
        tcb_info_signature=data["tcb_info_signature"],
        qe_identity_issuer_chain=texts["qe_identity_issuer_chain"],
        qe_identity=texts["qe_identity"],
        qe_identity_signature=data["qe_identity_signature"],
    )


def _map(value: object, keys: set[str], path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        _refuse(path, "is not a map")
    if set(value) != keys:
        unknown = [key for key in value if key not in keys]
        missing = sorted(keys - set(value))
        _refuse(path, f"has the unknown key {unknown[0]!r}" if unknown else f"lacks the key {missing[0]}")
    return value


def _list(value: object, parse: Callable[[object, str], _Item], path: str) -> tuple[_Item, ...]:
    if not isinstance(value, list):
        _refuse(path, "is not a list")
    if len(value) > MAX_ITEMS:
        _refuse(path, f"has {len(value)} items, more than {MAX_ITEMS}")
    found = tuple(parse(item, f"{path}[{index}]") for index, item in enumerate(value))
    if len(set(found)) != len(found):
        _refuse(path, "has an item twice")
    return found


def _octets_parser(lowest: int, highest: int) -> Callable[[object, str], bytes]:
    """A reader of bytes whose number is in a range."""

    def parse(value: object, path: str) -> bytes:
        if not isinstance(value, bytes):
            _refuse(path, "is not bytes")
        if not lowest <= len(value) <= highest:
            _refuse(path, f"has {len(value)} bytes, not {lowest} to {highest}")
        return value

    return parse


def _text(value: object, limit: int, path: str) -> str:
    if not isinstance(value, str) or not value:
        _refuse(path, "is not a text, or empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        _refuse(path, "holds a lone surrogate")
    if size > limit:
        _refuse(path, f"has {size} bytes, more than {limit}")
    return value


def _refuse(subject: str, reason: str) -> NoReturn:
    raise BundleError(reason, subject=subject, advice="take the collateral again: keyturn collateral fetch")
