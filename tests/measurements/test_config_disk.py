"""The config disk: its frame and its document."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.app_manifest import parse_manifest
from measurements.canonical import encode_canonical, parse_canonical
from measurements.config_disk import (
    MAX_DOCUMENT,
    ConfigError,
    Network,
    check_config,
    encode_config,
    frame_config,
    parse_config,
    read_frame,
)
from measurements.errors import FormatError
from tests.support.app_documents import config, manifest_bytes


class Counting(io.BytesIO):
    """Counts the bytes that are asked for."""

    asked = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0, "an unbounded read"
        self.asked += size
        return super().read(size)


@given(st.binary(min_size=1, max_size=9000))
@settings(deadline=None)
def test_frame_round_trip(document: bytes) -> None:
    disk = frame_config(document)
    assert len(disk) % 4096 == 0
    assert read_frame(io.BytesIO(disk)) == document


def test_frame_layout() -> None:
    assert frame_config(b"{}") == b"KTCFG\0\0\x01" + b"\x02\0\0\0" + b"{}" + bytes(4096 - 14)
    assert len(frame_config(b"x" * 4084)) == 4096
    assert len(frame_config(b"x" * 4085)) == 8192


@pytest.mark.parametrize("size", [0, MAX_DOCUMENT + 1])
def test_frame_size_limits(size: int) -> None:
    with pytest.raises(ConfigError):
        frame_config(bytes(size))


def test_largest_document() -> None:
    assert len(read_frame(io.BytesIO(frame_config(b"x" * MAX_DOCUMENT)))) == MAX_DOCUMENT


@pytest.mark.parametrize(
    "disk",
    [
        b"",
        b"KTCFG",
        b"KTCFG\0\0\x02" + b"\x02\0\0\0{}" + bytes(4082),
        b"KTCFG\0\0\x01" + b"\0\0\0\0" + bytes(4084),
        frame_config(b"{}")[:-1],
        frame_config(b"{}") + b"\0",
        frame_config(b"{}") + bytes(4096),
        frame_config(b"{}")[:-1] + b"x",
    ],
)
def test_damaged_frames_are_refused(disk: bytes) -> None:
    with pytest.raises(ConfigError):
        read_frame(io.BytesIO(disk))


def test_attack_endless_config_disk_is_not_read() -> None:
    disk = Counting(b"KTCFG\0\0\x01" + struct.pack("<I", 0xFFFFFFFF) + bytes(1 << 22))
    with pytest.raises(ConfigError):
        read_frame(disk)
    assert disk.asked == 12


@given(st.data())
@settings(deadline=None)
def test_attack_a_flipped_bit_is_seen(data: st.DataObject) -> None:
    document = encode_config(config())
    disk = bytearray(frame_config(document))
    disk[data.draw(st.integers(0, len(disk) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(ConfigError):
        assert read_frame(io.BytesIO(bytes(disk))) != document


def test_document_round_trip() -> None:
    for each in (
        config(),
        config(network=None, kms_urls=(), env={}),
        config(envelope=b"sealed", reference={"platform": "tpm", "shape": {"cpus": 2}, "banks": {}}),
    ):
        assert parse_config(encode_config(each)) == each
        assert encode_config(parse_config(encode_config(each))) == encode_config(each)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "keyturn-config/2"),
        ("extra", 1),
        ("app_manifest", ""),
        ("app_manifest", "e30"),
        ("app_manifest", "e3 0="),
        ("app_manifest", None),
        ("instance_id", "00" * 16),
        ("instance_id", "11" * 15),
        ("instance_id", "AA" * 16),
        ("network", {"address": "10.0.2.15", "gateway": "10.0.2.2"}),
        ("network", {"address": "10.0.2.15/24", "gateway": "10.0.3.2"}),
        ("network", {"address": "10.0.2.15/24", "gateway": "10.0.2.15"}),
        ("network", {"address": "10.0.2.15/24 ", "gateway": "10.0.2.2"}),
        ("network", {"address": "10.0.2.15/24"}),
        ("kms_urls", ["file:///etc/passwd"]),
        ("kms_urls", ["http://user@host/"]),
        ("kms_urls", ["http://a", "http://a"]),
        ("env", {"A B": "c"}),
        ("env", {"A": None}),
        ("envelope", ""),
        ("reference", {}),
        ("reference", {"platform": "sim", "shape": {}, "banks": {}}),
    ],
)
def test_wrong_documents_are_refused(key: str, value: Any) -> None:
    document = parse_canonical(encode_config(config()))
    assert isinstance(document, dict)
    document[key] = value
    with pytest.raises(FormatError):
        parse_config(encode_canonical(document))


def test_fits_its_manifest() -> None:
    check_config(config(), parse_manifest(manifest_bytes()))


def test_attack_host_sets_a_variable_that_is_not_allowed() -> None:
    with pytest.raises(ConfigError, match=r"env\.DEBUG"):
        check_config(config(env={"DEBUG": "1"}), parse_manifest(manifest_bytes()))


def test_no_kms_where_one_is_needed_is_refused() -> None:
    with pytest.raises(ConfigError, match="kms_urls"):
        check_config(config(kms_urls=()), parse_manifest(manifest_bytes()))


def test_a_kms_where_the_tpm_seals_is_refused() -> None:
    provider = {"mode": "tpm-seal", "chain_id": 1, "contract": "0x" + "22" * 20}
    manifest = parse_manifest(manifest_bytes(key_provider=provider))
    with pytest.raises(ConfigError, match="kms_urls"):
        check_config(config(), manifest)
    check_config(config(kms_urls=()), manifest)


def test_an_envelope_without_owner_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="owner key"):
        check_config(config(envelope=b"x"), parse_manifest(manifest_bytes()))


def test_attack_host_leaves_the_owner_s_envelope_out() -> None:
    manifest = parse_manifest(manifest_bytes(owner_key="ab" * 32))
    check_config(config(envelope=b"x"), manifest)
    with pytest.raises(ConfigError, match="no envelope of the owner"):
        check_config(config(), manifest)


def test_addresses_are_kept_as_written() -> None:
    network = parse_config(encode_config(config())).network
    assert network == Network(address="10.0.2.15/24", gateway="10.0.2.2")
