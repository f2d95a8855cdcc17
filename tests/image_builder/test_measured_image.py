"""What of an image folder is measured: read from its files, and refused if they do not belong together."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from image_builder.cpio import cpio_bytes
from image_builder.manifest import manifest_bytes
from image_builder.measured_image import differing_initrd_files, initrd_modules, read_measured_image
from image_builder.tree import BytesContent, Kind, Node
from measurements.errors import FormatError, KeyturnError
from measurements.ima import KERNEL_OPTIONS
from tests.support.boot_model import ModelImage

MODULES = {"dm-mod.ko": b"first", "erofs.ko": b"second"}


def initrd(**changed: bytes) -> bytes:
    """An initrd of the image's form; ``changed`` replaces or adds files below ``etc/keyturn``."""
    constants = {"modules": "\n".join(MODULES).encode() + b"\n", "verity": b"table", **changed}
    files = {f"etc/keyturn/{name}": data for name, data in constants.items()}
    files |= {f"modules/{name}": data for name, data in MODULES.items()}
    folders = ["etc", "etc/keyturn", "modules"]
    tree = {path: Node(path=path, kind=Kind.DIRECTORY, mode=0o755) for path in folders}
    tree |= {
        path: Node(path=path, kind=Kind.FILE, mode=0o644, content=BytesContent(data))
        for path, data in files.items()
    }
    return cpio_bytes(tree)


def image_folder(folder: Path, archive: bytes, **changed: Any) -> Path:
    """An image folder with everything that is measured; ``changed`` are parts of the manifest."""
    folder.mkdir()
    inputs = ModelImage(initrd=archive).inputs()
    (folder / "uki.efi").write_bytes(inputs.uki)
    (folder / "disk.raw").write_bytes(inputs.partition_table + bytes(512))
    (folder / "initrd").write_bytes(archive)
    manifest: dict[str, Any] = {
        "schema": "keyturn-image/1",
        "name": "test",
        "version": "1",
        "architecture": "amd64",
        "dev": True,
        "lock_sha256": "",
        "recipe_sha256": "",
        "artefacts": {"uki.efi": {"sha256": hashlib.sha256(inputs.uki).hexdigest(), "size": len(inputs.uki)}},
        "verity": {},
        "uki": {},
        "kernel": {"release": "6.12.1", "config": {"CONFIG_CRYPTO_SHA256": "y", "CONFIG_IMA": "y"}},
        "disk": {},
        "cmdline": "console=ttyS0",
    }
    (folder / "manifest.json").write_bytes(manifest_bytes({**manifest, **changed}))
    return folder


@pytest.mark.apt
def test_the_measured_inputs_of_a_folder(tmp_path: Path) -> None:
    inputs = read_measured_image(image_folder(tmp_path / "image", initrd()))
    assert inputs.uki == (tmp_path / "image/uki.efi").read_bytes()
    assert len(inputs.partition_table) == 34 * 512
    assert (inputs.kernel_release, inputs.dev) == ("6.12.1", True)
    assert set(inputs.kernel_config) == set(KERNEL_OPTIONS)
    assert inputs.kernel_config["CONFIG_IMA"] == "y"
    assert inputs.kernel_config["CONFIG_TCG_CRB"] == "n"
    assert [(module.path, module.data) for module in inputs.load_modules()] == [
        ("/modules/dm-mod.ko", b"first"),
        ("/modules/erofs.ko", b"second"),
    ]


@pytest.mark.apt
def test_a_uki_that_the_manifest_does_not_name_is_refused(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "image", initrd())
    with (folder / "uki.efi").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(FormatError, match="names another uki"):
        read_measured_image(folder)


@pytest.mark.apt
def test_a_manifest_without_the_kernels_hash_options_is_refused(tmp_path: Path) -> None:
    kernel = {"release": "6.12.1", "config": {"CONFIG_IMA": "y"}}
    with pytest.raises(FormatError, match="CONFIG_CRYPTO_SHA256"):
        read_measured_image(image_folder(tmp_path / "image", initrd(), kernel=kernel))


@pytest.mark.parametrize("content", [None, b"", b"{}", json.dumps({"schema": "other"}).encode()])
def test_a_folder_that_is_no_image_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(KeyturnError) as caught:
        read_measured_image(tmp_path)
    assert caught.value.advice


def test_a_module_that_is_listed_but_absent_is_refused() -> None:
    with pytest.raises(FormatError, match="has no /modules/gone"):
        initrd_modules(initrd(modules=b"gone.ko\n"))


@pytest.mark.apt
def test_initrds_differ_by_their_files(tmp_path: Path) -> None:
    first = image_folder(tmp_path / "first", initrd())
    second = image_folder(tmp_path / "second", initrd(verity=b"other table", extra=b"new"))
    assert differing_initrd_files(first, first) == ()
    assert differing_initrd_files(first, second) == ("etc/keyturn/extra", "etc/keyturn/verity")
