"""Flip, cut, extend and swap every part of good GPU evidence: the verdict never stays good.

No byte is exempt. Signatures (r ‖ s and XML) have two valid values each, r ‖ s and r ‖ n - s, which no single
changed byte turns into each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from attestation.collateral import Collateral
from attestation.container import GpuPart
from attestation.nvidia.binding import gpu_report_data
from tests.attestation.nvidia.cases import STRICT, Case, good_collateral, good_part
from tests.attestation.nvidia.samples import sample
from tests.attestation.nvidia.test_samples import verify
from tests.support.nvidia_pki import NONCE, answers, gpu, part

BITS = (0x01, 0x20, 0x80)
UNBOUND = gpu_report_data((good_part(),), NONCE)


def flips(data: bytes, *, step: int = 1) -> Iterator[bytes]:
    """One changed byte at each ``step``-th place, with a bit that is chosen the same way in every run."""
    chance = random.Random(len(data))
    for place in range(0, len(data), step):
        changed = bytearray(data)
        changed[place] ^= chance.choice(BITS)
        yield bytes(changed)


def rebound(changed: GpuPart) -> bool:
    """Whether it passes where the attacker also controls what the CPU's report data says."""
    return Case(parts=(changed,)).verify().passed


def bound(changed: GpuPart) -> bool:
    """Whether it passes where the report data is that of the good evidence."""
    return Case(parts=(changed,), report_data=UNBOUND).verify().passed


def collected(collateral: Collateral) -> bool:
    return Case(collateral=collateral).verify().passed


def test_the_good_case_is_good() -> None:
    assert rebound(good_part())
    assert bound(good_part())
    assert collected(good_collateral())


def test_no_changed_byte_of_a_report_passes() -> None:
    for changed in flips(good_part().report):
        assert not rebound(replace(good_part(), report=changed))


def test_no_changed_byte_of_a_real_report_passes() -> None:
    for name in ("hopper_evidence.json", "veraison-blackwell-evidence.json", "switch_evidence_ls10.json"):
        good = sample(name)[0]
        for changed in flips(good.report, step=17):
            assert not verify((replace(good, report=changed),)).passed


@pytest.mark.parametrize("place", range(5))
def test_no_changed_byte_of_a_certificate_passes(place: int) -> None:
    certificates = good_part().certificates
    for changed in flips(certificates[place]):
        listed = (*certificates[:place], changed, *certificates[place + 1 :])
        assert not rebound(replace(good_part(), certificates=listed))


@pytest.mark.parametrize("place", range(2))
def test_no_changed_byte_of_a_manifest_passes(place: int) -> None:
    rims = good_collateral().rims
    for changed in flips(rims[place], step=11):
        listed = (*rims[:place], changed, *rims[place + 1 :])
        assert not collected(replace(good_collateral(), rims=listed))


@pytest.mark.parametrize("place", range(5))
def test_no_changed_byte_of_an_answer_passes(place: int) -> None:
    found = good_collateral().ocsp
    for changed in flips(found[place]):
        listed = (*found[:place], changed, *found[place + 1 :])
        assert not collected(replace(good_collateral(), ocsp=listed))


def test_no_changed_nonce_or_architecture_passes() -> None:
    for nonce in flips(NONCE):
        assert not rebound(replace(good_part(), nonce=nonce))
    for text in ("", "hopper", "HOPPER ", "LS10", "BLACKWELL", "X" * 1000):
        assert not rebound(replace(good_part(), architecture=text))


def test_no_changed_report_data_binds() -> None:
    for changed in flips(UNBOUND):
        assert not Case(report_data=changed).verify().passed


@pytest.mark.parametrize("cut", [lambda data, end: data[:end], lambda data, end: data[end:]])
def test_no_truncated_part_passes(cut: Callable[[bytes, int], bytes]) -> None:
    good, collateral = good_part(), good_collateral()
    for end in range(1, len(good.report), 5):
        assert not rebound(replace(good, report=cut(good.report, end)))
    first, *rest = good.certificates
    for end in range(1, len(first), 3):
        assert not rebound(replace(good, certificates=(cut(first, end), *rest)))
    manifest, other = collateral.rims
    for end in range(1, len(manifest) - 1, 29):
        assert not collected(replace(collateral, rims=(cut(manifest, end), other)))
    answer, *more = collateral.ocsp
    for end in range(1, len(answer), 5):
        assert not collected(replace(collateral, ocsp=(cut(answer, end), *more)))


@pytest.mark.parametrize("extra", [b"\0", b"\n\n", b"\xff" * 32])
def test_no_extended_part_passes(extra: bytes) -> None:
    good, collateral = good_part(), good_collateral()
    assert not rebound(replace(good, report=good.report + extra))
    assert not rebound(replace(good, nonce=good.nonce + extra))
    for place, one in enumerate(good.certificates):
        listed = (*good.certificates[:place], one + extra, *good.certificates[place + 1 :])
        assert not rebound(replace(good, certificates=listed))
    assert not collected(replace(collateral, rims=(collateral.rims[0] + extra, collateral.rims[1])))
    assert not collected(replace(collateral, ocsp=(collateral.ocsp[0] + extra, *collateral.ocsp[1:])))


def test_no_part_of_another_device_passes() -> None:
    good, other = good_part(), part(gpu(2))
    every = Collateral(ocsp=answers(gpu(2))).joined(good_collateral())
    for mixed in (
        replace(good, report=other.report),
        replace(good, certificates=other.certificates),
        replace(good, certificates=(good.certificates[0], *other.certificates[1:])),
        replace(good, certificates=(other.certificates[0], *good.certificates[1:])),
    ):
        assert not Case(parts=(mixed,), collateral=every).verify().passed
    assert not Case(parts=(other,), collateral=every, report_data=UNBOUND).verify().passed
    assert Case(parts=(other,), collateral=every).verify().passed


def test_order_and_number_of_devices_are_bound() -> None:
    parts = (good_part(), part(gpu(2)))
    every = Collateral(ocsp=answers(gpu(2))).joined(good_collateral())
    policy = replace(STRICT, count=2)
    data = gpu_report_data(parts, NONCE)
    assert Case(parts=parts, collateral=every, policy=policy, report_data=data).verify().passed
    swapped = parts[::-1]
    assert not Case(parts=swapped, collateral=every, policy=policy, report_data=data).verify().passed
    assert not bound(replace(good_part(), certificates=good_part().certificates[:-1]))
