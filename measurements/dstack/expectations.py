"""What a verifier knows about a dstack deployment from elsewhere than the deployment."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from measurements.dstack.boot_log import AcpiDigests
from measurements.dstack.release import Release


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectations:
    """Everything is optional, and what is missing stays unchecked.

    ``release`` is the image's folder, ``os_image_hash`` its hash alone; ``app_compose`` the bytes of the
    app's file; ``acpi`` the digests of tables that a QEMU made for this machine; ``mr_aggregated`` and
    ``mr_system`` values of a policy; ``app_events`` the names that the app may extend after its boot.
    ``unbound`` accepts a host that bound no configuration at launch.
    """

    release: Release | None = None
    os_image_hash: bytes | None = None
    app_compose: bytes | None = None
    acpi: AcpiDigests | None = None
    mr_aggregated: bytes | None = None
    mr_system: bytes | None = None
    app_events: Set[str] = field(default_factory=frozenset)
    unbound: bool = False

    @property
    def image_hash(self) -> bytes | None:
        """The hash of the image that is trusted."""
        return self.release.os_image_hash if self.release else self.os_image_hash
