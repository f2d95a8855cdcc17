"""Fetching what evidence needs, through the cache, from a server on this machine that replays answers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import dcap_qvl
import pytest

from attestation.collateral import Collateral
from attestation.collateral_import import import_collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.fetch.cache import FetchCache
from attestation.fetch.errors import FetchError
from attestation.fetch.fetcher import Fetcher, collect, fetch_collateral
from attestation.fetch.needs import DcapNeed, PckCa, Tee
from attestation.fetch.resources import LIST_AGE
from tests.attestation.fetch.worlds import (
    DAY,
    HOUR,
    NOW,
    collateral_set,
    early_set,
    evidence,
    fetcher,
    fmspc,
    local_sources,
    quick_client,
    replies,
    tcb_target,
)
from tests.support.collateral_server import CollateralServer, Reply, dcap_replies
from tests.support.vectors import vector


def kept_in(folder: Path, server: CollateralServer, now: int = NOW) -> Fetcher:
    return replace(fetcher(server, now=now), cache=FetchCache(folder=folder))


@pytest.mark.parametrize("pccs", [False, True])
def test_a_quote_gets_its_set(server: CollateralServer, pccs: bool) -> None:
    server.serve_all(replies())
    found = fetch_collateral(evidence(), fetcher(server, pccs=pccs))
    assert found == Collateral(dcap=(collateral_set(),))
    assert ("/IntelSGXRootCA.der" in server.targets()) != pccs


def test_early_sets_are_for_forecasts(server: CollateralServer) -> None:
    early = early_set()
    server.serve_all({**replies(), **replies(early, "update=early")})
    for target, reply in replies().items():
        if "crl" in target or target.endswith(".der"):
            server.serve(target, reply)
    found = fetch_collateral(evidence(), fetcher(server), early=True)
    assert found.dcap == (collateral_set(),)
    (one,) = found.early
    assert (one.tcb_info, one.qe_identity) == (early.tcb_info, early.qe_identity)
    assert one.pck_crl == collateral_set().pck_crl


def test_an_early_set_that_is_the_standard_one_is_none(server: CollateralServer) -> None:
    server.serve_all({**replies(edition="update=early"), **replies()})
    assert fetch_collateral(evidence(), fetcher(server), early=True).early == ()


def test_one_evaluation_can_be_named(server: CollateralServer) -> None:
    server.serve_all(replies(edition="tcbEvaluationDataNumber=20"))
    assert fetch_collateral(evidence(), fetcher(server), evaluation_number=20).dcap == (collateral_set(),)


@pytest.mark.parametrize(
    ("name", "tee", "fmspc_", "ca", "now"),
    [
        (
            "tdx-90c06f000000-20260608-platform-96f0ebac908dc114",
            "tdx",
            "90c06f000000",
            "platform",
            1_781_000_000,
        ),
        (
            "tdx-b0c06f000000-20261008-platform-ce0a97d4ec0ac114",
            "tdx",
            "b0c06f000000",
            "platform",
            1_791_500_000,
        ),
        (
            "sgx-00a067110000-20250619-processor-f935e37b5b07ad6f",
            "sgx",
            "00a067110000",
            "processor",
            1_750_400_000,
        ),
    ],
)
def test_recorded_answers_give_the_recorded_set(
    server: CollateralServer, name: str, tee: str, fmspc_: str, ca: str, now: int
) -> None:
    (one,) = import_collateral(vector(f"attestation/dcap/collateral/{name}.json").read_bytes()).dcap
    server.serve_all(dcap_replies(one, tee=tee, fmspc=fmspc_, ca=ca))
    need = DcapNeed(tee=Tee(tee), fmspc=fmspc_, ca=PckCa(ca))
    assert collect([need], fetcher(server, now=now)) == Collateral(dcap=(one,))


def test_what_was_fetched_for_a_real_quote_verifies(server: CollateralServer) -> None:
    """The signed texts came through byte by byte: the library accepts their signatures."""
    quote = vector("attestation/dcap/quotes/dcap-qvl-tdx-quote-48cf.bin").read_bytes()
    name = "tdx-b0c06f000000-20261008-platform-ce0a97d4ec0ac114"
    (one,) = import_collateral(vector(f"attestation/dcap/collateral/{name}.json").read_bytes()).dcap
    server.serve_all(dcap_replies(one, tee="tdx", fmspc="b0c06f000000", ca="platform"))
    now = 1_791_500_000
    container = EvidenceContainer(platform=EvidencePlatform.TDX, report=quote)
    (found,) = fetch_collateral(container, fetcher(server, now=now)).dcap
    parts = {field.name: getattr(found, field.name) for field in fields(found)}
    assert dcap_qvl.verify(quote, dcap_qvl.QuoteCollateralV3(**parts), now).status == "OutOfDate"


def test_a_kept_answer_serves_without_asking(server: CollateralServer, tmp_path: Path) -> None:
    server.serve_all(replies())
    first = fetch_collateral(evidence(), kept_in(tmp_path, server))
    assert len(server.asked) == 4
    again = fetch_collateral(evidence(), kept_in(tmp_path, server, NOW + LIST_AGE))
    assert again == first
    assert len(server.asked) == 4


def test_an_older_answer_is_confirmed_by_its_tag(server: CollateralServer, tmp_path: Path) -> None:
    server.serve_all(replies())
    first = fetch_collateral(evidence(), kept_in(tmp_path, server))
    server.asked.clear()
    later = NOW + LIST_AGE + 1
    assert fetch_collateral(evidence(), kept_in(tmp_path, server, later)) == first
    tags = {one.target: one.headers.get("if-none-match") for one in server.asked}
    assert tags[tcb_target()] == replies()[tcb_target()].headers["ETag"]
    assert len(server.asked) == 4
    server.asked.clear()
    fetch_collateral(evidence(), kept_in(tmp_path, server, later + HOUR))
    assert server.asked == []


def test_a_date_confirms_as_well(server: CollateralServer, tmp_path: Path) -> None:
    modified = "Mon, 08 Jun 2026 11:32:35 GMT"
    base = replies()
    target = "/IntelSGXRootCA.der"
    dated = replace(base[target], headers={"Last-Modified": modified})
    server.serve_all({**base, target: dated})
    fetch_collateral(evidence(), kept_in(tmp_path, server))
    server.asked.clear()
    server.serve(target, Reply(status=304))
    fetch_collateral(evidence(), kept_in(tmp_path, server, NOW + LIST_AGE + 1))
    (asked,) = (one for one in server.asked if one.target == target)
    assert asked.headers["if-modified-since"] == modified


def test_a_newer_answer_takes_the_place_of_the_kept_one(server: CollateralServer, tmp_path: Path) -> None:
    server.serve_all(replies())
    fetch_collateral(evidence(), kept_in(tmp_path, server))
    newer = early_set()
    server.serve_all(replies(newer))
    later = NOW + LIST_AGE + 1
    assert fetch_collateral(evidence(), kept_in(tmp_path, server, later)).dcap[0].tcb_info == newer.tcb_info


def test_an_ended_answer_is_never_handed_out(server: CollateralServer, tmp_path: Path) -> None:
    server.serve_all(replies())
    fetch_collateral(evidence(), kept_in(tmp_path, server))
    end = NOW + 29 * DAY
    server.asked.clear()
    with pytest.raises(FetchError, match="for now: what it sends ended at") as refused:
        fetch_collateral(evidence(), kept_in(tmp_path, server, end + 1))
    assert refused.value.subject == server.url + tcb_target()
    assert "if-none-match" not in server.asked[0].headers


def test_an_answer_that_begins_later_is_not_taken(server: CollateralServer, tmp_path: Path) -> None:
    server.serve_all(replies())
    with pytest.raises(FetchError, match="begins only at") as refused:
        fetch_collateral(evidence(), kept_in(tmp_path, server, NOW - 2 * DAY))
    assert "clock" in refused.value.advice
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reply", [Reply(status=503), Reply(status=404)])
def test_trouble_says_how_old_the_kept_answer_is(
    server: CollateralServer, tmp_path: Path, reply: Reply
) -> None:
    server.serve_all(replies())
    fetch_collateral(evidence(), kept_in(tmp_path, server))
    server.serve(tcb_target(), reply)
    with pytest.raises(FetchError) as refused:
        fetch_collateral(evidence(), kept_in(tmp_path, server, NOW + 36 * HOUR))
    assert "36.0 hours old" in refused.value.reason
    assert "is not used" in refused.value.reason
    assert refused.value.status == reply.status


def test_trouble_without_a_kept_answer_says_nothing_of_one(server: CollateralServer) -> None:
    with pytest.raises(FetchError) as refused:
        fetch_collateral(evidence(), fetcher(server))
    assert "cache" not in refused.value.reason
    assert refused.value.status == 404


def test_a_clock_that_was_set_back_asks_again(server: CollateralServer, tmp_path: Path) -> None:
    server.serve_all(replies())
    fetch_collateral(evidence(), kept_in(tmp_path, server, NOW + HOUR))
    server.asked.clear()
    fetch_collateral(evidence(), kept_in(tmp_path, server, NOW))
    assert len(server.asked) == 4


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"x" * len(data)])
def test_damaged_entries_are_noticed_and_fetched_again(
    server: CollateralServer, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    server.serve_all(replies())
    first = fetch_collateral(evidence(), kept_in(tmp_path, server))
    for path in tmp_path.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    server.asked.clear()
    notes: list[str] = []
    found = fetch_collateral(evidence(), replace(kept_in(tmp_path, server), notes=notes.append))
    assert found == first
    assert len(server.asked) == 4
    assert all("if-none-match" not in one.headers for one in server.asked)
    assert len(notes) == (0 if damage(b"data") == b"" else 4)
    server.asked.clear()
    fetch_collateral(evidence(), kept_in(tmp_path, server))
    assert server.asked == []


def test_nothing_changed_is_no_answer_where_nothing_was(server: CollateralServer) -> None:
    server.serve_all({**replies(), tcb_target(): Reply(status=304)})
    with pytest.raises(FetchError, match="nothing was there"):
        fetch_collateral(evidence(), fetcher(server))


HTML = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: Reply(body=b"<html>Sign in</html>", headers=HTML), "no JSON object.*text/html.*<html>"),
        (lambda r: replace(r, body=r.body[:200]), "no whole JSON"),
        (lambda r: replace(r, headers={}), "no header TCB-Info-Issuer-Chain"),
        (lambda r: replace(r, headers={"TCB-Info-Issuer-Chain": "none"}), "not certificates in PEM"),
        (lambda r: replace(r, body=r.body + b" " * (1 << 20)), "more than"),
        (
            lambda r: Reply(status=302, headers={"Location": "http://other.example/"}),
            "other.example.*not followed",
        ),
        (lambda r: replace(r, body=r.body.replace(b'"TDX"', b'"SGX"')), "is for SGX, and TDX was asked for"),
        (lambda r: replace(r, body=r.body.replace(b'"signature"', b'"sign"')), "exactly the keys"),
    ],
)
def test_wrong_answers_are_refused_and_not_kept(
    server: CollateralServer, tmp_path: Path, change: Callable[[Reply], Reply], reason: str
) -> None:
    server.serve_all({**replies(), tcb_target(): change(replies()[tcb_target()])})
    with pytest.raises(FetchError, match=reason) as refused:
        fetch_collateral(evidence(), kept_in(tmp_path, server))
    assert refused.value.subject == server.url + tcb_target()
    assert not list(tmp_path.iterdir())


def test_the_answer_for_another_platform_is_refused(server: CollateralServer) -> None:
    need = DcapNeed(tee=Tee.TDX, fmspc="00a067110000", ca=PckCa.PLATFORM)
    server.serve("/tdx/certification/v4/tcb?fmspc=00A067110000&update=standard", replies()[tcb_target()])
    with pytest.raises(FetchError, match=f"for FMSPC {fmspc()}, and 00a067110000 was asked for"):
        collect([need], fetcher(server))


def test_a_platform_that_needs_nothing_asks_nobody(server: CollateralServer) -> None:
    nitro = EvidenceContainer(platform=EvidencePlatform.NITRO, report=b"document")
    assert fetch_collateral(nitro, fetcher(server)) == Collateral()
    assert server.asked == []


def test_a_person_sees_what_is_asked_for(server: CollateralServer, tmp_path: Path) -> None:
    server.serve_all(replies())
    seen: list[str] = []
    fetch_collateral(evidence(), replace(kept_in(tmp_path, server), progress=seen.append))
    assert seen == [
        f"TCB info of FMSPC {fmspc()}",
        "QE identity of TDX",
        "revocation list of the PCK platform CA",
        "revocation list of Intel's root",
    ]


def _fetch(url: str, folder: str, results: multiprocessing.Queue[int]) -> None:
    from tests.support.collateral_server import CollateralServer

    asking = Fetcher(
        sources=local_sources(CollateralServer(url=url)),
        cache=FetchCache(folder=Path(folder)),
        client=quick_client(),
        clock=lambda: NOW,
    )
    need = DcapNeed(tee=Tee.TDX, fmspc=fmspc(), ca=PckCa.PLATFORM)
    results.put(len(collect([need], asking).dcap))


def test_two_processes_share_a_folder(server: CollateralServer, tmp_path: Path) -> None:
    server.serve_all(replies())
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    running = [context.Process(target=_fetch, args=(server.url, str(tmp_path), results)) for _ in range(2)]
    for one in running:
        one.start()
    for one in running:
        one.join(20)
        assert one.exitcode == 0
    assert [results.get(timeout=5) for _ in running] == [1, 1]
    assert len(list(tmp_path.iterdir())) == 4
    server.asked.clear()
    assert fetch_collateral(evidence(), kept_in(tmp_path, server)) == Collateral(dcap=(collateral_set(),))
    assert server.asked == []
