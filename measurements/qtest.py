"""QEMU's qtest protocol: driving a machine's buses from outside, without a processor.

One command per line, one reply per line that starts with ``OK`` (QEMU's docs/devel/testing/qtest.rst):
``outl 0xcf8 0x80000000``, ``inl 0xcfc``, ``write 0x1000 0x10 0x0011…``, ``b64read 0x1000 0x10``. Lines that
start with ``IRQ`` are notices.
"""

from __future__ import annotations

import base64
import socket

from measurements.errors import KeyturnError

MAX_LINE = 1 << 24
_PCI_ADDRESS, _PCI_DATA = 0xCF8, 0xCFC


class QtestError(KeyturnError):
    """QEMU did not answer as the protocol says."""

    code = "qtest"


class Qtest:
    """One connection to a machine under the qtest accelerator."""

    def __init__(self, connection: socket.socket, *, timeout: float = 20.0) -> None:
        connection.settimeout(timeout)
        self._connection = connection
        self._lines = connection.makefile("rb")

    def _do(self, command: str) -> str:
        try:
            self._connection.sendall(command.encode() + b"\n")
            while (line := self._lines.readline(MAX_LINE)).startswith(b"IRQ"):
                continue
        except OSError as problem:
            raise QtestError(
                "QEMU ended or does not answer", subject=command, advice="see QEMU's own message"
            ) from problem
        status, _, value = line.decode("ascii", errors="replace").strip().partition(" ")
        if status != "OK":
            raise QtestError(
                f"QEMU answers {line[:80]!r}", subject=command[:80], advice="check the QEMU program"
            )
        return value

    def outl(self, port: int, value: int) -> None:
        """Writes 32 bits to an I/O port."""
        self._do(f"outl {port:#x} {value:#x}")

    def inl(self, port: int) -> int:
        """Reads 32 bits from an I/O port."""
        return int(self._do(f"inl {port:#x}"), 16)

    def write(self, address: int, data: bytes) -> None:
        """Writes memory."""
        self._do(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def read(self, address: int, size: int) -> bytes:
        """Reads memory."""
        return base64.b64decode(self._do(f"b64read {address:#x} {size:#x}"))

    def pci_read(self, slot: int, function: int, register: int) -> int:
        """Reads a 32-bit configuration register of a device on the root bus."""
        self.outl(_PCI_ADDRESS, _config_address(slot, function, register))
        return self.inl(_PCI_DATA)

    def pci_write(self, slot: int, function: int, register: int, value: int) -> None:
        """Writes a 32-bit configuration register of a device on the root bus."""
        self.outl(_PCI_ADDRESS, _config_address(slot, function, register))
        self.outl(_PCI_DATA, value)

    def close(self) -> None:
        """Closes the connection."""
        self._lines.close()
        self._connection.close()


def _config_address(slot: int, function: int, register: int) -> int:
    return 0x80000000 | slot << 11 | function << 8 | register
