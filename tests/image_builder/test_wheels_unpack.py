"""Wheels: hashes hold, nothing lands outside of the module folder."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from image_builder.tree import read_content
from image_builder.wheels_unpack import FOLDER, WheelError, wheel_nodes


def wheel(tmp_path: Path, files: dict[str, bytes], *, record: str | None = None, attributes: int = 0) -> Path:
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in files.items()
    ]
    path = tmp_path / "demo-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes
            archive.writestr(info, data)
        archive.writestr("demo-1.dist-info/RECORD", "\n".join(lines) if record is None else record)
    return path


def test_files_go_into_the_module_folder(tmp_path: Path) -> None:
    tree = wheel_nodes(wheel(tmp_path, {"demo/__init__.py": b"x = 1\n"}), name="demo 1")
    node = tree[f"{FOLDER}/demo/__init__.py"]
    assert node.content is not None
    assert (read_content(node.content), node.mode, node.origin) == (b"x = 1\n", 0o644, "demo 1")
    assert {"usr", FOLDER, f"{FOLDER}/demo"} <= set(tree)


@pytest.mark.parametrize(
    "name", ["../evil.py", "/etc/evil", "demo/../../evil", "a\\b", "demo-1.data/scripts/x"]
)
def test_refuses_other_places(tmp_path: Path, name: str) -> None:
    with pytest.raises(WheelError, match="module folder"):
        wheel_nodes(wheel(tmp_path, {name: b""}), name="demo 1")


def test_refuses_links(tmp_path: Path) -> None:
    path = wheel(tmp_path, {"demo.py": b"/etc/passwd"}, attributes=0o120777 << 16)
    with pytest.raises(WheelError, match="symbolic link"):
        wheel_nodes(path, name="demo 1")


@pytest.mark.parametrize("record", ["", "demo.py,sha256=AAAA,1", "demo.py,,"])
def test_refuses_files_that_are_not_what_record_says(tmp_path: Path, record: str) -> None:
    with pytest.raises(WheelError, match=r"demo\.py is not what RECORD says"):
        wheel_nodes(wheel(tmp_path, {"demo.py": b"x"}, record=record), name="demo 1")


def test_refuses_what_is_no_wheel(tmp_path: Path) -> None:
    path = tmp_path / "x.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(WheelError, match="not a wheel"):
        wheel_nodes(path, name="demo 1")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.py", "")
    with pytest.raises(WheelError, match="no RECORD"):
        wheel_nodes(path, name="demo 1")
