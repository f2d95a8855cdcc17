"""Merging packages: what goes together, what is refused, and what the recipe can decide."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from image_builder.accounts import AccountError
from image_builder.capabilities import XATTR, CapabilityError, encode_capabilities
from image_builder.merge import MergeError, MergeRules, merge_packages
from image_builder.package_errors import PackageError
from image_builder.tree import Kind, Tree, read_content
from image_builder.tree_paths import TreePathError
from tests.image_builder.package_files import (
    accounts,
    deb_bytes,
    device,
    folder,
    link,
    regular,
    rules,
    unpacked,
)

Members = list[tuple[tarfile.TarInfo, bytes]]


def merged(
    tmp_path: Path, packages: dict[str, Members], *, allowed: MergeRules | None = None, fields: str = ""
) -> Tree:
    """Merge packages; ``fields`` go into the control file of the last one."""
    last = list(packages)[-1]
    debs = {
        name: deb_bytes(name, members, fields=fields if name == last else "", form=tarfile.PAX_FORMAT)
        for name, members in packages.items()
    }
    return merge_packages(unpacked(tmp_path, debs), accounts=accounts(), rules=allowed or rules())


def content(tree: Tree, path: str) -> bytes:
    node = tree[path]
    assert node.content is not None
    return read_content(node.content)


def test_packages_come_together_with_all_parents(tmp_path: Path) -> None:
    tree = merged(tmp_path, {"a": [regular("./usr/bin/a")], "b": [folder("./usr"), regular("./usr/bin/b")]})
    assert sorted(tree) == ["", "usr", "usr/bin", "usr/bin/a", "usr/bin/b"]
    assert tree["usr/bin/b"].origin == "b"


def test_members_of_aliased_folders_go_below_usr(tmp_path: Path) -> None:
    base = [link("./lib", "usr/lib"), link("./bin", "usr/bin")]
    tree = merged(tmp_path, {"base": base, "old": [folder("./lib/"), regular("./lib/modules.conf")]})
    assert tree["usr/lib/modules.conf"].kind is Kind.FILE
    assert tree["lib"].kind is Kind.SYMLINK


def test_hard_links_become_files_of_their_own(tmp_path: Path) -> None:
    tree = merged(tmp_path, {"a": [regular("./one", b"data", mode=0o755), link("./two", "./one", hard=True)]})
    assert content(tree, "two") == b"data"
    assert tree["two"].mode == 0o755
    assert tree["two"].kind is Kind.FILE


def test_documentation_is_left_out_and_licences_stay(tmp_path: Path) -> None:
    members = [regular("./usr/share/doc/a/changelog"), regular("./usr/share/doc/a/copyright")]
    assert "usr/share/doc/a/copyright" in (tree := merged(tmp_path, {"a": members}))
    assert "usr/share/doc/a/changelog" not in tree


def test_equal_files_are_no_conflict(tmp_path: Path) -> None:
    tree = merged(tmp_path, {"a": [regular("./x", b"1")], "b": [regular("./x", b"1")]})
    assert content(tree, "x") == b"1"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (regular("./x", b"1"), regular("./x", b"2")),
        (regular("./x", b"1"), regular("./x", b"1", mode=0o755)),
        (regular("./x"), folder("./x")),
        (folder("./x"), link("./x", "y")),
        (link("./x", "z"), link("./x", "y")),
        (folder("./x"), folder("./x", mode=0o700)),
    ],
)
def test_conflicts_name_both_packages_and_the_remedy(
    tmp_path: Path, first: tuple[tarfile.TarInfo, bytes], second: tuple[tarfile.TarInfo, bytes]
) -> None:
    with pytest.raises(MergeError, match=r"/x: a has it as .*, b as ") as caught:
        merged(tmp_path, {"a": [first], "b": [second]})
    assert "[divert]" in caught.value.advice


def test_a_diversion_decides(tmp_path: Path) -> None:
    packages = {"a": [regular("./x", b"1")], "b": [regular("./x", b"2")]}
    assert content(merged(tmp_path, packages, allowed=rules(diversions={"x": "b"})), "x") == b"2"
    assert content(merged(tmp_path, packages, allowed=rules(diversions={"x": "a"})), "x") == b"1"


@pytest.mark.parametrize("diversions", [{"y": "a"}, {"x": "other"}])
def test_a_diversion_of_nothing_is_an_error(tmp_path: Path, diversions: dict[str, str]) -> None:
    with pytest.raises(MergeError, match="no such package or path"):
        merged(tmp_path, {"a": [regular("./x")]}, allowed=rules(diversions=diversions))


@pytest.mark.parametrize(("field", "works"), [("Replaces: a\n", True), ("Replaces: a (<< 1)\n", False)])
def test_replaces_decides(tmp_path: Path, field: str, works: bool) -> None:
    packages = {"a": [regular("./x", b"1")], "b": [regular("./x", b"2")]}
    if works:
        assert content(merged(tmp_path, packages, fields=field), "x") == b"2"
    else:
        with pytest.raises(MergeError):
            merged(tmp_path, packages, fields=field)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_refuses_device_nodes(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(PackageError, match=r"evil: /dev/sda: is a (character|block)?-?(device|fifo)"):
        merged(tmp_path, {"evil": [device("./dev/sda", kind=kind)]}, allowed=rules(set_id=["dev/sda"]))


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711])
def test_set_id_files_need_the_recipe(tmp_path: Path, mode: int) -> None:
    packages = {"su": [regular("./usr/bin/su", mode=mode)]}
    with pytest.raises(PackageError, match=r"su: /usr/bin/su: has a set-id bit") as caught:
        merged(tmp_path, packages)
    assert "permissions.setuid" in caught.value.advice
    assert merged(tmp_path, packages, allowed=rules(set_id=["usr/bin/su"]))["usr/bin/su"].mode == mode


def test_set_id_of_a_hard_link_needs_the_recipe_too(tmp_path: Path) -> None:
    packages = {"su": [regular("./a", mode=0o4755), link("./b", "./a", hard=True)]}
    with pytest.raises(PackageError, match="su: /b: has a set-id bit"):
        merged(tmp_path, packages, allowed=rules(set_id=["a"]))


def test_set_id_folders_are_no_privilege(tmp_path: Path) -> None:
    assert merged(tmp_path, {"a": [folder("./var/mail", mode=0o2775)]})["var/mail"].mode == 0o2775


def test_capabilities_come_from_the_recipe(tmp_path: Path) -> None:
    allowed = rules(capabilities={"usr/bin/ping": "cap_net_raw+ep"})
    tree = merged(tmp_path, {"ping": [regular("./usr/bin/ping", mode=0o755)]}, allowed=allowed)
    assert tree["usr/bin/ping"].xattrs == ((XATTR, encode_capabilities("cap_net_raw+ep")),)
    with pytest.raises(MergeError, match="no package has such a file"):
        merged(tmp_path, {"ping": [regular("./x")]}, allowed=allowed)


def test_capabilities_of_a_package_need_the_recipe(tmp_path: Path) -> None:
    info, data = regular("./x")
    value = encode_capabilities("cap_chown+i")
    info.pax_headers = {f"SCHILY.xattr.{XATTR}": value.decode("utf-8", "surrogateescape")}
    packages: dict[str, Members] = {"a": [(info, data)]}
    with pytest.raises(PackageError, match="file capabilities that the recipe does not allow"):
        merged(tmp_path, packages)
    with pytest.raises(PackageError, match="file capabilities"):
        merged(tmp_path, packages, allowed=rules(capabilities={"x": "cap_chown+ep"}))
    assert merged(tmp_path, packages, allowed=rules(capabilities={"x": "cap_chown+i"}))["x"].xattrs == (
        (XATTR, value),
    )


@pytest.mark.parametrize(
    "members",
    [
        [link("./usr/evil", "/etc"), regular("./usr/evil/passwd")],
        [regular("./usr/evil/passwd"), link("./usr/evil", "/etc")],
        [regular("./usr/evil"), regular("./usr/evil/passwd")],
    ],
)
def test_refuses_members_below_links_and_files(tmp_path: Path, members: Members) -> None:
    with pytest.raises(TreePathError, match="/usr/evil/passwd"):
        merged(tmp_path, {"evil": members})


def test_refuses_members_below_a_link_of_another_package(tmp_path: Path) -> None:
    with pytest.raises(TreePathError, match=r"b puts it below /d, which is a symlink of a"):
        merged(tmp_path, {"a": [link("./d", "/etc")], "b": [regular("./d/passwd")]})


def test_refuses_hard_links_to_what_the_package_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="hard link to /etc/shadow"):
        merged(tmp_path, {"a": [regular("./etc/shadow")], "b": [link("./x", "./etc/shadow", hard=True)]})


def test_refuses_a_member_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="a: /x: is there twice"):
        merged(tmp_path, {"a": [regular("./x", b"1"), regular("./x", b"2")]})


def test_owners_go_by_name(tmp_path: Path) -> None:
    info, data = regular("./x", user="daemon")
    info.uid = 4711
    assert merged(tmp_path, {"a": [(info, data)]})["x"].uid == 1
    with pytest.raises(AccountError, match="a: /y: belongs to user ghost"):
        merged(tmp_path, {"a": [regular("./y", user="ghost")]})


def test_capability_values() -> None:
    # As setcap(8) writes them: "cap_net_raw,cap_net_admin+ep" and "cap_checkpoint_restore+i".
    assert (
        encode_capabilities("cap_net_raw,cap_net_admin+ep").hex()
        == "0100000200300000000000000000000000000000"
    )
    assert encode_capabilities("cap_checkpoint_restore+i").hex() == "0000000200000000000000000000000000010000"
    for wrong in ("cap_nonsense+ep", "cap_chown", "cap_chown+x"):
        with pytest.raises(CapabilityError):
            encode_capabilities(wrong)
