"""Images of a registry: Debian's docker-registry on the loopback interface, and a hostile one."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from image_builder.app_build import build_app, lock_app
from image_builder.app_lock import fetch_image, lock_image, parse_lock
from image_builder.app_normalise import Pins
from image_builder.app_recipe import read_app_recipe
from image_builder.oci_auth import auth_file, read_credentials
from image_builder.oci_image import MAX_DOCUMENT, OciError
from image_builder.oci_layout import OciLayout
from image_builder.oci_push import push_image
from image_builder.oci_reference import RegistryReference
from image_builder.oci_registry import RegistryClient, RegistrySource
from image_builder.store import Store
from measurements.app_manifest import parse_manifest
from tests.support.oci_images import (
    CONFIG_TYPE,
    MANIFEST_TYPE,
    digest_of,
    make_image,
    member,
    tar_bytes,
    write_layout,
)
from tests.support.tools import require_tool

LAYER = tar_bytes([member("bin/web", b"program" * 1000, mode=0o755)])


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Host and port of a fresh registry."""
    program = require_tool("docker-registry", package="docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": host},
    }
    path = tmp_path / "registry.yml"
    path.write_text(json.dumps(config))
    process = subprocess.Popen([program, "serve", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://{host}/v2/", process)
        yield host
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the registry ended"
        try:
            if requests.get(url, timeout=5).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(0.1)
    pytest.fail("the registry does not answer")


def reference(host: str, *, tag: str = "1", digest: str = "") -> RegistryReference:
    return RegistryReference(host=host, repository="team/web", tag=tag, digest=digest)


def client(host: str, credentials: tuple[str, str] | None = None) -> RegistryClient:
    return RegistryClient(host, "team/web", credentials=credentials)


def test_push_lock_and_fetch(registry: str, tmp_path: Path) -> None:
    image = make_image([LAYER, tar_bytes([member("a")])])
    layout = OciLayout(write_layout(image, tmp_path / "image"))
    digest = push_image(layout, layout.find("1"), client=client(registry), tag="1")
    assert digest == image.manifest["digest"]
    assert push_image(layout, layout.find("1"), client=client(registry), tag="again") == digest
    store = Store(tmp_path / "store")
    source = RegistrySource(reference(registry))
    locked = lock_image(f"{registry}/team/web:1", source.find(), source=source, store=store)
    assert locked.digest == digest
    assert fetch_image(locked, source=None, store=store).config.entrypoint == ("/bin/web",)
    pinned = RegistrySource(reference(registry, tag="", digest=digest))
    assert pinned.find().digest == digest
    with pytest.raises(OciError, match="404"):
        RegistrySource(reference(registry, tag="absent")).find()


def test_an_app_whose_image_comes_from_a_registry(registry: str, tmp_path: Path) -> None:
    layout = OciLayout(write_layout(make_image([LAYER], compression="zstd"), tmp_path / "image"))
    digest = push_image(layout, layout.find("1"), client=client(registry), tag="1")
    path = tmp_path / "app.toml"
    path.write_text(
        '[app]\nname = "hello"\nversion = "1"\n[[container]]\nname = "web"\n'
        f'image = "{registry}/team/web:1"\n'
    )
    recipe, store = read_app_recipe(path), Store(tmp_path / "store")
    lock = parse_lock(lock_app(recipe, folder=tmp_path, store=store))
    pins = Pins(app_id="0x" + "11" * 20, chain_id=1, contract="0x" + "22" * 20, kms_root="33" * 32)
    for cache in (store, Store(tmp_path / "another-store")):
        built = build_app(
            recipe, lock, pins=pins, folder=tmp_path, store=cache, output=tmp_path / cache.root.name / "app"
        )
        assert parse_manifest(built.manifest).containers[0].image.digest == digest


def test_attack_push_of_a_layout_with_wrong_blobs(registry: str, tmp_path: Path) -> None:
    image = make_image([LAYER])
    layout = OciLayout(write_layout(image, tmp_path / "image"))
    layer = json.loads(image.blobs[image.manifest["digest"]])["layers"][0]["digest"]
    (tmp_path / "image" / "blobs" / "sha256" / layer.removeprefix("sha256:")).write_bytes(b"evil")
    with pytest.raises(OciError, match="answers 400"):
        push_image(layout, layout.find("1"), client=client(registry), tag="1")


Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def hostile(answer: Callable[[str, dict[str, str]], Answer]) -> Iterator[str]:
    """A server that answers every GET by what ``answer`` says to path and headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.path, dict(self.headers.items()))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_attack_registry_sends_another_manifest_than_the_digest_asked_for() -> None:
    wanted = "sha256:" + "ab" * 32
    with (
        hostile(
            lambda *_: (200, {"Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": wanted}, b"{}")
        ) as host,
        pytest.raises(OciError, match="instead of"),
    ):
        RegistrySource(reference(host, digest=wanted)).find()


@pytest.mark.parametrize("body", [b"short", b"x" * 20, b"wrong blob"])
def test_attack_registry_sends_a_wrong_blob(tmp_path: Path, body: bytes) -> None:
    image = make_image([LAYER])
    documents = {digest: data for digest, data in image.blobs.items() if data[:1] == b"{"}
    manifest = json.loads(image.blobs[image.manifest["digest"]])
    manifest["layers"][0]["size"] = 10
    data = json.dumps(manifest).encode()

    def answer(path: str, headers: dict[str, str]) -> Answer:
        if "manifests" in path:
            return 200, {"Content-Type": MANIFEST_TYPE}, data
        return 200, {}, documents.get(path.rpartition("/")[2], body)

    store = Store(tmp_path / "store")
    with hostile(answer) as host:
        source = RegistrySource(reference(host))
        with pytest.raises(OciError, match="blob"):
            lock_image(f"{host}/team/web:1", source.find(), source=source, store=store)
    assert not store.has(manifest["layers"][0]["digest"].removeprefix("sha256:"))


def test_attack_endless_manifest() -> None:
    with (
        hostile(lambda *_: (200, {"Content-Type": MANIFEST_TYPE}, b" " * (MAX_DOCUMENT + 1))) as host,
        pytest.raises(OciError, match="more than"),
    ):
        RegistrySource(reference(host)).find()


def test_token_authentication(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    basic = "Basic " + base64.b64encode(b"user:secret").decode()

    def answer(path: str, headers: dict[str, str]) -> Answer:
        asked.append((path, headers.get("Authorization", "")))
        if path.startswith("/token"):
            granted = headers.get("Authorization") == basic
            return (200, {}, b'{"token": "abc"}') if granted else (403, {}, b"")
        if headers.get("Authorization") == "Bearer abc":
            return 200, {"Content-Type": MANIFEST_TYPE}, b"{}"
        realm = f"http://{headers['Host']}/token"
        challenge = f'Bearer realm="{realm}",service="reg",scope="repository:team/web:pull"'
        return 401, {"WWW-Authenticate": challenge}, b""

    with hostile(answer) as host:
        allowed = RegistrySource(reference(host), client=client(host, ("user", "secret")))
        assert allowed.find().digest == digest_of(b"{}")
        assert asked[1] == ("/token?service=reg&scope=repository%3Ateam%2Fweb%3Apull", basic)
        with pytest.raises(OciError, match="token service"):
            RegistrySource(reference(host), client=client(host, ("user", "wrong"))).find()


def test_another_scope_takes_another_token() -> None:
    def answer(path: str, headers: dict[str, str]) -> Answer:
        if path.startswith("/token"):
            return 200, {}, json.dumps({"token": path.rpartition("=")[2]}).encode()
        wanted = path.rpartition("/")[2]
        if headers.get("Authorization") == f"Bearer {wanted}":
            return 200, {}, wanted.encode()
        challenge = f'Bearer realm="http://{headers["Host"]}/token",scope="{wanted}"'
        return 401, {"WWW-Authenticate": challenge}, b""

    with hostile(answer) as host:
        repository = client(host)
        for path in ("pull", "push", "push"):
            with repository.send("GET", f"blobs/{path}") as response:
                assert (response.status_code, response.content) == (200, path.encode())


def test_basic_authentication_and_no_credentials() -> None:
    basic = "Basic " + base64.b64encode(b"user:secret").decode()

    def answer(path: str, headers: dict[str, str]) -> Answer:
        if headers.get("Authorization") == basic:
            return 200, {"Content-Type": CONFIG_TYPE}, b"{}"
        return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""

    with hostile(answer) as host:
        assert RegistrySource(reference(host), client=client(host, ("user", "secret"))).find().size == 2
        with pytest.raises(OciError, match="does not have"):
            RegistrySource(reference(host), client=client(host)).find()
        with pytest.raises(OciError, match="401"):
            RegistrySource(reference(host), client=client(host, ("user", "wrong"))).find()


@pytest.mark.parametrize("realm", ["http://registry.example/token", "ftp://127.0.0.1/", "file:///etc/passwd"])
def test_attack_credentials_lured_to_an_open_connection(realm: str) -> None:
    challenge = f'Bearer realm="{realm}",service="s"'
    with (
        hostile(lambda *_: (401, {"WWW-Authenticate": challenge}, b"")) as host,
        pytest.raises(OciError, match="open connection"),
    ):
        RegistrySource(reference(host), client=client(host, ("user", "secret"))).find()


def test_attack_upload_location_on_another_host() -> None:
    with pytest.raises(OciError, match="another host"):
        client("127.0.0.1:1").send("PUT", "https://evil.example/upload")


def test_auth_file(tmp_path: Path) -> None:
    docker = tmp_path / ".docker" / "config.json"
    docker.parent.mkdir()

    def entry(text: str) -> dict[str, str]:
        return {"auth": base64.b64encode(text.encode()).decode()}

    auths = {"r.example": entry("a:b"), "r.example/team": entry("c:d:e"), "bad.example": {"auth": "%"}}
    docker.write_text(json.dumps({"auths": auths}))
    assert auth_file({"HOME": str(tmp_path)}) == docker
    assert auth_file({"HOME": str(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "absent")}) == docker
    assert auth_file({}) is None
    assert read_credentials("r.example", "other/web", path=docker) == ("a", "b")
    assert read_credentials("r.example", "team/web", path=docker) == ("c", "d:e")
    assert read_credentials("r.example", "teams/web", path=docker) == ("a", "b")
    assert read_credentials("other.example", "web", path=docker) is None
    with pytest.raises(OciError, match="damaged"):
        read_credentials("bad.example", "web", path=docker)
