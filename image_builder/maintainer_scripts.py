"""Reviews what packages would have done on installation, since their maintainer scripts never run.

A script's commands are listed and compared with ``data/maintainer_scripts.json``: ``commands`` names helpers
that change nothing an image needs, or that a declared step stands for; ``triggers`` the same for dpkg
triggers; ``scripts`` names reviewed scripts by the SHA-256 of their remaining commands, so that a changed
script comes up again. Each entry has its reason. What is left is an error that shows the commands, unless the
recipe acknowledges the package. ``prerm`` and ``postrm`` run on removal only and are not looked at.

``update-alternatives --install`` with plain arguments is done here: the alternative of the highest priority.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from image_builder.accounts import Accounts
from image_builder.package_paths import is_dropped, merged_path
from image_builder.shell_commands import Command, function_names, simple_commands
from image_builder.tree import Kind, Node, Tree
from image_builder.tree_paths import resolve
from image_builder.unpack import Unpacked
from measurements.errors import KeyturnError

SCRIPTS = ("preinst", "config", "postinst")
ALTERNATIVES = "etc/alternatives"
_ACCOUNT_COMMANDS = frozenset({"adduser", "addgroup", "useradd", "groupadd"})
_SHOWN = 6


class MaintainerScriptError(KeyturnError):
    """Packages whose scripts do something that the image would miss."""

    code = "maintainer-script"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What the image would miss of one script; ``residue_sha256`` is how the data file names it."""

    package: str
    script: str
    commands: tuple[str, ...]

    @property
    def residue_sha256(self) -> str:
        """SHA-256 of the commands, one per line."""
        return hashlib.sha256("\n".join(self.commands).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """One ``link`` that leads through ``/etc/alternatives/<name>`` to ``path``."""

    link: str
    name: str
    path: str
    priority: int
    package: str


def review_scripts(
    packages: Sequence[Unpacked], *, accounts: Accounts, acknowledged: Mapping[str, str]
) -> None:
    """Check that every script is harmless, reviewed, or acknowledged (reasons by package).

    Raises ``MaintainerScriptError`` that shows what the image would miss.
    """
    open_findings = [
        finding
        for package in packages
        for finding in findings(package, accounts=accounts)
        if package.name not in acknowledged and not is_reviewed(finding)
    ]
    if not open_findings:
        return
    names = ", ".join(sorted({finding.package for finding in open_findings}))
    raise MaintainerScriptError(
        "scripts that never run do more than the image does by itself: "
        + "; ".join(_described(finding) for finding in open_findings),
        subject=names,
        advice="see what of it the image needs, declare that as files or users, and acknowledge the package "
        'with a reason: [packages.scripts] name = "reason"',
    )


def findings(package: Unpacked, *, accounts: Accounts) -> Iterator[Finding]:
    """What is left of the scripts of ``package`` after the general rules."""
    for script in SCRIPTS:
        text = package.control.get(script, b"").decode("utf-8", "surrogateescape")
        left = tuple(_residue(text, accounts)) if text else ()
        if left:
            yield Finding(package=package.name, script=script, commands=left)
    triggers = tuple(_unknown_triggers(package.control.get("triggers", b"").decode("utf-8", "replace")))
    if triggers:
        yield Finding(package=package.name, script="triggers", commands=triggers)


def is_reviewed(finding: Finding) -> bool:
    """Whether the data file has this script with these very commands."""
    key = (finding.package, finding.script)
    return finding.residue_sha256 in _data().reviewed.get(key, frozenset())


def alternative_nodes(packages: Sequence[Unpacked], tree: Tree) -> Tree:
    """Links of the alternatives that the packages install: the highest priority wins, then the first path."""
    best: dict[str, Alternative] = {}
    for alternative in sorted(_alternatives(packages), key=lambda each: (-each.priority, each.path)):
        if resolve(tree, alternative.path) is not None:
            best.setdefault(alternative.link, alternative)
    nodes: Tree = {}
    for link, alternative in best.items():
        path = merged_path(link.lstrip("/"))
        if path in tree or is_dropped(path):
            continue
        middle = f"{ALTERNATIVES}/{alternative.name}"
        nodes[path] = _link(path, f"/{middle}", alternative.package)
        nodes[middle] = _link(middle, alternative.path, alternative.package)
    return nodes


def _described(finding: Finding) -> str:
    shown = " | ".join(finding.commands[:_SHOWN])
    more = f" | and {len(finding.commands) - _SHOWN} more" if len(finding.commands) > _SHOWN else ""
    return f"{finding.package}.{finding.script} ({finding.residue_sha256}): {shown}{more}"


def _residue(text: str, accounts: Accounts) -> Iterator[str]:
    if not text.startswith(("#!/bin/sh", "#! /bin/sh", "#!/bin/bash", "#!/usr/bin/sh")):
        yield text.partition("\n")[0]
        return
    own = function_names(text)
    commands = simple_commands(text)
    harmless = [_is_harmless(command, own, accounts) for command in commands]
    if all(harmless):
        return
    for command, is_harmless in zip(commands, harmless, strict=True):
        # What a function does with files depends on how it is called.
        if not is_harmless or command.words[0] in own:
            yield command.text


def _is_harmless(command: Command, own: frozenset[str], accounts: Accounts) -> bool:
    if command.writes:
        return False
    name = command.words[0].rpartition("/")[2]
    if command.words[0] in own or name in _data().commands or name.startswith("db_"):
        return not _changes_files(command)
    if name in _ACCOUNT_COMMANDS:
        return any(word in accounts.users or word in accounts.groups for word in command.words[1:])
    if name == "update-alternatives":
        return bool({"--auto", "--remove", "--query", "--display"} & set(command.words)) or bool(
            _parsed_alternatives(command, "")
        )
    return False


def _changes_files(command: Command) -> bool:
    """Whether a filter is used in a way that changes files."""
    words = set(command.words)
    if command.words[0] == "sed":
        return any(word.startswith(("-i", "--in-place")) for word in words)
    return command.words[0] == "find" and bool({"-exec", "-delete", "-execdir"} & words)


def _unknown_triggers(text: str) -> Iterator[str]:
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0].startswith("activate") and words[1] not in _data().triggers:
            yield line.strip()


