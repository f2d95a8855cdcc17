"""The page of a verdict, in a real browser: it shows everything, runs nothing and loads nothing."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from attestation.forecast import Forecast, Turn
from attestation.platform_verification import ChainLink, Window
from attestation.verdict_page import render_page
from tests.attestation.verdicts import NOW, check, verdict_of

CHAIN = (
    ChainLink(subject="leaf", issuer="middle", detail="until 2027"),
    ChainLink(subject="middle", issuer="root"),
    ChainLink(subject="root", issuer="root"),
)
TURN = Turn(
    at=NOW + 5,
    passes=False,
    causes=("TCB info ends",),
    failing=("quote/fresh",),
    mended=(),
    reasons=("it is old",),
    early=False,
)
QUIET = Forecast(valid_until=NOW + 4, turns=(TURN,))


class Outline(HTMLParser):
    """Tags that are open and must be closed, and everything that could load or run."""

    VOID = frozenset({"meta", "br", "line", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    assert found.open == []
    return found


def hostile_page(address: str) -> str:
    """A page in which every text that evidence can choose tries to get out."""
    evil = f"\"'><script>document.title='owned'</script><img src='{address}/x' onerror='document.title=1'>"
    return render_page(
        verdict_of(
            check("fresh", passed=False, text=evil),
            windows=(Window(name=evil, start=0, end=NOW),),
            chain=(ChainLink(subject=evil, issuer="root", detail=evil),),
            policy_name=evil,
        ),
        Forecast(
            valid_until=None,
            turns=(
                Turn(at=1, passes=True, causes=(evil,), failing=(), mended=(), reasons=(evil,), early=True),
            ),
        ),
    )


def test_a_page_has_nothing_that_loads_or_runs() -> None:
    for page in (
        render_page(verdict_of(check("fresh"), chain=CHAIN), QUIET),
        hostile_page("http://a.invalid"),
    ):
        found = outline(page)
        assert not found.tags & {"script", "img", "iframe", "link", "object", "embed", "a", "form", "base"}
        assert not {name for name in found.attributes if name.startswith("on") or name in {"src", "href"}}


def test_a_page_without_a_chain_says_so() -> None:
    assert "No chain was verified" in render_page(verdict_of(check("fresh")), QUIET)


def test_development_trust_is_said() -> None:
    assert "Development only" in render_page(verdict_of(check("fresh"), development=True), QUIET)
    assert "Development only" not in render_page(verdict_of(check("fresh")), QUIET)


def test_a_chain_that_goes_in_a_circle_is_drawn() -> None:
    circle = (ChainLink(subject="a", issuer="b"), ChainLink(subject="b", issuer="a"))
    outline(render_page(verdict_of(check("fresh"), chain=circle), QUIET))


def test_far_dates_are_shown_as_numbers() -> None:
    far = Window(name="root", start=0, end=1 << 60)
    assert str(1 << 60) in render_page(verdict_of(check("fresh"), windows=(far,)), QUIET)


class Requests:
    """Whatever is asked of a local server."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        paths = self.paths

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                paths.append(str(self.client_address))

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def requests() -> Iterator[Requests]:
    made = Requests()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.mark.apt
class TestInTheBrowser:
    def run(self, folder: Path, page: str, *words: str) -> str:
        browser = shutil.which("chromium-headless-shell") or shutil.which("chromium")
        if browser is None:
            pytest.skip("no chromium: apt-get install chromium-headless-shell (a package of Debian)")
        (folder / "page.html").write_text(page)
        done = subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={folder / 'profile'}",
                *words,
                (folder / "page.html").as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            cwd=folder,
        )
        return done.stdout

    def test_it_shows_result_checks_chain_and_forecast(self, tmp_path: Path) -> None:
        page = render_page(verdict_of(check("fresh"), check("mrtd", text="11" * 48), chain=CHAIN), QUIET)
        dom = self.run(tmp_path, page, "--dump-dom")
        for text in ("<strong>Passed</strong>", "mrtd", "dcap-qvl", "TCB info ends", "sgx 3", "22" * 16):
            assert text in dom
        assert len(re.findall(r"<rect ", dom)) == 3
        assert len(re.findall(r"<line ", dom)) == 2

    def test_it_is_drawn(self, tmp_path: Path) -> None:
        page = render_page(verdict_of(check("fresh"), chain=CHAIN), QUIET)
        picture = tmp_path / "page.png"
        self.run(tmp_path, page, f"--screenshot={picture}", "--window-size=1000,1400")
        data = picture.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 20_000

    def test_names_that_an_attacker_chose_run_and_load_nothing(
        self, tmp_path: Path, requests: Requests
    ) -> None:
        dom = self.run(tmp_path, hostile_page(requests.address), "--dump-dom")
        assert "<title>keyturn: evidence refused</title>" in dom
        assert "&lt;script&gt;" in dom
        assert requests.paths == []

    def test_the_page_forbids_what_would_be_loaded_all_the_same(
        self, tmp_path: Path, requests: Requests
    ) -> None:
        page = render_page(verdict_of(check("fresh")), QUIET)
        inserted = f"<img src='{requests.address}/x'><script>document.title='owned'</script></body>"
        dom = self.run(tmp_path, page.replace("</body>", inserted), "--dump-dom")
        assert "<title>keyturn: evidence passed</title>" in dom
        assert requests.paths == []
        loose = page.replace("Content-Security-Policy", "X-Nothing").replace("</body>", inserted)
        assert "<title>owned</title>" in self.run(tmp_path, loose, "--dump-dom")
        assert requests.paths != []
