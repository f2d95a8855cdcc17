"""The same recipe and lock give the same bytes, whatever the machine, its clock, its user and its Python."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_builder.store import default_store_root
from tests.support.builds import environment, hashes, linked_store, run_build
from tests.support.locked_project import Project, locked_project
from tests.support.vectors import REPOSITORY

pytestmark = pytest.mark.network
OLDEST = (3, 11)

OTHER_WORLD = '''
"""Loaded at the start of every interpreter on this path: a clock a year ahead, folders list backwards."""

import datetime
import os
import pathlib
import time

YEAR = 366 * 86400
real_time, real_time_ns, real_listdir, real_scandir = time.time, time.time_ns, os.listdir, os.scandir
time.time = lambda: real_time() + YEAR
time.time_ns = lambda: real_time_ns() + YEAR * 10**9


class Later(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=YEAR)

    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds=YEAR)


datetime.datetime = Later


class Backwards:
    def __init__(self, entries):
        self.entries = entries

    def __enter__(self):
        return self

    def __exit__(self, *details):
        return None

    def __iter__(self):
        return iter(self.entries)

    def close(self):
        return None


def scandir(path="."):
    with real_scandir(path) as entries:
        return Backwards(sorted(entries, key=lambda entry: entry.name, reverse=True))


os.listdir = lambda path=".": sorted(real_listdir(path), reverse=True)
os.scandir = scandir
'''


@pytest.fixture(scope="module")
def project() -> Project:
    return locked_project()


@pytest.fixture(scope="module")
def expected(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of all files of an ordinary build from an ordinary store."""
    folder = tmp_path_factory.mktemp("first")
    done = run_build(
        project.write(folder / "project"),
        folder / "image",
        env=environment(project.store, TZ="UTC", LANG="C.UTF-8", PYTHONHASHSEED="0"),
        options=("--jobs", "1"),
    )
    assert done.returncode == 0, done.stderr
    return hashes(folder / "image")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_everything_around_the_build_differs(project: Project, expected: dict[str, str], work: Path) -> None:
    world = work / "world"
    world.mkdir()
    (world / "sitecustomize.py").write_text(OTHER_WORLD)
    (work / "home").mkdir()
    store = linked_store(project.store, work / "cold store with a long name")
    env = environment(
        store,
        TZ="Pacific/Kiritimati",
        LANG="tr_TR.UTF-8",
        LC_ALL="tr_TR.UTF-8",
        HOME=str(work / "home"),
        USER="somebody",
        LOGNAME="somebody",
        HOSTNAME="elsewhere",
        SOURCE_DATE_EPOCH="1",
        PYTHONHASHSEED="4711",
        PYTHONDONTWRITEBYTECODE="1",
        PYTHONPATH=f"{world}{os.pathsep}{REPOSITORY}",
    )
    recipe = project.write(work / "other project")
    output = work / "a" / "much deeper" / "output folder"
    done = run_build(
        recipe, output, env=env, cwd=work / "home", options=("--jobs", "7"), before=lambda: _umask(0o077)
    )
    assert done.returncode == 0, done.stderr
    assert hashes(output) == expected
    warm = work / "warm"
    done = run_build(recipe, warm, env=env, cwd=work, options=("--jobs", "2"), before=lambda: _umask(0o000))
    assert done.returncode == 0, done.stderr
    assert hashes(warm) == expected


def _umask(mask: int) -> None:
    os.umask(mask)


def test_the_other_world_is_another_world(work: Path) -> None:
    (work / "sitecustomize.py").write_text(OTHER_WORLD)
    for name in "abc":
        (work / f"{name}.txt").touch()
    program = "import datetime, os, time; print(datetime.datetime.now().timestamp() - time.time()); "
    program += f"print(os.listdir({str(work)!r})); print(time.time())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(work)},
        capture_output=True,
        text=True,
        check=True,
    )
    difference, names, now = done.stdout.splitlines()
    assert abs(float(difference)) < 60
    assert names.index("c.txt") < names.index("a.txt")
    ordinary = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"], capture_output=True, text=True, check=True
    )
    assert float(now) > float(ordinary.stdout) + 300 * 86400


def interpreters() -> dict[str, str]:
    """Every other Python on this machine that is new enough: version → program."""
    found: dict[str, str] = {}
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    for folder in folders:
        for path in sorted(folder.glob("python3.[0-9]*")) if folder.is_dir() else []:
            if re.fullmatch(r"python3\.\d+", path.name) and (version := _version(path)):
                found.setdefault(version, str(path))
    return {version: path for version, path in sorted(found.items()) if version != _own_version()}


def _own_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _version(program: Path) -> str:
    """The version of a Python that works and is new enough, else ""."""
    done = subprocess.run(
        [str(program), "-c", "import sys; print(*sys.version_info[:2], sep='.')"],
        capture_output=True,
        text=True,
        check=False,
    )
    version = done.stdout.strip()
    numbers = tuple(int(part) for part in version.split(".")) if re.fullmatch(r"\d+\.\d+", version) else ()
    return version if numbers >= OLDEST else ""


OTHERS = interpreters()


@pytest.mark.skipif(not OTHERS, reason="this machine has no other Python of version 3.11 or later")
@pytest.mark.parametrize("version", OTHERS or ["none"])
def test_another_python(project: Project, expected: dict[str, str], work: Path, version: str) -> None:
    python = _environment_of(OTHERS[version], version)
    store = linked_store(project.store, work / "store")
    done = run_build(
        project.write(work / "project"), work / "image", env=environment(store), python=str(python)
    )
    assert done.returncode == 0, done.stderr
    assert hashes(work / "image") == expected


def _environment_of(program: str, version: str) -> Path:
    """A virtual environment with the locked dependencies, kept for the next run."""
    lock = REPOSITORY / "requirements.lock"
    key = hashlib.sha256(lock.read_bytes() + program.encode()).hexdigest()[:16]
    folder = default_store_root() / "test-environments" / f"{version}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([program, "-m", "venv", str(folder)], check=True, capture_output=True)
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "-q",
            "--require-hashes",
            "--no-deps",
            "-r",
            str(lock),
        ]
        done = subprocess.run(install, check=False, capture_output=True, text=True)
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"no dependencies for Python {version}: {done.stderr.strip()[-300:]}")
        assert done.returncode == 0, done.stderr
        (folder / "complete").touch()
    return python
