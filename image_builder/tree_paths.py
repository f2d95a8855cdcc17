"""Walks and checks of trees: symbolic links, missing folders, things below what is no folder."""

from __future__ import annotations

from dataclasses import dataclass

from image_builder.tree import Kind, Node, Tree
from measurements.errors import KeyturnError

LINK_LIMIT = 40


class TreePathError(KeyturnError):
    """A tree in which a path leads nowhere or through something that is no folder."""

    code = "tree-path"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """Where a path leads: the ``node`` at the end and the symbolic links passed on the way, as tree paths."""

    node: Node
    links: tuple[str, ...]


def resolve(tree: Tree, path: str) -> Resolved | None:
    """Follow ``path`` (leading slash or not) through symbolic links, as the kernel would in that root.

    ``None`` if it leads nowhere or in a circle; ``..`` at the root stays at the root.
    """
    todo = path.split("/")[::-1]
    at = ""
    links: list[str] = []
    while todo:
        part = todo.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            at = at.rpartition("/")[0]
            continue
        here = f"{at}/{part}" if at else part
        node = tree.get(here)
        if node is None or len(links) > LINK_LIMIT:
            return None
        if node.kind is Kind.SYMLINK:
            links.append(here)
            todo.extend(node.target.split("/")[::-1])
            at = "" if node.target.startswith("/") else at
        else:
            at = here
    final = tree.get(at)
    return Resolved(node=final, links=tuple(dict.fromkeys(links))) if final is not None else None


def check_parents(tree: Tree) -> None:
    """Refuse a tree in which something lies below a file or a symbolic link; parents must exist."""
    for path, node in tree.items():
        parent = tree.get(node.parent)
        if path and (parent is None or parent.kind is not Kind.DIRECTORY):
            what = "does not exist" if parent is None else f"is a {parent.kind.value} of {parent.origin}"
            raise TreePathError(
                f"{node.origin} puts it below /{node.parent}, which {what}",
                subject=f"/{path}",
                advice="leave one of the two out, or divert the path in the recipe",
            )


def missing_parents(tree: Tree) -> Tree:
    """Folders (root, mode 0755) for paths that lack one, and the root itself."""
    missing: Tree = {}
    for path, node in tree.items():
        parent = node.parent if path else ""
        while parent not in tree and parent not in missing:
            missing[parent] = Node(path=parent, kind=Kind.DIRECTORY, mode=0o755, origin=node.origin)
            parent = parent.rpartition("/")[0]
    return missing
