"""Makes Debian packages of any shape for tests, also of shapes that no good package has."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import zstandard

from image_builder.accounts import Accounts, make_accounts
from image_builder.lockfile import LockedPackage, PackageRole
from image_builder.merge import MergeRules
from image_builder.progress import NoProgress
from image_builder.store import Store
from image_builder.unpack import Unpacked, unpack_all

PASSWD = b"root:*:0:0:root:/root:/bin/bash\ndaemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
GROUP = b"root:*:0:\ndaemon:*:1:\nmail:*:8:\nshadow:*:42:\n"

COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def accounts() -> Accounts:
    """A few accounts."""
    return make_accounts(passwd=PASSWD, group=GROUP, sysusers=[], users=[])


def rules(
    *,
    diversions: Mapping[str, str] | None = None,
    set_id: Sequence[str] = (),
    capabilities: Mapping[str, str] | None = None,
) -> MergeRules:
    """What a recipe permits; nothing by default."""
    return MergeRules(diversions=diversions or {}, set_id=frozenset(set_id), capabilities=capabilities or {})


def regular(
    name: str, data: bytes = b"x", *, mode: int = 0o644, user: str = "root"
) -> tuple[tarfile.TarInfo, bytes]:
    """A file."""
    info = _info(name, tarfile.REGTYPE, mode)
    info.size = len(data)
    info.uname = user
    return info, data


def folder(name: str, *, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    """A directory."""
    return _info(name, tarfile.DIRTYPE, mode), b""


def link(name: str, target: str, *, hard: bool = False) -> tuple[tarfile.TarInfo, bytes]:
    """A symbolic or hard link."""
    info = _info(name, tarfile.LNKTYPE if hard else tarfile.SYMTYPE, 0o777)
    info.linkname = target
    return info, b""


def device(name: str, *, kind: bytes = tarfile.CHRTYPE) -> tuple[tarfile.TarInfo, bytes]:
    """A device node or FIFO."""
    return _info(name, kind, 0o600), b""


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uname, info.gname = kind, mode, "root", "root"
    return info


def tar_bytes(members: Sequence[tuple[tarfile.TarInfo, bytes]], *, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def deb_bytes(
    name: str,
    members: Sequence[tuple[tarfile.TarInfo, bytes]],
    *,
    control: Mapping[str, bytes] | None = None,
    fields: str = "",
    compression: str = ".xz",
    form: int = tarfile.GNU_FORMAT,
) -> bytes:
    """A package ``name`` of version 1."""
    files = {
        "control": f"Package: {name}\nVersion: 1\nArchitecture: amd64\n{fields}".encode(),
        **(control or {}),
    }
    compress = COMPRESSORS[compression]
    control_tar = tar_bytes([regular(f"./{path}", data) for path, data in files.items()])
    return ar_bytes(
        [
            ("debian-binary", b"2.0\n"),
            (f"control.tar{compression}", compress(control_tar)),
            (f"data.tar{compression}", compress(tar_bytes(members, form=form))),
        ]
    )


def ar_bytes(members: Sequence[tuple[str, bytes]]) -> bytes:
    """An ar archive."""
    parts = [b"!<arch>\n"]
    for name, data in members:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        parts += [header.encode(), data, b"\n" * (len(data) % 2)]
    return b"".join(parts)


def locked(name: str, deb: bytes, store: Store, *, role: PackageRole = PackageRole.ROOT) -> LockedPackage:
    """The lock line of ``deb``, which is put into ``store``."""
    store.add_bytes(deb)
    return LockedPackage(
        name=name,
        version="1",
        architecture="amd64",
        role=role,
        size=len(deb),
        sha256=hashlib.sha256(deb).hexdigest(),
        path=f"pool/{name}.deb",
        suite="trixie",
        source=name,
        source_version="1",
    )


def unpacked(folder_path: Path, debs: Mapping[str, bytes]) -> tuple[Unpacked, ...]:
    """Unpack packages through a store in ``folder_path``."""
    store = Store(folder_path)
    return unpack_all(
        [locked(name, deb, store) for name, deb in debs.items()], store, jobs=2, progress=NoProgress()
    )
