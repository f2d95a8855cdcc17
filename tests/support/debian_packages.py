"""Single packages of a Debian suite, for tests that need a program or a firmware which this machine's release
does not have. They are found in the suite's signed index as the mirror has it, so that newer versions there
do no harm, and a mirror that is behind does none either: the index counts as of its own date.
"""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from image_builder.download import FetchProgress, Wanted, download_object
from image_builder.mirrors import MirrorError, archive_of, machine_mirrors
from image_builder.openpgp import read_keyring
from image_builder.progress import NoProgress
from image_builder.release_index import IndexedPackage, PackagesIndex
from image_builder.resolver import resolve
from image_builder.store import Store, default_store_root
from image_builder.suite_index import RELEASE_LIMIT, IndexReader
from image_builder.transport import Place, Transport, TransportError
from image_builder.universe import Universe, newest
from tests.support.tools import require_tool, unavailable

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@functools.cache
def debian_package(name: str, *, suite: str = "trixie") -> Path:
    """Folder with the unpacked files of the newest ``name`` in ``suite``; without a mirror the test skips."""
    store = Store(default_store_root())
    try:
        package = newest(version for index in _indexes(suite) for version in index.versions(name))
        assert package is not None, f"{suite} has no package {name}"
        deb = _fetched(package, suite, store)
    except (MirrorError, TransportError) as error:
        unavailable(f"package {name} of {suite} cannot be had: {error}")
    folder = store.derived("test-package", package.sha256)
    if not folder.exists():
        _unpack([deb], folder)
    return folder


def kernel_package(suite: str) -> str:
    """The name of the package with the newest cloud kernel of ``suite``, which changes with its version."""
    try:
        found = newest(
            version for index in _indexes(suite) for version in index.versions("linux-image-cloud-amd64")
        )
    except (MirrorError, TransportError) as error:
        unavailable(f"the kernel of {suite} cannot be had: {error}")
    assert found is not None, f"{suite} has no cloud kernel"
    return found.depends[0][0].name


@functools.cache
def debian_tree(name: str, *, suite: str) -> Path:
    """Folder with the unpacked files of the newest ``name`` in ``suite`` and of all that it depends on."""
    store = Store(default_store_root())
    try:
        packages = resolve(Universe(automatic=_indexes(suite)), [name]).packages
        digest = hashlib.sha256("".join(package.sha256 for package in packages).encode()).hexdigest()
        folder = store.derived("test-tree", digest)
        if not folder.exists():
            _unpack([_fetched(package, suite, store) for package in packages], folder)
    except (MirrorError, TransportError) as error:
        unavailable(f"package {name} of {suite} and what it needs cannot be had: {error}")
    return folder


@functools.cache
def _indexes(suite: str) -> tuple[PackagesIndex, ...]:
    store = Store(default_store_root())
    if not KEYRING.exists():
        unavailable(f"{KEYRING} is absent (package debian-archive-keyring)")
    reader = IndexReader(
        transport=Transport(),
        mirrors=machine_mirrors(()),
        keyring=read_keyring(KEYRING),
        store=store,
        architecture="amd64",
        now=_date(suite),
    )
    return tuple(index.packages for index in reader.read(suite, ["main"]))


def _date(suite: str) -> datetime:
    """The ``Date`` of the index of ``suite``."""
    place = machine_mirrors(()).of(archive_of(suite))[0]
    text = Transport().read(place, f"dists/{suite}/InRelease", limit=RELEASE_LIMIT)
    date = re.search(rb"^Date: (.+)$", text, re.MULTILINE)
    assert date is not None, f"the index of {suite} has no date"
    return parsedate_to_datetime(date[1].decode().replace(" UTC", " +0000"))


def _fetched(package: IndexedPackage, suite: str, store: Store) -> Path:
    places = machine_mirrors(()).of(archive_of(suite))

    def sources(_failures: list[str]) -> Iterator[tuple[Place, str]]:
        return ((place, package.path) for place in places)

    item = Wanted(name=package.name, size=package.size, sha256=package.sha256, sources=sources)
    if not store.has(package.sha256):
        state = FetchProgress(total=package.size, receiver=NoProgress())
        place, path = next(item.sources([]))
        download_object(item, place, path, store=store, transport=Transport(), state=state)
    return store.verified(package.sha256, name=package.name, size=package.size)


def _unpack(debs: Sequence[Path], folder: Path) -> None:
    dpkg_deb = require_tool("dpkg-deb", package="dpkg")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        files = Path(temporary, "files")
        for deb in debs:
            subprocess.run([dpkg_deb, "-x", str(deb), str(files)], check=True)
        try:
            files.replace(folder)
        except OSError:
            if not folder.exists():  # another process was quicker
                raise
