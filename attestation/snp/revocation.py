"""Revocation lists of AMD's roots, without which no report passes.

The ARK of a product signs a list of the intermediates that are revoked (AMD 57230;
``/vcek/v1/{product}/crl`` and ``/vlek/v1/{product}/crl``). ASK and ASVK may not sign lists by their key
usage, so nothing lists leaves today. If an intermediate ever may, its lists count too, for the leaf.

A certificate on any list that its issuer signed is revoked, whatever that list's window: revocation is final.
Besides, one list of the root must hold now and be no older than the policy allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from attestation.platform_verification import ChainLink, Window
from attestation.x509_chain import (
    CertificateError,
    Chain,
    RevocationList,
    check_windows,
    load_certificate,
    load_revocation_list,
    refuse,
)

MAX_LISTS = 64
"""Most lists that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Revocation:
    """The list that holds, and when it stops to: at its end, and by the policy's limit on its age."""

    windows: tuple[Window, ...]
    link: ChainLink
    number: int | None


def check_revocation(
    chain: Chain, lists: Sequence[bytes], *, max_age: int, now: int, source: str
) -> Revocation:
    """Raises ``CertificateError`` if a certificate is revoked, or no list (DER) holds ``now``. ``source`` is
    the address of the root's list, for people.
    """
    root = chain.links[-1].subject
    if len(lists) > MAX_LISTS:
        refuse(f"there are more than {MAX_LISTS} revocation lists")
    top = len(chain.ders) - 1
    of_root = _lists_of(chain, top, lists)
    for index in range(top + 1):
        issuer = min(index + 1, top)
        of_issuer = of_root if issuer == top else _lists_of(chain, issuer, lists)
        if any(chain.certificates[index].serial_number in one.serials for one in of_issuer):
            refuse(f"{chain.links[index].subject} is revoked by {chain.links[issuer].subject}")
    if not of_root:
        refuse(f"no revocation list of {root} is at hand, which {source} publishes")
    ordered = sorted(of_root, key=lambda one: one.window.start, reverse=True)
    newest = next((one for one in ordered if _holds(_windows(one, max_age), now)), ordered[0])
    check_windows(_windows(newest, max_age), now)
    return Revocation(
        windows=_windows(newest, max_age),
        link=ChainLink(subject=newest.window.name, issuer=root, detail=f"{len(newest.serials)} entries"),
        number=newest.number,
    )


def _lists_of(chain: Chain, index: int, lists: Sequence[bytes]) -> list[RevocationList]:
    """The lists that one certificate of the chain signed; none if it may not."""
    if not _may_sign_lists(chain.ders[index]):
        return []
    found = []
    for der in lists:
        with suppress(CertificateError):
            what = f"revocation list of {chain.links[index].subject}"
            found.append(load_revocation_list(der, chain.ders[index], what=what))
    return found


@lru_cache(maxsize=64)
def _may_sign_lists(der: bytes) -> bool:
    usage = load_certificate(der).extensions.get_extension_for_class(x509.KeyUsage)
    return usage.value.crl_sign


def _windows(one: RevocationList, max_age: int) -> tuple[Window, Window]:
    return one.window, Window(
        name=f"age of the {one.window.name} by the policy",
        start=one.window.start,
        end=one.window.start + max_age,
    )


def _holds(windows: Sequence[Window], now: int) -> bool:
    return all(one.start <= now <= one.end for one in windows)
