"""Accounts: nobody can log in, numbers are stable, contradictions are errors."""

from __future__ import annotations

import pytest

from image_builder.accounts import AccountError, account_nodes, make_accounts
from image_builder.recipe import UserEntry
from image_builder.tree import read_content
from tests.image_builder.package_files import GROUP, PASSWD


def made(*users: UserEntry, sysusers: str = "") -> dict[str, list[str]]:
    accounts = make_accounts(
        passwd=PASSWD, group=GROUP, sysusers=[("package", sysusers.encode())], users=users
    )
    return {
        path: read_content(node.content).decode().splitlines()
        for path, node in account_nodes(accounts).items()
        if node.content is not None
    }


def user(name: str, uid: int, *, gid: int = 0, groups: tuple[str, ...] = ()) -> UserEntry:
    return UserEntry(name=name, uid=uid, gid=gid or uid, home="/nonexistent", groups=groups)


def test_nobody_has_a_shell_or_a_password() -> None:
    files = made(user("app", 900))
    assert all(line.endswith(":/usr/sbin/nologin") for line in files["etc/passwd"])
    assert {line.split(":")[1] for line in files["etc/passwd"]} == {"x"}
    assert {line.split(":", 1)[1] for line in files["etc/shadow"]} == {"*:::::::"}
    assert {line.split(":")[1] for line in files["etc/gshadow"]} == {"*"}


def test_files_are_sorted_by_number_and_readable_to_few() -> None:
    files = made(user("zed", 900), user("app", 901, groups=("mail",)))
    assert [line.split(":")[0] for line in files["etc/passwd"]] == ["root", "daemon", "zed", "app"]
    assert "mail:x:8:app" in files["etc/group"]
    accounts = make_accounts(passwd=PASSWD, group=GROUP, sysusers=[], users=[])
    nodes = account_nodes(accounts)
    assert (nodes["etc/shadow"].mode, nodes["etc/shadow"].gid) == (0o640, 42)
    assert (nodes["etc/passwd"].mode, nodes["etc/passwd"].gid) == (0o644, 0)


def test_sysusers() -> None:
    files = made(
        sysusers='# comment\nu! messagebus - "System Message Bus" /run/dbus\ng render -\nu fixed 77 "Fixed"\n'
        "m fixed mail\nu root 0 ignored\nu shared 80:mail -\n"
    )
    assert "fixed:x:77:77:Fixed:/:/usr/sbin/nologin" in files["etc/passwd"]
    assert "shared:x:80:8::/:/usr/sbin/nologin" in files["etc/passwd"]
    assert "mail:x:8:fixed" in files["etc/group"]
    assert "render:x:999:" in files["etc/group"]
    assert "messagebus:x:998:998:System Message Bus:/run/dbus:/usr/sbin/nologin" in files["etc/passwd"]
    assert sum(line.startswith("root:") for line in files["etc/passwd"]) == 1


def test_sysusers_do_not_depend_on_their_order() -> None:
    lines = ["u b - x", "u a - y", "g c -", "u d 500 z"]
    assert made(sysusers="\n".join(lines)) == made(sysusers="\n".join(reversed(lines)))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (user("daemon", 900), "number 1, not 900"),
        (user("app", 1, gid=900), "belongs to daemon"),
        (user("app", 900, gid=8), "belongs to mail"),
        (user("app", 900, groups=("ghost",)), "ghost"),
    ],
)
def test_contradictions_are_errors(entry: UserEntry, reason: str) -> None:
    with pytest.raises(AccountError, match=reason) as caught:
        made(entry)
    assert "[[user]]" in caught.value.advice


@pytest.mark.parametrize("line", ["r - 100-200", "u app 900-%b x", "u app /file x", "u a%i - x"])
def test_sysusers_that_are_not_understood_are_errors(line: str) -> None:
    with pytest.raises(AccountError, match="not supported"):
        made(sysusers=line)


def test_masters_that_are_not_understood_are_errors() -> None:
    with pytest.raises(AccountError, match="has not 7 fields"):
        make_accounts(passwd=b"root:*:0\n", group=GROUP, sysusers=[], users=[])
