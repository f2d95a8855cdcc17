"""Collateral: what vendors publish about their platforms, next to the evidence. All of it is signed, and
nothing of it is trusted before its signature and window are checked.

``attestation.collateral_bundle`` is the file form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class DcapCollateral:
    """One set for DCAP quotes: of one FMSPC and one kind of TEE (Intel PCS API version 4).

    Chains are PEM, lists DER, signatures 64 bytes (r ‖ s); ``tcb_info`` and ``qe_identity`` are the exact
    JSON text that was signed.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Collateral:
    """Everything that is at hand. Order means nothing: a verifier takes what fits, the newest of it.

    ``early`` holds DCAP sets of the next TCB recovery (``update=early``): used for forecasts only.
    """

    dcap: tuple[DcapCollateral, ...] = ()
    early: tuple[DcapCollateral, ...] = ()
    certificates: tuple[bytes, ...] = ()
    """DER: vendors' roots and intermediates, VCEKs."""
    crls: tuple[bytes, ...] = ()
    """DER."""
    rims: tuple[bytes, ...] = ()
    """NVIDIA reference integrity manifests, signed SWID XML."""
    ocsp: tuple[bytes, ...] = ()
    """DER answers."""

    def joined(self, other: Collateral) -> Collateral:
        """Both together, each item once."""
        return replace(
            self,
            dcap=_once(self.dcap + other.dcap),
            early=_once(self.early + other.early),
            certificates=_once(self.certificates + other.certificates),
            crls=_once(self.crls + other.crls),
            rims=_once(self.rims + other.rims),
            ocsp=_once(self.ocsp + other.ocsp),
        )


def _once(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))
