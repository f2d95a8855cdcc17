"""Merges unpacked packages into one tree, only adding.

A path that two packages have is an error, with these exceptions: folders that agree in mode and owner; equal
links and equal files; a package whose ``Replaces`` names the other one (Debian Policy 7.6.1); and a
``[divert]`` entry of the recipe, which names the package that wins. Members of ``/bin``, ``/lib`` and the
like are put below ``/usr``.

Refused: device nodes, FIFOs, set-id files and file capabilities that the recipe does not list, hard links to
outside of the package, and members below something that is no folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

from image_builder.accounts import Accounts
from image_builder.capabilities import XATTR, encode_capabilities
from image_builder.package_errors import bad_package
from image_builder.package_paths import is_dropped, merged_path
from image_builder.tar_format import TarType
from image_builder.tree import Kind, Node, Tree, content_sha256
from image_builder.tree_paths import check_parents, missing_parents
from image_builder.unpack import Member, Unpacked
from measurements.errors import KeyturnError

SET_ID = 0o6000


class _Lookup(Protocol):
    """``Accounts.uid`` or ``Accounts.gid``."""

    def __call__(self, name: str, *, subject: str) -> int:
        """The number of ``name``."""


class MergeError(KeyturnError):
    """Packages that cannot be in one image together."""

    code = "merge"


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeRules:
    """What the recipe permits. All paths are tree paths.

    ``diversions`` name the winning package of a path, ``set_id`` files that may keep set-id bits,
    ``capabilities`` give files their capabilities in text form.
    """

    diversions: Mapping[str, str]
    set_id: frozenset[str]
    capabilities: Mapping[str, str]


def merge_packages(packages: Sequence[Unpacked], *, accounts: Accounts, rules: MergeRules) -> Tree:
    """The tree of all ``packages``.

    Raises ``PackageError`` for a member that no image may hold, ``MergeError`` for a conflict or a rule that
    applies to nothing, ``TreePathError`` for members below something that is no folder.
    """
    by_name = {package.name: package for package in packages}
    tree: Tree = {}
    for package in sorted(packages, key=lambda each: each.name):
        for node in _nodes(package, accounts, rules):
            known = tree.get(node.path)
            tree[node.path] = node if known is None else _winner(known, node, by_name, rules)
    tree |= missing_parents(tree)
    tree |= _with_capabilities(tree, rules.capabilities)
    _check_rules(tree, by_name, rules)
    check_parents(tree)
    return tree


def _nodes(package: Unpacked, accounts: Accounts, rules: MergeRules) -> Iterator[Node]:
    originals = {member.path: member for member in package.members}
    for member in package.members:
        path = merged_path(member.path, is_folder=member.type is TarType.DIRECTORY)
        if not is_dropped(path):
            yield _node(package, member, path, originals, accounts, rules)


def _node(
    package: Unpacked,
    member: Member,
    path: str,
    originals: Mapping[str, Member],
    accounts: Accounts,
    rules: MergeRules,
) -> Node:
    subject = f"{package.name}: /{path}"
    kind, source = _kind_and_source(member, originals, subject)
    if kind is Kind.FILE:
        _check_permissions(source, path, rules, subject)
    return Node(
        path=path,
        kind=kind,
        mode=0o777 if kind is Kind.SYMLINK else source.mode,
        uid=_owner(source.user, source.uid, accounts.uid, subject),
        gid=_owner(source.group, source.gid, accounts.gid, subject),
        content=package.content(source) if kind is Kind.FILE else None,
        target=source.link if kind is Kind.SYMLINK else "",
        xattrs=tuple(pair for pair in source.xattrs if pair[0] != XATTR),
        origin=package.name,
    )


_KINDS = {
    TarType.FILE: Kind.FILE,
    TarType.DIRECTORY: Kind.DIRECTORY,
    TarType.SYMLINK: Kind.SYMLINK,
}


def _kind_and_source(member: Member, originals: Mapping[str, Member], subject: str) -> tuple[Kind, Member]:
    """What the member is, and the member that holds its content and attributes."""
    if member.type is TarType.HARD_LINK:
        original = originals.get(member.link)
        if original is None or original.type is not TarType.FILE:
            _refuse(subject, f"hard link to /{member.link}, which is not a file of this package")
        return Kind.FILE, original
    kind = _KINDS.get(member.type)
    if kind is None:
        _refuse(subject, f"is a {member.type.value}; packages may not bring those")
    if kind is Kind.SYMLINK and (not member.link or "\0" in member.link):
        _refuse(subject, "symbolic link without a target")
    return kind, member


def _check_permissions(member: Member, path: str, rules: MergeRules, subject: str) -> None:
    if member.mode & SET_ID and path not in rules.set_id:
        raise bad_package(
            subject,
            f"has a set-id bit (mode {member.mode:04o}) that the recipe does not allow",
            advice=f'list "/{path}" in permissions.setuid of the recipe if the image needs it',
        )
    for name, value in member.xattrs:
        allowed = rules.capabilities.get(path)
        if name == XATTR and (allowed is None or encode_capabilities(allowed) != value):
            raise bad_package(
                subject,
                "has file capabilities that the recipe does not allow",
                advice=f'list "/{path}" with exactly these in permissions.capabilities of the recipe',
            )
        if name != XATTR and not name.startswith("user."):
            _refuse(subject, f"has the extended attribute {name}")


def _owner(name: str, number: int, lookup: _Lookup, subject: str) -> int:
    """The number in this image; numbers in packages mean what base-passwd says, so names go first."""
    if not name:
        return number
    return lookup(name, subject=subject)


def _winner(first: Node, second: Node, packages: Mapping[str, Unpacked], rules: MergeRules) -> Node:
    """Which of two nodes at one path the image gets."""
    if first.origin == second.origin:
        _refuse(f"{first.origin}: /{first.path}", "is there twice")
    if first.kind is Kind.DIRECTORY and second.kind is Kind.DIRECTORY and _alike(first, second):
        return first
    named = rules.diversions.get(first.path)
    for node in (first, second):
        if named == node.origin:
            return node
    if _alike(first, second) and _same_content(first, second):
        return first
    if _replaces(packages[second.origin], packages[first.origin]):
        return second
    if _replaces(packages[first.origin], packages[second.origin]):
        return first
    raise MergeError(
        f"{first.origin} has it as {_described(first)}, {second.origin} as {_described(second)}",
        subject=f"/{first.path}",
        advice=f'name the winner in the recipe: [divert] "/{first.path}" = "{first.origin}"',
    )


def _alike(first: Node, second: Node) -> bool:
    return replace(first, content=None, origin="") == replace(second, content=None, origin="")


def _same_content(first: Node, second: Node) -> bool:
    if first.content is None or second.content is None:
        return first.content is second.content
    return first.content.size == second.content.size and content_sha256(first.content) == content_sha256(
        second.content
    )


def _described(node: Node) -> str:
    size = f" of {node.content.size} bytes" if node.content is not None else ""
    return f"{node.kind.value}{size}, mode {node.mode:04o}, owner {node.uid}:{node.gid}"


def _replaces(package: Unpacked, other: Unpacked) -> bool:
    from image_builder.relations import parse_relations

    relations = parse_relations(package.control_field("Replaces"))
    return any(
        relation.name == other.name and relation.allows(other.version)
        for group in relations
        for relation in group
    )


def _with_capabilities(tree: Tree, capabilities: Mapping[str, str]) -> Tree:
    changed = {}
    for path, text in capabilities.items():
        node = tree.get(path)
        if node is None or node.kind is not Kind.FILE:
            raise MergeError(
                "is given capabilities, but no package has such a file",
                subject=f"/{path}",
                advice="correct permissions.capabilities in the recipe",
            )
        xattrs = tuple(sorted((*node.xattrs, (XATTR, encode_capabilities(text)))))
        changed[path] = replace(node, xattrs=xattrs)
    return changed


def _check_rules(tree: Tree, packages: Mapping[str, Unpacked], rules: MergeRules) -> None:
    for path, name in rules.diversions.items():
        if name not in packages or path not in tree:
            raise MergeError(
                f"is diverted to {name}, but there is no such package or path",
                subject=f"/{path}",
                advice="correct [divert] in the recipe",
            )


def _refuse(subject: str, reason: str) -> NoReturn:
    raise bad_package(subject, reason)
