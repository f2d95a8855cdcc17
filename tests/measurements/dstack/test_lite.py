"""dstack's measurement documents: those of real deployments, and documents that are not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.dstack.checksums import parse_checksums
from measurements.dstack.errors import DstackFormatError, DstackInputError
from measurements.dstack.lite import (
    parse_snp_measurement,
    parse_tdx_measurement,
    parse_witness,
    require_stable_kernel,
)
from measurements.dstack.vm_config import VmConfig, parse_vm_config
from measurements.errors import FormatError
from tests.support.dstack_reports import vm_config

WITNESS = bytes.fromhex("80100904000609020b021010")  # dstack/dstack-mr/src/tdvf.rs


def config(name: str) -> VmConfig:
    return parse_vm_config(vm_config(name))


def tdx_document() -> bytes:
    document = config("tdx-lite-attestation").tdx
    assert document is not None
    return document.measurement


def snp_document() -> bytes:
    launch = config("sev-snp-attestation").snp
    assert launch is not None
    return launch.document.measurement


# Digests of the TD HOB in the logs of quote-report.json (64 GiB) and tdx-lite-getquote.json (2 GiB).
@pytest.mark.parametrize(
    ("memory", "digest"),
    [
        (2 << 30, "0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821eba"),
        (64 << 30, "8ae1e425351df7992c444586eff99d35af3b779aa2b0e981cb4b73bc5b279f2ade19b6a62a203fc3"),
    ],
)  # fmt: skip
def test_td_hob_follows_from_the_witness(memory: int, digest: str) -> None:
    assert hashlib.sha384(parse_witness(WITNESS).td_hob(memory)).hexdigest().startswith(digest)
    other = hashlib.sha384(parse_witness(WITNESS).td_hob(memory + 0x1000)).hexdigest()
    assert not other.startswith(digest)


def test_witness_names_pages() -> None:
    witness = parse_witness(WITNESS)
    assert witness.hob_address == 0x809000
    assert [(each.address, each.address + each.size) for each in witness.ranges] == [
        (0x800000, 0x806000), (0x809000, 0x80B000), (0x80B000, 0x80D000), (0x810000, 0x820000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "nothing more"),
        (WITNESS[:-1], "nothing more|ends inside"),
        (WITNESS + b"\0", "nothing more"),
        (WITNESS + b"\x80", "ends inside a number"),
        (b"\x80\x10\x09\x00", "none at the TD HOB"),
        (bytes.fromhex("80100804000609020b021010"), "none at the TD HOB"),
        (bytes.fromhex("80100904000a09020b021010"), "overlap"),
        (bytes.fromhex("80100904000009020b021010"), "empty"),
        (b"\x80\x10\x09\x21" + b"\x01\x01" * 33, "nothing more"),
        (b"\x80\x10\x09\xff\xff\xff\xff\x7f", "nothing more"),
        (b"\xff" * 8 + b"\x01", "beyond memory"),
        (b"\x80" * 20, "beyond memory|ends inside"),
        (b"\x80\x00\x00\x00", "shortest form"),
    ],
)
def test_other_witnesses_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse_witness(data)


@given(st.binary(max_size=90))
def test_garbage_is_no_witness(data: bytes) -> None:
    with suppress(DstackFormatError):
        witness = parse_witness(data)
        assert len(witness.ranges) <= 32


def test_tdx_document_of_a_real_deployment() -> None:
    document = parse_tdx_measurement(tdx_document())
    assert document.witness == parse_witness(WITNESS)
    assert document.mrtd_two_pass.hex().startswith("fd685522")
    assert document.mrtd_single_pass != document.mrtd_two_pass


def test_snp_document_of_a_real_deployment() -> None:
    document = parse_snp_measurement(snp_document())
    assert document.command_line.endswith("dstack.rootfs_size=490713088")
    assert [section.kind for section in document.sections] == [1, 1, 2, 3, 4, 1, 16]


def changed(data: bytes, change: Callable[[Any], object]) -> bytes:
    fields = cbor2.loads(data)
    change(fields)
    return cbor2.dumps(fields)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda each: each.update(version=4), "has version 4, not 3"),
        (lambda each: each.update(version=True), "has version True"),
        (lambda each: each.pop("image"), "exactly version, image, tdvf"),
        (lambda each: each.update(extra=1), "exactly version, image, tdvf"),
        (lambda each: each["image"].update(cmdline="text"), "exactly cmdline_sha384"),
        (lambda each: each["image"].update(initrd_sha384=b"short"), "not a digest of 48 bytes"),
        (lambda each: each["image"].update(initrd_sha384=bytes(48)), "not a digest of 48 bytes"),
        (lambda each: each["tdvf"].update(ovmf="202505"), "the firmware layout '202505'"),
        (lambda each: each["tdvf"].update(td_hob="text"), "td_hob is not a byte string"),
        (lambda each: each["tdvf"]["mrtd"].pop("two_pass"), "exactly single_pass, two_pass"),
        (lambda each: each["tdvf"]["mrtd"].update(two_pass=[1]), "two_pass: is not a digest"),
    ],
)
def test_other_tdx_documents_are_refused(change: Callable[[Any], object], reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse_tdx_measurement(changed(tdx_document(), change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda each: each.update(version=2), "has version 2"),
        (lambda each: each.pop("cmdline"), "has no map of exactly"),
        (lambda each: each.update(cmdline="a\0"), "cmdline is not an ASCII text"),
        (lambda each: each.update(ovmf_hash=b"1" * 32), "ovmf_hash: is not a digest of 48"),
        (lambda each: each.update(reset_eip=-1), "reset_eip: is not a number"),
        (lambda each: each.update(reset_eip=1 << 32), "reset_eip: is not a number"),
        (lambda each: each.update(ovmf_sections=[]), "not a list of 1 to 64"),
        (lambda each: each.update(ovmf_sections=each["ovmf_sections"] * 10), "not a list of 1 to 64"),
        (lambda each: each["ovmf_sections"][0].update(size=0), "section 0: is not one or more whole pages"),
        (lambda each: each["ovmf_sections"][1].update(gpa=1), "section 1: is not one or more whole pages"),
        (lambda each: each["ovmf_sections"][0].pop("type"), "exactly gpa, size, type"),
    ],
)
def test_other_snp_documents_are_refused(change: Callable[[Any], object], reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse_snp_measurement(changed(snp_document(), change))


@pytest.mark.parametrize("parse", [parse_tdx_measurement, parse_snp_measurement])
@pytest.mark.parametrize("data", [b"", b"\xa0", b"\x80", b"\x9f" * 2000, b"\xbf\xff"])
def test_foreign_bytes_are_refused(parse: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(FormatError):
        parse(data)


@pytest.mark.parametrize(
    ("memory", "holds"),
    [(2 << 30, True), (0xB0000000, True), (64 << 30, True), (0xB0000000 - 1, False), (1 << 30, False)],
)
def test_the_kernel_digest_holds_for_some_memory_sizes(memory: int, holds: bool) -> None:
    if holds:
        require_stable_kernel(memory)
        return
    with pytest.raises(DstackInputError, match="holds for 2 GiB and"):
        require_stable_kernel(memory)


def test_documents_are_named_by_the_image_hash() -> None:
    for name, file_name in (
        ("tdx-lite-attestation", "measurement.tdx.cbor"),
        ("sev-snp-attestation", "measurement.snp.cbor"),
    ):
        found = config(name)
        document = found.tdx or (found.snp.document if found.snp else None)
        assert document is not None
        assert hashlib.sha256(document.checksum_file).digest() == found.os_image_hash
        listed = parse_checksums(document.checksum_file)
        assert listed == {file_name: hashlib.sha256(document.measurement).digest()}


LINE = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not 1 to"),
        ("\n", "line 1 is not"),
        (f"{LINE}  bzImage", "ends? with a newline|is not 1 to"),
        (f"{LINE}  bzImage\n\n", "line 2 is not"),
        (f"{LINE}  bzImage\r\n", "line 1 is not"),
        (f"{LINE}  bzImage\n{LINE}  bzImage\n", "line 2 names bzImage again"),
        (f"{LINE.upper()}  bzImage\n", "line 1 is not"),
        (f"{LINE[2:]}  bzImage\n", "line 1 is not"),
        (f"{LINE} bzImage\n", "line 1 is not"),
        (f"{LINE} *bzImage\n", "line 1 is not"),
        (f"\\{LINE}  bzImage\n", "line 1 is not"),
        (f"{LINE}   bzImage\n", "line 1 is not"),
        (f"{LINE}  bz Image\n", "line 1 is not"),
        (f"{LINE}  ../bzImage\n", "line 1 is not"),
        (f"{LINE}  /bzImage\n", "line 1 is not"),
        (f"{LINE}  .hidden\n", "line 1 is not"),
        (f"{LINE}  -rf\n", "line 1 is not"),
        (f"{LINE}  sha256sum.txt\n", "line 1 is not"),
        (f"{LINE}  bzImage\u200b\n", "ASCII"),
    ],
)
def test_other_checksum_files_are_refused(text: str, reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse_checksums(text.encode())


def test_checksum_files_are_read() -> None:
    names = ["ovmf.fd", "bzImage", "initramfs.cpio.gz", "measurement.aws.replay.json", "rootfs_v2-x86"]
    found = parse_checksums("".join(f"{LINE}  {name}\n" for name in names).encode())
    assert list(found) == names
    assert found["bzImage"] == bytes.fromhex(LINE)
