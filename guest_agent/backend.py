"""What the agent needs of the hardware that attests it: one interface for every platform.

A backend extends one *runtime register* (PCR 14 on TPM systems, RTMR3 on TDX), shows all registers, signs
evidence, and keeps one sealed secret. Platforms whose hardware lacks a part raise ``UnsupportedError``: there
is no substitute in software.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Protocol

from measurements.errors import RefusedError

Registers = dict[str, dict[int, bytes]]
"""Bank (``sha256``, ``sha384``) to register number to raw value."""

SECRET_SIZE = 64
"""Bytes of the secret that a backend seals: a root key."""


class Platform(Enum):
    """Platforms, named as in evidence; only those with a backend can be opened."""

    TPM = "tpm"
    TDX = "tdx"
    SNP = "snp"
    NITRO = "nitro"
    SIM = "sim"


class UnsupportedError(RefusedError):
    """The platform has no backend, or its hardware no such function."""

    code = "unsupported"


class Identity(NamedTuple):
    """What the hardware is known by: the attestation key (TPMT_PUBLIC) and the EK certificate (DER)."""

    ak_public: bytes
    ek_certificate: bytes


class SignedQuote(NamedTuple):
    """A quote with the registers that it covers."""

    quote: bytes
    signature: bytes
    registers: Registers


class Backend(Protocol):
    """The hardware, as the agent uses it. All methods raise ``RefusedError`` when the hardware says no."""

    @property
    def platform(self) -> Platform:
        """Which platform this is."""

    def extend(self, digests: Mapping[str, bytes]) -> None:
        """Extend the runtime register with one digest for each bank."""

    def runtime_register(self) -> dict[str, bytes]:
        """Bank to value of the runtime register."""

    def identity(self) -> Identity:
        """The attestation key and its hardware's certificate; the same for the whole boot."""

    def quote(self, report_data: bytes) -> SignedQuote:
        """Evidence over all boot registers and ``report_data`` (64 bytes)."""

    def activate(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        """The secret of a credential made for this hardware's ``identity``."""

    def holds_secret(self) -> bool:
        """Whether a secret was sealed, in this boot or an earlier one."""

    def seal(self, secret: bytes) -> None:
        """Seal ``SECRET_SIZE`` bytes to the registers as they are now. Refuses to replace a sealed secret."""

    def unseal(self) -> bytes:
        """The sealed secret, if the registers are what they were when it was sealed."""

    def close(self) -> None:
        """Let go of the hardware."""
