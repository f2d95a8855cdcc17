"""Flip, cut, extend and swap every part of good SNP evidence: the verdict never stays good.

No byte is exempt. A signature (r, s) has a second valid value, (r, n - s), which no single changed byte makes
of it; it says the same about the same report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from attestation.snp.products import Product
from measurements.sev.report import SigningKey
from tests.attestation.snp.test_vectors import trustee, trustee_vlek
from tests.support.policies import ANY, only
from tests.support.snp_cases import SnpCase, failed, good_case
from tests.support.snp_pki import CSP, Wishes, pki

Changed = Callable[[SnpCase, bytes], SnpCase]


def set_report(case: SnpCase, data: bytes) -> SnpCase:
    return replace(case, report=data)


def set_certificate(index: int) -> Changed:
    def change(case: SnpCase, data: bytes) -> SnpCase:
        certificates = list(case.certificates)
        certificates[index] = data
        return replace(case, certificates=tuple(certificates))

    return change


def set_list(case: SnpCase, data: bytes) -> SnpCase:
    return replace(case, crls=(data,))


def open_case(wishes: Wishes) -> SnpCase:
    """Under a policy that lists nothing, so that nothing but the evidence refuses a change."""
    return good_case(wishes).demanding(chip_ids=ANY)


VCEK = open_case(Wishes())
VLEK = open_case(Wishes(product=Product.TURIN, kind=SigningKey.VLEK, version=3))
PARTS: dict[str, tuple[SnpCase, bytes, Changed]] = {
    "report": (VCEK, VCEK.report, set_report),
    "VCEK": (VCEK, VCEK.certificates[0], set_certificate(0)),
    "ASK": (VCEK, VCEK.certificates[1], set_certificate(1)),
    "ARK": (VCEK, VCEK.certificates[2], set_certificate(2)),
    "list": (VCEK, VCEK.crls[0], set_list),
    "report of Turin": (VLEK, VLEK.report, set_report),
    "VLEK": (VLEK, VLEK.certificates[0], set_certificate(0)),
    "ASVK": (VLEK, VLEK.certificates[1], set_certificate(1)),
}


def flips(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """Each ``step``-th byte: one bit of it, which changes with the place, or all."""
    for at in range(0, len(data), step):
        mask = 0xFF if at % 9 == 8 else 1 << at % 8
        yield at, data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


@pytest.mark.parametrize("name", PARTS)
def test_no_flipped_byte_is_accepted(name: str) -> None:
    case, data, change = PARTS[name]
    assert failed(change(case, data).verify()) == set()
    assert [at for at, changed in flips(data) if change(case, changed).verify().passed] == []


@pytest.mark.parametrize("name", PARTS)
def test_no_other_length_is_accepted(name: str) -> None:
    case, data, change = PARTS[name]
    assert not [size for size in range(len(data)) if change(case, data[:size]).verify().passed]
    more = (data + bytes([value]) * times for value in (0, 0xFF) for times in (1, 16, 4096))
    assert not any(change(case, longer).verify().passed for longer in (*more, data + data, b"\0" + data))


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("real", [trustee, trustee_vlek])
def test_no_flipped_byte_of_real_certificates_is_accepted(real: Callable[[], SnpCase], index: int) -> None:
    """They spell the parameters of RSASSA-PSS in more than one way. There is no public list, so a good one
    fails in that alone.
    """
    case = real()
    ask, ark, asvk = case.certificates[1:]
    case = replace(case, certificates=(case.certificates[0], asvk if real is trustee_vlek else ask, ark))
    assert failed(case.verify()) == {"crl"}
    data, change = case.certificates[index], set_certificate(index)
    accepted = [at for at, changed in flips(data, 2) if failed(change(case, changed).verify()) == {"crl"}]
    assert accepted == []


def test_no_flipped_byte_of_a_real_report_is_accepted() -> None:
    case = trustee().demanding(chip_ids=ANY)
    good = failed(case.verify())
    outcomes = {at: failed(set_report(case, changed).verify()) for at, changed in flips(case.report)}
    assert [at for at, found in outcomes.items() if found <= good] == []


def swaps() -> Iterator[SnpCase]:
    """Parts of another product, of the other kind of key, and of another report."""
    milan = open_case(Wishes(product=Product.MILAN))
    vlek = open_case(Wishes(kind=SigningKey.VLEK)).demanding(csp_ids=only(CSP))
    for other in (milan, vlek):
        yield replace(VCEK, report=other.report)
        for index in range(3):
            if other.certificates[index] != VCEK.certificates[index]:
                yield set_certificate(index)(VCEK, other.certificates[index])
    yield replace(VCEK, crls=milan.crls)
    other_report = open_case(Wishes(guest_svn=4)).report
    yield replace(VCEK, report=VCEK.report[:0x2A0] + other_report[0x2A0:])
    yield replace(VCEK, report=VCEK.report[:0x50] + other_report[0x50:])
    yield replace(VCEK, certificates=(*VCEK.certificates[:2], pki(Product.MILAN).ark.der))


def test_no_swapped_part_is_accepted() -> None:
    for number, case in enumerate(swaps()):
        assert not case.verify().passed, number


def test_upper_bytes_of_a_signature_must_be_zero() -> None:
    for at in (0x2A0 + 48, 0x2A0 + 71, 0x2E8 + 48, 0x2E8 + 71, 0x330, 0x49F):
        changed = VCEK.report[:at] + b"\1" + VCEK.report[at + 1 :]
        assert not replace(VCEK, report=changed).verify().passed


def test_number_plus_the_order_is_no_signature() -> None:
    """The same numbers modulo the order of the group, in the room that 72 bytes leave."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    for at in (0x2A0, 0x2E8):
        number = int.from_bytes(VCEK.report[at : at + 72], "little") + order
        changed = VCEK.report[:at] + number.to_bytes(72, "little") + VCEK.report[at + 72 :]
        assert failed(replace(VCEK, report=changed).verify()) == {"report-signature"}
    for at in (0x2A0, 0x2E8):
        zero = VCEK.report[:at] + bytes(72) + VCEK.report[at + 72 :]
        assert failed(replace(VCEK, report=zero).verify()) == {"report-signature"}
