"""Committed artefacts are what the sources compile to, and the layout is the compiler's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from contracts import artefacts, layout
from contracts.artefacts import ArtefactError, ContractName, artefact
from contracts.compile import ARTEFACTS, MODULES, REPOSITORY, compile_contracts, find_node
from measurements.errors import MissingToolError
from tests.support.tools import unavailable

ENTRY = [("notBefore", 0, 0, 8), ("notAfter", 0, 8, 8), ("revoked", 0, 16, 1), ("exists", 0, 17, 1)]


def require_npm_package(name: str) -> str:
    """Path of node; the test skips without node or the package."""
    try:
        node = find_node()
    except MissingToolError as error:
        unavailable(f"{error}: {error.advice}")
    if not (MODULES / name).exists():
        unavailable(f"npm package {name} is not installed (npm ci)")
    return node


def document(name: ContractName) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ARTEFACTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def variables(items: list[dict[str, Any]]) -> dict[str, tuple[int, int, int]]:
    return {item["name"]: (item["slot"], item["offset"], item["bytes"]) for item in items}


def members(name: ContractName, variable: str) -> list[tuple[str, int, int, int]]:
    (found,) = [item for item in document(name)["storage"] if item["name"] == variable]
    return [(item["name"], item["slot"], item["offset"], item["bytes"]) for item in found["members"]]


def test_artefacts_are_rebuilt_identically() -> None:
    require_npm_package("solc")
    for name, text in compile_contracts().items():
        assert (ARTEFACTS / f"{name}.json").read_text(encoding="utf-8") == text, name


def test_registry_layout_is_the_compilers() -> None:
    found = variables(document(ContractName.REGISTRY)["storage"])
    assert found == {
        "_roles": (0, 0, 32),
        "policyVersion": (layout.RegistrySlot.STATE, 0, 8),
        "paused": (layout.RegistrySlot.STATE, 8, 1),
        "images": (layout.RegistrySlot.IMAGES, 0, 32),
        "references": (layout.RegistrySlot.REFERENCES, 0, 32),
        "platformRoots": (layout.RegistrySlot.PLATFORM_ROOTS, 0, 32),
        "kmsNodes": (layout.RegistrySlot.KMS_NODES, 0, 32),
        "apps": (layout.RegistrySlot.APPS, 0, 32),
    }
    for variable in ("images", "platformRoots", "apps"):
        assert members(ContractName.REGISTRY, variable) == ENTRY
    assert members(ContractName.REGISTRY, "references") == [("entry", 0, 0, 32), ("imageId", 1, 0, 32)]
    assert members(ContractName.REGISTRY, "kmsNodes") == [
        ("entry", 0, 0, 32),
        ("signer", 1, 0, 20),
        ("lastSeq", 1, 20, 8),
        ("appHash", 2, 0, 32),
        ("evidenceHash", 3, 0, 32),
    ]


def test_app_layout_is_the_compilers() -> None:
    state = layout.AppSlot.STATE
    assert variables(document(ContractName.APP)["storage"]) == {
        "_roles": (0, 0, 32),
        "policyVersion": (state, 0, 8),
        "paused": (state, 8, 1),
        "epoch": (state, 9, 8),
        "expiry": (state, 17, 8),
        "upgradeMode": (state, 25, 1),
        "anyDevice": (state, 26, 1),
        "noticeSeconds": (state, 27, 4),
        "appHashes": (layout.AppSlot.APP_HASHES, 0, 32),
        "images": (layout.AppSlot.IMAGES, 0, 32),
        "devices": (layout.AppSlot.DEVICES, 0, 32),
        "tcbRule": (layout.AppSlot.TCB_RULE, 0, 32),
        "registry": (layout.AppSlot.REGISTRY, 0, 20),
    }
    for variable in ("appHashes", "images", "devices"):
        assert members(ContractName.APP, variable) == ENTRY


def test_every_contract_has_a_constant_code_hash() -> None:
    hashes = {artefact(name).runtime_code_hash for name in ContractName}
    assert len(hashes) == len(ContractName)
    assert all(len(value) == 32 for value in hashes)


def test_an_artefact_without_code_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**document(ContractName.APP), "runtime_code_hash": None}
    (tmp_path / "KeyturnApp.json").write_text(json.dumps(broken))
    monkeypatch.setattr(artefacts, "FOLDER", tmp_path)
    with pytest.raises(ArtefactError):
        artefact.__wrapped__(ContractName.APP)


def test_solhint() -> None:
    node = require_npm_package("solhint")
    program = str(MODULES / "solhint" / "solhint.js")
    done = subprocess.run(
        [node, program, "--max-warnings", "0", "--disc", "--noPoster", "contracts/src/*.sol"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_names_no_registry() -> None:
    text = (REPOSITORY / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in text
    assert '"integrity"' in text


def test_npm_packages_are_pinned() -> None:
    package = json.loads((REPOSITORY / "package.json").read_text(encoding="utf-8"))
    # What runs a chain is apart from what builds contracts: npm ci --omit=dev is enough for a demonstration.
    assert set(package["dependencies"]) == {"@foundry-rs/anvil"}
    assert set(package["devDependencies"]) == {"@openzeppelin/contracts", "solc", "solhint"}
    versions = [*package["dependencies"].values(), *package["devDependencies"].values()]
    assert all(version.replace(".", "").isdigit() for version in versions)
