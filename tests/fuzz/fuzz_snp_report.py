"""Fuzz target: SNP attestation reports, from their fields to the verdict."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import cache

from attestation.snp.products import Product
from measurements.errors import KeyturnError
from measurements.sev.report import SigningKey, parse_report
from tests.support.policies import ANY
from tests.support.snp_cases import SnpCase, good_case
from tests.support.snp_pki import Wishes
from tests.support.vectors import vectors_folder

NAME = "snp-report"

_REAL = ("trustee-report.bin", "trustee-vlek-report.bin", "go-sev-guest-report.bin")


@cache
def _cases() -> dict[tuple[int, SigningKey], SnpCase]:
    wishes = (
        Wishes(version=2),
        Wishes(version=5),
        Wishes(product=Product.TURIN, version=3),
        Wishes(version=5, kind=SigningKey.VLEK),
    )
    return {(one.version, one.kind): good_case(one).demanding(chip_ids=ANY) for one in wishes}


def seeds() -> list[bytes]:
    """Generated reports of all versions, and real ones."""
    folder = vectors_folder()
    paths = [folder / "attestation/snp" / name for name in _REAL] if folder else []
    return [
        *(case.report for case in _cases().values()),
        *(path.read_bytes() for path in paths if path.exists()),
    ]


def target(data: bytes) -> None:
    """No input raises, and only what the generated key signed is accepted. Of a report that can be read, the
    numbers are where they stand.
    """
    case = _cases()[5, SigningKey.VCEK]
    with contextlib.suppress(KeyturnError):
        report = parse_report(data)
        assert report.version.to_bytes(4, "little") == data[:4]
        assert report.signature[1].to_bytes(72, "little") == data[0x2E8:0x330]
        assert report.chip_id == data[0x1A0:0x1E0]
        case = _cases().get((report.version, report.signing_key), case)
    result = replace(case, report=data).verify()
    assert result.passed == (data == case.report)
    assert (result.facts is not None) == result.passed
