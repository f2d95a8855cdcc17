"""Fills the store with everything a lock names: parallel, resumable, each file checked by SHA-256 before it
becomes visible.

A file is looked for in the store, in ``--store`` folders by hash, on the mirrors by path, and last in the
archive's snapshot service. An interrupted download leaves its partial file in the store; the next run goes on
from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from image_builder.download import FetchProgress, Wanted, download_object
from image_builder.local_files import AGENT_ROOT
from image_builder.lockfile import Lock, LockedFile, LockedPackage, LockedWheel
from image_builder.mirrors import MirrorError, Mirrors, archive_of
from image_builder.progress import Progress
from image_builder.snapshot import snapshot_path
from image_builder.store import Store, StoreError, file_sha256
from image_builder.transport import Place, Transport, TransportError
from image_builder.wheel_index import WheelError, WheelIndex
from measurements.errors import KeyturnError

WORKERS = 8


class FetchError(KeyturnError):
    """A file of a lock that no source has, or has with other bytes."""

    code = "fetch"


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchTools:
    """Where a lock's files can come from on this machine. ``mirrors`` is called when the first file is
    needed from one.
    """

    store: Store
    transport: Transport
    mirrors: Callable[[], Mirrors]
    wheel_index: Callable[[], WheelIndex]
    snapshot: Place
    folders: Sequence[Store] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What a fetch did: numbers of files, bytes that were downloaded, and files of the store that had to be
    replaced.
    """

    files: int
    downloaded: int
    downloaded_bytes: int
    replaced: tuple[str, ...]


def fetch_lock(lock: Lock, *, folder: Path, tools: FetchTools, progress: Progress) -> Fetched:
    """Get every file of ``lock`` that the store lacks; ``folder`` holds the recipe's local files.

    Raises :class:`FetchError` naming the first file that cannot be had.
    """
    _take_local(lock.files, folder, tools, advice="restore the file, or run `keyturn lock --local`")
    _take_local(
        lock.agent, AGENT_ROOT, tools, advice="use the keyturn version that made this lock, or lock again"
    )
    wanted = [_package(package, tools) for package in lock.packages]
    wanted += [_wheel(wheel, tools) for wheel in lock.wheels]
    absent, replaced = _absent(wanted, tools.store)
    state = FetchProgress(total=sum(item.size for item in absent), receiver=progress)
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        futures = [pool.submit(_fetch_one, item, tools, state) for item in absent]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            state.stopped = True
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return Fetched(
        files=len(wanted) + len(lock.files) + len(lock.agent),
        downloaded=len(absent),
        downloaded_bytes=state.total,
        replaced=tuple(replaced),
    )


def _absent(wanted: Sequence[Wanted], store: Store) -> tuple[list[Wanted], list[str]]:
    """What the store lacks; an object whose bytes were altered is removed, so that it is fetched again."""
    absent, replaced = [], []
    for item in wanted:
        there = store.has(item.sha256)
        if not _is_intact(store, item.sha256):
            absent.append(item)
            if there:
                replaced.append(item.name)
    return absent, replaced


def _is_intact(store: Store, sha256: str) -> bool:
    """Whether the store has the object; one whose bytes were altered is removed."""
    path = store.path(sha256)
    if path.is_file() and file_sha256(path) != sha256:
        path.unlink()
    return path.is_file()


def _take_local(files: Sequence[LockedFile], folder: Path, tools: FetchTools, *, advice: str) -> None:
    """Put local files into the store, from ``folder`` or a ``--store`` folder."""
    for file in files:
        if _is_intact(tools.store, file.sha256):
            continue
        path = folder / file.source
        if path.is_file() and file_sha256(path) == file.sha256:
            tools.store.add_file(path)
        elif not _from_folders(file.sha256, file.source, tools):
            found = f"found {file_sha256(path)}" if path.is_file() else "found no such file"
            raise FetchError(
                f"the local file is not the locked one: expected SHA-256 {file.sha256}, {found}",
                subject=file.source,
                advice=advice,
            )


def _from_folders(sha256: str, name: str, tools: FetchTools) -> bool:
    for folder in tools.folders:
        if folder.has(sha256):
            tools.store.add_file(folder.verified(sha256, name=name))
            return True
    return False


def _package(package: LockedPackage, tools: FetchTools) -> Wanted:
    def sources(failures: list[str]) -> Iterator[tuple[Place, str]]:
        try:
            for place in tools.mirrors().of(archive_of(package.suite)):
                yield place, package.path
        except MirrorError as error:
            failures.append(str(error))
        try:
            yield tools.snapshot, snapshot_path(package, service=tools.snapshot, transport=tools.transport)
        except TransportError as error:
            failures.append(str(error))

    return Wanted(
        name=package.path.rpartition("/")[2], size=package.size, sha256=package.sha256, sources=sources
    )


def _wheel(wheel: LockedWheel, tools: FetchTools) -> Wanted:
    def sources(failures: list[str]) -> Iterator[tuple[Place, str]]:
        try:
            for file in tools.wheel_index().files(wheel.name):
                if file.filename == wheel.filename:
                    base, _, name = file.url.rpartition("/")
                    yield Place(base), unquote(name)
        except WheelError as error:
            failures.append(str(error))

    return Wanted(name=wheel.filename, size=wheel.size, sha256=wheel.sha256, sources=sources)


def _fetch_one(item: Wanted, tools: FetchTools, state: FetchProgress) -> None:
    if _from_folders(item.sha256, item.name, tools):
        state.add(item.size)
        return
    failures: list[str] = []
    for place, path in item.sources(failures):
        try:
            download_object(item, place, path, store=tools.store, transport=tools.transport, state=state)
        except (TransportError, StoreError) as error:
            failures.append(f"{place}/{path}: {error.reason}")
        else:
            return
    raise FetchError(
        f"no source has it: {'; '.join(failures) or 'none is known'}",
        subject=item.name,
        advice="name another mirror (--mirror) or an exported store (--store), or lock again",
    )
