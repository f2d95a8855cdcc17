"""Device-mapper tables, the derivation of the disk's keys, and what of the app disk is refused."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.device_tables import (
    TableError,
    check_volumes,
    crypt_table,
    front_table,
    integrity_table,
    slice_table,
    storage_keys,
    tree_blocks,
    verity_table,
)
from image_builder.verity import VerityHasher, dm_table, write_verity
from measurements.app_manifest import Volume

KEY = bytes(range(1, 33))
VOLUME = Volume(
    offset=8192, data_blocks=300, hash_offset=300 * 4096, root_hash=b"\x5a" * 32, salt=b"\x01\x02"
)


def test_the_slice_holds_data_and_tree() -> None:
    assert slice_table(VOLUME, device="/dev/vdb") == f"0 {(300 + 3 + 1) * 8} linear /dev/vdb 16\n"


def test_the_verity_table_names_everything_and_panics() -> None:
    assert verity_table(VOLUME, device="/dev/mapper/s") == (
        f"0 2400 verity 1 /dev/mapper/s /dev/mapper/s 4096 4096 300 300 sha256 {'5a' * 32} 0102 "
        "1 panic_on_corruption\n"
    )


@given(st.integers(min_value=1, max_value=300), st.binary(max_size=32))
def test_the_verity_table_is_the_image_builders_but_for_the_superblock(blocks: int, salt: bytes) -> None:
    hasher = VerityHasher(salt=salt)
    hasher.update(hashlib.shake_128(salt).digest(blocks * 4096))
    tree = hasher.finish()
    sink = io.BytesIO()
    write_verity(tree, sink)
    assert tree_blocks(blocks) == len(sink.getvalue()) // 4096 - 1
    volume = Volume(0, blocks, blocks * 4096, tree.root_hash, salt)
    ours = verity_table(volume, device="d").split()
    theirs = dm_table(tree, data_device="d", hash_device="d").split()
    assert int(theirs.pop(9)) == int(ours.pop(9)) + 1
    assert ours == theirs


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"offset": 100}, "multiples of 4096"),
        ({"offset": -4096}, "multiples of 4096"),
        ({"hash_offset": 299 * 4096}, "overlaps its data"),
        ({"data_blocks": 0}, "overlaps its data"),
        ({"root_hash": bytes(32)}, "root hash"),
        ({"root_hash": b"\x5a" * 31}, "root hash"),
        ({"salt": b"\x01" * 257}, "salt"),
        ({"offset": 8192 + 4096}, "ends at byte"),
    ],
)
def test_volumes_that_do_not_fit_are_refused(change: dict[str, int | bytes], says: str) -> None:
    disk = 8192 + 304 * 4096
    check_volumes((VOLUME,), disk_bytes=disk)
    with pytest.raises(TableError, match=says):
        check_volumes((VOLUME._replace(**change),), disk_bytes=disk)  # type: ignore[arg-type]


def test_overlapping_volumes_are_refused_and_a_shared_one_is_not() -> None:
    behind = VOLUME._replace(offset=8192 + 304 * 4096)
    check_volumes((behind, VOLUME, VOLUME), disk_bytes=1 << 30)
    with pytest.raises(TableError, match="overlaps the volume"):
        check_volumes((VOLUME, behind._replace(offset=behind.offset - 4096)), disk_bytes=1 << 30)


def test_the_front_takes_its_first_block_from_memory() -> None:
    table = front_table(memory="/dev/ram0", disk="/dev/vdc", disk_sectors=65536)
    assert table == "0 8 linear /dev/ram0 0\n8 65536 linear /dev/vdc 0\n"


def test_the_encrypted_disks_tables() -> None:
    keys = storage_keys(KEY, disk_sectors=65536)
    integrity = integrity_table(keys, device="f", data_sectors=60000, mode="J", journal_sectors=4224)
    assert integrity == (
        "0 60000 integrity f 0 32 J 8 block_size:4096 journal_sectors:4224 interleave_sectors:32768 "
        f"buffer_sectors:128 journal_crypt:cbc(aes):{keys.journal_cipher.hex()} "
        f"journal_mac:hmac(sha256):{keys.journal_mac.hex()} fix_padding fix_hmac\n"
    )
    assert crypt_table(keys, device="i", data_sectors=60000) == (
        "0 60000 crypt capi:authenc(hmac(sha256),xts(aes))-plain64 "
        f"{keys.cipher.hex()}{keys.authentication.hex()} 0 i 0 2 integrity:32:aead sector_size:4096\n"
    )
    with pytest.raises(TableError, match="neither J nor D"):
        integrity_table(keys, device="f", data_sectors=60000, mode="R", journal_sectors=4224)


def test_keys_are_derived_as_documented() -> None:
    """RFC 5869 written out with HMAC, for one key of one block."""
    import hmac

    extracted = hmac.digest(b"keyturn-storage/1", KEY, "sha512")
    info = b"journal-hmac-sha-256\0" + (65536).to_bytes(8, "big")
    expected = hmac.digest(extracted, info + b"\x01", "sha512")[:32]
    assert storage_keys(KEY, disk_sectors=65536).journal_mac == expected


def test_all_keys_differ_and_depend_on_key_and_size() -> None:
    ours = storage_keys(KEY, disk_sectors=65536)
    others = (storage_keys(KEY, disk_sectors=65544), storage_keys(KEY[::-1], disk_sectors=65536))
    every = [*ours, ours.cipher[:32], ours.cipher[32:], *others[0], *others[1]]
    assert len(set(every)) == len(every)
    assert [len(key) for key in ours] == [64, 32, 32, 32, 16]


@pytest.mark.parametrize("key", [b"", bytes(32), KEY[:31], KEY + b"\x01"])
def test_a_missing_or_zero_storage_key_is_refused(key: bytes) -> None:
    with pytest.raises(TableError):
        storage_keys(key, disk_sectors=65536)
