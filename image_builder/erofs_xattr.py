"""EROFS inline extended attributes: the bytes between an inode and its inline tail.

Source: Linux ``fs/erofs/erofs_fs.h``, ``fs/erofs/xattr.h``. Little-endian:

Header
    12 bytes: name filter u32 (0: unused), number of shared attributes u8, reserved 7; then one u32 for each
    shared attribute
Entry
    name length u8, name prefix u8, value size u16, name without its prefix, value; padded with zeros to 4
    bytes

The inode's xattr count is 0 without attributes, else ``1 + (bytes after the header) / 4``. Prefixes: 1
``user.``, 2 ``system.posix_acl_access``, 3 ``system.posix_acl_default`` (2 and 3 are whole names), 4
``trusted.``, 6 ``security.``.
"""

from __future__ import annotations

import struct
from typing import Final

from measurements.errors import FormatError, KeyturnError

HEADER: Final = struct.Struct("<IB7s")
ENTRY: Final = struct.Struct("<BBH")
ALIGNMENT: Final = 4
PREFIXES: Final = {1: "user.", 4: "trusted.", 6: "security."}
WHOLE_NAMES: Final = {2: "system.posix_acl_access", 3: "system.posix_acl_default"}


class XattrError(KeyturnError):
    """An extended attribute that an image cannot hold."""

    code = "image-xattr"


def encode_xattrs(xattrs: tuple[tuple[str, bytes], ...], *, path: str) -> bytes:
    """Header and entries, sorted by name; empty without attributes. Raises ``XattrError``."""
    if not xattrs:
        return b""
    names = [name for name, _ in xattrs]
    if len(set(names)) != len(names):
        raise XattrError(
            "an extended attribute is given twice", subject=f"/{path}", advice="give each attribute once"
        )
    return HEADER.pack(0, 0, bytes(7)) + b"".join(
        _encode_entry(name, value, path) for name, value in sorted(xattrs)
    )


def xattr_count(encoded_size: int) -> int:
    """The inode field for ``encoded_size`` bytes from ``encode_xattrs``."""
    return 0 if encoded_size == 0 else 1 + (encoded_size - HEADER.size) // ALIGNMENT


def xattr_size(count: int) -> int:
    """Bytes that an inode's xattr count stands for."""
    return 0 if count == 0 else HEADER.size + (count - 1) * ALIGNMENT


def _encode_entry(name: str, value: bytes, path: str) -> bytes:
    prefix, rest = _split_name(name, path)
    raw = rest.encode("utf-8", "surrogateescape")
    if len(raw) > 0xFF or len(value) > 0xFFFF:
        raise XattrError(
            f"extended attribute {name!r} is too long",
            subject=f"/{path}",
            advice="shorten the name or the value",
        )
    entry = ENTRY.pack(len(raw), prefix, len(value)) + raw + value
    return entry + bytes(-len(entry) % ALIGNMENT)


def _split_name(name: str, path: str) -> tuple[int, str]:
    for number, whole in WHOLE_NAMES.items():
        if name == whole:
            return number, ""
    for number, prefix in PREFIXES.items():
        if name.startswith(prefix) and name != prefix:
            return number, name.removeprefix(prefix)
    raise XattrError(
        f"extended attribute {name!r} is not of the user, trusted, security or POSIX ACL kind",
        subject=f"/{path}",
        advice="remove the attribute",
    )


def decode_entries(area: bytes, *, subject: str) -> list[tuple[str, bytes]]:
    """Attributes of an area of entries that fills ``area``. Raises ``FormatError``."""
    found = []
    at = 0
    while at < len(area):
        name, value, size = decode_entry(area, at, subject=subject)
        found.append((name, value))
        at += size
    return found


def decode_entry(area: bytes, at: int, *, subject: str) -> tuple[str, bytes, int]:
    """(full name, value, padded size) of the entry at ``at``. Raises ``FormatError``."""
    if at + ENTRY.size > len(area):
        raise _malformed("an extended attribute is cut off", subject)
    name_length, prefix, value_size = ENTRY.unpack_from(area, at)
    name_end = at + ENTRY.size + name_length
    end = name_end + value_size
    if end > len(area):
        raise _malformed("an extended attribute is cut off", subject)
    rest = bytes(area[at + ENTRY.size : name_end]).decode("utf-8", "surrogateescape")
    if prefix in WHOLE_NAMES and not rest:
        name = WHOLE_NAMES[prefix]
    elif prefix in PREFIXES:
        name = PREFIXES[prefix] + rest
    else:
        raise _malformed(f"an extended attribute has the unknown prefix {prefix}", subject)
    return name, bytes(area[name_end:end]), -(-(end - at) // ALIGNMENT) * ALIGNMENT


def _malformed(reason: str, subject: str) -> FormatError:
    return FormatError(
        reason, subject=subject, advice="the image is damaged or not one of keyturn's; build it again"
    )
