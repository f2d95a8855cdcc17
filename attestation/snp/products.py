"""Products of AMD that sign attestation reports, and the names in their certificates.

Families and models are those of virtee/sev, ``Generation::identify_cpu`` (commit 9cf2adbffa20). Certificates
name a product as in AMD 57230, "VCEK Certificate and KDS Interface Specification": the line, for
some with the stepping (``Milan-B0``). Bergamo and Siena are chips of the line of Genoa.
"""

from __future__ import annotations

import re
from enum import StrEnum

from attestation.policy import RootPurpose
from measurements.sev.report import SigningKey

_NAME = re.compile(r"(Milan|Genoa|Bergamo|Siena|Turin)(-[A-Z][0-9])?")
_PARTS_OF_A_LINE = {"bergamo": "genoa", "siena": "genoa"}


class Product(StrEnum):
    """A product line; the values are the names that policies use."""

    MILAN = "milan"
    GENOA = "genoa"
    TURIN = "turin"

    @property
    def label(self) -> str:
        """The name in certificates and in AMD's addresses."""
        return self.value.capitalize()

    @property
    def purpose(self) -> RootPurpose:
        """What its root certificate is trusted for."""
        return RootPurpose(f"amd-{self.value}")

    @property
    def root_name(self) -> str:
        """Common name of its root (ARK)."""
        return f"ARK-{self.label}"

    def issuer_name(self, key: SigningKey) -> str:
        """Common name of who certifies a key: the ASK for a VCEK, the ASVK for a VLEK."""
        return f"SEV-VLEK-{self.label}" if key is SigningKey.VLEK else f"SEV-{self.label}"

    def source(self, key: SigningKey) -> str:
        """Address of its collateral at AMD's key distribution service, without the last part."""
        return f"https://kdsintf.amd.com/{key.name.lower()}/v1/{self.label}"


def product_of_cpu(family: int, model: int) -> Product | None:
    """The line of a processor, as reports of version 3 and later name it."""
    if family == 25:
        if model <= 0x0F:
            return Product.MILAN
        if model <= 0x1F or 0xA0 <= model <= 0xAF:
            return Product.GENOA
    if family == 26 and model <= 0x11:
        return Product.TURIN
    return None


def product_of_name(name: str) -> Product | None:
    """The line that a certificate's product name stands for."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    line = match[1].lower()
    return Product(_PARTS_OF_A_LINE.get(line, line))
