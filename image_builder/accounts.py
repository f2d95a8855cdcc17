"""The image's accounts: base-passwd's masters, the packages' sysusers.d files and the recipe's users.

No account has a password and none has a shell: every password field is ``*`` in the shadow file, every shell
is ``/usr/sbin/nologin``. The day of the last password change is empty, so no time gets in.

Numbers come from the masters, from the recipe, or from sysusers.d (sysusers.d(5): lines ``u``, ``g`` and
``m``); an entry there without a number gets the next free one below 1000, in the order of the names.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from image_builder.recipe import UserEntry
from image_builder.tree import BytesContent, Kind, Node, Tree
from measurements.errors import KeyturnError

USER_MASTER = "usr/share/base-passwd/passwd.master"
GROUP_MASTER = "usr/share/base-passwd/group.master"
SYSUSERS_FOLDER = "usr/lib/sysusers.d/"
NO_SHELL = "/usr/sbin/nologin"
_HIGHEST_SYSTEM_ID = 999


class AccountError(KeyturnError):
    """Accounts that contradict each other or that the image does not have."""

    code = "accounts"


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """One line of the passwd file."""

    name: str
    uid: int
    gid: int
    comment: str
    home: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One line of the group file."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounts:
    """All users and groups by name."""

    users: Mapping[str, User]
    groups: Mapping[str, Group]

    def uid(self, name: str, *, subject: str) -> int:
        """The number of user ``name``; raises ``AccountError`` naming ``subject``, which belongs to it."""
        if name not in self.users:
            _refuse(subject, f"belongs to user {name}, which the image does not have")
        return self.users[name].uid

    def gid(self, name: str, *, subject: str) -> int:
        """The number of group ``name``; raises ``AccountError`` naming ``subject``, which belongs to it."""
        if name not in self.groups:
            _refuse(subject, f"belongs to group {name}, which the image does not have")
        return self.groups[name].gid


def make_accounts(
    *, passwd: bytes, group: bytes, sysusers: Sequence[tuple[str, bytes]], users: Sequence[UserEntry]
) -> Accounts:
    """Accounts of the masters ``passwd`` and ``group``, then of the recipe, then of ``sysusers`` files.

    ``sysusers`` are pairs of package and content. Raises ``AccountError`` for a name or number that is taken.
    """
    builder = _Builder()
    for name, _, uid, gid, comment, home, _ in _fields(passwd, 7, "passwd.master"):
        builder.add_user(User(name=name, uid=int(uid), gid=int(gid), comment=comment, home=home))
    for name, _, gid, members in _fields(group, 4, "group.master"):
        builder.add_group(Group(name=name, gid=int(gid), members=tuple(filter(None, members.split(",")))))
    for user in users:
        builder.add_recipe_user(user)
    lines = [(package, *line) for package, data in sysusers for line in _sysusers_lines(data, package)]
    for _, kind, name, number, comment, home in sorted(lines, key=_sysusers_order):
        builder.add_sysusers(kind, name, number, comment, home)
    return Accounts(users=builder.users, groups=builder.groups)


def account_nodes(accounts: Accounts) -> Tree:
    """``/etc/passwd``, ``group``, ``shadow`` and ``gshadow``, sorted by number."""
    users = sorted(accounts.users.values(), key=lambda user: (user.uid, user.name))
    groups = sorted(accounts.groups.values(), key=lambda group: (group.gid, group.name))
    shadow = accounts.gid("shadow", subject="/etc/shadow")
    files = [
        (
            "passwd",
            0o644,
            0,
            (f"{user.name}:x:{user.uid}:{user.gid}:{user.comment}:{user.home}:{NO_SHELL}" for user in users),
        ),
        ("group", 0o644, 0, (f"{group.name}:x:{group.gid}:{','.join(group.members)}" for group in groups)),
        ("shadow", 0o640, shadow, (f"{user.name}:*:::::::" for user in users)),
        ("gshadow", 0o640, shadow, (f"{group.name}:*::{','.join(group.members)}" for group in groups)),
    ]
    return {f"etc/{name}": _file(f"etc/{name}", mode, gid, lines) for name, mode, gid, lines in files}


class _Builder:
    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.groups: dict[str, Group] = {}

    def add_user(self, user: User) -> None:
        if user.name in self.users:
            _refuse(f"user {user.name}", "exists already")
        taken = next((other.name for other in self.users.values() if other.uid == user.uid), None)
        if taken is not None:
            _refuse(f"user {user.name}", f"number {user.uid} belongs to {taken}")
        self.users[user.name] = user

    def add_group(self, group: Group) -> None:
        if group.name in self.groups:
            _refuse(f"group {group.name}", "exists already")
        taken = next((other.name for other in self.groups.values() if other.gid == group.gid), None)
        if taken is not None:
            _refuse(f"group {group.name}", f"number {group.gid} belongs to {taken}")
        self.groups[group.name] = group

    def add_recipe_user(self, entry: UserEntry) -> None:
        known = self.groups.get(entry.name)
        if known is None:
            self.add_group(Group(name=entry.name, gid=entry.gid))
        elif known.gid != entry.gid:
            _refuse(f"group {entry.name}", f"has number {known.gid}, not {entry.gid}")
        self.add_user(User(name=entry.name, uid=entry.uid, gid=entry.gid, comment="", home=entry.home))
        for name in entry.groups:
            self.join(entry.name, name)

    def join(self, user: str, name: str) -> None:
        if name not in self.groups:
            _refuse(f"user {user}", f"joins group {name}, which the image does not have")
        group = self.groups[name]
        members = tuple(sorted({*group.members, user}))
        self.groups[name] = replace(group, members=members)

    def add_sysusers(self, kind: str, name: str, number: str, comment: str, home: str) -> None:
        if kind == "m":
            self.join(name, number)
            return
        uid, _, gid = number.partition(":")
        if name not in self.groups and not gid:
            self.add_group(Group(name=name, gid=self._free(uid)))
        if kind == "u" and name not in self.users:
            primary = self._gid(gid) if gid else self.groups[name].gid
            uid = str(primary) if uid == "-" and self._unused(primary) else uid
            self.add_user(
                User(name=name, uid=self._free(uid), gid=primary, comment=comment, home=home or "/")
            )

    def _gid(self, text: str) -> int:
        if text.isdigit():
            return int(text)
        if text not in self.groups:
            _refuse(f"group {text}", "is named by a sysusers.d file and does not exist")
        return self.groups[text].gid

    def _unused(self, number: int) -> bool:
        return all(user.uid != number for user in self.users.values())

    def _free(self, number: str) -> int:
        if number.isdigit():
            return int(number)
        if number != "-":
            _refuse("sysusers.d", f"number {number!r} is not supported")
        taken = {user.uid for user in self.users.values()} | {group.gid for group in self.groups.values()}
        return next(candidate for candidate in range(_HIGHEST_SYSTEM_ID, 0, -1) if candidate not in taken)


def _fields(data: bytes, count: int, subject: str) -> Iterable[list[str]]:
    for line in data.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) != count:
            _refuse(subject, f"line {line!r} has not {count} fields")
        yield fields


def _sysusers_lines(data: bytes, package: str) -> Iterable[tuple[str, str, str, str, str]]:
    for line in data.decode("utf-8", "replace").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        kind, *rest = words
        name, number, comment, home, *_ = [*rest, "", "", "", ""]
        if kind.rstrip("!") not in {"u", "g", "m"} or "%" in name:
            _refuse(f"{package}: sysusers.d", f"line {line!r} is not supported")
        yield kind.rstrip("!"), name, number or "-", comment.replace("-", "") and comment, home.strip("-")


def _sysusers_order(line: tuple[str, str, str, str, str, str]) -> tuple[int, int, str, str]:
    """Groups, users, memberships; in each those with a number first; then by name."""
    _, kind, name, number, _, _ = line
    return "gum".index(kind), int(number.startswith("-")), name, number


def _file(path: str, mode: int, gid: int, lines: Iterable[str]) -> Node:
    content = BytesContent("".join(f"{line}\n" for line in lines).encode())
    return Node(path=path, kind=Kind.FILE, mode=mode, gid=gid, content=content, origin="accounts")


def _refuse(subject: str, reason: str) -> NoReturn:
    raise AccountError(
        reason, subject=subject, advice="declare the account as [[user]] in the recipe, with free numbers"
    )
