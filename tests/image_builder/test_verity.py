"""The dm-verity tree, checked by veritysetup byte for byte."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_builder.verity import (
    BLOCK_SIZE,
    VerityError,
    VerityHasher,
    VerityStream,
    VerityTree,
    dm_table,
    write_verity,
)
from tests.image_builder.erofs_trees import noise
from tests.support.tools import require_tool

SALT = bytes(range(32))
SIZES = (1, 2, 127, 128, 129, 130, 16384, 16385)
"""Data blocks around one hash block and around one hash block of hash blocks."""


def tree_over(data: bytes, *, salt: bytes = b"") -> VerityTree:
    """The hash tree over ``data``."""
    hasher = VerityHasher(salt=salt)
    hasher.update(data)
    return hasher.finish()


def area_of(tree: VerityTree) -> bytes:
    """The hash area of ``tree``."""
    stream = io.BytesIO()
    write_verity(tree, stream)
    return stream.getvalue()


@pytest.fixture(params=SIZES)
def data(request: pytest.FixtureRequest) -> bytes:
    """Data of every interesting length."""
    pattern = noise(1 << 20)
    length: int = request.param * BLOCK_SIZE
    return (pattern * (length // len(pattern) + 1))[:length]


@pytest.mark.parametrize("salt", [b"", SALT, b"\1"])
def test_veritysetup_makes_the_same_bytes(data: bytes, salt: bytes, tmp_path: Path) -> None:
    veritysetup = require_tool("veritysetup", package="cryptsetup-bin")
    path = tmp_path / "image"
    path.write_bytes(data)
    blocks = f"--data-blocks={len(data) // BLOCK_SIZE}"
    options = [f"--salt={salt.hex() or '-'}", f"--hash-offset={len(data)}", blocks]
    uuid = "--uuid=00000000-0000-0000-0000-000000000000"
    command = [veritysetup, "format", uuid, *options, str(path), str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    tree = tree_over(data, salt=salt)
    assert tree.root_hash.hex() in output
    area = path.read_bytes()[len(data) :]
    assert area.ljust(tree.hash_bytes, b"\0") == area_of(tree)


def verified(path: Path, tree: VerityTree) -> bool:
    """What ``veritysetup verify`` says to the root hash of ``tree``."""
    veritysetup = require_tool("veritysetup", package="cryptsetup-bin")
    command = [
        veritysetup,
        "verify",
        f"--hash-offset={tree.data_bytes}",
        str(path),
        str(path),
        tree.root_hash.hex(),
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("salt", [b"", SALT])
def test_veritysetup_verifies(data: bytes, salt: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    tree = tree_over(data, salt=salt)
    path.write_bytes(data + area_of(tree))
    assert verified(path, tree)


@pytest.mark.parametrize("at", [0, 4095, 4096, 200 * BLOCK_SIZE - 1])
def test_a_flipped_byte_changes_the_root_and_is_refused(at: int, tmp_path: Path) -> None:
    data = noise(200 * BLOCK_SIZE)
    tree = tree_over(data)
    flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    assert tree_over(flipped).root_hash != tree.root_hash
    path = tmp_path / "image"
    path.write_bytes(flipped + area_of(tree))
    assert not verified(path, tree)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([b"", SALT]))
def test_pieces_of_any_length_give_the_same_tree(lengths: list[int], salt: bytes) -> None:
    data = noise(8 * BLOCK_SIZE)
    hasher = VerityHasher(salt=salt)
    at = 0
    for length in lengths:
        hasher.update(memoryview(data)[at : at + length])
        at += length
    hasher.update(data[at:])
    assert hasher.finish() == tree_over(data, salt=salt)


def test_stream_hashes_what_it_passes_on() -> None:
    sink, hasher = io.BytesIO(), VerityHasher()
    stream = VerityStream(sink, hasher)
    assert stream.write(noise(5000)) == 5000
    stream.write(bytes(3192))
    assert hasher.finish() == tree_over(sink.getvalue())


@pytest.mark.parametrize("length", [0, 1, 4095, 4097, 8191])
def test_partial_blocks_are_refused(length: int) -> None:
    with pytest.raises(VerityError, match=f"{length} bytes are not"):
        tree_over(bytes(length))


def test_long_salt_is_refused() -> None:
    tree_over(bytes(4096), salt=bytes(256))
    with pytest.raises(VerityError, match="257 bytes"):
        VerityHasher(salt=bytes(257))


def test_table_names_every_parameter_once() -> None:
    tree = tree_over(noise(3 * BLOCK_SIZE), salt=b"\xab\xcd")
    end = f"sha256 {tree.root_hash.hex()} abcd 1 panic_on_corruption"
    table = dm_table(tree, data_device="/dev/vda2", hash_device="254:2")
    assert table == f"0 24 verity 1 /dev/vda2 254:2 4096 4096 3 4 {end}"


def test_table_without_salt_has_a_dash() -> None:
    tree = tree_over(noise(BLOCK_SIZE))
    assert f"{tree.root_hash.hex()} - 1 panic" in dm_table(tree, data_device="a", hash_device="a")
