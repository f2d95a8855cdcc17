"""Talks HTTP to the KMSs of the configuration until one answers: several addresses, back-off, one deadline.

Nothing here is trusted: what comes back is bytes with a size cap, checked by ``key_client``. Redirects are
not followed. TLS, if an address asks for it, hides metadata only; the answers prove themselves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from guest_agent import key_client
from guest_agent.key_client import HpkeKey, RefusedByKmsError, Released, Request, printable
from guest_agent.kms_receipt import KmsIdentityError, Pin, Signer, check_public_keys, refuse
from measurements.canonical import Json, encode_canonical, parse_json
from measurements.errors import FormatError, KeyturnError, RefusedError

DEADLINE_SECONDS = 120.0
CALL_SECONDS = 20.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
MAX_ANSWER = 1 << 20

Result = TypeVar("Result")


class TransportError(KeyturnError):
    """A KMS that cannot be reached, or answers no JSON of this protocol."""

    code = "kms-unreachable"


class NoKmsError(RefusedError):
    """No KMS gave an answer that holds."""

    code = "no-kms"


class Answer(NamedTuple):
    """Status and body."""

    status: int
    body: bytes


class Kms(Protocol):
    """One KMS at one address."""

    def call(self, method: str, path: str, body: bytes | None) -> Answer:
        """One exchange. Raises ``TransportError``."""


class HttpKms:
    """The KMS at ``url`` (``http`` or ``https``, without query); no call goes on after ``deadline``, in the
    clock of ``time.monotonic``.
    """

    def __init__(self, url: str, *, deadline: float) -> None:
        self._url = url
        self._deadline = deadline

    def call(self, method: str, path: str, body: bytes | None) -> Answer:
        """One exchange on a connection of its own."""
        from http.client import HTTPException

        try:
            return self._call(method, path, body)
        except (OSError, HTTPException, ValueError) as error:
            raise _unreachable(self._url, str(error) or type(error).__name__) from error

    def _call(self, method: str, path: str, body: bytes | None) -> Answer:
        from http.client import HTTPConnection, HTTPSConnection
        from threading import Timer
        from urllib.parse import urlsplit

        address = urlsplit(self._url)
        left = min(CALL_SECONDS, self._deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("no time is left")
        kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=left)
        until = time.monotonic() + left
        connection.connect()
        # The timeout is per read, so a server that answers byte by byte needs a limit of its own.
        watchdog = Timer(left, _cut, (connection.sock,))
        watchdog.daemon = True
        watchdog.start()
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, address.path.rstrip("/") + path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read(MAX_ANSWER + 1)
        finally:
            watchdog.cancel()
            connection.close()
        if time.monotonic() >= until:
            raise TimeoutError("the answer took too long")
        if len(data) > MAX_ANSWER:
            raise ValueError(f"the answer is larger than {MAX_ANSWER} bytes")
        if answer.length:
            raise ValueError("the answer is cut off")
        return Answer(answer.status, data)


class _Socket(Protocol):
    def shutdown(self, how: int, /) -> None: ...


def _cut(sock: _Socket) -> None:
    """End both directions; whoever reads from it wakes up."""
    try:
        sock.shutdown(2)
    except OSError:
        return


def preload() -> None:
    """Load the HTTP library: half a second that passes in a thread while the TPM, another machine, works."""
    import http.client  # noqa: F401 - the import is the effect


class Hardware(Protocol):
    """What a release needs of the machine."""

    def activate(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        """The credential's secret."""

    def evidence(self, report_data: bytes) -> Json:
        """Evidence over ``report_data``, as its JSON object."""


def release_keys(kms: Kms, request: Request, hpke_key: HpkeKey, hardware: Hardware) -> Released:
    """One whole attempt with one KMS. Raises ``TransportError``, ``FormatError`` or ``RefusedError``."""
    signer = fetch_identity(kms, request.pin)
    client_nonce = os.urandom(key_client.NONCE_SIZE)
    asked = key_client.challenge_request(request, client_nonce)
    challenge = key_client.check_challenge(
        _expect_ok(_post(kms, "/v1/challenge", asked)), request, client_nonce
    )
    try:
        secret = hardware.activate(challenge.id_object, challenge.encrypted_secret)
    except RefusedError as error:
        refuse(f"its credential does not open: {error.reason}")
    key_client.check_activation(challenge, secret)
    evidence = hardware.evidence(key_client.report_data(request, challenge, client_nonce))
    release = key_client.expected_release(request, challenge, client_nonce, evidence)
    asked = key_client.key_request(request, challenge, client_nonce, secret=secret, evidence=evidence)
    answer = _post(kms, "/v1/keys", asked)
    if answer.status == 403:
        raise key_client.read_refusal(answer.body, release, signer)
    return key_client.open_response(_expect_ok(answer), release, signer, hpke_key)


def confirm_format(kms: Kms, released: Released) -> None:
    """Have the KMS confirm that the disk is formatted."""
    signer = fetch_identity(kms, released.release.pin)
    answer = _post(kms, "/v1/instances/confirm", key_client.confirm_request(released))
    key_client.check_confirmation(_expect_ok(answer), released, signer)


def fetch_identity(kms: Kms, pin: Pin) -> Signer:
    """Who signs for the KMS, if it is the pinned one."""
    return check_public_keys(_expect_ok(kms.call("GET", "/v1/public-key", None)), pin)


def try_each(
    urls: Sequence[str],
    attempt: Callable[[Kms], Result],
    *,
    deadline_seconds: float = DEADLINE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    connect: Callable[..., Kms] = HttpKms,
) -> Result:
    """The first result of ``attempt`` with one of ``urls``, in turns until the deadline.

    An address where another KMS answers is not asked again, a signed and final refusal ends it all. Raises
    ``NoKmsError``, ``RefusedByKmsError``, or what the machine itself refuses.
    """
    deadline, pause = clock() + deadline_seconds, FIRST_PAUSE_SECONDS
    reasons: dict[str, str] = {}
    left = list(dict.fromkeys(urls))
    while left:
        for url in tuple(left):
            try:
                return attempt(connect(url, deadline=deadline))
            except RefusedByKmsError as error:
                if error.final:
                    raise
                reasons[url] = error.reason
            except KmsIdentityError as error:
                reasons[url] = error.reason
                left.remove(url)
            except (TransportError, FormatError) as error:
                reasons[url] = error.reason
        if clock() + pause >= deadline:
            break
        if left:
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    raise _no_kms(reasons)


def _post(kms: Kms, path: str, document: Json) -> Answer:
    return kms.call("POST", path, encode_canonical(document))


def _expect_ok(answer: Answer) -> bytes:
    if answer.status != 200:
        raise _unreachable("KMS", f"answers with status {answer.status}{_error_text(answer.body)}")
    return answer.body


def _error_text(body: bytes) -> str:
    """Code and reason of an error, which nobody signed; empty when it is of another form."""
    try:
        document = parse_json(body)
    except FormatError:
        return ""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return ""
    return printable(f" ({error.get('code')}: {error.get('reason')})")


def _unreachable(url: str, reason: str) -> TransportError:
    return TransportError(printable(reason), subject=url, advice="check address and network of the KMS")


def _no_kms(reasons: dict[str, str]) -> NoKmsError:
    told = "; ".join(f"{url}: {reason}" for url, reason in reasons.items()) or "no address is configured"
    return NoKmsError(
        told,
        subject="no KMS released the keys",
        advice="check kms_urls, and the KMS pinned in the app manifest",
    )
