"""Compares the registers that a boot reported with the predicted ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from measurements.boot_report import Banks
from measurements.events import Bank


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


def register_differences(
    expected: Mapping[Bank, Mapping[int, bytes]], booted: Banks
) -> tuple[RegisterDifference, ...]:
    """Every predicted register that the boot does not show with the same value, by PCR and bank."""
    found = [
        RegisterDifference(bank=bank, pcr=pcr, expected=value, booted=booted.get(bank.value, {}).get(pcr))
        for bank, registers in expected.items()
        for pcr, value in registers.items()
    ]
    wrong = [difference for difference in found if difference.booted != difference.expected]
    return tuple(sorted(wrong, key=lambda difference: (difference.pcr, difference.bank)))
