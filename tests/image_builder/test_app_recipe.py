"""App recipes: what they may say, and why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_builder.app_recipe import AppRecipe, read_app_recipe
from image_builder.oci_reference import LayoutReference, RegistryReference, parse_reference
from image_builder.recipe_errors import RecipeError

DIGEST = "sha256:" + "ab" * 32
APP = '[app]\nname = "hello"\nversion = "1"\nvolumes = ["data"]\n'
CONTAINER = '[[container]]\nname = "web"\nimage = "oci:image"\n'


def recipe(tmp_path: Path, text: str) -> AppRecipe:
    path = tmp_path / "app.toml"
    path.write_text(text)
    return read_app_recipe(path)


def test_defaults(tmp_path: Path) -> None:
    found = recipe(tmp_path, APP + CONTAINER)
    (container,) = found.containers
    assert container.read_only
    assert container.capabilities == ()
    assert container.limits.memory == 256 << 20
    assert found.images == ("oci:image",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("privileged = true", "undo every other protection"),
        ('build = "."', "built beforehand"),
        ('network-mode = "host"', "networks are set"),
        ('network_mode = "host"', "networks are set"),
        ('pid = "host"', "no namespace"),
        ('ipc = "host"', "no namespace"),
        ('devices = ["/dev/mem"]', "no devices"),
        ('security_opt = ["seccomp=unconfined"]', "confinement"),
        ('capabilities = ["ALL"]', "not a capability"),
        ('capabilities = ["sys_admin"]', "capability"),
        ('allowed-env = ["LD_PRELOAD"]', "chooses the code"),
        ('user = "a b"', "user"),
        ("ports = [0]", "port"),
        ('ports = ["80:80"]', "port"),
        ('mounts = [{ volume = "/var/run/docker.sock", path = "/x" }]', "container engine"),
        ('mounts = [{ volume = "/etc", path = "/x" }]', "nothing of the host"),
        ('mounts = [{ volume = "data", path = "/proc/x" }]', "own file systems"),
        ('mounts = [{ volume = "data", path = "/var/run/docker.sock" }]', "socket"),
        ('mounts = [{ volume = "other", path = "/x" }]', r"not in app\.volumes"),
        ('tmpfs = [{ path = "../x", size = "1MiB" }]', "path"),
    ],
)
def test_attack_a_container_that_asks_for_too_much(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        recipe(tmp_path, APP + CONTAINER + line + "\n")


def test_attack_privileged(tmp_path: Path) -> None:
    for line in ("privileged = true", "privileged = false", 'capabilities = ["CAP_SYS_ADMIN"]'):
        with pytest.raises(RecipeError, match=r"privileged|may have"):
            recipe(tmp_path, APP + CONTAINER + line + "\n")


@pytest.mark.parametrize("engine", ["/var/run/docker.sock", "/run/containerd/containerd.sock", "docker.sock"])
def test_attack_docker_socket(tmp_path: Path, engine: str) -> None:
    line = f'mounts = [{{ volume = "{engine}", path = "/x" }}]\n'
    with pytest.raises(RecipeError, match="container engine"):
        recipe(tmp_path, APP + CONTAINER + line)


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, APP + CONTAINER + "readonly = true\n")
    assert "read-only" in caught.value.advice


@pytest.mark.parametrize(
    "image",
    [
        "nginx",
        "nginx:1",
        "registry.example/nginx",
        "registry.example/nginx:latest",
        "registry.example/nginx@sha256:00",
        "registry.example/NGINX:1",
        "registry.example/a//b:1",
        "registry.example/../b:1",
        "https://registry.example/a:1",
        "oci:/etc",
        "oci:../x",
        "",
    ],
)
def test_attack_tag_without_digest_and_other_loose_names(tmp_path: Path, image: str) -> None:
    with pytest.raises(RecipeError, match="image"):
        recipe(tmp_path, APP + CONTAINER.replace("oci:image", image))


def test_references() -> None:
    assert parse_reference("oci:a/b:1") == LayoutReference(folder="a/b", tag="1")
    assert parse_reference(f"localhost:5000/a/b:1@{DIGEST}") == RegistryReference(
        host="localhost:5000", repository="a/b", tag="1", digest=DIGEST
    )
    assert parse_reference(f"r.example/a:latest@{DIGEST}") == RegistryReference(
        host="r.example", repository="a", tag="latest", digest=DIGEST
    )


def test_no_container_and_containers_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no container"):
        recipe(tmp_path, APP)
    with pytest.raises(RecipeError, match="twice"):
        recipe(tmp_path, APP + CONTAINER + CONTAINER)


@pytest.mark.parametrize("data", [b"\xff", b"[app", b""])
def test_files_that_are_no_recipe(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "app.toml"
    path.write_bytes(data)
    with pytest.raises(RecipeError):
        read_app_recipe(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_app_recipe(tmp_path / "absent")


def test_the_agents_keys_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="belongs to the agent"):
        recipe(tmp_path, APP + CONTAINER + '[[key]]\npath = "keyturn/storage"\nkind = "raw-256"\n')
