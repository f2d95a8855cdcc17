"""Merkle trees against the known values of Certificate Transparency, and every proof against tampering."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.merkle import MerkleError, inclusion_proof, merkle_root, proof_holds

# The reference inputs and roots of the certificate-transparency test suite (RFC 6962 implementations).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}

leaves = st.lists(st.binary(max_size=40), min_size=1, max_size=40)


@pytest.mark.parametrize("size", ROOTS)
def test_roots_of_certificate_transparency(size: int) -> None:
    assert merkle_root(LEAVES[:size]).hex() == ROOTS[size]


def test_a_tree_without_leaves_is_refused() -> None:
    with pytest.raises(MerkleError):
        merkle_root([])


@pytest.mark.parametrize("index", [-1, 8])
def test_a_leaf_outside_the_tree_is_refused(index: int) -> None:
    with pytest.raises(MerkleError):
        inclusion_proof(LEAVES, index)


@given(data=leaves, choice=st.integers(min_value=0))
def test_every_leaf_has_a_proof_that_holds_at_its_place_only(data: list[bytes], choice: int) -> None:
    index = choice % len(data)
    root, path = merkle_root(data), inclusion_proof(data, index)
    assert proof_holds(leaf=data[index], index=index, size=len(data), path=path, root=root)
    assert not proof_holds(leaf=data[index] + b"x", index=index, size=len(data), path=path, root=root)
    assert not proof_holds(leaf=data[index], index=index, size=index, path=path, root=root)
    assert not proof_holds(leaf=data[index], index=index, size=len(data), path=[*path, root], root=root)
    if path:
        assert not proof_holds(leaf=data[index], index=index, size=len(data), path=path[:-1], root=root)


@given(data=leaves, choice=st.integers(min_value=0), bit=st.integers(min_value=0))
def test_a_flipped_bit_of_a_proof_or_root_is_refused(data: list[bytes], choice: int, bit: int) -> None:
    index = choice % len(data)
    root, path = merkle_root(data), inclusion_proof(data, index)
    whole = bytearray(root + b"".join(path))
    whole[bit // 8 % len(whole)] ^= 1 << bit % 8
    changed = [bytes(whole[i : i + 32]) for i in range(0, len(whole), 32)]
    assert not proof_holds(leaf=data[index], index=index, size=len(data), path=changed[1:], root=changed[0])


def test_an_inner_node_passed_off_as_a_leaf_is_refused() -> None:
    left, right = (hashlib.sha256(b"\0" + leaf).digest() for leaf in LEAVES[:2])
    root = merkle_root(LEAVES[:4])
    path = inclusion_proof(LEAVES[:4], 0)
    assert not proof_holds(leaf=left + right, index=0, size=2, path=path[1:], root=root)
