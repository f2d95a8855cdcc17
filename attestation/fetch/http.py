"""One answer from a server over HTTP: limited in time and size, with retries, without redirects.

``timeout`` bounds everything for one file: connecting, headers, body, retries and the pauses between them. A
server that sends a byte now and then is cut off, too. Retried are lost connections and answers 429, 500, 502,
503 and 504, after 0.5, 1, 2… seconds (after 429, too many requests, 5, 10, 20…) of which a random part is
left out; ``Retry-After`` (RFC 9110, section 10.2.3) comes first where a server sends it.

Redirects are errors: where collateral comes from is the user's choice. Authorities of the environment
(``REQUESTS_CA_BUNDLE``) are used, and so are its proxies (``HTTPS_PROXY``), but not to this machine; names
and passwords out of ``.netrc`` never are.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests

from attestation.fetch.errors import OFFLINE, FetchError
from attestation.fetch.sources import is_loopback

TIMEOUT = 60.0
CONNECT_SECONDS = 10.0
READ_SECONDS = 20.0
ATTEMPTS = 4
FIRST_PAUSE = 0.5
FIRST_PAUSE_WHEN_BUSY = 5.0
"""After 429: AMD's service counts requests over longer times than seconds."""
LONGEST_PAUSE = 30.0
OK, NOT_MODIFIED = 200, 304
_BUSY = 429
_RETRIED = {_BUSY, 500, 502, 503, 504}
_ABSENT = {404, 410}
_CHUNK = 1 << 14
_SENT = {"Accept-Encoding": "identity", "User-Agent": "keyturn"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer with status 200 or 304; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """Why an attempt failed. ``retry`` says whether another one may help, ``after`` when the server wants
    it.
    """

    reason: str
    retry: bool = False
    after: float | None = None
    status: int | None = None
    advice: str = f"check the network, {OFFLINE}"


@dataclass(frozen=True, kw_only=True)
class HttpClient:
    """Asks servers. The last four fields are there for tests."""

    timeout: float = TIMEOUT
    attempts: int = ATTEMPTS
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    chance: Callable[[], float] = field(default=random.random)

    def get(
        self, url: str, *, limit: int, headers: Mapping[str, str] | None = None, question: bytes | None = None
    ) -> Answer:
        """The answer to ``GET``, or to ``POST`` of ``question``, with a body of at most ``limit`` bytes;
        raises ``FetchError``.
        """
        until = self.monotonic() + self.timeout
        for attempt in range(1, self.attempts + 1):
            outcome = self._attempt(url, dict(headers or {}), question, limit, until)
            if isinstance(outcome, Answer):
                return outcome
            pause = self._pause(attempt, outcome)
            left = until - self.monotonic()
            if not outcome.retry or attempt == self.attempts or pause >= left:
                raise _error(url, outcome, attempt, pause if outcome.after is not None else None)
            self.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pause(self, attempt: int, failure: _Failure) -> float:
        """Seconds until the next attempt."""
        if failure.after is not None:
            return failure.after
        first = FIRST_PAUSE_WHEN_BUSY if failure.status == _BUSY else FIRST_PAUSE
        longest = min(first * 2.0 ** (attempt - 1), LONGEST_PAUSE)
        return longest * (1 - self.chance() / 2)

    def _attempt(
        self, url: str, headers: dict[str, str], question: bytes | None, limit: int, until: float
    ) -> Answer | _Failure:
        """One request in a thread of its own: neither names that do not resolve nor headers that drip have
        a timeout that bounds them. Left alone, the thread ends with its connection.
        """
        found: list[Answer | _Failure] = []
        done = threading.Event()

        def work() -> None:
            try:
                found.append(self._ask(url, headers, question, limit, until))
            finally:
                done.set()

        threading.Thread(target=work, name="collateral", daemon=True).start()
        done.wait(max(0.0, until - self.monotonic()))
        return found[0] if found else _too_slow(self.timeout)

    def _ask(
        self, url: str, headers: dict[str, str], question: bytes | None, limit: int, until: float
    ) -> Answer | _Failure:
        left = max(0.001, until - self.monotonic())
        try:
            with requests.Session() as session:
                session.trust_env = not is_loopback(urlsplit(url).hostname or "")
                session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
                with session.request(
                    "GET" if question is None else "POST",
                    url,
                    data=question,
                    headers={**_SENT, **headers},
                    auth=_without_netrc,
                    timeout=(min(CONNECT_SECONDS, left), min(READ_SECONDS, left)),
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    return self._read(response, limit, until)
        except requests.exceptions.SSLError as error:
            return _Failure(
                reason=f"its certificate is not accepted: {_plain(error)}",
                advice=f"if an authority of your own issued it, name that in REQUESTS_CA_BUNDLE, {OFFLINE}",
            )
        except requests.Timeout:
            return _Failure(reason="does not answer in time", retry=True)
        except (requests.RequestException, OSError) as error:
            return _Failure(reason=f"cannot be reached or broke off: {_plain(error)}", retry=True)

    def _read(self, response: requests.Response, limit: int, until: float) -> Answer | _Failure:
        if response.status_code not in (OK, NOT_MODIFIED):
            return self._refusal(response)
        too_large = _Failure(reason=f"sends more than {limit} bytes", advice="check the address")
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
            return too_large
        body = bytearray()
        for chunk in response.iter_content(_CHUNK):
            body += chunk
            if len(body) > limit:
                return too_large
            if self.monotonic() >= until:
                return _too_slow(self.timeout)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(status=response.status_code, headers=headers, body=bytes(body))

    def _refusal(self, response: requests.Response) -> _Failure:
        status = response.status_code
        if response.is_redirect or 300 <= status < 400:
            to = response.headers.get("Location", "nowhere")[:200]
            return _Failure(
                reason=f"answers {status} and sends on to {to}, which is not followed",
                status=status,
                advice="name the right address yourself, with --pccs, --kds or --rim",
            )
        reason = f"answers {status} {response.reason or ''}".rstrip()
        if status in _RETRIED:
            return _Failure(reason=reason, retry=True, after=self._retry_after(response), status=status)
        advice = (
            "the service has nothing for this platform: check that the evidence is of real hardware and the "
            "source is the right one"
            if status in _ABSENT
            else "check the address and whether the service wants you to register"
        )
        return _Failure(reason=reason, status=status, advice=advice)

    def _retry_after(self, response: requests.Response) -> float | None:
        """Seconds that the server asks to wait, if it does."""
        text = response.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit() and len(text) <= 9:
            return float(text)
        with suppress(ValueError, TypeError, OverflowError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - self.wall())
        return None


def _without_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stands in for credentials, so that none are looked for."""
    return request


def _too_slow(seconds: float) -> _Failure:
    return _Failure(
        reason=f"has not answered completely within {seconds:g} s",
        advice=f"give it more time with --timeout, {OFFLINE}",
    )


def _plain(error: Exception) -> str:
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", cause))[:300]


def _error(url: str, failure: _Failure, attempt: int, asked: float | None) -> FetchError:
    reason = failure.reason
    if failure.retry and attempt > 1:
        reason += f" (asked {attempt} times)"
    advice = failure.advice
    if asked is not None:
        reason += f", and asks to wait {asked:.0f} s"
        advice = f"try again after that, or allow more time with --timeout, {OFFLINE}"
    return FetchError(reason, subject=url, advice=advice, status=failure.status)
