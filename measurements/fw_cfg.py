"""QEMU's firmware configuration device, read by DMA (QEMU's docs/specs/fw_cfg.rst; big endian).

The directory is item 0x19: u32 count, then 64 bytes per file: u32 size, u16 item, u16 reserved, 56 bytes
name. A DMA request is u32 control (bit 0 error, 1 read, 3 select, 4 write; item in the upper half), u32
length, u64 address; its own address goes to port 0x514 (upper half) and 0x518 (lower half, which starts
it). Control 0 means done.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from measurements.qtest import Qtest, QtestError

_DIRECTORY = 0x19
_FILE = struct.Struct(">IHH56s")
_REQUEST = struct.Struct(">IIQ")
_READ, _SELECT, _WRITE = 1 << 1, 1 << 3, 1 << 4
_PORT_HIGH, _PORT_LOW = 0x514, 0x518
_REQUEST_AT, _BUFFER_AT = 0x1000, 0x100000
MAX_FILE = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigFile:
    """One entry of the directory."""

    name: str
    item: int
    size: int


class FirmwareConfig:
    """Reads files through a machine that executes nothing; uses guest memory below 8 MiB as buffer."""

    def __init__(self, machine: Qtest) -> None:
        self._machine = machine
        self.files = self._directory()

    def read(self, name: str) -> bytes:
        """The content of a file, as it would be given to firmware now."""
        entry = self._entry(name)
        content = self._read(entry.item, entry.size)
        # Choosing a file may rebuild it with another size, which the directory then tells.
        self.files = self._directory()
        size = self.files[name].size
        return content if size == entry.size else self._read(entry.item, size)

    def write(self, name: str, data: bytes) -> None:
        """Writes the start of a file that takes input from firmware."""
        entry = self._entry(name)
        self._machine.write(_BUFFER_AT, data)
        self._request(entry.item, _WRITE, len(data))

    def _entry(self, name: str) -> ConfigFile:
        entry = self.files.get(name)
        if entry is None:
            raise QtestError("the machine has no such file", subject=name, advice="check the QEMU program")
        return entry

    def _directory(self) -> dict[str, ConfigFile]:
        (count,) = struct.unpack(">I", self._read(_DIRECTORY, 4))
        raw = self._read(_DIRECTORY, 4 + count * _FILE.size)[4:]
        entries = [
            ConfigFile(name=name.rstrip(b"\0").decode("ascii"), item=item, size=size)
            for size, item, _, name in _FILE.iter_unpack(raw)
        ]
        return {entry.name: entry for entry in entries}

    def _read(self, item: int, size: int) -> bytes:
        if size > MAX_FILE:
            raise QtestError(
                "a file is too large", subject=f"item {item:#x}", advice="check the QEMU program"
            )
        self._request(item, _READ, size)
        return self._machine.read(_BUFFER_AT, size)

    def _request(self, item: int, action: int, size: int) -> None:
        control = item << 16 | _SELECT | action
        self._machine.write(_REQUEST_AT, _REQUEST.pack(control, size, _BUFFER_AT))
        self._machine.outl(_PORT_HIGH, 0)
        self._machine.outl(_PORT_LOW, int.from_bytes(_REQUEST_AT.to_bytes(4, "little"), "big"))
        (state,) = struct.unpack(">I", self._machine.read(_REQUEST_AT, 4))
        if state:
            raise QtestError("a transfer failed", subject=f"item {item:#x}", advice="check the QEMU program")
