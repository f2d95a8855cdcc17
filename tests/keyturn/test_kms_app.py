"""The app project of the KMS: valid, complete, and pinned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from image_builder.app_normalise import BuiltImage, Pins, app_manifest
from image_builder.app_recipe import read_app_recipe
from image_builder.app_recipe_root import RECIPE_CONFIG, RECIPE_SOURCE
from image_builder.local_files import local_path
from image_builder.recipe import Recipe, read_recipe
from image_builder.tree import BytesContent, Kind, Node
from keyturn.kms_app import PACKAGES, KmsPins, write_kms_app
from measurements.app_manifest import ProviderMode, Volume, parse_manifest

REGISTRY = "0x" + "22" * 20
PINS = KmsPins(chain_id=31337, registry=REGISTRY, registry_code_hash="33" * 32, app_code_hash="44" * 32)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_kms_app(tmp_path / "kms", PINS)
    return tmp_path / "kms"


def recipe_of(project: Path) -> Recipe:
    return read_recipe(project / "root" / "keyturn.toml")


def test_the_kms_runs_from_what_is_shipped_and_nothing_else(project: Path) -> None:
    files = project / "root" / "files"
    program = (
        "import sys; from pathlib import Path; import kms.main; "
        "print(*sorted(str(Path(m.__file__).resolve()) for n, m in sys.modules.items() "
        "if n.partition('.')[0] in {'kms', 'attestation', 'measurements', 'contracts'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=files,
        env={"PYTHONPATH": str(files)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()
    assert all(Path(path).is_relative_to(files.resolve()) for path in done.stdout.split())


def test_what_the_kms_never_runs_is_not_shipped(project: Path) -> None:
    paths = {entry.path.removeprefix("/usr/lib/python3/dist-packages/") for entry in recipe_of(project).files}
    for left_out in ("attestation/sim", "attestation/fetch", "attestation/nvidia", "measurements/acpi"):
        assert not [path for path in paths if path.startswith(left_out)]


def test_the_root_holds_every_module(project: Path) -> None:
    recipe = recipe_of(project)
    paths = {entry.path.removeprefix("/usr/lib/python3/dist-packages/") for entry in recipe.files}
    assert {"kms/main.py", "measurements/errors.py", "attestation/__init__.py"} <= paths
    assert {path.partition("/")[0] for path in paths} == set(PACKAGES)
    assert all(local_path(project / "root", entry.source).is_file() for entry in recipe.files)


def imported(source: Path) -> set[str]:
    """Packages that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_every_import_of_the_kms_has_its_wheel(project: Path) -> None:
    wheels = {re.split("==", wheel)[0].replace("-", "_") for wheel in recipe_of(project).python.wheels}
    known = wheels | set(PACKAGES) | set(sys.stdlib_module_names)
    sources = sorted((project / "root" / "files" / "kms").glob("*.py"))
    assert sources
    assert {name for source in sources for name in imported(source)} <= known


def test_manifest(project: Path) -> None:
    recipe = read_app_recipe(project / "app.toml")
    passwd = BytesContent(b"kms:x:901:901::/:\n")
    image = BuiltImage(
        source=RECIPE_SOURCE,
        digest="sha256:" + "ab" * 32,
        config=RECIPE_CONFIG,
        tree={
            "": Node(path="", kind=Kind.DIRECTORY, mode=0o755),
            "etc": Node(path="etc", kind=Kind.DIRECTORY, mode=0o755),
            "etc/passwd": Node(path="etc/passwd", kind=Kind.FILE, mode=0o644, content=passwd),
        },
        volume=Volume(offset=0, data_blocks=1, hash_offset=4096, root_hash=b"\1" * 32, salt=b""),
    )
    manifest = parse_manifest(app_manifest(recipe, {"recipe:root": image}, Pins()))
    assert manifest.key_provider.mode is ProviderMode.TPM_SEAL
    assert manifest.app_id == manifest.key_provider.contract == bytes.fromhex("22" * 20)
    (container,) = manifest.containers
    assert container.env["KEYTURN_REGISTRY"] == REGISTRY
    assert container.env["KEYTURN_APP_CODE_HASH"] == "44" * 32
    assert container.user.uid == 901
    assert [key.path for key in manifest.keys] == ["kms/root-1", "kms/root-2"]


def test_attack_host_may_not_set_what_the_kms_obeys(project: Path) -> None:
    (container,) = read_app_recipe(project / "app.toml").containers
    assert set(container.allowed_env) == {
        "KEYTURN_RPC_URL",
        "KEYTURN_EK_CERTIFICATES",
        "KEYTURN_POLICIES",
    }
    assert not set(container.allowed_env) & set(container.env)


def test_an_existing_project_is_not_overwritten(project: Path) -> None:
    with pytest.raises(FileExistsError):
        write_kms_app(project, PINS)


def test_two_projects_are_the_same(project: Path, tmp_path: Path) -> None:
    write_kms_app(tmp_path / "again", PINS)
    files = sorted(path.relative_to(project) for path in project.rglob("*") if path.is_file())
    assert len(files) > 50
    assert all((project / path).read_bytes() == (tmp_path / "again" / path).read_bytes() for path in files)
