"""The two ways in which a launch digest grows: SNP's chain of pages, the plain hash of SEV and SEV-ES."""

from __future__ import annotations

import hashlib

from measurements.sev.launch_digest import START, Region, extend_region


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
