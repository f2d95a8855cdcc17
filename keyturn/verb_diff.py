"""``keyturn diff`` and ``keyturn reproduce``: what differs between two images, and which input caused it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from image_builder.comparison import Comparison
from image_builder.diff import compare
from image_builder.diff_origin import StoreFiles
from image_builder.store import Store, default_store_root
from keyturn.output import JsonOption, Output, escape
from measurements.errors import ExitStatus

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Where the inputs are; else the cache of this user.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("diff")(diff)
    app.command("reproduce")(reproduce)


def diff(
    before: Annotated[Path, typer.Argument(help="An image folder or a lock file.")],
    after: Annotated[Path, typer.Argument(help="Another one of the same kind.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Explain what differs, down to package, file, section and byte range. Exits with 1 if anything does."""
    out = Output(json=json)
    _show(out, compare(before, after, files=StoreFiles(_store(store))))


def reproduce(
    image: Annotated[Path, typer.Argument(help="An image folder.")],
    store: StoreOption = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Threads and processes to use.")] = os.cpu_count()
    or 1,
    work: Annotated[Path | None, typer.Option("--work", help="Folder for the temporary image.")] = None,
    json: JsonOption = False,
) -> None:
    """Build the image again from its own lock and say identical, or what differs.

    Exits with 1 if anything does.
    """
    from image_builder.reproduce import reproduce as rebuild

    out = Output(json=json)
    with out.progress() as progress:
        result = rebuild(image, store=_store(store), jobs=jobs, progress=progress, work=work)
    _show(out, result)


def _store(root: Path | None) -> Store:
    return Store(root if root is not None else default_store_root())


def _show(out: Output, result: Comparison) -> None:
    for line in result.lines():
        out.line(escape(line))
    out.result(result.as_json())
    if not result.identical:
        raise typer.Exit(ExitStatus.REFUSED)
