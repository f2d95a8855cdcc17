"""Applies the layers of a container image to a tree.

Source: OCI Image Specification 1.1, layer.md. A layer is a tar archive, plain, gzip or zstd. ``.wh.NAME``
hides ``NAME`` of lower layers, ``.wh..wh..opq`` hides everything that lower layers have in its folder; both
reach lower layers only, wherever they stand in the archive.

A layer's bytes are hostile. Paths are taken literally and never through a symbolic link: a member that lies
below something that is no folder is refused, as are ``..``, absolute paths, devices, attributes that steer an
overlay, names given twice, and more bytes or members than allowed.
"""

from __future__ import annotations

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, BinaryIO, cast

from image_builder.oci_image import Compression, OciError, oci_error
from image_builder.store import clear_disk_errors
from image_builder.tar_format import FileArchive, TarMember, TarType, read_tar
from image_builder.tree import FileSlice, Kind, Node, Tree, raw_name
from image_builder.tree_paths import missing_parents

CHUNK = 1 << 20
MAX_MEMBERS = 1_000_000
MAX_TARGET = 4095
ZSTD_WINDOW = 1 << 27
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_KEPT_XATTRS = ("user.", "security.capability")
_DROPPED_XATTRS = ("security.selinux",)
_KINDS = {
    TarType.FILE: Kind.FILE,
    TarType.SYMLINK: Kind.SYMLINK,
    TarType.DIRECTORY: Kind.DIRECTORY,
    TarType.FIFO: Kind.FIFO,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerBlob:
    """A layer as it is stored, and the SHA-256 (hex) of its uncompressed tar."""

    path: Path
    compression: Compression
    diff_sha256: str

    @property
    def subject(self) -> str:
        """How errors call it."""
        return f"layer sha256:{self.diff_sha256}"


@dataclass(slots=True)
class _Layer:
    """One layer, read: what it adds, what it hides, and which folders it makes opaque."""

    added: Tree = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)


def apply_layers(layers: Sequence[LayerBlob], *, cache: Path, limit: int) -> Tree:
    """The root file system that ``layers`` (lowest first) make.

    Uncompressed layers are kept in ``cache``, and the files of the tree are slices of them; together they
    have at most ``limit`` bytes. Raises ``OciError``, or ``FormatError`` for a damaged archive.
    """
    tree: Tree = {"": Node(path="", kind=Kind.DIRECTORY, mode=0o755, origin="layer")}
    left = limit
    members = 0
    for blob in layers:
        tar = _unpacked(blob, cache, left)
        left -= tar.stat().st_size
        layer = _Layer()
        with tar.open("rb") as stream:
            for member in _members(stream, blob):
                members += 1
                if members > MAX_MEMBERS:
                    raise oci_error(f"the image has more than {MAX_MEMBERS} members", subject=blob.subject)
                _take(layer, member, lower=tree, tar=tar, blob=blob)
        tree = _merged(tree, layer, blob)
    return tree


def _members(stream: BinaryIO, blob: LayerBlob) -> Iterator[TarMember]:
    archive = _ModestArchive(FileArchive(stream.fileno()), blob.subject)
    try:
        yield from read_tar(archive, subject=blob.subject)
    except ValueError as error:
        raise oci_error(f"damaged tar header: {error}", subject=blob.subject) from error


@dataclass(frozen=True, slots=True)
class _ModestArchive:
    """An archive that is read in pieces of at most ``CHUNK``, so that no header fills the memory."""

    archive: FileArchive
    subject: str

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.archive.size

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        if size > CHUNK:
            raise oci_error(f"a tar header has {size} bytes", subject=self.subject)
        return self.archive.read(offset, size)


def _unpacked(blob: LayerBlob, cache: Path, limit: int) -> Path:
    """The uncompressed tar of at most ``limit`` bytes, checked against its diff id."""
    target = cache / f"{blob.diff_sha256}.tar"
    if target.is_file() and target.stat().st_size <= limit and _sha256(target) == blob.diff_sha256:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with clear_disk_errors(blob.subject), _temporary(cache) as out:
        digest = hashlib.sha256()
        size = 0
        for piece in _decompressed(blob):
            size += len(piece)
            if size > limit:
                raise oci_error(
                    f"unpacks to more than the {limit} bytes that are left for the image",
                    subject=blob.subject,
                    advice="use a smaller image, or raise size-limit in app.toml if you trust it",
                )
            digest.update(piece)
            out.write(piece)
        if digest.hexdigest() != blob.diff_sha256:
            raise oci_error(f"unpacks to SHA-256 {digest.hexdigest()}", subject=blob.subject)
        out.flush()
        Path(out.name).replace(target)
    return target


@contextmanager
def _temporary(folder: Path) -> Iterator[IO[bytes]]:
    with tempfile.NamedTemporaryFile(dir=folder, prefix="new-", delete=False) as stream:
        try:
            yield cast(IO[bytes], stream)
        finally:
            Path(stream.name).unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _decompressed(blob: LayerBlob) -> Iterator[bytes]:
    with blob.path.open("rb") as stream:
        try:
            reader = _reader(stream, blob.compression)
            while piece := reader.read(CHUNK):
                yield piece
        except (OSError, EOFError, zlib.error, _zstd_error()) as error:
            if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
                raise
            raise oci_error(f"cannot be decompressed: {error}", subject=blob.subject) from error


