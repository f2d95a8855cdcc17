"""``keyturn collateral``: fetching against a server on this machine, showing, bundling."""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from attestation.collateral import Collateral
from attestation.collateral_bundle import decode_bundle, encode_bundle
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.container_codec import encode_container
from attestation.fetch.errors import FetchError
from attestation.sim.pki import SimPki, make_pki, new_keys
from attestation.sim.plan import sim_plan
from attestation.sim.quote import sim_domain, td_quote
from keyturn.cli import main
from keyturn.collateral_inputs import fetch_missing
from keyturn.output import Output
from tests.support.collateral_server import CollateralServer, Reply, collateral_server, dcap_replies
from tests.support.revocation_lists import certificate, revocation_list
from tests.support.vectors import vector

DAY = 86_400


@cache
def pki() -> SimPki:
    """Valid now, by the clock of this machine."""
    return make_pki(sim_plan(int(time.time())), new_keys())


@cache
def collateral() -> Collateral:
    return pki().collateral()


@cache
def evidence() -> EvidenceContainer:
    return EvidenceContainer(platform=EvidencePlatform.SIM, report=td_quote(pki(), sim_domain()))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEYTURN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def evidence_file(tmp_path: Path) -> Path:
    path = tmp_path / "evidence.bin"
    path.write_bytes(encode_container(evidence()))
    return path


def replies(edition: str = "update=standard") -> dict[str, Reply]:
    fmspc = pki().plan.platform.fmspc.hex()
    return dcap_replies(collateral().dcap[0], tee="tdx", fmspc=fmspc, ca="platform", edition=edition)


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["collateral", *words, "--json"])
    assert int(ended.value.code or 0) == status
    return dict(json.loads(capsys.readouterr().out))


