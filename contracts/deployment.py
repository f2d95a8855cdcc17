"""The deployment file: where a registry is, for every command that follows.

JSON, all keys required and no others; addresses lower case::

    {"type": "keyturn-deployment/1", "chain_id": int, "registry": "0x…", "timelock": "0x…", "guardian": "0x…",
     "block": int (of the registry's creation)}

It holds no secret and is no evidence: code hashes and policy are checked on the chain.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from measurements.errors import FormatError
from measurements.json_text import json_text

TYPE = "keyturn-deployment/1"
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_ZERO_ADDRESS = "0x" + "00" * 20


class DeploymentFileError(FormatError):
    """A deployment file that is not one."""

    code = "deployment-file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A registry and the timelock that governs it; addresses are lower case."""

    chain_id: int
    registry: str
    timelock: str
    guardian: str
    block: int

    def as_json(self) -> dict[str, int | str]:
        """The document."""
        return {
            "type": TYPE,
            "chain_id": self.chain_id,
            "registry": self.registry,
            "timelock": self.timelock,
            "guardian": self.guardian,
            "block": self.block,
        }

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")


def read_deployment(path: Path) -> Deployment:
    """Read the file; raises ``DeploymentFileError``."""
    try:
        document = json.loads(json_text(path.read_bytes()))
    except ValueError as error:
        raise _error(path, "is not JSON") from error
    keys = {"type", "chain_id", "registry", "timelock", "guardian", "block"}
    if not isinstance(document, dict) or set(document) != keys or document["type"] != TYPE:
        raise _error(path, f"is not a {TYPE} document with exactly {', '.join(sorted(keys))}")
    for key in ("registry", "timelock", "guardian"):
        address = document[key]
        if not isinstance(address, str) or not _ADDRESS.fullmatch(address) or address == _ZERO_ADDRESS:
            raise _error(path, f"{key} is no address in lower case")
    for key in ("chain_id", "block"):
        if type(document[key]) is not int or document[key] < 1:
            raise _error(path, f"{key} is not a positive integer")
    return Deployment(**{key: value for key, value in document.items() if key != "type"})


def _error(path: Path, reason: str) -> DeploymentFileError:
    return DeploymentFileError(
        reason, subject=str(path), advice="write it with keyturn chain deploy registry"
    )
