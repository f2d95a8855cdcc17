"""Keeps a lock's inputs for good: a folder laid out like the store, with everything that a build of that
lock reads.
"""

from __future__ import annotations

from pathlib import Path

from image_builder.lockfile import LOCK_NAME, Lock, lock_bytes
from image_builder.progress import Progress
from image_builder.store import Store, StoreError, clear_disk_errors


def lock_objects(lock: Lock) -> dict[str, tuple[str, int]]:
    """SHA-256 → (name, size) of every input of ``lock``."""
    named = [(package.sha256, package.path.rpartition("/")[2], package.size) for package in lock.packages]
    named += [(wheel.sha256, wheel.filename, wheel.size) for wheel in lock.wheels]
    named += [(file.sha256, file.source, file.size) for file in (*lock.files, *lock.agent)]
    return {sha256: (name, size) for sha256, name, size in named}


def export_objects(lock: Lock, *, store: Store, folder: Path, progress: Progress) -> int:
    """Copy the inputs of ``lock``, and the lock itself, to ``folder``; their number. Raises
    :class:`StoreError` if one is absent.
    """
    target = Store(folder)
    objects = lock_objects(lock)
    for sha256, (name, size) in objects.items():
        store.verified(sha256, name=name, size=size)
    for done, (sha256, (name, size)) in enumerate(objects.items(), start=1):
        if not target.has(sha256):
            target.add_file(store.verified(sha256, name=name, size=size))
        target.verified(sha256, name=name, size=size)
        progress.update("export", done=done, total=len(objects))
    with clear_disk_errors(LOCK_NAME):
        (folder / LOCK_NAME).write_bytes(lock_bytes(lock))
    return len(objects)


def import_objects(folder: Path, *, store: Store, progress: Progress) -> int:
    """Copy every object of ``folder`` into ``store``; their number. Raises :class:`StoreError` if one is
    not what its name says.
    """
    paths = sorted((folder / "sha256").glob("??/*"))
    if not paths:
        raise StoreError(
            "it holds no objects",
            subject=str(folder),
            advice="name a folder made by `keyturn store export`",
        )
    source = Store(folder)
    for path in paths:
        source.verified(path.name, name=path.name)
    for done, path in enumerate(paths, start=1):
        if not store.has(path.name):
            store.add_file(source.verified(path.name, name=path.name))
        progress.update("import", done=done, total=len(paths))
    return len(paths)