def test_fetch_writes_a_bundle(
    capsys: pytest.CaptureFixture[str], evidence_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundle.bin"
    with collateral_server() as server:
        server.serve_all(replies())
        shown = run(capsys, "fetch", str(evidence_file), "--pccs", server.url, "--output", str(output))
        assert len(server.asked) == 4
        run(capsys, "fetch", str(evidence_file), "--pccs", server.url)
        assert len(server.asked) == 4
    assert decode_bundle(output.read_bytes()) == Collateral(dcap=collateral().dcap[:1])
    assert shown["bundle"] == {"path": str(output), "bytes": output.stat().st_size}
    assert {item["state"] for item in shown["items"]} == {"valid"}
    assert list((tmp_path / "cache" / "collateral").iterdir())


def test_fetch_into_a_cache_of_ones_own(
    capsys: pytest.CaptureFixture[str], evidence_file: Path, tmp_path: Path
) -> None:
    with collateral_server() as server:
        server.serve_all({**replies("update=early"), **replies()})
        run(
            capsys,
            "fetch",
            str(evidence_file),
            "--pccs",
            server.url,
            "--early",
            "--cache",
            str(tmp_path / "c"),
        )
    assert len(list((tmp_path / "c").iterdir())) == 6
    assert not (tmp_path / "cache").exists()


def test_fetch_one_evaluation(capsys: pytest.CaptureFixture[str], evidence_file: Path) -> None:
    with collateral_server() as server:
        server.serve_all(replies("tcbEvaluationDataNumber=20"))
        shown = run(capsys, "fetch", str(evidence_file), "--pccs", server.url, "--evaluation-number", "20")
    assert shown["items"][0]["evaluation_number"] == 20


def test_fetch_says_what_failed_and_what_to_do(
    capsys: pytest.CaptureFixture[str], evidence_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundle.bin"
    with collateral_server() as server:
        words = ("fetch", str(evidence_file), "--pccs", server.url, "--output", str(output))
        error = run(capsys, *words, status=2)["error"]
    assert error["code"] == "collateral-fetch"
    assert error["subject"].startswith(f"{server.url}/tdx/certification/v4/tcb?fmspc=")
    assert "404" in error["reason"]
    assert "real hardware" in error["advice"]
    assert not output.exists()


def test_fetch_gives_up_after_its_time(capsys: pytest.CaptureFixture[str], evidence_file: Path) -> None:
    with collateral_server() as server:
        server.serve_all(dict.fromkeys(replies(), Reply(delay=3)))
        started = time.monotonic()
        words = ("fetch", str(evidence_file), "--pccs", server.url, "--timeout", "0.3")
        error = run(capsys, *words, status=2)["error"]
    assert time.monotonic() - started < 3
    assert error["code"] == "collateral-fetch"


@pytest.mark.parametrize("option", ["--pccs", "--kds", "--rim", "--ocsp"])
def test_fetch_never_goes_over_plain_http(
    capsys: pytest.CaptureFixture[str], evidence_file: Path, option: str
) -> None:
    error = run(capsys, "fetch", str(evidence_file), option, "http://pccs.example", status=2)["error"]
    assert (error["code"], error["subject"]) == ("collateral-fetch", option)


def test_a_kds_gives_what_a_report_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    now = int(time.time())
    report = vector("attestation/snp/trustee-report.bin").read_bytes()
    names = {"SEV-Milan": "ARK-Milan", "ARK-Milan": "ARK-Milan"}
    pem = b"".join(
        x509.load_der_x509_certificate(certificate(name, now, issuer=issuer)).public_bytes(Encoding.PEM)
        for name, issuer in names.items()
    )
    file = tmp_path / "report.bin"
    file.write_bytes(report)
    with collateral_server() as server:
        target = f"/vcek/v1/Milan/{report[0x1A0:0x1E0].hex()}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"
        server.serve(target, Reply(body=certificate("SEV-VCEK", now, issuer="SEV-Milan")))
        server.serve("/vcek/v1/Milan/cert_chain", Reply(body=pem))
        server.serve("/vcek/v1/Milan/crl", Reply(body=revocation_list("ARK-Milan", now)))
        shown = run(capsys, "fetch", str(file), "--kds", server.url)
    assert [item["subject"] for item in shown["items"]] == [
        "SEV-VCEK of SEV-Milan",
        "SEV-Milan of ARK-Milan",
        "ARK-Milan",
        "ARK-Milan",
    ]


def test_show_names_states_at_a_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bundle.bin"
    file.write_bytes(encode_bundle(collateral()))
    start = pki().plan.windows
    moment = next(window.end for part, window in start.items() if part.value == "tcb-info")
    for now, state in ((moment, "valid"), (moment + 1, "expired"), (moment - 31 * DAY, "not valid yet")):
        items = run(capsys, "show", str(file), "--now", str(now))["items"]
        assert items[0]["what"] == "TCB info"
        assert items[0]["state"] == state


def test_show_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bundle.bin"
    file.write_bytes(encode_bundle(Collateral(early=collateral().dcap, rims=(b"no manifest",))))
    with pytest.raises(SystemExit) as ended:
        main(["collateral", "show", str(file), "--now", "2001-01-01T00:00:00Z"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "TCB info (early)" in shown
    assert f"TDX {pki().plan.platform.fmspc.hex()}" in shown
    assert "not valid yet" in shown
    assert "unreadable: is no SWID tag" in shown


@pytest.mark.parametrize("now", ["yesterday", "2026-01-01T00:00:00", "-1", "999999999999"])
def test_show_wants_a_time_with_its_zone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, now: str
) -> None:
    file = tmp_path / "bundle.bin"
    file.write_bytes(encode_bundle(collateral()))
    error = run(capsys, "show", str(file), f"--now={now}", status=2)["error"]
    assert (error["code"], error["subject"]) == ("collateral-input", "--now")


def test_bundle_joins_every_form_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    now = int(time.time())
    one = collateral().dcap[0]
    document = {
        key: value if isinstance(value, str) else value.hex()
        for key, value in ((name, getattr(one, name)) for name in one.__slots__)
    }
    root, crl = certificate("ARK-Milan", now), revocation_list("ARK-Milan", now)
    files = {
        "set.json": json.dumps(document).encode(),
        "root.der": root,
        "again.der": root,
        "list.crl": crl,
        "old.bundle": encode_bundle(Collateral(dcap=(one,), crls=(crl,))),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    output = tmp_path / "all.bundle"
    names = [str(tmp_path / name) for name in files]
    shown = run(capsys, "bundle", *names, "--output", str(output))
    found = decode_bundle(output.read_bytes())
    assert found == Collateral(dcap=(one,), certificates=(root,), crls=(crl,))
    assert shown["bundle"]["path"] == str(output)


def test_bundle_names_the_file_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_bytes(b"<html></html>")
    output = tmp_path / "all.bundle"
    error = run(capsys, "bundle", str(file), "--output", str(output), status=2)["error"]
    assert error["subject"] == str(file)
    assert not output.exists()


def test_what_is_given_is_not_fetched() -> None:
    with collateral_server() as server:
        given = fetch_missing(
            Output(json=True),
            evidence(),
            given=collateral(),
            pccs=server.url,
            kds=None,
            cache=None,
            now=int(time.time()),
        )
        assert given == Collateral()
        assert server.asked == []


def test_collateral_of_today_does_not_do_for_another_day(tmp_path: Path) -> None:
    with collateral_server() as server, pytest.raises(FetchError, match="begins only at"):
        _fetch_at(server, int(time.time()) - 90 * DAY, tmp_path)


def _fetch_at(server: CollateralServer, now: int, folder: Path) -> Collateral:
    server.serve_all(replies())
    return fetch_missing(
        Output(json=True),
        evidence(),
        given=Collateral(),
        pccs=server.url,
        kds=None,
        cache=folder,
        now=now,
    )
