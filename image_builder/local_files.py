"""Local inputs of an image: the recipe's own files and the guest agent's, locked by hash and kept in the
store.
"""

from __future__ import annotations

from pathlib import Path

from guest_agent import payload
from image_builder.lockfile import LockedFile, LockError
from image_builder.recipe import FileEntry
from image_builder.store import Store

AGENT_ROOT = Path(payload.__file__).resolve().parents[1]
"""The folder that holds keyturn's own packages."""


def lock_files(entries: tuple[FileEntry, ...], *, folder: Path, store: Store) -> tuple[LockedFile, ...]:
    """The recipe's files, read below ``folder``; raises :class:`LockError` when one is absent or lies
    outside.
    """
    locked = []
    for entry in entries:
        path = local_path(folder, entry.source)
        locked.append(
            LockedFile(
                path=entry.path,
                source=entry.source,
                size=path.stat().st_size,
                sha256=store.add_file(path),
                mode=entry.mode,
                owner=entry.owner,
                group=entry.group,
            )
        )
    return tuple(sorted(locked, key=lambda file: file.path))


def lock_agent(*, store: Store, root: Path = AGENT_ROOT) -> tuple[LockedFile, ...]:
    """The files of the guest agent, as this installation of keyturn has them below ``root``."""
    locked = []
    for source, target in payload.PAYLOAD:
        path = local_path(root, source)
        locked.append(
            LockedFile(
                path="/" + target.removeprefix("/"),
                source=source,
                size=path.stat().st_size,
                sha256=store.add_file(path),
                mode=0o644,
                owner="root",
                group="root",
            )
        )
    return tuple(sorted(locked, key=lambda file: file.path))


def local_path(folder: Path, source: str) -> Path:
    """The regular file ``source`` below ``folder``, also after links are followed; raises
    :class:`LockError`.
    """
    path = (folder / source).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise LockError(
            "the file lies outside of the recipe's folder",
            subject=source,
            advice="copy it below the folder of the recipe",
        )
    if not path.is_file():
        raise LockError("no such file", subject=source, advice="correct the source in the recipe")
    return path
