"""``reproduce``, with the build replaced; tests of the build prove that real builds reproduce."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_builder import reproduce as module
from image_builder.build import BuildRequest
from image_builder.diff import ImageFolderError
from image_builder.lockfile import LockError, lock_bytes
from image_builder.progress import NoProgress
from image_builder.recipe_errors import RecipeError
from image_builder.store import Store, StoreError
from tests.image_builder.image_folders import FakeImage

Build = Callable[[BuildRequest, Path], None]


@pytest.fixture
def build_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Build], None]:
    """Puts a function in the place of the build."""

    def put(build: Build) -> None:
        def build_image(request: BuildRequest, *, output: Path, **_: Any) -> None:
            build(request, output)

        monkeypatch.setattr(module, "build_image", build_image)

    return put


def run(image: Path, tmp_path: Path) -> Any:
    """Reproduce ``image`` below ``tmp_path``."""
    work = tmp_path / "work"
    work.mkdir()
    store = Store(tmp_path / "store")
    try:
        return module.reproduce(image, store=store, jobs=3, progress=NoProgress(), work=work)
    finally:
        assert list(work.iterdir()) == []


def test_image_is_built_from_its_own_recipe_and_lock(
    tmp_path: Path, build_with: Callable[[Build], None]
) -> None:
    image = FakeImage()
    seen: list[BuildRequest] = []

    def build(request: BuildRequest, output: Path) -> None:
        seen.append(request)
        image.write(output)

    build_with(build)
    result = run(image.write(tmp_path / "image"), tmp_path)
    assert result.identical
    assert list(result.lines()) == [f"identical: {tmp_path}/image and rebuilt"]
    (request,) = seen
    assert (request.recipe_data, request.lock_data) == (image.recipe, lock_bytes(image.lock))
    assert request.recipe.image.name == "demo"
    assert lock_bytes(request.lock) == request.lock_data
    assert request.jobs == 3


def test_what_differs_is_explained(tmp_path: Path, build_with: Callable[[Build], None]) -> None:
    def build(_: BuildRequest, output: Path) -> None:
        FakeImage(init=b"#!/bin/other\n", tool="0.2.0").write(output)

    build_with(build)
    result = run(FakeImage().write(tmp_path / "image"), tmp_path)
    assert [cause.text for cause in result.causes] == [
        "keyturn itself: built by version 0.1.0 and by version 0.2.0"
    ]


def test_input_that_is_gone_is_the_error_of_the_build(
    tmp_path: Path, build_with: Callable[[Build], None]
) -> None:
    def build(_: BuildRequest, __: Path) -> None:
        raise StoreError("not in the store", subject="base 1.0", advice="run `keyturn fetch`")

    build_with(build)
    with pytest.raises(StoreError, match=r"base 1\.0"):
        run(FakeImage().write(tmp_path / "image"), tmp_path)


@pytest.mark.parametrize(
    ("name", "error"),
    [("keyturn.lock", LockError), ("keyturn.toml", RecipeError), ("manifest.json", ImageFolderError)],
)
def test_damaged_image_folder_is_refused(name: str, error: type[Exception], tmp_path: Path) -> None:
    image = FakeImage().write(tmp_path / "image")
    if name == "manifest.json":
        (image / name).unlink()
    else:
        (image / name).write_bytes(b"= nonsense")
    with pytest.raises(error):
        run(image, tmp_path)


def test_inputs_are_taken_from_further_stores(tmp_path: Path, build_with: Callable[[Build], None]) -> None:
    data = b"hello\n"
    image = FakeImage(local={"etc/motd": data}, agent={}, packages=[])
    further = Store(tmp_path / "further")
    sha256 = further.add_bytes(data)
    store = Store(tmp_path / "store")

    def build(_: BuildRequest, output: Path) -> None:
        assert store.verified(sha256, name="motd", size=len(data)).read_bytes() == data
        FakeImage(local={"etc/motd": data}).write(output)

    build_with(build)
    folder = FakeImage(local={"etc/motd": data}).write(tmp_path / "image")
    (folder / "keyturn.lock").write_bytes(lock_bytes(image.lock))
    result = module.reproduce(
        folder, store=store, jobs=1, progress=NoProgress(), work=tmp_path, further=[further]
    )
    assert result.differences[0].subject == "keyturn.lock"
