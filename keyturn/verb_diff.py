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

StoresOption = Annotated[
    list[Path] | None, typer.Option("--store", help="Further store folder to take inputs from. Repeatable.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("diff")(diff)
    app.command("reproduce")(reproduce)


def diff(
    before: Annotated[Path, typer.Argument(help="An image folder or a lock file.")],
    after: Annotated[Path, typer.Argument(help="Another one of the same kind.")],
    stores: StoresOption = None,
    json: JsonOption = False,
) -> None:
    """Explain what differs, down to package, file, section and byte range. Exits with 1 if anything does."""
    out = Output(json=json)
    files = StoreFiles(Store(default_store_root()), further=[Store(each) for each in stores or []])
    _show(out, compare(before, after, files=files))


def reproduce(
    image: Annotated[Path, typer.Argument(help="An image folder.")],
    stores: StoresOption = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Threads; says nothing about the result.")
    ] = None,
    in_qemu: Annotated[
        bool, typer.Option("--in-qemu", help="Run the guest's interpreter in a virtual machine.")
    ] = False,
    work: Annotated[Path | None, typer.Option("--work", help="Folder for the temporary image.")] = None,
    json: JsonOption = False,
) -> None:
    """Build the image again from its own lock and say identical, or what differs.

    Exits with 1 if anything does.
    """
    from image_builder.reproduce import reproduce as rebuild

    out = Output(json=json)
    with out.progress() as progress:
        result = rebuild(
            image,
            store=Store(default_store_root()),
            jobs=jobs or os.cpu_count() or 1,
            progress=progress,
            work=work,
            further=[Store(each) for each in stores or []],
            in_qemu=in_qemu,
        )
    _show(out, result)


def _show(out: Output, result: Comparison) -> None:
    for line in result.lines():
        out.line(escape(line))
    out.result(result.as_json())
    if not result.identical:
        raise typer.Exit(ExitStatus.REFUSED)
