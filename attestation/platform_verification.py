"""What the verifier of one platform returns: groups of checks, and the facts only if all of them passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attestation.container import EvidencePlatform
from attestation.verdict_tree import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """When one signed thing holds: ``start`` ≤ now ≤ ``end``, seconds since 1970. ``name`` says what it is,
    for people (``TCB info``, ``PCK CRL``, ``VCEK``).
    """

    name: str
    start: int
    end: int

    def as_json(self) -> dict[str, Any]:
        """The window as ``--json`` shows it."""
        return {"name": self.name, "start": self.start, "end": self.end}


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One component of a platform's TCB: what the machine has, and what the level that it would need has."""

    name: str
    have: int
    need: int

    @property
    def short(self) -> bool:
        """Whether the machine is behind."""
        return self.have < self.need

    def as_json(self) -> dict[str, Any]:
        """The component as ``--json`` shows it."""
        return {"name": self.name, "have": self.have, "need": self.need, "short": self.short}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainLink:
    """One certificate of a chain or one signed thing that hangs on it, for the drawing: who signed whom."""

    subject: str
    issuer: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformFacts:
    """What verified evidence says. ``registers`` uses the names of policies (``mrtd``, ``rtmr0``,
    ``measurement``, ``host_data``, ``sha256:4`` for PCR 4 of that bank, ``pcr0`` of an enclave);
    ``identity`` says which machine it is (``ppid``, ``platform_instance``, ``chip_id``, ``csp_id``…);
    ``details`` all else that a person wants to read (TCB status, date, advisories, versions).
    """

    platform: EvidencePlatform
    development: bool
    report_data: bytes
    registers: Mapping[str, bytes]
    identity: Mapping[str, str]
    details: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformVerification:
    """The outcome for one platform's evidence. ``components``, ``windows`` and ``chain`` are there as far as
    the checks came; they explain, and decide nothing.
    """

    groups: tuple[Group, ...]
    facts: PlatformFacts | None
    windows: tuple[Window, ...] = ()
    components: tuple[Component, ...] = ()
    chain: tuple[ChainLink, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    """Verifying software and its version, recorded since verdicts depend on it."""

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return bool(self.groups) and all(group.passed for group in self.groups)