def _reader(stream: BinaryIO, compression: Compression) -> BinaryIO:
    if compression is Compression.GZIP:
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
    if compression is Compression.ZSTD:
        import zstandard

        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        return cast(BinaryIO, decompressor.stream_reader(stream, read_across_frames=True))
    return stream


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


def member_path(name: str, *, subject: str) -> str:
    """``./usr/bin/x/`` → ``usr/bin/x``; the root is ``""``. Refuses what is not plainly below the root."""
    path = name.removeprefix("./").removesuffix("/")
    if path in {"", "."} and not name.startswith("/"):
        return ""
    parts = path.split("/")
    if name.startswith("/"):
        reason = "is absolute"
    elif ".." in parts:
        reason = "leaves the image through .."
    elif "" in parts or "." in parts or len(raw_name(path)) > MAX_TARGET:
        reason = "is not in its plain form"
    else:
        return path
    raise oci_error(f"the path {name[:200]!r} {reason}", subject=subject, advice=_DO_NOT_USE)


_DO_NOT_USE = "do not use this image: it was not made by a well-behaved builder"


def _take(layer: _Layer, member: TarMember, *, lower: Tree, tar: Path, blob: LayerBlob) -> None:
    path = member_path(member.name, subject=blob.subject)
    parent, _, name = path.rpartition("/")
    if name.startswith(WHITEOUT):
        _whiteout(layer, parent, name, blob)
        return
    node = _node(layer, member, path, lower=lower, tar=tar, blob=blob)
    before = layer.added.get(path)
    if before is not None and not (before.kind is node.kind is Kind.DIRECTORY):
        raise _bad(blob, path, "is given twice in one layer")
    layer.added[path] = node


def _whiteout(layer: _Layer, parent: str, name: str, blob: LayerBlob) -> None:
    hidden = name.removeprefix(WHITEOUT)
    if name == OPAQUE:
        layer.opaque.add(parent)
    elif hidden in {"", ".", ".."} or hidden.startswith(WHITEOUT):
        raise _bad(blob, f"{parent}/{name}", "hides no plain name")
    else:
        layer.hidden.add(f"{parent}/{hidden}" if parent else hidden)


def _node(layer: _Layer, member: TarMember, path: str, *, lower: Tree, tar: Path, blob: LayerBlob) -> Node:
    if member.type is TarType.HARD_LINK:
        return _linked(layer, member, path, lower=lower, blob=blob)
    kind = _KINDS.get(member.type)
    if kind is None:
        raise _bad(blob, path, f"is a {member.type.value}, which a container image may not bring")
    if path == "" and kind is not Kind.DIRECTORY:
        raise _bad(blob, path, "replaces the root folder")
    if kind is Kind.SYMLINK and not 0 < len(raw_name(member.link)) <= MAX_TARGET:
        raise _bad(blob, path, "is a symbolic link without a proper target")
    return Node(
        path=path,
        kind=kind,
        mode=0o777 if kind is Kind.SYMLINK else member.mode,
        uid=member.uid,
        gid=member.gid,
        content=FileSlice(path=tar, offset=member.offset, size=member.size) if kind is Kind.FILE else None,
        target=member.link if kind is Kind.SYMLINK else "",
        xattrs=_xattrs(member, path, blob),
        origin="layer",
    )


def _linked(layer: _Layer, member: TarMember, path: str, *, lower: Tree, blob: LayerBlob) -> Node:
    """A hard link: the node it names, of this layer or else of those below it."""
    target = member_path(member.link, subject=blob.subject)
    original = layer.added.get(target) or lower.get(target)
    if original is None or original.kind not in (Kind.FILE, Kind.SYMLINK):
        raise _bad(blob, path, f"is a hard link to {target!r}, which is no file of the image")
    return replace(original, path=path)


def _xattrs(member: TarMember, path: str, blob: LayerBlob) -> tuple[tuple[str, bytes], ...]:
    kept = []
    for name, value in member.xattrs:
        if name.startswith(_KEPT_XATTRS):
            kept.append((name, value))
        elif name not in _DROPPED_XATTRS:
            raise _bad(blob, path, f"has the attribute {name[:80]!r}, which an image may not set")
    return tuple(kept)


def _merged(lower: Tree, layer: _Layer, blob: LayerBlob) -> Tree:
    """``lower`` with the layer on top."""
    replaced = {
        path
        for path, node in layer.added.items()
        if node.kind is not Kind.DIRECTORY and path in lower and lower[path].kind is Kind.DIRECTORY
    }
    gone = layer.hidden | replaced
    tree = {
        path: node
        for path, node in lower.items()
        if path not in layer.hidden and not _below(path, gone) and not _below(path, layer.opaque)
    }
    tree |= layer.added
    tree |= missing_parents(tree)
    for path, node in tree.items():
        if path and tree[node.parent].kind is not Kind.DIRECTORY:
            raise _bad(blob, path, f"lies below /{node.parent}, which is a {tree[node.parent].kind.value}")
    return tree


def _below(path: str, folders: set[str]) -> bool:
    """Whether ``path`` lies below (and is not itself) one of ``folders``."""
    while path:
        path = path.rpartition("/")[0]
        if path in folders:
            return True
    return False


def _bad(blob: LayerBlob, path: str, reason: str) -> OciError:
    return oci_error(f"/{path} {reason}", subject=blob.subject, advice=_DO_NOT_USE)
