"""Makes the root's tree from locked inputs: packages, declared steps, wheels, local files, the agent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from image_builder.accounts import (
    GROUP_MASTER,
    SYSUSERS_FOLDER,
    USER_MASTER,
    Accounts,
    account_nodes,
    make_accounts,
)
from image_builder.capabilities import XATTR
from image_builder.certificates import certificate_nodes
from image_builder.lockfile import Lock, LockedFile
from image_builder.maintainer_scripts import alternative_nodes, review_scripts
from image_builder.merge import SET_ID, MergeRules, merge_packages
from image_builder.package_paths import merged_path
from image_builder.recipe import Recipe
from image_builder.root_files import MOUNT_POINTS, root_nodes
from image_builder.store import Store
from image_builder.tar_format import TarType
from image_builder.tree import FileSlice, Kind, Node, Tree, read_content
from image_builder.tree_paths import check_parents, missing_parents
from image_builder.unpack import Unpacked
from image_builder.wheels_unpack import wheel_nodes
from measurements.errors import KeyturnError


class BuildError(KeyturnError):
    """Inputs that together do not make an image."""

    code = "build"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What a root is made of; ``packages`` are those of the root only."""

    recipe: Recipe
    lock: Lock
    store: Store
    packages: Sequence[Unpacked]


def root_tree(inputs: Inputs) -> Tree:
    """The root without byte code. Raises the errors of each step, and ``BuildError``."""
    accounts = _accounts(inputs)
    tree = _installed(inputs, accounts)
    _add_own(tree, _local_files(inputs, inputs.lock.agent, accounts, origin="keyturn"))
    _hide_mount_points(tree, inputs.recipe)
    _add_own(tree, root_nodes(inputs.recipe, tree=tree))
    tree |= missing_parents(tree)
    check_parents(tree)
    return tree


def container_tree(inputs: Inputs) -> Tree:
    """The root of a container: without the agent, init's table and the image's own files and mount points.
    Raises the errors of each step, and ``BuildError``.
    """
    tree = _installed(inputs, _accounts(inputs))
    tree |= missing_parents(tree)
    check_parents(tree)
    return tree


def _installed(inputs: Inputs, accounts: Accounts) -> Tree:
    """Packages, wheels and local files, with what their scripts would have made."""
    tree = merge_packages(inputs.packages, accounts=accounts, rules=_rules(inputs.recipe))
    review_scripts(inputs.packages, accounts=accounts, acknowledged=inputs.recipe.packages.scripts)
    tree |= alternative_nodes(inputs.packages, tree)
    for wheel in inputs.lock.wheels:
        path = inputs.store.verified(wheel.sha256, name=wheel.filename, size=wheel.size)
        _add(tree, wheel_nodes(path, name=f"{wheel.name} {wheel.version}"))
    tree |= _local_files(inputs, inputs.lock.files, accounts, origin="recipe")
    tree |= certificate_nodes(tree)
    _add_own(tree, account_nodes(accounts))
    return tree


def is_privileged(tree: Tree) -> bool:
    """Whether any file of ``tree`` has a set-id bit or file capabilities."""
    return any(
        node.kind is Kind.FILE and (node.mode & SET_ID or any(name == XATTR for name, _ in node.xattrs))
        for node in tree.values()
    )


def check_root_size(tree: Tree, *, limit: int, size: int | None = None) -> None:
    """Refuse a root of more than ``limit`` bytes, naming its largest parts.

    ``size`` is the file system's size once it is known; before, the sum of the contents is taken.
    """
    by_origin: dict[str, int] = {}
    for node in tree.values():
        if node.content is not None:
            by_origin[node.origin] = by_origin.get(node.origin, 0) + node.content.size
    size = sum(by_origin.values()) if size is None else size
    if size <= limit:
        return
    largest = sorted(by_origin.items(), key=lambda item: (-item[1], item[0]))[:5]
    parts = ", ".join(f"{origin} {_mebibytes(amount)}" for origin, amount in largest)
    raise BuildError(
        f"has {_mebibytes(size)}, the limit is {_mebibytes(limit)}; largest: {parts}",
        subject="root",
        advice="leave packages out, or raise image.root-size-limit in the recipe",
    )


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _accounts(inputs: Inputs) -> Accounts:
    contents = {
        member.path: (package, member)
        for package in inputs.packages
        for member in package.members
        if member.type is TarType.FILE
    }
    for path in (USER_MASTER, GROUP_MASTER):
        if path not in contents:
            _refuse(f"/{path}", "is in no package", "add base-passwd to packages.install of the recipe")
    data = {
        path: read_content(package.content(member))
        for path, (package, member) in contents.items()
        if path in {USER_MASTER, GROUP_MASTER} or path.startswith(SYSUSERS_FOLDER)
    }
    return make_accounts(
        passwd=data.pop(USER_MASTER),
        group=data.pop(GROUP_MASTER),
        sysusers=[(contents[path][0].name, text) for path, text in sorted(data.items())],
        users=inputs.recipe.users,
    )


def _rules(recipe: Recipe) -> MergeRules:
    return MergeRules(
        diversions={path.lstrip("/"): name for path, name in recipe.divert.items()},
        set_id=frozenset(path.lstrip("/") for path in recipe.permissions.setuid),
        capabilities={path.lstrip("/"): text for path, text in recipe.permissions.capabilities.items()},
    )


def _local_files(inputs: Inputs, entries: Iterable[LockedFile], accounts: Accounts, *, origin: str) -> Tree:
    tree: Tree = {}
    for entry in entries:
        source = inputs.store.verified(entry.sha256, name=entry.source, size=entry.size)
        path = merged_path(entry.tree_path)
        tree[path] = Node(
            path=path,
            kind=Kind.FILE,
            mode=entry.mode,
            uid=accounts.uid(entry.owner, subject=entry.path),
            gid=accounts.gid(entry.group, subject=entry.path),
            content=FileSlice(path=source, offset=0, size=entry.size),
            origin=origin,
        )
    return tree


def _add(tree: Tree, nodes: Tree) -> None:
    """Add ``nodes``; what is there already stays if both are folders, and is an error otherwise."""
    for path, node in nodes.items():
        known = tree.setdefault(path, node)
        if known is not node and not known.kind is node.kind is Kind.DIRECTORY:
            _refuse(f"/{path}", f"is in {known.origin} and in {node.origin}", "leave one of the two out")


def _add_own(tree: Tree, nodes: Tree) -> None:
    """Add what keyturn itself makes, which replaces files of packages but never local files of the recipe."""
    for path, node in nodes.items():
        if path in tree and tree[path].origin == "recipe":
            _refuse(f"/{path}", "is made by keyturn", "take the file out of the recipe")
        tree[path] = node


def _hide_mount_points(tree: Tree, recipe: Recipe) -> None:
    """Take out folders and links that a file system is mounted over; a file there would be lost, so it is an
    error.
    """
    places = (*MOUNT_POINTS, *(entry.path.lstrip("/") for entry in recipe.tmpfs))
    inside = tuple(f"{place}/" for place in places)
    hidden = [path for path in tree if path.startswith(inside)]
    for path in hidden:
        if tree[path].kind is Kind.FILE:
            _refuse(
                f"/{path}",
                f"of {tree[path].origin} would be invisible: a file system in memory is mounted over it",
                "put the file somewhere else, or leave the package out",
            )
        del tree[path]


def _refuse(subject: str, reason: str, advice: str) -> NoReturn:
    raise BuildError(reason, subject=subject, advice=advice)
