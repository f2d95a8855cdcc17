"""The static network of the guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from guest_agent import network
from guest_agent.network import NetworkError, commands, configure, find_interface
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


def test_commands_in_their_order() -> None:
    shown = [" ".join(command[1:]) for command in commands("eth0", STATIC)]
    assert shown == [
        "ip link set lo up",
        "ip address add 10.0.2.15/24 dev eth0",
        "ip link set eth0 up",
        "ip route add default via 10.0.2.2 dev eth0",
    ]


def test_without_a_network_only_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(network, "run", ran.append)
    configure(None, machine(tmp_path, "lo"))
    assert [command[1:] for command in ran] == [("ip", "link", "set", "lo", "up")]


def test_a_configured_network_without_an_interface_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(network, "run", ran.append)
    with pytest.raises(NetworkError):
        configure(STATIC, machine(tmp_path, "lo"))
    assert ran == []
