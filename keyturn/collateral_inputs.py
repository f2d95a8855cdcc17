"""Collateral for commands: out of files, or fetched with progress on stderr."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from keyturn.output import Output

if TYPE_CHECKING:
    from attestation.collateral import Collateral
    from attestation.container import EvidenceContainer
    from attestation.fetch.fetcher import Fetcher
    from attestation.fetch.needs import Need


def read_collateral(paths: Sequence[Path]) -> Collateral:
    """Everything in the files, of any known form, each item once."""
    from attestation.collateral import Collateral
    from attestation.collateral_import import import_collateral
    from keyturn.input_files import read_limited

    found = Collateral()
    for path in paths:
        found = found.joined(import_collateral(read_limited(path), subject=str(path)))
    return found


def make_fetcher(
    *,
    pccs: str | None = None,
    kds: str | None = None,
    rim: str | None = None,
    ocsp: str | None = None,
    cache: Path | None = None,
    timeout: float | None = None,
    now: int | None = None,
) -> Fetcher:
    """A fetcher for these sources; None is the vendor's, the user's cache folder, the usual time, the
    clock.
    """
    from attestation.fetch.cache import FetchCache
    from attestation.fetch.fetcher import Fetcher
    from attestation.fetch.http import TIMEOUT, HttpClient
    from attestation.fetch.sources import sources

    return Fetcher(
        sources=sources(pccs=pccs, kds=kds, rim=rim, ocsp=ocsp),
        cache=FetchCache() if cache is None else FetchCache(folder=cache),
        client=HttpClient(timeout=TIMEOUT if timeout is None else timeout),
        clock=(lambda: int(time.time())) if now is None else (lambda: now),
    )


def fetch(
    out: Output,
    wanted: Sequence[Need],
    fetcher: Fetcher,
    *,
    early: bool = False,
    evaluation_number: int | None = None,
) -> Collateral:
    """Fetch with progress; raises ``FetchError``."""
    from attestation.fetch.fetcher import collect

    with out.progress() as bars:
        asked: list[str] = []

        def progress(what: str) -> None:
            asked.append(what)
            bars.update(f"fetching {what}", done=len(asked) - 1, total=len(asked))

        return collect(
            wanted,
            replace(fetcher, progress=progress, notes=out.warn),
            early=early,
            evaluation_number=evaluation_number,
        )


def fetch_missing(
    out: Output,
    evidence: EvidenceContainer,
    *,
    given: Collateral,
    pccs: str | None,
    kds: str | None,
    cache: Path | None,
    now: int,
) -> Collateral:
    """What the evidence needs and ``given`` does not have, valid at ``now``; raises ``FetchError``."""
    from attestation.fetch.coverage import missing
    from attestation.fetch.needs import needs

    wanted = missing(needs(evidence), given)
    return fetch(out, wanted, make_fetcher(pccs=pccs, kds=kds, cache=cache, now=now))
