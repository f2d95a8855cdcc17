"""Where a package's member goes in the image, and which members an image leaves out. Pure."""

from __future__ import annotations

from image_builder.package_errors import bad_package

USR_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders of the root that are links into ``usr`` (Debian Policy 10.1, since trixie)."""

DROPPED_FOLDERS = (
    "usr/share/bug",
    "usr/share/doc-base",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
)
"""Documentation and translations, which no program of an image reads; licences (``copyright``) stay."""

_DROPPED_PREFIXES = tuple(f"{folder}/" for folder in DROPPED_FOLDERS)
_DOC = "usr/share/doc/"


def member_path(name: str, *, package: str) -> str:
    """``./usr/bin/x`` → ``usr/bin/x``; the root is ``""``.

    Raises ``PackageError`` for a path that is absolute, holds ``..``, or could be read in two ways.
    """
    path = name.removeprefix("./").removesuffix("/")
    if path in {"", "."}:
        return ""
    parts = path.split("/")
    if name.startswith("/"):
        reason = "the path is absolute"
    elif ".." in parts:
        reason = "the path leaves the image through .."
    elif "" in parts or "." in parts or "\0" in path:
        reason = "the path is not in its plain form"
    else:
        return path
    raise bad_package(
        f"{package}: {name}", reason, advice="do not use this package: it tries to write outside of the image"
    )


def merged_path(path: str, *, is_folder: bool = False) -> str:
    """The path after usr-merge: ``lib/x`` → ``usr/lib/x``, and the folder ``lib`` → ``usr/lib``."""
    head, _, rest = path.partition("/")
    return f"usr/{path}" if head in USR_MERGED and (rest or is_folder) else path


def is_dropped(path: str) -> bool:
    """Whether an image leaves the member at ``path`` out."""
    if path.startswith(_DOC):
        _, _, rest = path.removeprefix(_DOC).partition("/")
        return bool(rest) and rest != "copyright"
    return path.startswith(_DROPPED_PREFIXES) or path in DROPPED_FOLDERS
