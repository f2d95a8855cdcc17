"""The calls of the agent's socket, from request to answer (docs/formats.md, "Socket").

Bodies are JSON objects with exactly the documented keys. What the app can reach here is its own keys,
signatures with them, and quotes that bind its data for the purpose ``app``: never those of a key release.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from attestation.report_data import PURPOSE_APP, quote_report_data
from guest_agent.http_message import Head, encode_answer
from guest_agent.keys import HeldKey, NoKeyError, Signature
from measurements.app_manifest import KeyKind
from measurements.canonical import Json, encode_canonical, parse_json
from measurements.errors import FormatError, KeyturnError
from measurements.strict_fields import Fields

MAX_REPORT_DATA = 64
MAX_SIGNED = 1 << 19
MAX_INPUT_TEXT = 128
_REPORT_DATA = re.compile(r"(?:[0-9a-f]{2}){1,64}")


class CallError(FormatError):
    """A call whose body is not as documented."""

    code = "call"


class NoSuchCallError(FormatError):
    """A call that does not exist."""

    code = "no-call"


class NoReleaseError(KeyturnError):
    """No KMS released the keys of this boot."""

    code = "no-release"


class ReleaseProof(NamedTuple):
    """How the keys of this boot were released: the receipt's envelope, and the evidence that the KMS saw."""

    receipt: Json
    evidence: Json


class Services(Protocol):
    """What the calls are made of."""

    def info(self) -> Json:
        """The answer of ``/v1/info``."""

    def key(self, path: str, kind: KeyKind) -> HeldKey:
        """A key of the app. Raises ``NoKeyError``."""

    def sign(self, path: str, data: bytes) -> Signature:
        """A signature with a key of the app. Raises ``NoKeyError``."""

    def evidence(self, report_data: bytes) -> Json:
        """Evidence over 64 bytes."""

    def receipt(self) -> Json:
        """The envelope of this boot's receipt; ``None`` without a KMS."""

    def release(self) -> ReleaseProof | None:
        """Receipt and evidence of the release; ``None`` without a KMS."""


class Answer(NamedTuple):
    """Status and the JSON object to send."""

    status: int
    document: Json

    def encode(self) -> bytes:
        """The bytes to send."""
        return encode_answer(self.status, encode_canonical(self.document))


def answer(services: Services, head: Head, body: bytes) -> Answer:
    """Carry out one call. Never raises ``KeyturnError`` or ``OSError``: a failure is an answer, too."""
    try:
        call = _CALLS.get((head.method, head.path))
        if call is None:
            raise NoSuchCallError(
                "there is no such call", subject=head.path, advice="see docs/formats.md, Socket"
            )
        return Answer(200, call(services, body))
    except (NoKeyError, NoReleaseError, NoSuchCallError) as error:
        return error_answer(404, error)
    except FormatError as error:
        return error_answer(400, error)
    except KeyturnError as error:
        return error_answer(500, error)
    except OSError:
        # Its text could name files of the guest.
        failure = KeyturnError("the machine failed", subject="call", advice="see the machine's console")
        return error_answer(500, failure)


def error_answer(status: int, error: KeyturnError) -> Answer:
    """The documented form of an error."""
    shown = {"code": error.code, "reason": error.reason, "advice": error.advice}
    return Answer(status, {"error": shown})


def _info(services: Services, body: bytes) -> Json:
    if body:
        raise _error("a GET has no body")
    return services.info()


def _key(services: Services, body: bytes) -> Json:
    fields = _fields(body, ("path", "kind"))
    key = services.key(_text(fields, "path"), fields.choice("kind", KeyKind))
    return {
        "secret": _b64(key.secret),
        "public": None if key.public is None else _b64(key.public),
        "kind": key.kind.value,
        "epoch": key.epoch,
    }


def _quote(services: Services, body: bytes) -> Json:
    data = bytes.fromhex(_fields(body, ("report_data",)).text("report_data", _REPORT_DATA))
    return services.evidence(quote_report_data(PURPOSE_APP, data))


def _sign(services: Services, body: bytes) -> Json:
    fields = _fields(body, ("path", "data"))
    signature = services.sign(_text(fields, "path"), _base64(fields, "data"))
    return {
        "signature": _b64(signature.signature),
        "public": _b64(signature.public),
        "kind": signature.kind.value,
        "receipt": services.receipt(),
    }


def _release(services: Services, body: bytes) -> Json:
    if body:
        raise _error("a GET has no body")
    proof = services.release()
    if proof is None:
        raise NoReleaseError(
            "no KMS released the keys", subject="release", advice="use an app whose key provider is a KMS"
        )
    return {"receipt": proof.receipt, "evidence": proof.evidence}


_CALLS: dict[tuple[str, str], Callable[[Services, bytes], Json]] = {
    ("GET", "/v1/info"): _info,
    ("GET", "/v1/release"): _release,
    ("POST", "/v1/key"): _key,
    ("POST", "/v1/quote"): _quote,
    ("POST", "/v1/sign"): _sign,
}


def _fields(body: bytes, keys: tuple[str, ...]) -> Fields:
    return Fields(parse_json(body, subject="call"), keys, path="", refuse=_error)


def _text(fields: Fields, key: str) -> str:
    text = fields.text(key)
    if len(text) > MAX_INPUT_TEXT:
        fields.fail(key, f"is longer than {MAX_INPUT_TEXT} characters")
    return text


def _base64(fields: Fields, key: str) -> bytes:
    text = fields.raw(key)
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        data = None
    if data is None or len(data) > MAX_SIGNED or _b64(data) != text:
        fields.fail(key, f"is not canonical base64 of up to {MAX_SIGNED} bytes")
    return data


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _error(reason: str) -> CallError:
    return CallError(reason, subject="call", advice="see docs/formats.md, Socket")
