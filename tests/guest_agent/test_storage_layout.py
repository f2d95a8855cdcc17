"""The data disk's layout against the kernel's own way to compute it, and the superblock's bytes."""

from __future__ import annotations

import hmac
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.device_tables import storage_keys
from guest_agent.storage_layout import (
    JOURNAL_SECTORS,
    MIN_DISK_SECTORS,
    Layout,
    LayoutError,
    data_sector_on_disk,
    plan_layout,
    same_layout,
    superblock,
)

DISKS = st.integers(min_value=MIN_DISK_SECTORS // 8, max_value=1 << 32).map(lambda blocks: blocks * 8)


def kernel_data_sectors(disk_sectors: int) -> int:
    """``get_provided_data_sectors`` of dm-integrity.c: bit by bit from the top, whatever still fits."""
    device, provided = disk_sectors + 8, 0
    for bit in range(device.bit_length() - 1, 2, -1):
        tried = provided | 1 << bit
        area, offset = divmod(tried - 1, 32768)
        last = area * 32768 + (area + 1) * 256 + 8 + JOURNAL_SECTORS + offset
        if last < device:
            provided = tried
    return provided


@given(DISKS)
def test_data_sectors_are_the_kernels(disk_sectors: int) -> None:
    assert plan_layout(disk_sectors).data_sectors == kernel_data_sectors(disk_sectors)


@given(DISKS)
def test_the_last_sector_lies_on_the_disk(disk_sectors: int) -> None:
    layout = plan_layout(disk_sectors)
    assert data_sector_on_disk(layout, layout.data_sectors - 1) < disk_sectors
    with pytest.raises(LayoutError):
        data_sector_on_disk(layout, layout.data_sectors)


@pytest.mark.parametrize("sectors", [0, MIN_DISK_SECTORS - 8, MIN_DISK_SECTORS + 1])
def test_small_and_odd_disks_are_refused(sectors: int) -> None:
    with pytest.raises(LayoutError, match=f"has {sectors} sectors"):
        plan_layout(sectors)


def test_the_superblocks_fields() -> None:
    """As a 7.3 kernel wrote it for a disk of 48 MiB, but for the salt and the HMAC."""
    layout = plan_layout(98304)
    keys = storage_keys(bytes(range(1, 33)), disk_sectors=98304)
    data = superblock(layout, keys)
    assert layout == Layout(disk_sectors=98304, data_sectors=93312)
    assert data[:48].hex() == ("696e746567727400050f200010000000806c01000000000019000000030c0000" + "00" * 16)
    assert data[48:64] == keys.journal_salt
    assert data[480:512] == hmac.digest(keys.journal_mac, data[:480], "sha256")
    assert not any(data[64:480])
    assert not any(data[512:])
    assert len(data) == 4096


def test_another_layout_is_noticed_and_another_salt_is_not() -> None:
    keys = storage_keys(bytes(range(1, 33)), disk_sectors=98304)
    ours = superblock(plan_layout(98304), keys)
    assert same_layout(superblock(plan_layout(98304), keys._replace(journal_salt=b"s" * 16)), ours)
    for at in (0, 8, 9, 10, 12, 16, 24, 28, 29, 47):
        changed = bytearray(ours)
        changed[at] ^= 1
        assert not same_layout(bytes(changed), ours)
    assert not same_layout(ours[:512], ours)
    assert struct.unpack_from("<I", ours, 24)[0] == 0x19
