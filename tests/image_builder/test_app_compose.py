"""The Compose subset: what it becomes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_builder.app_recipe import AppRecipe, DependencyEntry, MountEntry, read_app_recipe
from image_builder.recipe_errors import RecipeError

IMAGE = "registry.example/web:1@sha256:" + "ab" * 32
SERVICE = f"services:\n  web:\n    image: {IMAGE}\n"
WHOLE = f"""
services:
  web:
    image: {IMAGE}
    entrypoint: ["/bin/web"]
    command: serve --port "80 80"
    working_dir: /srv
    environment: {{A: "1", PORT: 8080, PRICE: "$$5"}}
    user: "1000:1000"
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    read_only: true
    tmpfs: ["/tmp:size=16m,mode=1777"]
    volumes: ["data:/data:ro", {{type: volume, source: data, target: /more}}]
    ports: [8080, "53:53/udp"]
    depends_on: {{db: {{condition: service_healthy}}}}
    restart: on-failure:3
    healthcheck: {{test: [CMD, /bin/check], interval: 1m, retries: 2}}
    mem_limit: 128m
    pids_limit: 32
    cpus: "0.5"
    ulimits: {{nofile: 256}}
    x-keyturn: {{socket: true, allowed-env: [GREETING]}}
  db:
    image: {IMAGE}
    environment: [A=b=c]
    healthcheck: {{test: [CMD, /bin/check]}}
volumes:
  data:
"""


def recipe(tmp_path: Path, compose: str) -> AppRecipe:
    (tmp_path / "compose.yaml").write_text(compose)
    path = tmp_path / "app.toml"
    path.write_text('[app]\nname = "hello"\nversion = "1"\ncompose = "compose.yaml"\n')
    return read_app_recipe(path)


def test_what_a_service_becomes(tmp_path: Path) -> None:
    found = recipe(tmp_path, WHOLE)
    web, db = found.containers
    assert found.app.volumes == ("data",)
    assert web.entrypoint == ("/bin/web",)
    assert web.command == ("serve", "--port", "80 80")
    assert web.env == {"A": "1", "PORT": "8080", "PRICE": "$5"}
    assert web.capabilities == ("CAP_NET_BIND_SERVICE",)
    assert web.mounts == (
        MountEntry(volume="data", path="/data", read_only=True),
        MountEntry(volume="data", path="/more", read_only=False),
    )
    assert web.ports == ((8080, "tcp"), (53, "udp"))
    assert (web.tmpfs[0].size, web.tmpfs[0].mode) == (16 << 20, 0o1777)
    assert web.depends_on == (DependencyEntry(container="db", condition="healthy"),)
    assert (web.restart.policy, web.restart.max_retries) == ("on-failure", 3)
    assert web.health is not None
    assert (web.health.command, web.health.interval_seconds) == (("/bin/check",), 60)
    limits = web.limits
    assert (limits.memory, limits.pids, limits.cpu_percent, limits.open_files) == (128 << 20, 32, 50, 256)
    assert web.socket
    assert web.allowed_env == ("GREETING",)
    assert db.env == {"A": "b=c"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("privileged: true", "undo every other protection"),
        ("build: .", "built beforehand"),
        ("network_mode: host", "networks are set"),
        ("pid: host", "no namespace"),
        ("ipc: host", "no namespace"),
        ("userns_mode: host", "no namespace"),
        ("env_file: .env", "measured file"),
        ("colour: red", "known keys here"),
        ("volumes: ['/var/run/docker.sock:/var/run/docker.sock']", "container engine"),
        ("volumes: ['./data:/data']", "nothing of the host"),
        ("volumes: ['~/data:/data']", "nothing of the host"),
        ("volumes: ['data']", "path"),
        ("volumes: [{type: bind, source: /etc, target: /etc}]", "only named volumes"),
        ("ports: ['80:8080']", "same inside and outside"),
        ("environment: {A: '${HOME}'}", "environment"),
        ("environment: [HOME]", "NAME=value"),
        ("environment: {A: true}", "quotes"),
        ("cap_add: [ALL]", "not a capability"),
        ("cap_drop: [CHOWN]", "dropped anyway"),
        ("restart: unless-stopped", "is not"),
        ("restart: no", "is not"),
        ("healthcheck: {test: [CMD-SHELL, true]}", "shell"),
        ("tmpfs: /tmp", "no size"),
        ("mem_limit: lots", "size"),
        ("cpus: many", "CPUs"),
        (f"image: {IMAGE}", "twice"),
        ("user: &a x\n    working_dir: *a", "alias"),
        ("<<: {user: root}", "merges"),
    ],
)
def test_attack_a_service_that_asks_for_too_much(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        recipe(tmp_path, f"{SERVICE}    {line}\nvolumes:\n  data:\n")


@pytest.mark.parametrize("image", ["registry.example/web:1", "web", "5"])
def test_attack_tag_without_digest(tmp_path: Path, image: str) -> None:
    with pytest.raises(RecipeError, match="no digest"):
        recipe(tmp_path, SERVICE.replace(IMAGE, image))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "a: [",
        "services: {}\n---\nservices: {}",
        SERVICE + "networks: {}",
        SERVICE + "volumes:\n  data: {external: true}",
        "a: &a [x]\nb: &b [*a, *a]\nservices: [*b, *b]",
        "!!python/object/apply:os.system ['true']",
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        recipe(tmp_path, text)


def test_containers_stand_in_one_place(tmp_path: Path) -> None:
    recipe(tmp_path, SERVICE)
    path = tmp_path / "app.toml"
    path.write_text(path.read_text() + '[[container]]\nname = "web"\nimage = "oci:image"\n')
    with pytest.raises(RecipeError, match="stand in the recipe"):
        read_app_recipe(path)
