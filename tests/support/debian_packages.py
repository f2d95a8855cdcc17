"""Single packages of a Debian suite, for tests that need a program or a firmware which this machine's release
does not have. They are found in the suite's signed index as it is today, so that newer versions in the mirror
do no harm.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from image_builder.download import FetchProgress, Wanted, download_object
from image_builder.mirrors import MirrorError, archive_of, machine_mirrors
from image_builder.openpgp import read_keyring
from image_builder.progress import NoProgress
from image_builder.release_index import IndexedPackage
from image_builder.store import Store, default_store_root
from image_builder.suite_index import IndexReader
from image_builder.transport import Place, Transport, TransportError
from image_builder.universe import newest
from tests.support.tools import require_tool, unavailable

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@functools.cache
def debian_package(name: str, *, suite: str = "trixie") -> Path:
    """Folder with the unpacked files of the newest ``name`` in ``suite``; without a mirror the test skips."""
    store = Store(default_store_root())
    try:
        package = _find(name, suite, store)
        deb = _fetched(package, suite, store)
    except (MirrorError, TransportError) as error:
        unavailable(f"package {name} of {suite} cannot be had: {error}")
    folder = store.derived("test-package", package.sha256)
    if not folder.exists():
        _unpack(deb, folder)
    return folder


def _find(name: str, suite: str, store: Store) -> IndexedPackage:
    if not KEYRING.exists():
        unavailable(f"{KEYRING} is absent (package debian-archive-keyring)")
    reader = IndexReader(
        transport=Transport(),
        mirrors=machine_mirrors(()),
        keyring=read_keyring(KEYRING),
        store=store,
        architecture="amd64",
        now=datetime.now(tz=UTC),
    )
    versions = [
        package for index in reader.read(suite, ["main"]) for package in index.packages.versions(name)
    ]
    found = newest(versions)
    assert found is not None, f"{suite} has no package {name}"
    return found


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


def _unpack(deb: Path, folder: Path) -> None:
    dpkg_deb = require_tool("dpkg-deb", package="dpkg")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        files = Path(temporary, "files")
        subprocess.run([dpkg_deb, "-x", str(deb), str(files)], check=True)
        files.replace(folder)
