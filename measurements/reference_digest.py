"""Reference values without their events: what a guest declares, a verifier compares and a contract allows.

Layout, one JSON object (docs/formats.md, "Config disk" and "Identities")::

    {"platform": "tpm",
     "shape": {...},                                          keys of shape.toml
     "banks": {"sha256": {"0": hex, ..., "14": hex}, "sha384": {...}}}

The reference digest is ``SHA-256("keyturn-reference/1\\0" ‖ JCS(object))``. ``measurements.reference`` reads
the same document with the events that yield the registers. The module ships in the guest: standard library
only, no data classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from measurements.canonical import Json, encode_canonical, parse_canonical
from measurements.errors import FormatError
from measurements.runtime_events import RUNTIME_BANKS
from measurements.strict_fields import Fields

PLATFORM = "tpm"
PCRS = tuple(range(15))
"""The registers that are predicted, quoted and compared."""

BANK_SIZES = {"sha256": 32, "sha384": 48}
"""Register sizes in bytes of the banks that must be there."""

DIGEST_DOMAIN = b"keyturn-reference/1\0"
KEYS = ("platform", "shape", "banks")

Banks: TypeAlias = Mapping[str, Mapping[int, bytes]]
"""Register values by bank and PCR number."""


class ReferenceValueError(FormatError):
    """A document that does not hold reference values."""

    code = "reference-values"


class ReferenceValues(NamedTuple):
    """The predicted registers of one image on one machine; ``shape`` stays JSON, only people read it."""

    shape: Mapping[str, Json]
    banks: Banks


def parse_reference_values(document: Json, *, path: str = "") -> ReferenceValues:
    """Read the object; raises ``ReferenceValueError`` unless it has exactly the layout."""
    fields = Fields(document, KEYS, path=path, refuse=_refuse)
    fields.constant("platform", PLATFORM)
    shape = fields.raw("shape")
    if not isinstance(shape, dict) or not shape:
        fields.fail("shape", "is not an object with the machine's shape")
    return ReferenceValues(shape=shape, banks=parse_banks(fields.object("banks", RUNTIME_BANKS)))


def decode_reference_values(data: bytes) -> ReferenceValues:
    """The values in canonical bytes."""
    return parse_reference_values(parse_canonical(data, subject="reference values"))


def reference_values_document(values: ReferenceValues) -> dict[str, Json]:
    """The object of ``values``."""
    return {"platform": PLATFORM, "shape": values.shape, "banks": banks_document(values.banks)}


def reference_digest(values: ReferenceValues) -> bytes:
    """What contracts allow: 32 bytes over image, machine and platform."""
    document = encode_canonical(reference_values_document(values), subject="reference values")
    return hashlib.sha256(DIGEST_DOMAIN + document).digest()


def parse_banks(banks: Fields) -> dict[str, dict[int, bytes]]:
    """Registers of both banks, each complete."""
    return {bank: _registers(banks, bank) for bank in RUNTIME_BANKS}


def banks_document(banks: Banks) -> dict[str, Json]:
    """Registers as JSON; hexadecimal is lower case."""
    return {
        bank: {str(pcr): value.hex() for pcr, value in sorted(values.items())}
        for bank, values in banks.items()
    }


def _registers(banks: Fields, bank: str) -> dict[int, bytes]:
    values = banks.object(bank, tuple(str(pcr) for pcr in PCRS))
    return {pcr: values.octets(str(pcr), BANK_SIZES[bank]) for pcr in PCRS}


def _refuse(reason: str) -> FormatError:
    return ReferenceValueError(
        reason, subject="reference values", advice="take platform, shape and banks of keyturn predict --json"
    )
