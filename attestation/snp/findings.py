"""What a verification finds besides its checks, collected as far as it comes."""

from __future__ import annotations

from dataclasses import dataclass, field

from attestation.platform_verification import ChainLink, Component, Window


@dataclass(kw_only=True, slots=True)
class Findings:
    """Grows while checks are made; explains, and decides nothing."""

    windows: list[Window] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    links: list[ChainLink] = field(default_factory=list)
    crl_number: int | None = None
