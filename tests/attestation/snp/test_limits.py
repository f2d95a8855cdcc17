"""Hostile sizes: however much junk comes along, a verdict is there soon. Time is that of the processor, with
room for a loaded machine; what counts is that nothing grows beyond the size of the input.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from attestation.snp.certificate_table import CertificateTableError, parse_certificate_table
from attestation.snp.products import Product
from measurements.sev.report import SigningKey
from tests.support.limits import BUSY_SECONDS
from tests.support.snp_cases import SnpCase, failed, good_case
from tests.support.snp_pki import LeafWishes, Levels, Wishes, der_integer, pki

"""Three times what a verifier may take."""
GENOA = pki(Product.GENOA)
MEBIBYTE = 1 << 20


def leaves(count: int) -> tuple[bytes, ...]:
    """Certificates that all fit the report by their fields, with keys that did not sign it."""
    return tuple(
        GENOA.leaf(LeafWishes(key_name=f"another {number}", start=LeafWishes().start + number)).der
        for number in range(count)
    )


def authorities(count: int) -> tuple[bytes, ...]:
    """Certificates of the issuer's name that did not issue the leaf."""
    name = GENOA.product.issuer_name(SigningKey.VCEK)
    return tuple(GENOA.authority(name, serial=0x20000 + number).der for number in range(count))


def many_leaves(case: SnpCase) -> SnpCase:
    return replace(case, certificates=(*leaves(60), *case.certificates))


def many_authorities(case: SnpCase) -> SnpCase:
    return replace(case, certificates=(*case.certificates[:1], *authorities(61), *case.certificates[2:]))


def junk_certificates(case: SnpCase) -> SnpCase:
    junk = tuple(bytes([number]) * (MEBIBYTE // 61) for number in range(61))
    return replace(case, certificates=(*junk, *case.certificates))


def junk_lists(case: SnpCase) -> SnpCase:
    foreign = pki(Product.MILAN).crl()
    junk = tuple(bytes([number]) * (MEBIBYTE // 64) for number in range(62))
    return replace(case, crls=(*junk, foreign, *case.crls))


def one_large_list(case: SnpCase) -> SnpCase:
    return replace(case, crls=(b"\x30\x83\x0f\xff\xfa" + bytes(MEBIBYTE - 5), *case.crls))


@pytest.mark.parametrize("change", [many_leaves, junk_certificates, junk_lists, one_large_list])
def test_junk_beside_good_evidence(change: Callable[[SnpCase], SnpCase]) -> None:
    case = change(good_case())
    started = time.process_time()
    found = case.verify()
    assert time.process_time() - started < BUSY_SECONDS
    assert failed(found) == set()


def test_many_authorities_of_one_name_are_refused() -> None:
    case = many_authorities(good_case())
    started = time.process_time()
    assert failed(case.verify()) == {"chain"}
    assert time.process_time() - started < BUSY_SECONDS


@pytest.mark.parametrize("size", [0, 1183, 1185, MEBIBYTE])
def test_report_of_another_size(size: int) -> None:
    case = replace(good_case(), report=good_case().report[:1].ljust(size, b"\0")[:size])
    started = time.process_time()
    assert failed(case.verify()) == {"report-form"}
    assert time.process_time() - started < BUSY_SECONDS


def test_large_tables() -> None:
    entry = bytes(range(16)) + (1 << 20).to_bytes(4, "little") * 2
    for data in (b"\1" * MEBIBYTE, entry * 10_000, b"\1" * (256 << 10)):
        started = time.process_time()
        with pytest.raises(CertificateTableError):
            parse_certificate_table(data)
        assert time.process_time() - started < BUSY_SECONDS


def test_extensions_without_number() -> None:
    """A certificate of the greatest size, full of extensions."""
    more = tuple((f"7.{number}", der_integer(1)) for number in range(400))
    leaf = GENOA.leaf(LeafWishes(levels=Levels(), extensions=more)).der
    case = replace(good_case(Wishes()), certificates=(leaf, GENOA.ask.der, GENOA.ark.der))
    started = time.process_time()
    assert failed(case.verify()) == {"key-certificate"}
    assert time.process_time() - started < BUSY_SECONDS
