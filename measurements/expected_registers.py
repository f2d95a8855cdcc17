"""Compares booted registers with predicted ones.

A reference is the document that ``keyturn predict --json`` prints; read here are ``platform`` (``"tpm"``),
``shape`` (the keys of ``shape.toml``) and ``banks`` (``{"sha256": {"0": hex, …}, …}``). Every register that
the reference names must be there and equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from measurements.boot_report import Banks
from measurements.errors import KeyturnError
from measurements.events import Bank

PLATFORM = "tpm"


class ReferenceFileError(KeyturnError):
    """A file that is not a reference for this platform."""

    code = "reference"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Predicted registers and the shape they hold for (in the keys of ``shape.toml``)."""

    banks: Mapping[Bank, Mapping[int, bytes]]
    shape: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterDifference:
    """One register that is not as predicted; ``booted`` is None when the boot did not report it."""

    bank: Bank
    pcr: int
    expected: bytes
    booted: bytes | None

    def as_json(self) -> dict[str, object]:
        """The difference with hexadecimal values."""
        return {
            "bank": self.bank.value,
            "pcr": self.pcr,
            "expected": self.expected.hex(),
            "booted": self.booted.hex() if self.booted is not None else None,
        }


def read_reference(path: Path) -> Reference:
    """The reference in the file ``path``; raises ``ReferenceFileError``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        _refuse(str(path), f"cannot be read: {error.strerror}")
    return parse_reference(data, name=str(path))


def parse_reference(data: bytes, *, name: str) -> Reference:
    """The reference in ``data``; ``name`` is how errors call it. Raises ``ReferenceFileError``."""
    try:
        document = json.loads(data)
        platform, shape, banks = document["platform"], document["shape"], document["banks"]
        values = {Bank(bank): _registers(Bank(bank), registers) for bank, registers in banks.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _refuse(name, f"is not a reference: {error!r}")
    if platform != PLATFORM:
        _refuse(name, f"is for platform {platform!r}, not {PLATFORM!r}")
    if not any(values.values()) or not isinstance(shape, dict):
        _refuse(name, "names no registers or no shape")
    return Reference(banks=values, shape=shape)


def _registers(bank: Bank, registers: Mapping[str, str]) -> dict[int, bytes]:
    values = {int(pcr): bytes.fromhex(value) for pcr, value in registers.items()}
    if any(len(value) != bank.size for value in values.values()):
        raise ValueError(f"bank {bank.value} has a value of another size")
    return values


def register_differences(reference: Reference, booted: Banks) -> tuple[RegisterDifference, ...]:
    """Every register of the reference that the boot does not show with the same value, by PCR and bank."""
    found = [
        RegisterDifference(bank=bank, pcr=pcr, expected=expected, booted=booted.get(bank.value, {}).get(pcr))
        for bank, registers in reference.banks.items()
        for pcr, expected in registers.items()
    ]
    wrong = [difference for difference in found if difference.booted != difference.expected]
    return tuple(sorted(wrong, key=lambda difference: (difference.pcr, difference.bank)))


def _refuse(subject: str, reason: str) -> NoReturn:
    raise ReferenceFileError(
        reason, subject=subject, advice="write it with `keyturn predict IMAGE --platform tpm --json`"
    )
