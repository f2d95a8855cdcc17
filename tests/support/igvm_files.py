"""Writes IGVM files for tests: headers in the order in which they are added, then the data that they name."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from measurements.sev.id_block import IdAuthentication, IdBlock

SNP_MASK = 1
OTHER_MASK = 2
VMSA_GPA = 0xFFFFFFFFF000


@dataclass(kw_only=True)
class IgvmWriter:
    """A file in the making; ``add`` takes the type and the body of a header."""

    version: int = 1
    headers: list[tuple[int, bytes]] = field(default_factory=list)
    data: list[tuple[int, int, bytes]] = field(default_factory=list)

    def add(self, kind: int, body: bytes) -> IgvmWriter:
        self.headers.append((kind, body))
        return self

    def platform(self, *, mask: int = SNP_MASK, kind: int = 2, version: int = 1) -> IgvmWriter:
        return self.add(0x1, struct.pack("<IBBHQ", mask, 0, kind, version, 0))

    def policy(self, policy: int = 0x30000, *, mask: int = SNP_MASK) -> IgvmWriter:
        return self.add(0x101, struct.pack("<QII", policy, mask, 0))

    def start(self) -> IgvmWriter:
        """The platform and the policy of an SNP guest."""
        return self.platform().policy()

    def page(
        self, gpa: int, contents: bytes | None, *, mask: int = SNP_MASK, flags: int = 0, kind: int = 0
    ) -> IgvmWriter:
        """A page; without contents one of zeros, or whatever its kind stands for."""
        self._place(contents, 12)
        return self.add(0x302, struct.pack("<QIIIHH", gpa, mask, 0, flags, kind, 0))

    def pages(self, gpa: int, contents: bytes) -> IgvmWriter:
        for offset in range(0, len(contents), 4096):
            self.page(gpa + offset, contents[offset : offset + 4096])
        return self

    def processor(
        self, number: int, state: bytes, *, gpa: int = VMSA_GPA, mask: int = SNP_MASK
    ) -> IgvmWriter:
        self._place(state, 12)
        return self.add(0x304, struct.pack("<QIIHH", gpa, mask, 0, number, 0))

    def area(self, number: int, size: int) -> IgvmWriter:
        return self.add(0x301, struct.pack("<QII", size, number, 0))

    def insert(self, number: int, gpa: int, *, mask: int = SNP_MASK) -> IgvmWriter:
        return self.add(0x303, struct.pack("<QII", gpa, mask, number))

    def id_block(self, block: IdBlock, authentication: IdAuthentication) -> IgvmWriter:
        author = authentication.author_key is not None
        keys = [
            part
            for key, signature in (
                (authentication.id_key, authentication.block_signature),
                (authentication.author_key or bytes(1028), authentication.id_key_signature or bytes(512)),
            )
            for part in (signature[:144], key[:4] + bytes(4) + key[4:148])
        ]
        head = struct.pack("<IB3x", SNP_MASK, author) + block.launch_digest + block.family_id + block.image_id
        return self.add(
            0x30B, head + struct.pack("<IIII", 1, block.guest_svn, 1, int(author)) + b"".join(keys)
        )

    def _place(self, contents: bytes | None, position: int) -> None:
        """Remember that the next header names data by a u32 at ``position`` of its body."""
        if contents is not None:
            self.data.append((len(self.headers), position, contents))

    def write(self) -> bytes:
        """The bytes of the file."""
        bodies = [bytearray(body) for _kind, body in self.headers]
        fixed = 24 if self.version == 1 else 32
        size = sum(8 + (len(body) + 7) // 8 * 8 for body in bodies)
        offset, blobs = fixed + size, []
        for number, position, contents in self.data:
            struct.pack_into("<I", bodies[number], position, offset)
            blobs.append(contents)
            offset += len(contents)
        headers = b"".join(
            struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)
            for (kind, _body), body in zip(self.headers, bodies, strict=True)
        )
        extra = b"" if self.version == 1 else struct.pack("<II", 0, 4096)
        head = b"IGVM" + struct.pack("<IIII", self.version, fixed, size, offset)
        checksum = zlib.crc32(head + bytes(4) + extra + headers)
        return head + struct.pack("<I", checksum) + extra + headers + b"".join(blobs)


def with_checksum(data: bytes) -> bytes:
    """``data`` with the checksum made right again."""
    (start, size) = struct.unpack_from("<II", data, 8)
    fixed = 24 if data[4] == 1 else 32
    clean = data[:20] + bytes(4) + data[24:fixed]
    return data[:20] + struct.pack("<I", zlib.crc32(clean + data[start : start + size])) + data[24:]
