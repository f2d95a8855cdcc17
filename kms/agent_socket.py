"""The guest agent's socket, as the KMS in its own guest uses it: its root key, and evidence of what it is.

HTTP over a Unix socket (docs/formats.md, "Socket"). The root is two raw keys of the KMS's app, which the
agent makes once and seals to the TPM: nothing else opens them.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
from pathlib import Path
from typing import Any

from attestation.report_data import kms_identity_data
from measurements.errors import KeyturnError
from measurements.json_text import json_text

SOCKET = Path("/run/keyturn.sock")
ROOT_KEY_PATHS = ("kms/root-1", "kms/root-2")
"""Keys of kind raw-256 in the KMS's app manifest; one after the other they are the root."""

CALL_SECONDS = 30
LARGEST_ANSWER = 8 << 20


class AgentError(KeyturnError):
    """The agent does not answer as it should."""

    code = "agent"


class AgentSocket:
    """Calls of the agent's socket at ``path``."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path

    def root(self) -> bytes:
        """The root key: 64 bytes."""
        return b"".join(self._raw_key(path) for path in ROOT_KEY_PATHS)

    def identity_evidence(self, *, nonce: bytes, kms_id: bytes) -> Any:
        """Evidence of this guest over ``H = SHA-512(kms_identity_data(nonce, KMS id))``, as its JSON."""
        data = hashlib.sha512(kms_identity_data(nonce, kms_id)).hexdigest()
        return self._call("/v1/quote", {"report_data": data})

    def _raw_key(self, path: str) -> bytes:
        answer = self._call("/v1/key", {"path": path, "kind": "raw-256"})
        try:
            secret = base64.b64decode(answer["secret"], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise _error(f"its answer for key {path} is none") from error
        if len(secret) != 32:
            raise _error(f"key {path} has {len(secret)} bytes, not 32")
        return secret

    def _call(self, path: str, document: dict[str, str]) -> Any:
        connection = _UnixConnection(self._path)
        try:
            body = json.dumps(document)
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read(LARGEST_ANSWER + 1)
            if answer.status != 200 or len(data) > LARGEST_ANSWER:
                raise _error(f"{path} was answered with status {answer.status}")
            return json.loads(json_text(data))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _error(f"{path} failed: {type(error).__name__}") from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _error(reason: str) -> AgentError:
    return AgentError(
        reason, subject="guest agent", advice="check that the KMS's app lists its keys and has the socket"
    )
