"""Mirrors: from the command line, the environment, or apt's sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_builder.mirrors import (
    DEBIAN,
    SECURITY,
    MirrorError,
    Mirrors,
    archive_of,
    find_mirrors,
    machine_mirrors,
)

DEB822 = """\
# comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: x
Components: main

Types: deb-src
URIs: http://sources.example/debian
Suites: x
Components: main

Types: deb
URIs: http://mirror.example/debian-security https://vendor.example/node
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
deb [arch=amd64 signed-by=/x.gpg] http://old.example/debian/ bookworm main
# deb http://comment.example/debian bookworm main
deb-src http://src.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
"""


def roots(mirrors: Mirrors, archive: str) -> list[str]:
    return [place.root for place in mirrors.of(archive)]


def test_the_hosts_of_apt_are_taken() -> None:
    mirrors = find_mirrors(given=[], environment={}, sources=[("a.sources", DEB822), ("b.list", ONE_LINE)])
    assert roots(mirrors, DEBIAN) == ["http://mirror.example/debian", "http://old.example/debian"]
    assert roots(mirrors, SECURITY) == [
        "http://mirror.example/debian-security",
        "http://old.example/debian-security",
    ]


def test_the_command_line_comes_before_the_environment_and_apt() -> None:
    environment = {"KEYTURN_MIRROR": "http://env.example/debian"}
    sources = [("a.sources", DEB822)]
    given = find_mirrors(given=["/srv/mirror"], environment=environment, sources=sources)
    assert roots(given, DEBIAN) == roots(given, SECURITY) == ["/srv/mirror"]
    named = find_mirrors(given=[], environment=environment, sources=sources)
    assert roots(named, DEBIAN) == ["http://env.example/debian"]
    assert roots(named, SECURITY) == ["http://env.example/debian", "http://env.example/debian-security"]


def test_the_security_archive_may_have_its_own() -> None:
    mirrors = find_mirrors(
        given=["security=http://s.example/x", "http://m.example/d"], environment={}, sources=[]
    )
    assert roots(mirrors, DEBIAN) == ["http://m.example/d"]
    assert roots(mirrors, SECURITY) == ["http://s.example/x", "http://m.example/d"]


def test_a_machine_without_mirrors_says_how_to_name_one() -> None:
    mirrors = find_mirrors(
        given=[], environment={}, sources=[("a.list", "deb http://vendor.example/apt x main")]
    )
    with pytest.raises(MirrorError) as caught:
        mirrors.of(DEBIAN)
    assert "--mirror" in caught.value.advice


def test_apts_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYTURN_MIRROR", raising=False)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb file:///srv/debian trixie main\n")
    (tmp_path / "sources.list.d/x.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/x.sources.bak").write_text("deb http://backup.example/debian x main")
    assert roots(machine_mirrors([], apt_folder=tmp_path), DEBIAN) == [
        "file:///srv/debian",
        "http://mirror.example/debian",
    ]


@pytest.mark.parametrize(
    ("suite", "archive"),
    [
        ("trixie", DEBIAN),
        ("trixie-updates", DEBIAN),
        ("trixie-backports", DEBIAN),
        ("trixie-security", SECURITY),
    ],
)
def test_security_suites_have_their_own_archive(suite: str, archive: str) -> None:
    assert archive_of(suite) == archive
