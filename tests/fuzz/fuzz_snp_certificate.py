"""Fuzz target: certificates of keys that sign SNP reports."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import cache

from attestation.snp.endorsement_key import read_endorsement_key
from attestation.snp.products import Product
from measurements.errors import KeyturnError
from measurements.sev.report import SigningKey
from tests.support.policies import ANY
from tests.support.snp_cases import SnpCase, good_case
from tests.support.snp_pki import Wishes
from tests.support.vectors import vectors_folder

NAME = "snp-certificate"

_REAL = ("trustee-vcek.der", "trustee-vlek.der", "virtee-vcek-turin.der", "trustee-vcek-invalid-new.der")


@cache
def _cases() -> tuple[SnpCase, ...]:
    wishes = (Wishes(), Wishes(product=Product.TURIN), Wishes(kind=SigningKey.VLEK))
    return tuple(good_case(one).demanding(chip_ids=ANY) for one in wishes)


def seeds() -> list[bytes]:
    """Generated certificates of both kinds of key, and real ones."""
    folder = vectors_folder()
    paths = [folder / "attestation/snp" / name for name in _REAL] if folder else []
    generated = (case.certificates[0] for case in _cases())
    return [*generated, *(path.read_bytes() for path in paths if path.exists())]


def target(data: bytes) -> None:
    """No input raises, what can be read is complete, and only the certificate that was issued is accepted."""
    case = _cases()[0]
    with contextlib.suppress(KeyturnError):
        key = read_endorsement_key(data)
        assert (key.hardware_id is None) == (key.kind is SigningKey.VLEK)
        assert (key.csp_id is None) == (key.kind is SigningKey.VCEK)
        assert (key.tcb.fmc is None) == (key.product is not Product.TURIN)
        case = _cases()[2 if key.kind is SigningKey.VLEK else int(key.product is Product.TURIN)]
    result = replace(case, certificates=(data, *case.certificates[1:])).verify()
    assert result.passed == (data == case.certificates[0])
