"""Revocation lists for chains of TPMs and clouds, as far as lists are at hand.

A list counts if one of the chain's authorities signed it (``attestation.x509_chain``). Of an authority's
lists the newest by number counts, and it must hold now: an old list that knows nothing of a revocation is no
excuse. Bytes that are no list are a refusal, and so is an authority with only lists that do not count.
An authority without any list is none: hardly a TPM maker's EK authority publishes one, and a policy that must
be able to turn a machine off lists platform ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cryptography import x509

from attestation.limited_cache import limited_cache
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
    """Windows of the lists (DER) that were applied; raises ``CertificateError`` for a revoked certificate, an
    authority whose newest list does not hold now, and lists that cannot be read.
    """
    given = tuple(dict.fromkeys(lists))
    if len(given) > MAX_LISTS:
        refuse(f"more than {MAX_LISTS} revocation lists are given")
    named = [(_issuer_name(der), der) for der in given]
    windows = []
    for place, (below, authority) in enumerate(zip(chain.certificates, chain.ders[1:], strict=False)):
        issuer = chain.certificates[place + 1].subject.public_bytes()
        of_issuer = [der for name, der in named if name == issuer]
        if not of_issuer:
            continue
        newest = max(_signed_by(authority, of_issuer), key=_age, default=None)
        if newest is None:
            refuse(f"the revocation list for {chain.windows[place].name} is not one of its issuer")
        check_windows([newest.window], now)
        if below.serial_number in newest.serials:
            refuse(f"{chain.windows[place].name} is revoked by its issuer")
        windows.append(newest.window)
    return tuple(windows)


def _signed_by(authority: bytes, lists: Iterable[bytes]) -> Iterator[RevocationList]:
    for der in lists:
        try:
            yield load_revocation_list(der, authority, what="revocation list")
        except CertificateError:
            continue


def _age(one: RevocationList) -> tuple[int, int]:
    return one.number if one.number is not None else -1, one.window.start


@limited_cache(maxsize=64, largest=64 << 10)
def _issuer_name(der: bytes) -> bytes:
    if len(der) > MAX_CRL:
        refuse(f"a revocation list is larger than {MAX_CRL} bytes")
    try:
        return x509.load_der_x509_crl(der).issuer.public_bytes()
    except MALFORMED as error:
        refuse(f"a revocation list is none: {error}")
