"""The two ways in which a launch digest grows: SNP's chain of pages, the plain hash of SEV and SEV-ES."""

from __future__ import annotations

import hashlib

from measurements.platforms import RegisterEvent
from measurements.sev.launch_digest import START, Region, extend_region

REGISTER = "measurement"


class SnpChain:
    """The chain of pages of SNP."""

    bank = "sha384"
    event_type = "SNP pages"

    def __init__(self, digest: bytes = START) -> None:
        self.digest = digest

    def add(self, region: Region) -> None:
        """Measure one step of a launch."""
        self.digest = extend_region(self.digest, region)

    def fork(self) -> SnpChain:
        """The same digest, to go on from here."""
        return SnpChain(self.digest)


class PlainChain:
    """The hash over contents of SEV and SEV-ES."""

    bank = "sha256"
    event_type = "SEV data"

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        """The digest of the steps so far."""
        return self._hash.digest()

    def add(self, region: Region) -> None:
        """Measure one step of a launch; only its contents count."""
        self._hash.update(region.contents or b"")

    def fork(self) -> PlainChain:
        """The same digest, to go on from here."""
        copy = PlainChain()
        copy._hash = self._hash.copy()
        return copy


Chain = SnpChain | PlainChain


def chain_event(chain: Chain, description: str, origin: str) -> RegisterEvent:
    """The step of a launch that brought ``chain`` to where it is."""
    return RegisterEvent(
        register=REGISTER,
        event_type=chain.event_type,
        digests={chain.bank: chain.digest},
        description=description,
        origin=origin,
        running=True,
    )
