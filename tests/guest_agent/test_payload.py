"""What ships in the guest is exactly what the agent imports, and that is the standard library otherwise."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from guest_agent.payload import FOLDER, PAYLOAD

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRY = "guest_agent/main.py"


def imports_of(source: str) -> set[str]:
    """Modules that a file imports, for a ``from`` import both the module and what could be a submodule."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((REPOSITORY / source).read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


def files_of(module: str) -> set[str]:
    """The project's files that importing ``module`` runs, packages included; empty for other modules."""
    parts = module.split(".")
    prefixes = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    candidates = [f"{prefix}{ending}" for prefix in prefixes for ending in (".py", "/__init__.py")]
    return {candidate for candidate in candidates if (REPOSITORY / candidate).is_file()}


def closure(entry: str) -> set[str]:
    found: set[str] = set()
    todo = {entry}
    while todo:
        source = todo.pop()
        found.add(source)
        todo |= {name for module in imports_of(source) for name in files_of(module)} - found
    return found


def test_the_payload_is_exactly_what_the_agent_imports() -> None:
    assert {source for source, _ in PAYLOAD} == closure(ENTRY)


def test_everything_else_is_standard_library_or_a_package_of_the_image() -> None:
    own, packages = {"attestation", "guest_agent", "measurements"}, {"cryptography", "tpm2_pytss"}
    tops = {name.partition(".")[0] for source, _ in PAYLOAD for name in imports_of(source)}
    assert tops - own - packages - sys.stdlib_module_names == set()


def test_a_machine_without_an_app_loads_none_of_it() -> None:
    program = "import guest_agent.agent, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "guest_agent.agent" in loaded
    assert not loaded & {"attestation", "cryptography", "tpm2_pytss", "guest_agent.app_machine", "threading"}


def test_paths_in_the_image() -> None:
    targets = [target for _, target in PAYLOAD]
    assert len(set(targets)) == len(targets)
    assert dict(PAYLOAD)[ENTRY] == f"{FOLDER}/__main__.py"
    assert all(target == f"{FOLDER}/{source}" for source, target in PAYLOAD if source != ENTRY)


def test_the_agent_never_imports_what_is_slow() -> None:
    """``dataclasses`` pulls in ``inspect``: more than everything else that the agent imports."""
    slow = {"dataclasses", "inspect", "asyncio", "subprocess", "argparse", "logging"}
    assert not {name for source, _ in PAYLOAD for name in imports_of(source)} & slow
