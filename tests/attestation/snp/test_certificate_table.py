"""Certificate tables of extended reports: real GUIDs in the order of RFC 4122, and bounds that hold."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.snp.certificate_table import (
    MAX_TABLE,
    CertificateTable,
    CertificateTableError,
    TableEntry,
    parse_certificate_table,
    split_extended_report,
)
from measurements.errors import KeyturnError
from tests.support.vectors import vector

OTHER = UUID("ecae0c0f-9502-43b0-afa2-0ae2e0d565b6")
EMPTY = CertificateTable(certificates=(), crls=(), unknown=())


def table(*contents: tuple[UUID, bytes], padding: int = 0) -> bytes:
    at, entries = 24 * (len(contents) + 1), b""
    for guid, content in contents:
        entries += guid.bytes + struct.pack("<II", at, len(content))
        at += len(content)
    return entries + bytes(24) + b"".join(content for _guid, content in contents) + bytes(padding)


def entry(guid: UUID, offset: int, length: int) -> bytes:
    return guid.bytes + struct.pack("<II", offset, length)


VCEK, ASK, ARK, CRL = (one.value for one in (TableEntry.VCEK, TableEntry.ASK, TableEntry.ARK, TableEntry.CRL))


def test_guids_stand_in_the_order_in_which_they_are_written() -> None:
    """As real hosts write them: not with the first three fields turned round, as elsewhere in firmware."""
    data = bytes.fromhex("63da758de6644564adc5f4b93be8accd") + struct.pack("<II", 48, 1) + bytes(24) + b"A"
    assert parse_certificate_table(data).certificates == (b"A",)


@pytest.mark.parametrize("padding", [0, 1, 4096])
def test_contents_by_kind(padding: int) -> None:
    data = table((ARK, b"ark"), (CRL, b"crl"), (OTHER, b"more"), (VCEK, b"vcek"), padding=padding)
    assert parse_certificate_table(data) == CertificateTable(
        certificates=(b"ark", b"vcek"), crls=(b"crl",), unknown=((OTHER, b"more"),)
    )


def test_host_without_certificates() -> None:
    assert parse_certificate_table(b"") == parse_certificate_table(bytes(4096)) == EMPTY


WRONG = {
    "no end": table((VCEK, b"vcek"))[:24],
    "half an entry": table((VCEK, b"vcek"))[:40],
    "content cut": table((VCEK, b"vcek"))[:-1],
    "bytes after": table((VCEK, b"vcek")) + b"x",
    "bytes between": entry(VCEK, 50, 4) + bytes(24) + b"xxvcek",
    "content in the list": entry(VCEK, 0, 24) + bytes(24),
    "content at the end of the list": entry(VCEK, 47, 4) + bytes(24) + b"vcek",
    "overlap": entry(VCEK, 72, 4) + entry(ASK, 74, 4) + bytes(24) + b"abcdef",
    "the same content twice": entry(VCEK, 72, 4) + entry(ASK, 72, 4) + bytes(24) + b"abcd",
    "no content": entry(VCEK, 48, 0) + bytes(24),
    "far away": entry(VCEK, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(24),
    "named twice": table((VCEK, b"one"), (VCEK, b"two")),
    "no GUID": entry(UUID(int=0), 48, 1) + bytes(24) + b"x",
    "too many": table(*((UUID(int=number + 1), b"x") for number in range(33))),
    "too large": bytes(MAX_TABLE + 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_tables_that_are_refused(name: str) -> None:
    with pytest.raises(CertificateTableError):
        parse_certificate_table(WRONG[name])


def test_truncated_at_every_length() -> None:
    data = table((VCEK, b"vcek"), (ASK, b"ask"), (ARK, b"ark"))
    for length in range(1, len(data)):
        with pytest.raises(CertificateTableError):
            parse_certificate_table(data[:length])


def test_extended_report() -> None:
    report = vector("attestation/snp/trustee-report.bin").read_bytes()
    vcek = vector("attestation/snp/trustee-vcek.der").read_bytes()
    found, certificates = split_extended_report(report + table((VCEK, vcek), padding=100))
    assert (found, certificates.certificates) == (report, (vcek,))
    assert split_extended_report(report) == (report, EMPTY)
    with pytest.raises(CertificateTableError):
        split_extended_report(report[:-1])


@given(st.binary(max_size=4096))
def test_arbitrary_bytes(data: bytes) -> None:
    try:
        found = parse_certificate_table(data)
    except KeyturnError:
        return
    assert sum(map(len, found.certificates + found.crls)) <= len(data)


@given(
    st.lists(st.tuples(st.uuids(), st.binary(min_size=1, max_size=64)), max_size=8, unique_by=lambda x: x[0])
)
def test_what_is_written_is_read(contents: list[tuple[UUID, bytes]]) -> None:
    found = parse_certificate_table(table(*contents))
    unknown = [one for one in contents if one[0] not in {entry.value for entry in TableEntry}]
    assert list(found.unknown) == unknown
