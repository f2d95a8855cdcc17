"""``keyturn init``, ``lock``, ``fetch`` and ``store``: what they print, write, and how they exit."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keyturn.cli import main
from tests.support.archive import RECIPE, Archive, Faults, archive_key, serve, standard_archive, write_keyring

FILE = '[[file]]\nsource = "motd"\npath = "/etc/motd"\n'


@dataclass
class Shell:
    """Runs verbs in a project's folder."""

    folder: Path
    archive: Archive
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of a command."""
        with pytest.raises(SystemExit) as caught:
            main(words)
        captured = self.capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    def json(self, *words: str) -> dict[str, Any]:
        """The JSON document of a command."""
        document = json.loads(self.run(*words, "--json")[1])
        assert isinstance(document, dict)
        return document

    def recipe(self, text: str = RECIPE) -> None:
        (self.folder / "keyturn.toml").write_text(text)

    @property
    def lock(self) -> Path:
        return self.folder / "keyturn.lock"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    folder = tmp_path / "project"
    folder.mkdir()
    write_keyring(folder / "keyring.gpg", archive_key())
    archive = standard_archive(tmp_path / "archive")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KEYTURN_CACHE", str(tmp_path / "store"))
    monkeypatch.setenv("KEYTURN_MIRROR", str(archive.root))
    monkeypatch.setenv("KEYTURN_SNAPSHOT", str(tmp_path / "no-snapshot"))
    shell = Shell(folder=folder, archive=archive, capsys=capsys)
    shell.recipe()
    return shell


def test_init_writes_a_recipe_once(shell: Shell, tmp_path: Path) -> None:
    status, out, _ = shell.run("init", str(tmp_path / "new"))
    assert status == 0
    assert "keyturn lock" in out
    assert tomllib.loads((tmp_path / "new/keyturn.toml").read_text())["kernel"]["package"]
    status, _, err = shell.run("init", str(tmp_path / "new"))
    assert status == 2
    assert "exists already" in err


def test_lock_fetch_and_lock_again(shell: Shell) -> None:
    status, out, _ = shell.run("lock")
    assert status == 0
    assert "2 packages in the root, 2 of the kernel" in out
    data = shell.lock.read_bytes()
    assert shell.run("fetch")[0] == 0
    document = shell.json("fetch")
    assert (document["fetched"], document["bytes"]) == (0, 0)
    status, out, _ = shell.run("lock")
    assert (status, shell.lock.read_bytes()) == (0, data)
    assert "kept the packages" in out
    assert shell.run("lock", "--update")[0] == 0
    assert shell.lock.read_bytes() == data


def test_a_lock_is_kept_until_an_update_is_asked_for(shell: Shell) -> None:
    shell.run("lock")
    shell.archive.add("stable-security", "library", "1.2+deb1")
    shell.archive.add("stable", "app", "1.1", depends="library, extra")
    shell.archive.add("stable", "extra", "3")
    shell.archive.publish("stable")
    shell.archive.publish("stable-security")
    assert shell.json("lock")["changes"] == []
    status, out, _ = shell.run("lock", "--update")
    assert status == 0
    assert "stable-security (security)" in out
    assert "1 added, 2 upgraded; 1 from a security suite" in out
    assert shell.json("lock", "--update")["changes"] == []


def test_the_update_lists_changes_for_machines(shell: Shell) -> None:
    shell.run("lock")
    shell.archive.add("stable-security", "library", "1.2+deb1")
    shell.archive.publish("stable-security")
    changes = shell.json("lock", "--update")["changes"]
    assert changes == [
        {
            "change": "upgraded",
            "what": "package",
            "name": "library",
            "before": "1.2",
            "after": "1.2+deb1",
            "suite": "stable-security",
            "source": "library",
            "security": True,
        }
    ]


def test_local_files_are_hashed_again_without_a_mirror(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell.folder / "motd").write_text("one")
    shell.recipe(RECIPE + FILE)
    shell.run("lock")
    (shell.folder / "motd").write_text("two")
    monkeypatch.setenv("KEYTURN_MIRROR", "/nonexistent")
    status, out, _ = shell.run("lock", "--local")
    assert status == 0
    assert "/etc/motd" in out
    shell.recipe(RECIPE.replace('["app"]', '["app", "stub"]'))
    status, _, err = shell.run("lock", "--local")
    assert status == 2
    assert "asks for other packages" in err


def test_local_needs_a_lock(shell: Shell) -> None:
    status, _, err = shell.run("lock", "--local")
    assert status == 2
    assert "no lock yet" in err


def test_a_recipe_newer_than_the_lock_stops_fetch(shell: Shell) -> None:
    shell.run("lock")
    shell.recipe(RECIPE + "# changed\n")
    status, _, err = shell.run("fetch")
    assert status == 2
    assert "older than the recipe" in err
    assert shell.run("lock")[0] == shell.run("fetch")[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('name = "test"', 'name = "test"\nnmae = "x"', "recipe"),
        ('["app"]', '["absent"]', "resolve"),
        ('"keyring.gpg"', '"other.gpg"', "keyring"),
        ('"stable-security"', '"nowhere"', "mirror"),
    ],
)
def test_a_failed_lock_leaves_the_old_one(shell: Shell, old: str, new: str, code: str) -> None:
    shell.run("lock")
    data = shell.lock.read_bytes()
    shell.recipe(RECIPE.replace(old, new))
    status, out, err = shell.run("lock", "--update", "--json")
    assert status == 2
    assert json.loads(out)["error"]["code"] == code
    assert "remedy:" in err
    assert shell.lock.read_bytes() == data
    assert sorted(path.name for path in shell.folder.iterdir()) == [
        "keyring.gpg",
        "keyturn.lock",
        "keyturn.toml",
    ]


def test_mirrors_of_the_command_line_win(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTURN_MIRROR", "/nonexistent")
    with serve(shell.archive.root) as url:
        assert shell.run("lock", "--mirror", url)[0] == 0
        assert shell.run("fetch", "--mirror", url)[0] == 0
    assert url.encode() not in shell.lock.read_bytes()


def test_an_exported_store_outlives_the_mirror(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.run("lock")
    shell.run("fetch")
    assert shell.run("store", "export", str(tmp_path / "kept"))[0] == 0
    monkeypatch.setenv("KEYTURN_MIRROR", "/nonexistent")
    monkeypatch.setenv("KEYTURN_CACHE", str(tmp_path / "second"))
    assert shell.run("fetch")[0] == 2
    assert shell.run("fetch", "--store", str(tmp_path / "kept"))[0] == 0
    monkeypatch.setenv("KEYTURN_CACHE", str(tmp_path / "third"))
    assert shell.run("store", "import", str(tmp_path / "kept"))[0] == 0
    assert shell.json("fetch")["fetched"] == 0


def test_an_interrupted_fetch_is_finished_by_the_next(shell: Shell) -> None:
    """A real process, ended by Ctrl-C in the middle of a large package that comes slowly."""
    data = os.urandom(4 << 20)
    path = shell.archive.add("stable", "app", "2.0", data=data, depends="library")
    shell.archive.publish("stable")
    shell.run("lock")
    part = Path(os.environ["KEYTURN_CACHE"]) / "partial" / hashlib.sha256(data).hexdigest()
    slow = Faults(pause=0.1)
    with serve(shell.archive.root, faults=slow) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "keyturn", "fetch", "--mirror", url],
            cwd=shell.folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.PIPE,
            # A suite that runs in the background of a shell has SIGINT ignored, and children inherit that.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size >= 1 << 18):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert 0 < part.stat().st_size < len(data)
        slow.pause = 0.0
        slow.requests.clear()
        assert shell.run("fetch", "--mirror", url)[0] == 0
    name = str(path.relative_to(shell.archive.root))
    assert any(asked == name and span.startswith("bytes=") for asked, span in slow.requests)
    assert not part.exists()
    assert shell.json("fetch")["fetched"] == 0
