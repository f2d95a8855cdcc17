"""Imports between the packages go one way (design 2)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

ALLOWED = {
    "measurements": set(),
    "contracts": {"measurements"},
    "attestation": {"measurements"},
    "image_builder": {"measurements"},
    "guest_agent": {"measurements", "attestation"},
    "kms": {"measurements", "attestation", "contracts"},
    "keyturn": {"measurements", "attestation", "image_builder", "guest_agent", "kms", "contracts"},
}
# The lock names the agent's files, so the builder reads their list; nothing else of the agent is reachable
# from it.
EXCEPTIONS = {("image_builder", "guest_agent.payload")}


def imported_modules(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative imports hide the direction"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def violations(package: str, source: Path) -> list[str]:
    found = []
    for module in imported_modules(source):
        target = module.split(".")[0]
        if target not in ALLOWED or target == package or target in ALLOWED[package]:
            continue
        if any(package == who and (module + ".").startswith(what + ".") for who, what in EXCEPTIONS):
            continue
        if any(package == who and what.startswith(module + ".") for who, what in EXCEPTIONS):
            continue
        found.append(f"{source.relative_to(source.parents[1])} imports {module}")
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_inward_only(package: str) -> None:
    sources = sorted((REPOSITORY / package).rglob("*.py"))
    assert [line for source in sources for line in violations(package, source)] == []


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    source = tmp_path / "measurements" / "wrong.py"
    source.parent.mkdir()
    source.write_text("from image_builder.tree import Node\n")
    assert violations("measurements", source)


def test_the_payload_exception_is_narrow(tmp_path: Path) -> None:
    source = tmp_path / "image_builder" / "wrong.py"
    source.parent.mkdir()
    source.write_text("from guest_agent.agent import main\n")
    assert violations("image_builder", source)


def test_every_package_is_known() -> None:
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages <= set(ALLOWED)
