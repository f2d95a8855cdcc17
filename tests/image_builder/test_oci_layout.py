"""OCI image layouts: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from image_builder.app_lock import StoredImage, fetch_image, lock_image
from image_builder.oci_image import OciError, parse_image_config, parse_image_manifest, select_platform
from image_builder.oci_layout import OciLayout
from image_builder.store import Store
from measurements.errors import KeyturnError
from tests.support.oci_images import CONFIG_TYPE, HandMadeImage, make_image, member, tar_bytes, write_layout

LAYER = tar_bytes([member("bin/web", b"program", mode=0o755)])


def stored(tmp_path: Path, image: HandMadeImage, tag: str = "1") -> StoredImage:
    layout = OciLayout(write_layout(image, tmp_path / "image"))
    store = Store(tmp_path / "store")
    locked = lock_image("oci:image", layout.find(tag), source=layout, store=store)
    return fetch_image(locked, source=None, store=store)


def test_the_platforms_manifest_is_locked_not_the_index(tmp_path: Path) -> None:
    image = make_image([LAYER])
    found = stored(tmp_path, image)
    assert found.locked.digest == image.manifest["digest"]
    assert found.config.entrypoint == ("/bin/web",)
    assert found.config.env == {"MODE": "image"}
    assert len(found.manifest.layers) == 1


def test_without_a_tag_the_only_image_is_meant(tmp_path: Path) -> None:
    assert stored(tmp_path, make_image([LAYER]), tag="").locked.digest


def test_an_unknown_tag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OciError, match="tagged"):
        stored(tmp_path, make_image([LAYER]), tag="2")


@pytest.mark.parametrize("which", ["config", "layers"])
@pytest.mark.parametrize("damage", ["flip", "short", "long"])
def test_attack_wrong_digest(tmp_path: Path, which: str, damage: str) -> None:
    image = make_image([LAYER])
    document = json.loads(image.blobs[image.manifest["digest"]])
    digest = document["config"]["digest"] if which == "config" else document["layers"][0]["digest"]
    good = image.blobs[digest]
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    image.blobs[digest] = {"flip": flipped, "short": good[:-1], "long": good + b"x"}[damage]
    with pytest.raises(OciError, match="blob"):
        stored(tmp_path, image)


def test_attack_manifest_altered_behind_the_index(tmp_path: Path) -> None:
    image = make_image([LAYER])
    digest = image.manifest["digest"]
    image.blobs[digest] = image.blobs[digest].replace(b"gzip", b"gzap")
    with pytest.raises(OciError, match="SHA-256"):
        stored(tmp_path, image)


def test_attack_blob_altered_in_the_store(tmp_path: Path) -> None:
    found = stored(tmp_path, make_image([LAYER]))
    store = Store(tmp_path / "store")
    store.path(found.manifest.layers[0].sha256).write_bytes(b"evil")
    with pytest.raises(KeyturnError, match="altered"):
        fetch_image(found.locked, source=None, store=store)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "arm64"},
        {"os": "windows"},
        {"rootfs": {"diff_ids": []}},
        {"rootfs": {"diff_ids": ["md5:00"]}},
        {"rootfs": None},
        {"config": {"Env": ["A"]}},
        {"config": {"Cmd": "sh"}},
        {"config": {"User": 5}},
        {"config": []},
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    if changes == {"config": []}:
        changes = {"config": [1]}
    with pytest.raises(OciError):
        stored(tmp_path, make_image([LAYER], **changes))


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": 1},
        {"layers": []},
        {"layers": None},
        {"config": {"mediaType": CONFIG_TYPE, "digest": "sha256:" + "AB" * 32, "size": 1}},
        {"config": {"mediaType": CONFIG_TYPE, "digest": "sha256:../../etc/passwd", "size": 1}},
        {"config": {"mediaType": CONFIG_TYPE, "digest": "sha256:" + "ab" * 32, "size": True}},
        {"config": {"mediaType": CONFIG_TYPE, "digest": "sha256:" + "ab" * 32, "size": 1, "urls": ["x"]}},
    ],
)
def test_manifests_that_are_refused(change: dict[str, Any]) -> None:
    image = make_image([LAYER])
    document = json.loads(image.blobs[image.manifest["digest"]]) | change
    with pytest.raises(OciError):
        parse_image_manifest(json.dumps(document).encode(), subject="manifest")


def test_foreign_layers_are_refused() -> None:
    image = make_image([LAYER])
    document = json.loads(image.blobs[image.manifest["digest"]])
    document["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    with pytest.raises(OciError, match="unknown type"):
        parse_image_manifest(json.dumps(document).encode(), subject="manifest")


@pytest.mark.parametrize("count", [0, 2])
def test_an_index_with_no_or_two_manifests_for_us_is_refused(count: int) -> None:
    entry = make_image([LAYER]).manifest | {"platform": {"os": "linux", "architecture": "amd64"}}
    with pytest.raises(OciError, match=f"{count} manifests"):
        select_platform(json.dumps({"manifests": [entry] * count}).encode(), subject="index")


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"a":1,"a":2}', b"[" * 100000, b" " * (5 << 20)])
def test_documents_that_are_no_objects_are_refused(data: bytes) -> None:
    with pytest.raises(OciError):
        parse_image_config(data, layers=1, subject="config")


def test_a_folder_that_is_no_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OciError, match="no file oci-layout"):
        OciLayout(tmp_path)
    write_layout(make_image([LAYER]), tmp_path / "image")
    (tmp_path / "image" / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(OciError, match=r"version 1\.0\.0"):
        OciLayout(tmp_path / "image")
