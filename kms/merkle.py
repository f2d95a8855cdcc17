"""Merkle trees of RFC 6962 (2.1) with SHA-256: root, inclusion proof, verification.

Leaf ``H(0x00 ‖ data)``, node ``H(0x01 ‖ left ‖ right)``; a tree of n > 1 leaves splits at the largest power
of two below n. A proof is the list of sibling hashes (32 bytes each) from the leaf upwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from measurements.errors import FormatError

HASH_SIZE = 32


class MerkleError(FormatError):
    """A tree without leaves, or a leaf that is not in the tree."""

    code = "merkle-tree"


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf."""
    return hashlib.sha256(b"\0" + data).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root over the leaves' data. Raises ``MerkleError`` when there is none."""
    return _root(_leaf_hashes(leaves))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Path of leaf ``index`` (PATH of RFC 6962, 2.1.1)."""
    hashes = _leaf_hashes(leaves)
    if not 0 <= index < len(hashes):
        raise MerkleError(
            f"there is no leaf {index} among {len(hashes)}",
            subject="Merkle tree",
            advice="ask for an index below the number of leaves",
        )
    return tuple(_path(hashes, index))


def proof_holds(*, leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether ``leaf`` (its data) is leaf ``index`` of the tree of ``size`` leaves with ``root`` (RFC 9162,
    2.1.3.2).
    """
    if not 0 <= index < size or any(len(sibling) != HASH_SIZE for sibling in path):
        return False
    position, last, current = index, size - 1, leaf_hash(leaf)
    for sibling in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            current = _node(sibling, current)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            current = _node(current, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and current == root


def _leaf_hashes(leaves: Sequence[bytes]) -> list[bytes]:
    if not leaves:
        raise MerkleError("there are no leaves", subject="Merkle tree", advice="give at least one leaf")
    return [leaf_hash(leaf) for leaf in leaves]


def _root(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    split = _split(len(hashes))
    return _node(_root(hashes[:split]), _root(hashes[split:]))


def _path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    split = _split(len(hashes))
    if index < split:
        return [*_path(hashes[:split], index), _root(hashes[split:])]
    return [*_path(hashes[split:], index - split), _root(hashes[:split])]


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
