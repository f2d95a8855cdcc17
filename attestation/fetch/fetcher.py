"""Fetches what evidence needs, through the cache.

A kept answer serves while it is inside its own window and not older than the limit of its kind. After that
the server is asked, with the validators that it gave (RFC 9110, section 13: ``If-None-Match``,
``If-Modified-Since``) if the window still holds. If it cannot be asked, that is an error which says how old
the kept answer is: stale collateral is never handed out, and neither is what a server serves outside of its
window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256

from attestation.collateral import Collateral, DcapCollateral
from attestation.container import EvidenceContainer
from attestation.fetch.bodies import UNEXPECTED, Content, unexpected
from attestation.fetch.cache import FetchCache, KeptAnswer
from attestation.fetch.errors import OFFLINE, FetchError
from attestation.fetch.http import NOT_MODIFIED, OK, Answer, HttpClient
from attestation.fetch.needs import DcapNeed, Need, RimNeed, SnpNeed, needs
from attestation.fetch.resources import (
    Resource,
    dcap_resources,
    ocsp_resource,
    rim_resource,
    snp_resources,
    vcek_resource,
)
from attestation.fetch.sources import Sources, sources

_KEPT_HEADERS = ("content-type", "etag", "last-modified")
_CHAIN_HEADER = "issuer-chain"
_NO_SUCH_CHIP = (400, 404)


def _nothing(*_: object) -> None:
    """Tells nobody."""


def _clock() -> int:
    return int(time.time())


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """One run. ``progress`` gets what is asked for next, ``notes`` what a person should know."""

    sources: Sources = field(default_factory=sources)
    cache: FetchCache | None = field(default_factory=FetchCache)
    client: HttpClient = field(default_factory=HttpClient)
    clock: Callable[[], int] = _clock
    progress: Callable[[str], None] = _nothing
    notes: Callable[[str], None] = _nothing

    def content(self, resource: Resource) -> Content:
        """What ``resource`` holds today; raises ``FetchError``."""
        url = self.sources.url(resource.source, resource.target)
        name = _name(url, resource)
        kept = self.cache.load(name) if self.cache else None
        content = self._readable(resource, kept)
        if kept and content and self._serves(resource, kept, content):
            return content
        if self.cache and kept is None and self.cache.is_damaged(name):
            self.notes(f"the cache of {resource.what} is damaged, so it is fetched again")
        self.progress(resource.what)
        try:
            held = kept if content and content.start <= self.clock() <= content.end else None
            answer = self.client.get(
                url,
                limit=resource.limit,
                headers={**_validators(held), **_form(resource)},
                question=resource.question,
            )
        except FetchError as error:
            raise _with_age(error, kept, content, self.clock()) from None
        return self._taken(resource, name, answer, kept if content else None)

    def _taken(self, resource: Resource, url: str, answer: Answer, kept: KeptAnswer | None) -> Content:
        """The content of an answer, which is kept under ``url`` from now on."""
        now = self.clock()
        entry = KeptAnswer(url=url, fetched=now, confirmed=now, headers=_essential(answer), body=answer.body)
        if answer.status == NOT_MODIFIED:
            if kept is None:
                raise _error(url, "answers that nothing has changed, and nothing was there")
            entry = replace(kept, confirmed=now)
        content = self._read(resource, entry)
        if not content.start <= now <= content.end:
            state = "ended" if now > content.end else "begins only"
            raise _error(
                url,
                f"has no {resource.what} for now: what it sends {state} at "
                f"{_date(content.end if now > content.end else content.start)}, and it is {_date(now)}",
            )
        if self.cache:
            self.cache.store(entry)
        return content

    def _read(self, resource: Resource, entry: KeptAnswer) -> Content:
        answer = Answer(status=OK, headers=entry.headers, body=entry.body)
        try:
            return resource.read(answer)
        except UNEXPECTED as error:
            raise unexpected(error, answer, entry.url) from None

    def _readable(self, resource: Resource, kept: KeptAnswer | None) -> Content | None:
        if kept is None:
            return None
        try:
            return self._read(resource, kept)
        except FetchError:
            return None

    def _serves(self, resource: Resource, kept: KeptAnswer, content: Content) -> bool:
        now = self.clock()
        return content.start <= now <= content.end and 0 <= now - kept.confirmed <= resource.max_age


def fetch_collateral(
    evidence: EvidenceContainer,
    fetcher: Fetcher,
    *,
    early: bool = False,
    evaluation_number: int | None = None,
) -> Collateral:
    """Everything that the evidence needs; raises ``FetchError`` if any of it cannot be had.

    ``early`` also fetches Intel's next TCB recovery, for forecasts. ``evaluation_number`` asks Intel for the
    sets of one TCB evaluation instead of the standard ones.
    """
    return collect(needs(evidence), fetcher, early=early, evaluation_number=evaluation_number)


def collect(
    wanted: Sequence[Need], fetcher: Fetcher, *, early: bool = False, evaluation_number: int | None = None
) -> Collateral:
    """Collateral for ``wanted``, each item once; raises ``FetchError``."""
    found = Collateral()
    for need in wanted:
        if isinstance(need, DcapNeed):
            found = found.joined(_dcap(need, fetcher, early=early, evaluation_number=evaluation_number))
        elif isinstance(need, SnpNeed):
            found = found.joined(_snp(need, fetcher))
        elif isinstance(need, RimNeed):
            found = found.joined(Collateral(rims=fetcher.content(rim_resource(need)).ders))
        else:
            found = found.joined(Collateral(ocsp=fetcher.content(ocsp_resource(need)).ders))
    return found


def _dcap(need: DcapNeed, fetcher: Fetcher, *, early: bool, evaluation_number: int | None) -> Collateral:
    pccs = fetcher.sources.pccs
    standard = _dcap_set(dcap_resources(need, pccs=pccs, evaluation_number=evaluation_number), fetcher)
    if not early:
        return Collateral(dcap=(standard,))
    coming = _dcap_set(dcap_resources(need, pccs=pccs, early=True), fetcher)
    return Collateral(dcap=(standard,), early=() if coming == standard else (coming,))


def _dcap_set(resources: Sequence[Resource], fetcher: Fetcher) -> DcapCollateral:
    tcb_info, qe_identity, pck_crl, root_crl = (fetcher.content(one) for one in resources)
    return DcapCollateral(
        pck_crl_issuer_chain=pck_crl.chain,
        root_ca_crl=root_crl.ders[0],
        pck_crl=pck_crl.ders[0],
        tcb_info_issuer_chain=tcb_info.chain,
        tcb_info=tcb_info.text,
        tcb_info_signature=tcb_info.signature,
        qe_identity_issuer_chain=qe_identity.chain,
        qe_identity=qe_identity.text,
        qe_identity_signature=qe_identity.signature,
    )


def _snp(need: SnpNeed, fetcher: Fetcher) -> Collateral:
    products = need.products
    key: tuple[bytes, ...] = ()
    if need.chip_id is not None:
        *others, last = products
        for product in (*others, last):
            try:
                key = fetcher.content(vcek_resource(product, need)).ders
            except FetchError as error:
                if error.status not in _NO_SUCH_CHIP or product is last:
                    raise
            else:
                products = (product,)
                break
    chains = [snp_resources(product, vlek=need.vlek) for product in products]
    certificates = [fetcher.content(chain).ders for chain, _ in chains]
    crls = [fetcher.content(crl).ders for _, crl in chains]
    return Collateral(
        certificates=(*key, *(der for ders in certificates for der in ders)),
        crls=tuple(der for ders in crls for der in ders),
    )


def _name(url: str, resource: Resource) -> str:
    """The address under which an answer is kept: with a digest of the question, if there is one."""
    return url if resource.question is None else f"{url}#{sha256(resource.question).hexdigest()}"


def _form(resource: Resource) -> dict[str, str]:
    return {} if resource.question is None else {"Content-Type": "application/ocsp-request"}


def _validators(kept: KeptAnswer | None) -> dict[str, str]:
    """Headers that ask for the answer only if it is another than the kept one."""
    names = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}
    return {names[name]: value for name, value in kept.headers.items() if name in names} if kept else {}


def _essential(answer: Answer) -> dict[str, str]:
    return {
        name: value
        for name, value in answer.headers.items()
        if name in _KEPT_HEADERS or name.endswith(_CHAIN_HEADER)
    }


def _with_age(error: FetchError, kept: KeptAnswer | None, content: Content | None, now: int) -> FetchError:
    if kept is None or content is None:
        return error
    hours = max(0, now - kept.confirmed) / 3600
    return FetchError(
        f"{error.reason}; what is in the cache is {hours:.1f} hours old and holds until "
        f"{_date(content.end)}, so it is not used",
        subject=error.subject,
        advice=error.advice,
        status=error.status,
    )


def _error(url: str, reason: str) -> FetchError:
    return FetchError(
        reason, subject=url, advice=f"check this machine's clock, or name another source, {OFFLINE}"
    )


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
