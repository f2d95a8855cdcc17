"""The content-addressed store."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_builder.store import DiskFullError, Store, StoreError, clear_disk_errors, default_store_root


@given(data=st.binary(max_size=4096))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "property-store")
    sha256 = store.add_bytes(data)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert store.verified(sha256, name="x", size=len(data)).read_bytes() == data


def test_a_file_is_copied_in(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    store = Store(tmp_path / "store")
    sha256 = store.add_file(tmp_path / "a")
    assert store.path(sha256).read_bytes() == b"hello"
    assert list((tmp_path / "store/partial").iterdir()) == []


def test_an_altered_object_is_named_with_both_hashes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha256 = store.add_bytes(b"good")
    store.path(sha256).write_bytes(b"evil")
    with pytest.raises(StoreError) as caught:
        store.verified(sha256, name="libc6.deb", size=4)
    assert caught.value.subject == "libc6.deb"
    assert sha256 in caught.value.reason
    assert hashlib.sha256(b"evil").hexdigest() in caught.value.reason


def test_a_wrong_size_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha256 = store.add_bytes(b"good")
    with pytest.raises(StoreError, match="5 bytes"):
        store.verified(sha256, name="x", size=5)


def test_an_absent_object_says_fetch(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        Store(tmp_path).verified("0" * 64, name="x")
    assert "keyturn fetch" in caught.value.advice


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_only_hashes_are_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError):
        Store(tmp_path).path(name)


def test_wrong_bytes_never_become_visible(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="wrong bytes"), store.writer("0" * 64, name="x") as stream:
        stream.write(b"data")
    assert not store.has("0" * 64)
    assert list((tmp_path / "partial").iterdir()) == []


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def interrupted() -> None:
        with store.writer("0" * 64, name="x") as stream:
            stream.write(b"data")
            raise KeyError("interrupted")

    with pytest.raises(KeyError):
        interrupted()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_adopting_wrong_bytes_removes_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    part = store.partial("0" * 64)
    part.parent.mkdir()
    part.write_bytes(b"data")
    with pytest.raises(StoreError, match="wrong bytes"):
        store.adopt(part, sha256="0" * 64, name="x")
    assert not part.exists()
    assert not store.has("0" * 64)


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """A file size limit makes the kernel refuse the write as a full disk does."""
    program = """
import resource, signal, sys
from pathlib import Path
from image_builder.store import Store, DiskFullError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Store(Path(sys.argv[1])).add_bytes(b"x" * 5000)
except DiskFullError as error:
    print(error.code, error.subject == __import__("hashlib").sha256(b"x" * 5000).hexdigest())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "disk-full True\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_other_system_errors_pass() -> None:
    with pytest.raises(PermissionError), clear_disk_errors("x"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.raises(DiskFullError), clear_disk_errors("x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_CACHE", "/a")
    assert default_store_root() == Path("/a")
    monkeypatch.delenv("KEYTURN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_store_root() == Path("/b/keyturn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert default_store_root() == Path("/c/.cache/keyturn")
