"""``reproduce`` and ``diff`` with the default image, built from the archive's packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from image_builder.image import Image
from tests.support.images import build_image, copy_image, keyturn

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The default image."""
    return build_image(tmp_path_factory.mktemp("default"))


def test_default_image_is_reproduced(image: Image, tmp_path: Path) -> None:
    done = keyturn("reproduce", "--json", "--work", tmp_path, image.folder, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["identical"] is True


def test_altered_program_is_named_with_its_package(image: Image, tmp_path: Path) -> None:
    altered = copy_image(image, tmp_path)
    root = altered / "root.erofs"
    data = bytearray(root.read_bytes())
    text = b"BusyBox v"
    at = data.index(text)
    data[at] ^= 1
    root.write_bytes(data)
    done = keyturn("reproduce", "--json", "--work", tmp_path, altered, folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    document = json.loads(done.stdout)
    texts = [cause["text"] for cause in document["causes"]]
    assert {cause["kind"] for cause in document["causes"]} == {"altered-after-build"}
    assert f"{altered}/root.erofs is not the file that its manifest names: changed after the build" in texts
    named = [text for text in texts if "/usr/bin/busybox (package busybox " in text]
    assert [text.split(" does not hold")[0] for text in named] == [str(altered)]
    (difference,) = document["differences"]
    (group,) = difference["parts"]
    (program,) = group["parts"]
    (span,) = program["parts"]
    assert program["subject"] == "/usr/bin/busybox"
    assert f"{at:#x}-{at + 1:#x} of root.erofs" in span["subject"]


def test_package_and_kernel_changes_explain_everything(image: Image, tmp_path: Path) -> None:
    kernel = 'package = "linux-image-cloud-amd64"\nsuite = '
    changes = {
        '    "dmsetup",': '    "dmsetup",\n    "nano",',
        f'{kernel}"trixie-backports"': f'{kernel}"trixie"',
    }
    other = build_image(tmp_path / "other", changes=changes)
    done = keyturn("diff", "--json", image.folder, other.folder, folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    causes = json.loads(done.stdout)["causes"]
    assert {cause["kind"] for cause in causes} == {"package"}
    texts = [cause["text"] for cause in causes]
    assert any(text.startswith("package nano added: ") for text in texts)
    assert any(text.startswith("package linux-image-cloud-amd64 (kernel) downgraded: ") for text in texts)