def _alternatives(packages: Sequence[Unpacked]) -> Iterator[Alternative]:
    for package in packages:
        text = package.control.get("postinst", b"").decode("utf-8", "surrogateescape")
        if "update-alternatives" in text:
            for command in simple_commands(text):
                yield from _parsed_alternatives(command, package.name)


def _parsed_alternatives(command: Command, package: str) -> list[Alternative]:
    """The links of one ``update-alternatives --install`` with plain arguments; empty for anything else."""
    words = [word.strip("\"'") for word in command.words]
    if words[0].rpartition("/")[2] != "update-alternatives" or "--install" not in words:
        return []
    at = words.index("--install") + 1
    if len(words) < at + 4 or not words[at + 3].isdigit() or any("$" in word for word in words):
        return []
    priority = int(words[at + 3])
    triples = [words[at : at + 3]]
    triples += [words[i + 1 : i + 4] for i, word in enumerate(words) if word == "--slave"]
    return [
        Alternative(link=link, name=name, path=path, priority=priority, package=package)
        for link, name, path in triples
    ]


def _link(path: str, target: str, package: str) -> Node:
    return Node(path=path, kind=Kind.SYMLINK, mode=0o777, target=target, origin=package)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    commands: frozenset[str]
    triggers: frozenset[str]
    reviewed: Mapping[tuple[str, str], frozenset[str]]


@cache
def _data() -> _Data:
    document: Any = json.loads(files("image_builder.data").joinpath("maintainer_scripts.json").read_bytes())
    reviewed: dict[tuple[str, str], frozenset[str]] = {}
    for entry in document["scripts"]:
        key = (entry["package"], entry["script"])
        reviewed[key] = reviewed.get(key, frozenset()) | frozenset(entry["residue_sha256"])
    return _Data(
        commands=frozenset(word for entry in document["commands"] for word in entry["names"]),
        triggers=frozenset(name for entry in document["triggers"] for name in entry["names"]),
        reviewed=reviewed,
    )
