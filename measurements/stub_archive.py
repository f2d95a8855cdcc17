"""The cpio archives in which systemd-stub hands files to the initrd.

Layout (newc form, Linux ``Documentation/driver-api/early-userspace/buffer-format.rst``; systemd
``src/boot/cpio.c``): inode numbers from 1, all owners and times zero, one link, lower-case hexadecimal except
in the trailer; first the folders of the path (0555, the last with its own mode), then the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_FOLDER_TYPE, _FILE_TYPE = 0o040000, 0o100000
_PARENT_MODE = 0o555
_TRAILER = b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0\0\0\0"


def archive(
    folder: str, files: Mapping[str, bytes], *, directory_mode: int = 0o555, file_mode: int = 0o444
) -> bytes:
    """The archive with ``files`` (name to content, in the order of the mapping) in ``folder``."""
    return b"".join(_records(folder, files, directory_mode, file_mode))


def concatenated(parts: list[bytes]) -> bytes:
    """Several initrds as one: each padded with zeros to 4 bytes, a single one as it is."""
    if len(parts) < 2:
        return b"".join(parts)
    return b"".join(_padded(part) for part in parts)


def _records(folder: str, files: Mapping[str, bytes], directory_mode: int, file_mode: int) -> Iterator[bytes]:
    levels = folder.split("/")
    inode = 0
    for count in range(1, len(levels) + 1):
        inode += 1
        mode = directory_mode if count == len(levels) else _PARENT_MODE
        yield _record(inode, _FOLDER_TYPE | mode, "/".join(levels[:count]), b"")
    for name, data in files.items():
        inode += 1
        yield _record(inode, _FILE_TYPE | file_mode, f"{folder}/{name}", data)
    yield _TRAILER


def _record(inode: int, mode: int, path: str, data: bytes) -> bytes:
    name = path.encode("ascii") + b"\0"
    words = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % word for word in words) + name
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
