"""Fuzz target: revocation lists of AMD's roots."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from attestation.snp.products import Product
from tests.support.snp_cases import SnpCase, failed, good_case
from tests.support.snp_pki import pki

NAME = "snp-crl"


@cache
def _case() -> SnpCase:
    return good_case()


@cache
def _lists() -> tuple[bytes, bytes]:
    """One that revokes nothing that is used, and one that does."""
    made = pki(Product.GENOA)
    return made.crl(made.asvk), made.crl(made.ask)


def seeds() -> list[bytes]:
    """The generated lists."""
    return [*_case().crls, *_lists()]


def target(data: bytes) -> None:
    """No input raises; only lists that the root signed count, and the one that revokes always does."""
    good = (_lists()[0], *_case().crls)
    assert replace(_case(), crls=(data,)).verify().passed == (data in good)
    beside = replace(_case(), crls=(data, good[0])).verify()
    assert failed(beside) == ({"crl"} if data == _lists()[1] else set())
