"""The guest's network: one interface with the static address of the measured configuration, no DHCP, no DNS.

Everything that the host could answer is left out: the configuration is part of ``config-hash``. Set with
BusyBox ``ip``.
"""

from __future__ import annotations

from pathlib import Path

from guest_agent.mounts import BUSYBOX
from guest_agent.programs import run
from measurements.config_disk import Network
from measurements.errors import RefusedError

LOOPBACK = "lo"


class NetworkError(RefusedError):
    """The machine has not exactly one network interface."""

    code = "network"


def find_interface(root: Path = Path("/")) -> str:
    """The one interface besides loopback. Raises ``NetworkError`` for none or several."""
    found = [path.name for path in sorted((root / "sys/class/net").glob("*")) if path.name != LOOPBACK]
    if len(found) != 1:
        raise NetworkError(
            f"there are {len(found)}, not one",
            subject="network interfaces",
            advice="start the machine with one virtio network device, or configure no network",
        )
    return found[0]


def commands(interface: str | None, network: Network | None) -> tuple[tuple[str, ...], ...]:
    """The programs to run, in order: loopback always, ``interface`` if the configuration has a network."""
    loopback = ((BUSYBOX, "ip", "link", "set", LOOPBACK, "up"),)
    if network is None or interface is None:
        return loopback
    return (
        *loopback,
        (BUSYBOX, "ip", "address", "add", network.address, "dev", interface),
        (BUSYBOX, "ip", "link", "set", interface, "up"),
        (BUSYBOX, "ip", "route", "add", "default", "via", network.gateway, "dev", interface),
    )


def configure(network: Network | None, root: Path = Path("/")) -> None:
    """Bring the network up. Raises ``NetworkError`` or ``ProgramError``."""
    interface = None if network is None else find_interface(root)
    for command in commands(interface, network):
        run(command)
