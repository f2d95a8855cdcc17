"""The manifest's canonical form, the image id, and image folders that are not what they say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from image_builder.image import Artefact, ImageError, load_image
from image_builder.manifest import SCHEMA, image_id, manifest_bytes, parse_manifest
from measurements.errors import FormatError

FIELDS: dict[str, Any] = {
    "schema": SCHEMA,
    "name": "demo",
    "version": "1",
    "architecture": "amd64",
    "dev": False,
    "lock_sha256": "00",
    "recipe_sha256": "11",
    "artefacts": {},
    "verity": {},
    "uki": {},
    "kernel": {},
    "disk": {},
    "cmdline": "console=ttyS0",
}


def image_folder(folder: Path) -> Path:
    for artefact in Artefact:
        (folder / artefact).write_bytes(artefact.value.encode())
    artefacts = {
        name.value: {"size": len(name.value), "sha256": hashlib.sha256(name.value.encode()).hexdigest()}
        for name in Artefact
    }
    (folder / "manifest.json").write_bytes(manifest_bytes({**FIELDS, "artefacts": artefacts}))
    return folder


def test_canonical_form_and_image_id() -> None:
    data = manifest_bytes(FIELDS)
    assert data == json.dumps(FIELDS, sort_keys=True, separators=(",", ":")).encode()
    assert parse_manifest(data) == FIELDS
    assert image_id(data) == hashlib.sha256(b"keyturn-image-id/1\0" + data).hexdigest()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"schema":"other/1"}', "schema is 'other/1'"),
        (json.dumps(FIELDS).encode(), "canonical"),
        (json.dumps({**FIELDS, "extra": 1}).encode(), "unknown: extra"),
        (json.dumps({k: v for k, v in FIELDS.items() if k != "uki"}).encode(), "missing or unknown: uki"),
    ],
)
def test_refuses_other_documents(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_manifest(data)


def test_loads_an_image(tmp_path: Path) -> None:
    image = load_image(image_folder(tmp_path))
    assert (image.name, image.command_line, image.size(Artefact.UKI)) == ("demo", "console=ttyS0", 7)
    assert image.path(Artefact.UKI).read_bytes() == b"uki.efi"


@pytest.mark.parametrize("artefact", list(Artefact))
def test_refuses_altered_and_missing_artefacts(tmp_path: Path, artefact: Artefact) -> None:
    path = image_folder(tmp_path) / artefact
    path.write_bytes(b"other")
    with pytest.raises(ImageError, match=rf"{artefact.value} was altered: expected SHA-256"):
        load_image(tmp_path)
    assert load_image(tmp_path, verify=False).name == "demo"
    path.unlink()
    with pytest.raises(ImageError, match=f"{artefact.value} is missing"):
        load_image(tmp_path)


def test_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path)
    (tmp_path / "manifest.json").write_bytes(manifest_bytes(FIELDS))
    with pytest.raises(ImageError, match="lists artefacts"):
        load_image(tmp_path)
