"""What of a firmware's DXE volume decides which events a trust domain measures.

For files of the firmware catalogue this is data; ``dxe_volume`` reads it from any other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

MEASURING_MODULE = "TdTcg2Dxe"
SMBIOS_MODULE = "SmbiosMeasurementDxe"
SECURE_BOOT_MODULE = "SecureBootConfigDxe"
APPLICATIONS: Mapping[str, UUID] = {
    "UiApp": UUID("462caa21-7614-4503-836e-8ab6f4662331"),
    "BootManagerMenuApp": UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d"),
    "Shell": UUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1"),
}
"""Applications of the boot manager, by name: their files (edk2, the INF files of the modules)."""

MODULES = (
    MEASURING_MODULE,
    SMBIOS_MODULE,
    SECURE_BOOT_MODULE,
    *APPLICATIONS,
    "UefiPxeBcDxe",
    "HttpBootDxe",
    "Ip6Dxe",
)
"""Modules whose presence changes what is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DxeFacts:
    """``modules`` are those of ``MODULES`` that the volume holds; ``bios`` is the SMBIOS structure that the
    firmware adds, where it measures SMBIOS; ``version`` is empty where the build has none.
    """

    name: str
    version: str
    modules: frozenset[str]
    bios: bytes | None

    @property
    def dxe_names(self) -> frozenset[str]:
        """The modules, under the name that boot entries ask for."""
        return self.modules

    @property
    def dxe_files(self) -> Mapping[UUID, str]:
        """The boot manager's applications by GUID."""
        return {guid: module for module, guid in APPLICATIONS.items() if module in self.modules}

    @property
    def measures(self) -> bool:
        """Whether the build extends RTMRs after its first code."""
        return MEASURING_MODULE in self.modules

    @property
    def secure_boot_supported(self) -> bool:
        """Whether the build can enforce Secure Boot."""
        return SECURE_BOOT_MODULE in self.modules
