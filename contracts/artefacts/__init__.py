"""The compiled contracts, as ``contracts.compile`` writes them: ABI, creation code, runtime code hash."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from measurements.errors import FormatError

FOLDER = Path(__file__).resolve().parent


class ContractName(StrEnum):
    """Contracts that have artefacts."""

    REGISTRY = "KeyturnRegistry"
    APP = "KeyturnApp"
    TIMELOCK = "TimelockController"


class ArtefactError(FormatError):
    """An artefact that lacks what it must have."""

    code = "artefact"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """One compiled contract; ``runtime_code_hash`` (32 bytes, Keccak-256) is what ``eth_getProof`` shows."""

    name: ContractName
    abi: list[dict[str, Any]]
    bytecode: bytes
    runtime_code_hash: bytes


@cache
def artefact(name: ContractName) -> Artefact:
    """The committed artefact of ``name``; raises ``ArtefactError``."""
    document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    code_hash = document.get("runtime_code_hash")
    if document.get("name") != name or not code_hash:
        raise ArtefactError(
            "has another name or no constant code hash",
            subject=f"artefact {name}",
            advice="run python -m contracts.compile",
        )
    return Artefact(
        name=name,
        abi=document["abi"],
        bytecode=bytes.fromhex(document["bytecode"]),
        runtime_code_hash=bytes.fromhex(code_hash),
    )
