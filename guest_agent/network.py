"""The guest's network: one interface with the static address of the measured configuration, no DHCP, no DNS.

Everything that the host could answer is left out: the configuration is part of ``config-hash``. Set by ioctl
(``netdevice(7)``), because four starts of a program take longer than all the rest of it. Native byte order,
addresses in network order::

    struct ifreq     char name[16]   union, 24 bytes: struct sockaddr_in, or short flags
    struct rtentry   u64   struct sockaddr_in destination, gateway, mask   u16 flags   62 bytes, here zero
    struct sockaddr_in   u16 family = 2   u16 port = 0   u8 address[4]   u8 zero[8]
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from measurements.config_disk import Network
from measurements.errors import RefusedError

LOOPBACK = "lo"
_SET_FLAGS, _SET_ADDRESS, _SET_MASK, _ADD_ROUTE = 0x8914, 0x8916, 0x891C, 0x890B
_UP, _MULTICAST = 0x1, 0x1000
_ROUTE_UP_GATEWAY = 0x3
_FLAGS_REQUEST = struct.Struct("=16sH22x")
_ADDRESS_REQUEST = struct.Struct("=16s16s8x")
_ROUTE_REQUEST = struct.Struct("=8x16s16s16sH62x")
_SOCKET_ADDRESS = struct.Struct("=HH4s8x")
_INTERNET = 2


class NetworkError(RefusedError):
    """The machine has not exactly one network interface."""

    code = "network"


class Call(NamedTuple):
    """One ioctl: its number and its argument."""

    number: int
    argument: bytes


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


def calls(interface: str | None, network: Network | None) -> tuple[Call, ...]:
    """The ioctls, in order: loopback always, ``interface`` if the configuration has a network."""
    loopback = (Call(_SET_FLAGS, _FLAGS_REQUEST.pack(LOOPBACK.encode(), _UP)),)
    if network is None or interface is None:
        return loopback
    name = interface.encode("ascii")
    address, _, prefix = network.address.partition("/")
    anything = _socket_address(bytes(4))
    route = _ROUTE_REQUEST.pack(anything, _place(network.gateway), anything, _ROUTE_UP_GATEWAY)
    return (
        *loopback,
        Call(_SET_ADDRESS, _ADDRESS_REQUEST.pack(name, _place(address))),
        Call(_SET_MASK, _ADDRESS_REQUEST.pack(name, _socket_address(_mask(int(prefix))))),
        Call(_SET_FLAGS, _FLAGS_REQUEST.pack(name, _UP | _MULTICAST)),
        Call(_ADD_ROUTE, route),
    )


def configure(network: Network | None, root: Path = Path("/")) -> None:
    """Bring the network up. Raises ``NetworkError`` or ``OSError``."""
    carry_out(calls(None if network is None else find_interface(root), network))


def carry_out(wanted: tuple[Call, ...]) -> None:
    """Make the ioctls on a socket."""
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for call in wanted:
            fcntl.ioctl(control, call.number, call.argument)


def _place(address: str) -> bytes:
    return _socket_address(bytes(map(int, address.split("."))))


def _socket_address(address: bytes) -> bytes:
    return _SOCKET_ADDRESS.pack(_INTERNET, 0, address)


def _mask(prefix: int) -> bytes:
    return (0xFFFFFFFF << 32 - prefix & 0xFFFFFFFF).to_bytes(4, "big")
