"""The KMS over HTTP (docs/formats.md, "KMS, version 1"): sizes and times are bounded, errors are JSON.

Statuses: 400 for what is no request, 403 for a refusal, 404, 413 for a body above its cap, 429 when too many
requests are under way, 500, and 503 where the chain cannot be read or time runs out. Logs are one JSON object
per request on the ``keyturn.kms`` logger: call, status, code, duration and the hash of the receipt, never
bodies or queries.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kms import answers, messages
from kms.chain_reader import read_head
from kms.openapi import openapi_document
from kms.refusal import RefusalError
from kms.release import JournalledRefusalError, Kms
from kms.rpc import NodeError
from kms.strict_json import Fields
from measurements.errors import FormatError, KeyturnError, RefusedError

BODY_SECONDS = 20
CALL_SECONDS = 60
MOST_AT_ONCE = 32
LOG = logging.getLogger("keyturn.kms")


class IdentityProof(Protocol):
    """Who gives evidence of the KMS's own guest."""

    def identity_evidence(self, *, nonce: bytes, kms_id: bytes) -> Any:
        """Evidence over nonce and KMS id."""


class ServiceError(KeyturnError):
    """A request that is not served, with its status."""

    def __init__(self, status: int, code: str, reason: str, advice: str) -> None:
        super().__init__(reason, subject="request", advice=advice)
        self.status = status
        self.code = code  # type: ignore[misc]  # stable for this one error, not for the class


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A status and its document; ``receipt`` names the receipt that it holds, for the log."""

    status: int
    document: dict[str, Any]
    receipt: str | None = None


Call = Callable[[Request], Awaitable[Answer]]


def create_app(kms: Kms, proof: IdentityProof | None = None) -> Starlette:
    """The service. Without ``proof`` (on the host) it has no evidence of itself."""
    service = _Service(kms, proof)
    calls: list[tuple[str, str, Call]] = [
        ("POST", "/v1/challenge", service.challenge),
        ("POST", "/v1/keys", service.keys),
        ("POST", "/v1/instances/confirm", service.confirm),
        ("GET", "/v1/public-key", service.public_key),
        ("GET", "/v1/identity", service.identity),
        ("GET", "/v1/receipts/{receipt_hash}", service.receipt),
        ("GET", "/v1/anchors", service.anchors),
        ("GET", "/healthz", service.health),
        ("GET", "/readyz", service.ready),
        ("GET", "/openapi.json", service.openapi),
    ]
    return Starlette(
        routes=[Route(path, service.endpoint(path, call), methods=[method]) for method, path, call in calls],
        exception_handlers={404: _no_call, 405: _no_call},
    )


class _Service:
    """The calls; each gives an ``Answer`` or raises."""

    def __init__(self, kms: Kms, proof: IdentityProof | None) -> None:
        self._kms, self._proof = kms, proof
        self._under_way = 0

    def endpoint(self, path: str, call: Call) -> Callable[[Request], Awaitable[Response]]:
        """``call`` with its limits, errors and log line."""

        async def serve(request: Request) -> Response:
            started = time.monotonic()
            answer = await self._bounded(request, call)
            _log(path, answer, time.monotonic() - started)
            return JSONResponse(answer.document, status_code=answer.status)

        return serve

    async def challenge(self, request: Request) -> Answer:
        body = await _body(request, messages.LARGEST_CHALLENGE_REQUEST)
        wanted = messages.parse_challenge_request(body)
        try:
            challenge = await run_in_threadpool(self._kms.challenge, wanted)
        except RefusalError as error:
            # Nothing about the guest is wrong: this KMS's view of the chain is.
            raise ServiceError(503, error.code, error.reason, error.advice) from error
        return Answer(status=200, document=challenge.as_json())

    async def keys(self, request: Request) -> Answer:
        body = await _body(request, messages.LARGEST_KEY_REQUEST)
        wanted = await run_in_threadpool(messages.parse_keys_request, body)
        issued = await run_in_threadpool(self._kms.release, wanted)
        return Answer(status=200, document=answers.issued_json(issued), receipt=issued.recorded.hash.hex())

    async def confirm(self, request: Request) -> Answer:
        body = await _body(request, messages.LARGEST_CONFIRM_REQUEST)
        recorded = await run_in_threadpool(self._kms.confirm, messages.parse_confirm_request(body))
        document = {"receipt": recorded.envelope.as_json()}
        return Answer(status=200, document=document, receipt=recorded.hash.hex())

    async def public_key(self, request: Request) -> Answer:
        if not request.query_params:
            return Answer(status=200, document=answers.identity_json(self._kms.root.identity))
        return Answer(status=200, document=answers.public_half(self._kms.root, _query(request)))

    async def identity(self, request: Request) -> Answer:
        if self._proof is None:
            raise ServiceError(404, "no-evidence", "this KMS runs on a host", "use a KMS in its own guest")
        fields = Fields(_query(request), subject="query")
        nonce, kms_id = fields.hexadecimal("nonce", size=32), self._kms.root.identity.kms_id
        fields.done()
        if not any(nonce):
            raise ServiceError(400, "malformed", "the nonce is zero", "choose a random nonce of 32 bytes")
        evidence = await run_in_threadpool(self._proof.identity_evidence, nonce=nonce, kms_id=kms_id)
        return Answer(
            status=200, document={"evidence": evidence, "nonce": nonce.hex(), "kms_id": kms_id.hex()}
        )

    async def receipt(self, request: Request) -> Answer:
        wanted = request.path_params["receipt_hash"]
        document = await run_in_threadpool(answers.receipt_json, self._kms.journal, wanted)
        return Answer(status=200, document=document)

    async def anchors(self, request: Request) -> Answer:
        after = _query(request).get("after", "0")
        document = await run_in_threadpool(answers.anchors_json, self._kms.journal, after)
        return Answer(status=200, document=document)

    async def health(self, _request: Request) -> Answer:
        document = {"status": "ok", "development": self._kms.root.development}
        return Answer(status=200, document=document)

    async def ready(self, _request: Request) -> Answer:
        try:
            head = await run_in_threadpool(self._read_head)
        except RefusalError as error:
            raise ServiceError(503, error.code, error.reason, error.advice) from error
        return Answer(status=200, document={"status": "ready", "block": head})

    async def openapi(self, _request: Request) -> Answer:
        return Answer(status=200, document=openapi_document())

    def _read_head(self) -> int:
        kms = self._kms
        return read_head(kms.node, pins=kms.pins, journal=kms.journal, now=kms.clock()).number

    async def _bounded(self, request: Request, call: Call) -> Answer:
        if self._under_way >= MOST_AT_ONCE:
            error = ServiceError(429, "busy", "too many requests are under way", "ask again in a moment")
            return Answer(status=error.status, document=answers.error_json(error))
        self._under_way += 1
        try:
            return await asyncio.wait_for(call(request), CALL_SECONDS)
        except JournalledRefusalError as error:
            document = {**answers.error_json(error), "receipt": error.recorded.envelope.as_json()}
            return Answer(status=403, document=document, receipt=error.recorded.hash.hex())
        except KeyturnError as error:
            return Answer(status=_status(error), document=answers.error_json(error))
        except TimeoutError:
            late = ServiceError(503, "timeout", "the request took too long", "ask again in a moment")
            return Answer(status=late.status, document=answers.error_json(late))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller learns nothing of it
            LOG.error(json.dumps({"event": "failure", "kind": type(error).__name__}))
            failure = ServiceError(500, "internal", "the KMS failed", "look at the KMS's log")
            return Answer(status=failure.status, document=answers.error_json(failure))
        finally:
            self._under_way -= 1


async def _no_call(_request: Request, _error: Exception) -> Response:
    error = ServiceError(404, "no-call", "there is no such call", "GET /openapi.json lists the calls")
    return JSONResponse(answers.error_json(error), status_code=error.status)


def _status(error: KeyturnError) -> int:
    if isinstance(error, ServiceError):
        return error.status
    kinds: tuple[tuple[type[KeyturnError], int], ...] = (
        (answers.NotFoundError, 404),
        (NodeError, 503),
        (RefusalError, 403),
        (FormatError, 400),
        (RefusedError, 400),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), 500)


async def _body(request: Request, largest: int) -> bytes:
    """The body, of at most ``largest`` bytes and within ``BODY_SECONDS``."""
    try:
        return await asyncio.wait_for(_read(request, largest), BODY_SECONDS)
    except TimeoutError as error:
        raise ServiceError(400, "slow-body", "the body took too long", "send it at once") from error


async def _read(request: Request, largest: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > largest:
            raise ServiceError(
                413, "too-large", f"the body is larger than {largest} bytes", "send less evidence"
            )
    return bytes(body)


def _query(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    query = dict(pairs)
    if len(query) != len(pairs):
        raise ServiceError(400, "malformed", "a parameter occurs twice", "name each parameter once")
    return query


def _log(path: str, answer: Answer, seconds: float) -> None:
    error = answer.document.get("error")
    entry = {
        "event": "request",
        "call": path,
        "status": answer.status,
        "code": error.get("code") if isinstance(error, dict) else None,
        "receipt": answer.receipt,
        "ms": round(seconds * 1000),
    }
    LOG.info(json.dumps(entry))
