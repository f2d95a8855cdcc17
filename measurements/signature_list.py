"""Signature databases of UEFI Secure Boot: the contents of PK, KEK, db and dbx.

Layout (UEFI 2.10, section 32.4.1; little endian): a sequence of ``EFI_SIGNATURE_LIST``::

    16 bytes type GUID | u32 list size | u32 header size | u32 signature size | header | signatures

each signature is an ``EFI_SIGNATURE_DATA``: 16 bytes owner GUID, then a certificate (DER) or a digest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from measurements.errors import FormatError

X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
SHA256 = UUID("c1c41626-504c-4092-aca9-41f936934328")
X509_SHA256 = UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed")
X509_SHA384 = UUID("7076876e-80c2-4ee6-aad2-28b349a6865b")
X509_SHA512 = UUID("446dbf63-2502-4cda-bcfa-2465d2b0fe9d")

_HEADER = struct.Struct("<16sIII")
_OWNER_SIZE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """One entry of a database: ``content`` is a certificate in DER or a digest, by ``kind``."""

    kind: UUID
    owner: UUID
    content: bytes

    def signature_data(self) -> bytes:
        """The entry as ``EFI_SIGNATURE_DATA``: what firmware measures as the authority of an image."""
        return self.owner.bytes_le + self.content


def parse_signature_lists(data: bytes, *, subject: str = "signature database") -> tuple[Signature, ...]:
    """All entries in order; raises ``FormatError`` unless the lists fill ``data`` exactly."""
    return tuple(_signatures(data, subject))


def write_signature_list(signatures: list[Signature]) -> bytes:
    """One list per entry, as enrolment tools write certificates of differing sizes."""
    return b"".join(
        _HEADER.pack(
            signature.kind.bytes_le,
            _HEADER.size + _OWNER_SIZE + len(signature.content),
            0,
            _OWNER_SIZE + len(signature.content),
        )
        + signature.signature_data()
        for signature in signatures
    )


def _signatures(data: bytes, subject: str) -> Iterator[Signature]:
    position = 0
    while position < len(data):
        if len(data) - position < _HEADER.size:
            raise _error("ends inside a list header", subject)
        kind, list_size, header_size, size = _HEADER.unpack_from(data, position)
        body = list_size - _HEADER.size - header_size
        if list_size > len(data) - position or body < 0:
            raise _error("has a list that is longer than the database", subject)
        if size <= _OWNER_SIZE or body % size:
            raise _error("has a list whose sizes do not add up", subject)
        start = position + _HEADER.size + header_size
        for offset in range(start, start + body, size):
            entry = data[offset : offset + size]
            yield Signature(
                kind=UUID(bytes_le=kind),
                owner=UUID(bytes_le=entry[:_OWNER_SIZE]),
                content=entry[_OWNER_SIZE:],
            )
        position += list_size


def _error(reason: str, subject: str) -> FormatError:
    return FormatError(reason, subject=subject, advice="enrol the keys anew with a tool such as virt-fw-vars")
