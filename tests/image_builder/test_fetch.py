"""Fetching: parallel, resumable, checked; mirrors, folders, the snapshot service and kept stores."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from image_builder.download import FetchProgress, Wanted, download_object
from image_builder.fetch import Fetched, FetchError, FetchTools, fetch_lock
from image_builder.lockfile import Lock, LockedFile, LockedPackage, LockedWheel, PackageRole
from image_builder.mirrors import find_mirrors
from image_builder.progress import NoProgress
from image_builder.store import Store, StoreError
from image_builder.store_archive import export_objects, import_objects
from image_builder.transport import Place, Transport, TransportError
from image_builder.wheel_index import WheelIndex
from tests.support.archive import Faults, serve

CONTENTS = {name: name.encode() * 40_000 for name in ("alpha", "beta", "gamma", "delta")}


def package(name: str, data: bytes) -> LockedPackage:
    return LockedPackage(
        name=name,
        version="1:1.0+b1",
        architecture="amd64",
        role=PackageRole.ROOT,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        path=f"pool/main/{name}_1.0+b1_amd64.deb",
        suite="stable",
        source=name,
        source_version="1",
    )


def lock(**changes: Any) -> Lock:
    base = Lock(
        architecture="amd64",
        recipe_sha256="0" * 64,
        request_sha256="0" * 64,
        packages=tuple(package(name, data) for name, data in CONTENTS.items()),
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    root = tmp_path / "mirror"
    for entry in lock().packages:
        (root / entry.path).parent.mkdir(parents=True, exist_ok=True)
        (root / entry.path).write_bytes(CONTENTS[entry.name])
    return root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


NOWHERE = "http://127.0.0.1:9"


def fetch(
    store: Store,
    *mirrors: str,
    wanted: Lock | None = None,
    snapshot: str = "/nonexistent",
    folders: Sequence[Path] = (),
    folder: Path = Path("/nonexistent"),
    wheel_index: str = NOWHERE,
) -> Fetched:
    tools = FetchTools(
        store=store,
        transport=Transport(),
        mirrors=lambda: find_mirrors(given=mirrors, environment={}, sources=[]),
        wheel_index=lambda: WheelIndex(wheel_index),
        snapshot=Place(snapshot),
        folders=[Store(each) for each in folders],
    )
    return fetch_lock(wanted or lock(), folder=folder, tools=tools, progress=NoProgress())


def path_of(name: str) -> str:
    return package(name, CONTENTS[name]).path


def sha256_of(name: str) -> str:
    return package(name, CONTENTS[name]).sha256


def assert_complete(store: Store) -> None:
    for name, data in CONTENTS.items():
        assert store.verified(sha256_of(name), name=name).read_bytes() == data
    assert [path.name for path in (store.root / "partial").iterdir()] == []


def test_from_a_folder_and_only_once(store: Store, mirror: Path) -> None:
    first = fetch(store, str(mirror))
    assert (first.files, first.downloaded) == (4, 4)
    assert first.downloaded_bytes == sum(map(len, CONTENTS.values()))
    assert_complete(store)
    assert fetch(store, "/nonexistent").downloaded == 0


def test_from_a_file_url(store: Store, mirror: Path) -> None:
    fetch(store, mirror.as_uri())
    assert_complete(store)


def test_from_a_web_server(store: Store, mirror: Path) -> None:
    faults = Faults()
    with serve(mirror, faults=faults) as url:
        fetch(store, url)
        asked = len(faults.requests)
        fetch(store, url)
    assert_complete(store)
    assert asked == len(faults.requests) == 4


def test_the_next_mirror_helps_out(store: Store, mirror: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    fetch(store, str(broken), str(mirror))
    assert_complete(store)


def test_an_interrupted_fetch_goes_on(store: Store, mirror: Path) -> None:
    faults = Faults(cut={path_of("alpha"): 100_000})
    with serve(mirror, faults=faults) as url:
        with pytest.raises(FetchError):
            fetch(store, url)
        assert not store.has(sha256_of("alpha"))
        have = store.partial(sha256_of("alpha")).stat().st_size
        assert 0 < have <= 100_000
        faults.requests.clear()
        fetch(store, url)
    assert (path_of("alpha"), f"bytes={have}-") in faults.requests
    assert_complete(store)


def test_a_server_without_ranges_starts_again(store: Store, mirror: Path) -> None:
    part = store.partial(sha256_of("alpha"))
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENTS["alpha"][:5000])
    with serve(mirror, faults=Faults(no_ranges=True)) as url:
        fetch(store, url)
    assert_complete(store)


@pytest.mark.parametrize("size", [10, len(CONTENTS["alpha"]), len(CONTENTS["alpha"]) + 10])
def test_a_wrong_partial_file_is_dropped_and_fetched_again(store: Store, mirror: Path, size: int) -> None:
    part = store.partial(sha256_of("alpha"))
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\xff" * size)
    with serve(mirror) as url:
        fetch(store, url)
    assert_complete(store)


def test_a_complete_partial_file_needs_no_mirror(store: Store, mirror: Path) -> None:
    for name in CONTENTS:
        part = store.partial(sha256_of(name))
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(CONTENTS[name])
    fetch(store, "/nonexistent")
    assert_complete(store)


def test_a_wrong_byte_names_file_expected_and_found(store: Store, mirror: Path) -> None:
    path = mirror / path_of("beta")
    wrong = b"X" + path.read_bytes()[1:]
    path.write_bytes(wrong)
    with pytest.raises(FetchError) as caught:
        fetch(store, str(mirror))
    assert caught.value.subject == "beta_1.0+b1_amd64.deb"
    assert sha256_of("beta") in caught.value.reason
    assert hashlib.sha256(wrong).hexdigest() in caught.value.reason
    assert not store.has(sha256_of("beta"))
    assert not store.partial(sha256_of("beta")).exists()


@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_length_is_refused(store: Store, mirror: Path, change: int) -> None:
    path = mirror / path_of("beta")
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"x")
    with pytest.raises(FetchError):
        fetch(store, str(mirror))
    assert not store.has(sha256_of("beta"))


def test_a_package_altered_in_the_store_is_fetched_again(store: Store, mirror: Path) -> None:
    fetch(store, str(mirror))
    store.path(sha256_of("gamma")).write_bytes(b"evil")
    done = fetch(store, str(mirror))
    assert done.replaced == ("gamma_1.0+b1_amd64.deb",)
    assert_complete(store)


def test_the_snapshot_service_has_what_left_the_mirrors(store: Store, mirror: Path) -> None:
    data = CONTENTS["delta"]
    (mirror / path_of("delta")).unlink()
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    answer = {
        "result": [{"architecture": "arm64", "hash": "0" * 40}, {"architecture": "amd64", "hash": sha1}]
    }
    extra = {
        "mr/binary/delta/1:1.0+b1/binfiles": json.dumps(answer).encode(),
        f"file/{sha1}": data,
    }
    with serve(mirror, extra=extra) as url:
        fetch(store, str(mirror), snapshot=url)
    assert_complete(store)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"result": [{"architecture": "amd64", "hash": "../../x"}]}']
)
def test_a_strange_snapshot_answer_is_no_source(store: Store, mirror: Path, answer: bytes) -> None:
    (mirror / path_of("delta")).unlink()
    with (
        serve(mirror, extra={"mr/binary/delta/1:1.0+b1/binfiles": answer}) as url,
        pytest.raises(FetchError, match="does not know delta"),
    ):
        fetch(store, str(mirror), snapshot=url)


def test_nothing_has_it(store: Store, mirror: Path) -> None:
    (mirror / path_of("delta")).unlink()
    with pytest.raises(FetchError) as caught:
        fetch(store, str(mirror))
    assert caught.value.subject == "delta_1.0+b1_amd64.deb"
    assert "--store" in caught.value.advice


def test_export_and_import_keep_a_lock(store: Store, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/motd").write_bytes(b"hello")
    file = LockedFile(
        path="/etc/motd",
        source="motd",
        size=5,
        sha256=hashlib.sha256(b"hello").hexdigest(),
        mode=0o644,
        owner="root",
        group="root",
    )
    wanted = lock(files=(file,))
    fetch(store, str(mirror), wanted=wanted, folder=tmp_path / "project")
    kept = tmp_path / "kept"
    assert export_objects(wanted, store=store, folder=kept, progress=NoProgress()) == 5
    fresh = Store(tmp_path / "fresh")
    fetch(fresh, "/nonexistent", wanted=wanted, folders=[kept])
    assert_complete(fresh)
    imported = Store(tmp_path / "imported")
    assert import_objects(kept, store=imported, progress=NoProgress()) == 5
    assert fetch(imported, "/nonexistent", wanted=wanted).downloaded == 0


def test_an_export_needs_all_files(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        export_objects(lock(), store=store, folder=tmp_path / "kept", progress=NoProgress())
    assert "keyturn fetch" in caught.value.advice
    assert not (tmp_path / "kept").exists()


def test_an_altered_export_is_refused(store: Store, mirror: Path, tmp_path: Path) -> None:
    fetch(store, str(mirror))
    kept = tmp_path / "kept"
    export_objects(lock(), store=store, folder=kept, progress=NoProgress())
    Store(kept).path(sha256_of("alpha")).write_bytes(b"evil")
    fresh = Store(tmp_path / "fresh")
    with pytest.raises(StoreError, match="altered"):
        import_objects(kept, store=fresh, progress=NoProgress())
    with pytest.raises(StoreError, match="altered"):
        fetch(fresh, "/nonexistent", folders=[kept])
    with pytest.raises(StoreError, match="no objects"):
        import_objects(tmp_path, store=fresh, progress=NoProgress())


def test_a_local_file_altered_in_the_store_is_taken_again(store: Store, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "motd").write_bytes(b"hello")
    sha256 = hashlib.sha256(b"hello").hexdigest()
    file = LockedFile(
        path="/etc/motd", source="motd", size=5, sha256=sha256, mode=0o644, owner="root", group="root"
    )
    fetch(store, str(mirror), wanted=lock(files=(file,)), folder=tmp_path)
    store.path(sha256).write_bytes(b"evil")
    fetch(store, str(mirror), wanted=lock(files=(file,)), folder=tmp_path)
    assert store.verified(sha256, name="motd").read_bytes() == b"hello"


def test_a_changed_local_file_is_named(store: Store, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "motd").write_bytes(b"changed")
    file = LockedFile(
        path="/etc/motd", source="motd", size=5, sha256="0" * 64, mode=0o644, owner="root", group="root"
    )
    with pytest.raises(FetchError, match="expected SHA-256 0000") as caught:
        fetch(store, str(mirror), wanted=lock(files=(file,)), folder=tmp_path)
    assert caught.value.subject == "motd"
    assert "--local" in caught.value.advice


def test_wheels_come_from_the_index_by_name_and_hash(store: Store, mirror: Path, tmp_path: Path) -> None:
    data = b"wheel" * 100
    wheel = LockedWheel(
        name="tool",
        version="1+local",
        filename="tool-1+local-py3-none-any.whl",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    page = b'<a href="../files/tool-1%2Blocal-py3-none-any.whl">x</a><a href="../files/other.whl">y</a>'
    extra = {"simple/tool/": page, "simple/files/tool-1+local-py3-none-any.whl": data}
    extra["simple/files/tool-1%2Blocal-py3-none-any.whl"] = data
    with serve(mirror, extra=extra) as url:
        fetch(store, url, wanted=lock(wheels=(wheel,)), wheel_index=f"{url}/simple")
    assert store.verified(wheel.sha256, name="wheel").read_bytes() == data


def test_a_full_disk_is_one_clear_error_and_the_next_run_goes_on(
    mirror: Path, store: Store, tmp_path: Path
) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from tests.image_builder.test_fetch import fetch
from image_builder.store import DiskFullError, Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))
try:
    fetch(Store(Path(sys.argv[1])), sys.argv[2])
except DiskFullError as error:
    print(error.code, error.subject.partition("_")[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(store.root), str(mirror)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split()[0] == "disk-full"
    assert list((store.root / "sha256").rglob("*/*")) == [] if (store.root / "sha256").exists() else True
    fetch(store, str(mirror))
    assert_complete(store)


def test_two_runs_at_once_do_not_disturb_each_other(store: Store, mirror: Path) -> None:
    program = "import sys\nfrom pathlib import Path\nfrom tests.image_builder.test_fetch import *\n"
    program += "fetch(Store(Path(sys.argv[1])), sys.argv[2])\n"
    command = [sys.executable, "-c", program, str(store.root), str(mirror)]
    runs = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert_complete(store)


def test_a_stopped_download_keeps_what_it_has(store: Store, mirror: Path) -> None:
    entry = package("alpha", CONTENTS["alpha"])
    wanted = Wanted(name="alpha", size=entry.size, sha256=entry.sha256, sources=lambda _: iter(()))
    state = FetchProgress(total=entry.size, receiver=NoProgress(), stopped=True)
    with pytest.raises(TransportError, match="stopped"):
        download_object(
            wanted, Place(str(mirror)), entry.path, store=store, transport=Transport(), state=state
        )
    assert not store.has(entry.sha256)


def test_an_answer_larger_than_allowed_is_cut(mirror: Path) -> None:
    with pytest.raises(TransportError, match="larger than"):
        Transport().read(Place(str(mirror)), path_of("alpha"), limit=10)
