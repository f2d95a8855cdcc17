"""Caches hold a bounded number of bytes, whatever is asked of them."""

from __future__ import annotations

import gc
import hashlib
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from attestation.collateral_summary import crl_item, read_published
from attestation.container import Log, LogFormat
from attestation.dcap.collateral_set import check_set
from attestation.event_logs import parse_log
from attestation.limited_cache import limited_cache, size_of
from attestation.nvidia.rim import load_manifest, named_by
from attestation.tpm.revocation import check_revocation
from attestation.x509_chain import build_chain
from measurements.errors import KeyturnError
from measurements.eventlog import Algorithm
from tests.support.certificates import Wish, issue, revocation_list
from tests.support.event_log_writer import Record, write_log
from tests.support.sim_pki import pki

MEBIBYTE = 1 << 20
ROOT = issue(Wish(name="root", ca=True))
LEAF = issue(Wish(name="leaf"), by=ROOT)
ROOTS = frozenset({hashlib.sha256(ROOT.der).digest()})


def junk(number: int, size: int = MEBIBYTE) -> bytes:
    return number.to_bytes(4, "big") + bytes(size - 4)


def chain(number: int) -> Any:
    """A chain that is found, beside a pool of junk."""
    pool = (ROOT.der, *(junk(100 * number + place, 16 << 10) for place in range(62)))
    return build_chain(LEAF.der, pool, roots=ROOTS, what="the leaf")


def log(number: int) -> Any:
    """A well-formed log of almost 1 MiB."""

    record = Record(pcr=1, event_type=3, digests={Algorithm.SHA256: bytes(32)}, data=junk(number, 1_000_000))
    return parse_log(Log(format=LogFormat.TCG2, data=write_log([record], algorithms=(Algorithm.SHA256,))))


def manifest(number: int) -> Any:
    with suppress(KeyturnError):
        named_by(b'<SoftwareIdentity name="%d"/>' % number + b" " * 1_000_000)
    return load_manifest(junk(number), (), frozenset())


def collateral(number: int) -> Any:

    given = pki().collateral().dcap[0]
    return check_set(replace(given, pck_crl=junk(number)), frozenset())


def published(number: int) -> Any:
    return read_published('{"id":"QE"}' + " " * (MEBIBYTE + number), what="QE identity")


BIG_LIST = revocation_list(ROOT, range(1, 20_000))


def lists(number: int) -> Any:
    """Lists that can be read, whoever signed them."""
    big = BIG_LIST[:-4] + number.to_bytes(4, "big")
    crl_item(big)
    return check_revocation(build_chain(LEAF.der, (ROOT.der,), roots=ROOTS, what="the leaf"), (big,), 0)


@pytest.mark.parametrize("call", [chain, log, manifest, collateral, published, lists])
def test_no_cache_keeps_large_arguments(call: Callable[[int], Any]) -> None:
    with suppress(KeyturnError):
        call(0)
    tracemalloc.start()
    try:
        for number in range(1, 13):
            with suppress(KeyturnError):
                call(number)
        gc.collect()  # errors and their frames refer to each other
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * MEBIBYTE


def test_small_results_are_kept_and_large_ones_made_anew() -> None:
    made = []

    @limited_cache(maxsize=2, largest=8)
    def function(*parts: bytes) -> int:
        made.append(parts)
        return len(made)

    assert function(b"1234", b"5678") == function(b"1234", b"5678") == 1
    assert function(b"1234", b"56789") == 2
    assert function(b"1234", b"56789") == 3
    function.cache_clear()
    assert function(b"1234", b"5678") == 4


def test_what_counts_as_size() -> None:
    assert size_of((b"12", "345", (b"6", frozenset({b"7"})), 8, None)) == 7
    given = pki().collateral().dcap[0]
    assert size_of((given,)) > len(given.tcb_info) + len(given.pck_crl)
