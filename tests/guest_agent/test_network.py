"""The static network of the guest."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from guest_agent import network
from guest_agent.network import Call, NetworkError, calls, configure, find_interface
from measurements.config_disk import Network

STATIC = Network(address="10.0.2.15/24", gateway="10.0.2.2")


def machine(root: Path, *interfaces: str) -> Path:
    for name in interfaces:
        (root / "sys/class/net" / name).mkdir(parents=True)
    return root


def test_the_one_interface(tmp_path: Path) -> None:
    assert find_interface(machine(tmp_path, "lo", "eth0")) == "eth0"


@pytest.mark.parametrize("names", [("lo",), ("lo", "eth0", "eth1"), ()])
def test_none_or_several(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(NetworkError, match="not one"):
        find_interface(machine(tmp_path, *names))


def address_of(text: str) -> bytes:
    return b"\x02\0\0\0" + socket.inet_aton(text) + bytes(8)


def request(name: bytes, rest: bytes) -> bytes:
    return name.ljust(16, b"\0") + rest.ljust(24, b"\0")


UP = Call(0x8914, request(b"lo", b"\x01\0"))


def test_calls_in_their_order() -> None:
    gateway, anything = address_of("10.0.2.2"), b"\x02\0\0\0" + bytes(12)
    route = (bytes(8) + anything + gateway + anything + b"\x03\0").ljust(120, b"\0")
    assert calls("eth0", STATIC) == (
        UP,
        Call(0x8916, request(b"eth0", address_of("10.0.2.15"))),
        Call(0x891C, request(b"eth0", address_of("255.255.255.0"))),
        Call(0x8914, request(b"eth0", b"\x01\x10")),
        Call(0x890B, route),
    )


@pytest.mark.parametrize(
    ("prefix", "mask"), [(1, "128.0.0.0"), (30, "255.255.255.252"), (32, "255.255.255.255")]
)
def test_masks(prefix: int, mask: str) -> None:
    made = calls("eth0", STATIC._replace(address=f"10.0.2.15/{prefix}"))
    assert made[2].argument == request(b"eth0", address_of(mask))


def test_without_a_network_only_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Call, ...]] = []
    monkeypatch.setattr(network, "carry_out", made.append)
    configure(None, machine(tmp_path, "lo"))
    assert made == [(UP,)]


def test_a_configured_network_without_an_interface_calls_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Call, ...]] = []
    monkeypatch.setattr(network, "carry_out", made.append)
    with pytest.raises(NetworkError):
        configure(STATIC, machine(tmp_path, "lo"))
    assert made == []


def test_the_kernel_s_refusal_is_not_ignored() -> None:
    with pytest.raises(OSError, match="No such device"):
        network.carry_out((Call(0x8913, request(b"absent0", b"")),))
