"""Kept ACPI files: a dump depends only on QEMU's program, its arguments and the firmware that ran.

An entry is one file in ``acpi`` below keyturn's cache folder, named by its key: the SHA-256 (hex) over the
JSON of version, method, digest of QEMU's program, arguments and digests of the firmware files. It holds the
line ``keyturn-acpi-1``, a line with the SHA-256 (hex) of the rest, a line of JSON (``key``, ``qemu_version``,
``method``, ``firmware``, ``files`` as pairs of name and size with the loader first, ``items`` alike), and the
content of files and items, one after the other, in zlib form. An entry that is damaged in any way counts as
absent and is made anew.

A file ``program-…`` remembers the digest of one QEMU: the line of JSON with device, inode, size, times of
change (ns) and digest. It holds as long as these are the file's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from measurements.acpi_blob import LOADER, AcpiFiles
from measurements.acpi_dump import AcpiDump, AcpiMethod, acpi_dump
from measurements.kept import cache_folder, write_whole
from measurements.qemu_args import DryBootFirmware, idle_arguments
from measurements.shape import MachineShape, TpmInterface
from measurements.stand_ins import replaced_devices

if TYPE_CHECKING:
    from measurements.qemu import QemuProgram

FOLDER = "acpi"
VERSION = 1
MAX_CONTENT = 32 << 20
MAX_NOTE = 1 << 10
_MAGIC = b"keyturn-acpi-1"


def cached_dump(
    shape: MachineShape,
    program: QemuProgram,
    *,
    firmware: DryBootFirmware | None = None,
    method: AcpiMethod | None = None,
    folder: Path | None = None,
) -> AcpiDump:
    """``acpi_dump``, from the cache in ``folder`` (None: the user's) if it is there; kept there otherwise."""
    place = cache_folder(FOLDER) if folder is None else folder
    key = cache_key(shape, program, firmware=firmware, method=method, memory=place)
    path = place / key
    found = _read(path, key=key, replaced=replaced_devices(shape))
    if found is not None:
        return found
    dump = acpi_dump(shape, program, firmware=firmware, method=method)
    # Without a place to keep it, the dump is as good.
    with contextlib.suppress(OSError):
        write_whole(path, encode_entry(dump, key=key))
    return dump


def cache_key(
    shape: MachineShape,
    program: QemuProgram,
    *,
    firmware: DryBootFirmware | None = None,
    method: AcpiMethod | None = None,
    memory: Path | None = None,
) -> str:
    """Hex SHA-256 over all that the files depend on; raises ``OSError`` for a file that cannot be read.
    ``memory`` is a folder that remembers the digest of QEMU's program.
    """
    socket = None if shape.tpm is TpmInterface.NONE else Path("tpm")
    files = () if firmware is None else (firmware.code, firmware.variables)
    inputs = {
        "version": VERSION,
        "method": None if method is None else method.value,
        "qemu": _program_sha256(program.binary, memory),
        "arguments": idle_arguments(shape, tpm_socket=socket, monitor_fd=0, qtest_fd=0),
        "firmware": [None if path is None else _file_sha256(path) for path in files],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def encode_entry(dump: AcpiDump, *, key: str) -> bytes:
    """The bytes of an entry."""
    files, items = [(LOADER, dump.files.loader), *dump.files.files], list(dump.items.items())
    header = {
        "key": key,
        "qemu_version": dump.qemu_version,
        "method": dump.method.value,
        "firmware": dump.firmware,
        "files": [[name, len(data)] for name, data in files],
        "items": [[name, len(data)] for name, data in items],
    }
    content = b"".join(data for _, data in [*files, *items])
    rest = json.dumps(header).encode() + b"\n" + zlib.compress(content)
    return b"\n".join([_MAGIC, hashlib.sha256(rest).hexdigest().encode(), rest])


def decode_entry(data: bytes, *, key: str, replaced: tuple[str, ...] = ()) -> AcpiDump | None:
    """The dump in an entry; None if it is not a whole entry of this version for ``key``."""
    try:
        magic, digest, rest = data.split(b"\n", 2)
        if magic != _MAGIC or hashlib.sha256(rest).hexdigest().encode() != digest:
            return None
        line, packed = rest.split(b"\n", 1)
        header = json.loads(line)
        unpacker = zlib.decompressobj()
        content = io.BytesIO(unpacker.decompress(packed, MAX_CONTENT))
        parts, items = (
            [(str(name), content.read(int(size))) for name, size in header[kind]]
            for kind in ("files", "items")
        )
        if header["key"] != key or not unpacker.eof or content.read(1) or parts[0][0] != LOADER:
            return None
        return AcpiDump(
            files=AcpiFiles(loader=parts[0][1], files=tuple(parts[1:])),
            qemu_version=str(header["qemu_version"]),
            method=AcpiMethod(header["method"]),
            firmware=str(header["firmware"]),
            replaced=replaced,
            items=dict(items),
        )
    except (ValueError, KeyError, TypeError, IndexError, zlib.error, RecursionError):
        return None


def _read(path: Path, *, key: str, replaced: tuple[str, ...]) -> AcpiDump | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_CONTENT)
    except OSError:
        return None
    return decode_entry(data, key=key, replaced=replaced)


def _program_sha256(path: Path, memory: Path | None) -> str:
    """The digest of a large file, remembered for the state that the file is in."""
    if memory is None:
        return _file_sha256(path)
    state = path.stat()
    known = [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    note = memory / f"program-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}"
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(note.read_bytes()[:MAX_NOTE])
        if isinstance(found, list) and found[:-1] == known and _is_digest(found[-1]):
            return str(found[-1])
    digest = _file_sha256(path)
    with contextlib.suppress(OSError):
        write_whole(note, json.dumps([*known, digest]).encode())
    return digest


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _file_sha256(path: Path) -> str:
    state = path.stat()
    return _sha256_of(path, state.st_size, state.st_mtime_ns)


@functools.cache
def _sha256_of(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
