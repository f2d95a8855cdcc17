"""Revocation lists for chains of TPMs and clouds, as far as lists are at hand.

A list counts if one of the chain's authorities signed it (``attestation.x509_chain``). Of an authority's
lists the newest by number counts, and it must hold now: an old list that knows nothing of a revocation is no
excuse. An authority without any list is not a failure: hardly a TPM maker's EK authority publishes one, and a
policy that must be able to turn a machine off lists platform ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from cryptography import x509

from attestation.platform_verification import Window
from attestation.x509_chain import (
    MALFORMED,
    MAX_CRL,
    CertificateError,
    Chain,
    RevocationList,
    check_windows,
    load_revocation_list,
    refuse,
)

MAX_LISTS = 64


def check_revocation(chain: Chain, lists: Iterable[bytes], now: int) -> tuple[Window, ...]:
    """Windows of the lists (DER) that were applied; raises ``CertificateError`` for a revoked certificate and
    for an authority whose newest list does not hold now.
    """
    given = tuple(dict.fromkeys(lists))
    if len(given) > MAX_LISTS:
        refuse(f"more than {MAX_LISTS} revocation lists are given")
    windows = []
    for place, (below, authority) in enumerate(zip(chain.certificates, chain.ders[1:], strict=False)):
        issuer = chain.certificates[place + 1].subject.public_bytes()
        newest = max(_of(authority, issuer, given), key=_age, default=None)
        if newest is None:
            continue
        check_windows([newest.window], now)
        if below.serial_number in newest.serials:
            refuse(f"{chain.windows[place].name} is revoked by its issuer")
        windows.append(newest.window)
    return tuple(windows)


def _of(authority: bytes, name: bytes, lists: Iterable[bytes]) -> Iterator[RevocationList]:
    for der in lists:
        if _issuer_name(der) != name:
            continue
        try:
            yield load_revocation_list(der, authority, what="revocation list")
        except CertificateError:
            continue


def _age(one: RevocationList) -> tuple[int, int]:
    return one.number if one.number is not None else -1, one.window.start


@lru_cache(maxsize=64)
def _issuer_name(der: bytes) -> bytes | None:
    if len(der) > MAX_CRL:
        return None
    try:
        return x509.load_der_x509_crl(der).issuer.public_bytes()
    except MALFORMED:
        return None
