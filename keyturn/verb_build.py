"""``keyturn build``: recipe and lock → image folder."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.output import JsonOption, Output

if TYPE_CHECKING:
    from image_builder.image import Image
    from image_builder.lockfile import Lock
    from image_builder.store import Store

DEFAULT_OUTPUT = "image"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("build")(build)


def build(
    recipe: Annotated[Path, typer.Argument(help="The recipe; its lock lies next to it.")] = Path(
        "keyturn.toml"
    ),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help=f"Image folder to write; {DEFAULT_OUTPUT} next to the recipe if not given."
        ),
    ] = None,
    stores: Annotated[
        list[Path] | None,
        typer.Option("--store", help="Further store folder to take inputs from. Repeatable."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Threads; has no influence on the result.")
    ] = None,
    in_qemu: Annotated[
        bool, typer.Option("--in-qemu", help="Run the guest's interpreter in a virtual machine.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Build the image of a locked recipe: the same bytes on every machine."""
    from image_builder.build import BuildRequest, build_image
    from image_builder.lockfile import LOCK_NAME, read_lock
    from image_builder.recipe import read_recipe
    from image_builder.store import Store, default_store_root

    out = Output(json=json)
    started = time.monotonic()
    lock = recipe.with_name(LOCK_NAME)
    request = BuildRequest(
        recipe=read_recipe(recipe),
        recipe_data=recipe.read_bytes(),
        lock=read_lock(lock),
        lock_data=lock.read_bytes(),
        jobs=jobs or os.cpu_count() or 1,
        in_qemu=in_qemu,
    )
    store = Store(default_store_root())
    _take_from(stores or [], request.lock, store)
    with out.progress() as progress, _collector_off():
        image = build_image(
            request, store=store, output=output or recipe.with_name(DEFAULT_OUTPUT), progress=progress
        )
    _show(out, image, seconds=time.monotonic() - started)


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """A build makes many nodes and no cycles; the collector would walk over all of them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _take_from(folders: Sequence[Path], lock: Lock, store: Store) -> None:
    """Copy inputs that ``store`` lacks from other stores."""
    from image_builder.store import Store

    wanted = {package.sha256 for package in lock.packages} | {wheel.sha256 for wheel in lock.wheels}
    wanted |= {entry.sha256 for entry in (*lock.files, *lock.agent)}
    for sha256 in sorted(wanted):
        source = next((each for each in map(Store, folders) if each.has(sha256)), None)
        if source is not None and not store.has(sha256):
            with store.writer(sha256, name=sha256) as stream:
                stream.write(source.path(sha256).read_bytes())


def _show(out: Output, image: Image, *, seconds: float) -> None:
    from image_builder.image import Artefact

    rows = [
        (
            artefact.value,
            f"{image.size(artefact):,}",
            str(image.manifest["artefacts"][artefact.value]["sha256"]),
        )
        for artefact in Artefact
    ]
    title = f"{image.name} {image.manifest['version']}"
    out.table(title, ["artefact", "bytes", "SHA-256"], rows)
    out.line(f"image id {image.id}")
    out.line(f"written in {seconds:.2f} s")
    out.result(
        {
            "image_id": image.id,
            "folder": str(image.folder),
            "seconds": round(seconds, 3),
            "artefacts": image.manifest["artefacts"],
        }
    )
