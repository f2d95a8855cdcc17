"""Wheels: the right file for the guest's interpreter, by the index's hash."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from image_builder.lockfile import LockedWheel
from image_builder.store import Store
from image_builder.wheel_index import DEFAULT_INDEX, IndexedWheel, WheelError, WheelIndex, index_url
from image_builder.wheels import GuestPython, choose_wheel, lock_wheels
from tests.support.archive import serve

GUEST = GuestPython.of_packages({"python3.13-minimal": "3.13.5-2", "libc6": "2.41-12", "python3-six": "1"})


def file(name: str, *, sha256: str = "0" * 64, yanked: bool = False) -> IndexedWheel:
    return IndexedWheel(filename=name, url=f"http://x/{name}", sha256=sha256, yanked=yanked)


def chosen(*names: str, version: str = "1.0") -> str:
    files = [file(name) for name in names]
    return choose_wheel(files, version=version, guest=GUEST, subject=f"tool=={version}").filename


def test_the_interpreter_is_read_from_the_packages() -> None:
    assert (GUEST.minor, GUEST.glibc_minor) == (13, 41)
    with pytest.raises(WheelError, match="no Python interpreter"):
        GuestPython.of_packages({"libc6": "2.41"})


def test_the_most_specific_fitting_wheel_wins() -> None:
    names = [
        "tool-1.0-py3-none-any.whl",
        "tool-1.0-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "tool-1.0-cp311-abi3-manylinux_2_28_x86_64.whl",
        "tool-1.0-cp313-cp313-macosx_11_0_x86_64.whl",
        "tool-1.0-cp313-cp313t-manylinux_2_28_x86_64.whl",
        "tool-1.0-cp313-cp313-musllinux_1_2_x86_64.whl",
        "tool-1.0-cp313-cp313-manylinux_2_99_x86_64.whl",
        "tool-1.0-cp313-cp313-manylinux_2_28_aarch64.whl",
        "tool-1.0.tar.gz",
    ]
    assert chosen(*names) == names[1]
    assert chosen(names[0], *names[2:]) == names[2]
    assert chosen(names[0], *names[3:]) == names[0]
    assert chosen(names[2]) == names[2]


def test_only_the_pinned_version_counts() -> None:
    names = ["tool-1.0-py3-none-any.whl", "tool-1.1-py3-none-any.whl"]
    assert chosen(*names, version="1.1") == names[1]
    assert chosen(*names, version="1.0.0") == names[0]


@pytest.mark.parametrize(
    "wrong",
    [
        file("tool-1.0.tar.gz"),
        file("tool-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"),
        file("tool-1.0-py3-none-any.whl", sha256=""),
        file("tool-1.0-whl.whl"),
    ],
)
def test_no_fitting_wheel_is_an_error(wrong: IndexedWheel) -> None:
    with pytest.raises(WheelError, match="no wheel of it with a hash") as caught:
        choose_wheel([wrong], version="1.0", guest=GUEST, subject="tool==1.0")
    assert caught.value.subject == "tool==1.0"


def wheel_bytes(*requires: str) -> bytes:
    metadata = "Metadata-Version: 2.1\nName: tool\nVersion: 1.0\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("tool-1.0.dist-info/METADATA", metadata)
        archive.writestr("vendored/other.dist-info/METADATA", "Requires-Dist: never\n")
    return stream.getvalue()


NAME = "tool-1.0-py3-none-any.whl"


def index_answers(data: bytes, *, sha256: str | None = None, yanked: bool = False) -> dict[str, bytes]:
    listing = {
        "files": [
            {
                "filename": NAME,
                "url": f"../../files/{NAME}",
                "hashes": {"sha256": sha256 or hashlib.sha256(data).hexdigest()},
                "yanked": yanked,
            }
        ]
    }
    return {"simple/tool/": json.dumps(listing).encode(), f"files/{NAME}": data}


def locked(
    tmp_path: Path, answers: dict[str, bytes], *, pin: str = "Tool==1.0"
) -> tuple[tuple[LockedWheel, ...], tuple[str, ...]]:
    with serve(tmp_path, extra=answers, json=True) as url:
        return lock_wheels(
            [pin], guest=GUEST, index=WheelIndex(f"{url}/simple"), store=Store(tmp_path / "store")
        )


def test_a_wheel_is_locked_and_kept(tmp_path: Path) -> None:
    data = wheel_bytes()
    wheels, warnings = locked(tmp_path, index_answers(data))
    assert warnings == ()
    assert wheels[0] == LockedWheel(
        name="tool", version="1.0", filename=NAME, size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    assert Store(tmp_path / "store").verified(wheels[0].sha256, name="x").read_bytes() == data


def test_other_bytes_than_the_index_says_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match="wrong bytes"):
        locked(tmp_path, index_answers(wheel_bytes(), sha256="1" * 64))


def test_what_is_missing_is_reported(tmp_path: Path) -> None:
    data = wheel_bytes(
        "absent>=2",
        "six>=1",
        "only-windows; sys_platform == 'win32'",
        "old-python; python_version < '3.9'",
        "an-extra; extra == 'tests'",
        "tool>=2",
    )
    _, warnings = locked(tmp_path, index_answers(data))
    assert warnings == (
        "wheel tool 1.0 requires absent>=2, which is not in the image",
        "wheel tool 1.0 requires tool>=2, which is not in the image",
    )


def test_a_yanked_wheel_is_reported(tmp_path: Path) -> None:
    assert "yanked" in locked(tmp_path, index_answers(wheel_bytes(), yanked=True))[1][0]


def test_a_broken_wheel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match="not a usable wheel"):
        locked(tmp_path, index_answers(b"no zip"))


@pytest.mark.parametrize("answer", [b"{}", b"[]", b'{"files": [{}]}', b"\xff"])
def test_a_strange_answer_is_refused(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(WheelError, match="PEP 691"):
        locked(tmp_path, {"simple/tool/": answer})


def test_an_unknown_project_names_it(tmp_path: Path) -> None:
    with pytest.raises(WheelError) as caught:
        locked(tmp_path, {}, pin="nothing==1")
    assert caught.value.subject == "nothing"


def test_the_html_form_is_read(tmp_path: Path) -> None:
    page = f'<a href="../../f/{NAME}#sha256={"2" * 64}">x</a><a data-yanked="why" href="y-1.0.zip">y</a>'
    with serve(tmp_path, extra={"simple/tool/": page.encode()}) as url:
        found = WheelIndex(f"{url}/simple").files("Tool")
        expected = f"{url}/f/{NAME}"
    assert (found[0].filename, found[0].url, found[0].sha256) == (NAME, expected, "2" * 64)
    assert (found[1].sha256, found[1].yanked) == ("", True)


def test_the_index_is_pips() -> None:
    configuration = "[global]\nindex-url = http://c.example/simple\n"
    assert index_url({}, []) == DEFAULT_INDEX
    assert index_url({}, ["[install]\nx = 1\n", configuration, "broken"]) == "http://c.example/simple"
    assert index_url({"PIP_INDEX_URL": "http://e.example/s"}, [configuration]) == "http://e.example/s"
