"""The service's description (OpenAPI 3.1): calls, parameters and statuses; bodies are in docs/formats.md."""

from __future__ import annotations

from typing import Any

from measurements.version import VERSION

_CALLS: tuple[tuple[str, str, str, tuple[str, ...], tuple[int, ...]], ...] = (
    ("post", "/v1/challenge", "A challenge for one guest", (), (200, 400, 413, 429, 503)),
    ("post", "/v1/keys", "Keys for evidence, or a signed refusal", (), (200, 400, 403, 413, 429, 503)),
    ("post", "/v1/instances/confirm", "The guest has formatted its disk", (), (200, 400, 403, 413, 429)),
    (
        "get",
        "/v1/public-key",
        "Identity of the KMS, or the public half of an app key",
        ("app_id", "path", "kind", "epoch"),
        (200, 400, 429),
    ),
    ("get", "/v1/identity", "Evidence of the KMS's own guest", ("nonce",), (200, 400, 404, 429)),
    ("get", "/v1/receipts/{receipt_hash}", "A receipt and its inclusion proof", (), (200, 400, 404, 429)),
    ("get", "/v1/anchors", "Batches of receipts for the chain", ("after",), (200, 400, 429)),
    ("get", "/healthz", "The process runs", (), (200,)),
    ("get", "/readyz", "The chain can be read", (), (200, 503)),
    ("get", "/openapi.json", "This document", (), (200,)),
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "reason", "advice"],
            "properties": {name: {"type": "string"} for name in ("code", "reason", "advice")},
        },
        "receipt": {"type": "object"},
    },
}


def openapi_document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, Any] = {}
    for method, path, summary, parameters, statuses in _CALLS:
        paths.setdefault(path, {})[method] = {
            "summary": summary,
            "parameters": [*map(_query_parameter, parameters), *_path_parameters(path)],
            **({"requestBody": _json({"type": "object"})} if method == "post" else {}),
            "responses": {str(status): _response(status) for status in statuses},
        }
    return {"openapi": "3.1.0", "info": {"title": "keyturn KMS", "version": VERSION}, "paths": paths}


def _response(status: int) -> dict[str, Any]:
    schema = {"type": "object"} if status == 200 else _ERROR
    return {"description": "done" if status == 200 else "not done", **_json(schema)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _query_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": "string"}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    if "{receipt_hash}" not in path:
        return []
    return [{"name": "receipt_hash", "in": "path", "required": True, "schema": {"type": "string"}}]
