"""That a quote holds in itself: key, signature, structure, registers. Who has the key is not asked here.

The PCR digest hashes the registers one after another, without their lengths: so each must have exactly the
size of its bank, and the registers shown must be exactly those selected, or values could be cut anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from attestation.container import TpmPart
from attestation.policy import TpmPolicy
from attestation.tpm.context import SignedQuote
from attestation.tpm_evidence import AK_FORBIDDEN, AK_REQUIRED
from attestation.tpm_signature import verify_signature
from attestation.tpm_structures import (
    Attributes,
    HashAlgorithm,
    Public,
    Quote,
    Selection,
    Signature,
    parse_public,
    parse_quote,
    parse_signature,
)
from attestation.verdict import CheckList

QUOTE_CHECKS = ("ak-key", "ak-attributes", "quote-signature", "quote-type", "pcr-selection", "pcr-digest")
BANK_SIZES = {
    algorithm.bank: len(algorithm.digest(b""))
    for algorithm in HashAlgorithm
    if algorithm is not HashAlgorithm.SHA1
}
"""Bytes of a register, for each bank that is accepted."""

_AGAIN = "take new evidence from the guest"


def check_quote(checks: CheckList, part: TpmPart) -> SignedQuote:
    """The quote, after the checks of ``QUOTE_CHECKS``; each of them ends the list."""
    with checks.step("ak-key", expected="a TPMT_PUBLIC"):
        ak = parse_public(part.ak_public)
    _check_attributes(checks, ak)
    with checks.step("quote-signature", expected="the quote, signed by the attestation key"):
        signature = parse_signature(part.signature)
        verify_signature(ak, signature, part.quote)
    with checks.step("quote-type", expected="a TPMS_ATTEST of type quote"):
        quote = parse_quote(part.quote)
    _check_selection(checks, part, quote)
    checks.equal(
        "pcr-digest",
        expected=quote.digest,
        found=_digest(part, quote, signature),
        reason="the registers shown are not those that the TPM signed",
        advice=_AGAIN,
    )
    registers = {
        f"{bank}:{pcr}": value for bank, values in part.pcrs.items() for pcr, value in values.items()
    }
    return SignedQuote(ak=ak, quote=quote, registers=registers)


def _check_attributes(checks: CheckList, ak: Public) -> None:
    fits = ak.attributes & AK_REQUIRED == AK_REQUIRED and not ak.attributes & AK_FORBIDDEN
    checks.require(
        "ak-attributes",
        fits and ak.name_algorithm is not HashAlgorithm.SHA1,
        expected=f"all of {_names(AK_REQUIRED)}; none of {_names(AK_FORBIDDEN)}",
        found=_names(ak.attributes),
        reason="the key could sign what no TPM made, or live outside its TPM",
        advice="make the attestation key as a restricted signing key of the TPM",
    )


@lru_cache(maxsize=64)
def _names(attributes: Attributes) -> str:
    return ", ".join(flag.name.lower() for flag in attributes if flag.name) or "none"


def _check_selection(checks: CheckList, part: TpmPart, quote: Quote) -> None:
    """Banks each once, of an accepted hash, and for each selected register one value of the bank's size."""
    banks = [one.algorithm.bank for one in quote.selections]
    shown = {bank: tuple(sorted(values)) for bank, values in part.pcrs.items()}
    selected = {one.algorithm.bank: one.pcrs for one in quote.selections}
    sizes = all(
        len(value) == BANK_SIZES.get(bank) for bank, values in part.pcrs.items() for value in values.values()
    )
    checks.require(
        "pcr-selection",
        bool(banks)
        and len(set(banks)) == len(banks)
        and shown == selected
        and sizes
        and all(selected.values()),
        expected="each bank once, its registers as they are shown, all of the bank's size",
        found=describe(quote.selections),
        reason="the registers shown are not exactly those that were quoted, or a bank is not accepted",
        advice=_AGAIN,
    )


def _digest(part: TpmPart, quote: Quote, signature: Signature) -> bytes:
    values = [part.pcrs[one.algorithm.bank][pcr] for one in quote.selections for pcr in one.pcrs]
    return signature.hash_algorithm.digest(b"".join(values))


def uncovered(section: TpmPolicy, registers: Iterable[str]) -> list[str]:
    """What the policy wants quoted and is not among ``registers`` (``sha256:4``): each of its PCRs in each of
    its banks. With banks alone each must be there; with PCRs alone, they must be in every bank quoted.
    """
    quoted = set(registers)
    there = {name.partition(":")[0] for name in quoted}
    if not section.pcrs:
        return sorted(section.banks - there)
    wanted = [f"{bank}:{pcr}" for bank in section.banks or there or {"no bank"} for pcr in section.pcrs]
    return sorted(set(wanted) - quoted)


def describe(selections: Iterable[Selection]) -> str:
    """A selection for people."""
    return "; ".join(f"{one.algorithm.bank}: {','.join(map(str, one.pcrs))}" for one in selections) or "none"
