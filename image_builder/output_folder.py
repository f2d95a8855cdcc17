"""Writes an output folder or file so that it is either complete or not there.

Work happens in ``.NAME.partial-PID`` next to it, which takes its place by a rename. What a killed process
left behind is removed by the next run that writes a folder there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from image_builder.manifest import MANIFEST_NAME
from measurements.errors import KeyturnError


class OutputError(KeyturnError):
    """A place that an image cannot be written to."""

    code = "output"


@contextmanager
def new_folder(output: Path, *, marker: str = MANIFEST_NAME) -> Iterator[Path]:
    """A folder to write to, which becomes ``output`` if the block ends well and vanishes otherwise.

    A folder with the file ``marker`` in it (an image) is replaced; anything else there raises
    ``OutputError``.
    """
    output = output.absolute()
    if output.exists() and not _replaceable(output, marker):
        raise OutputError(
            f"exists and is not an image or app: it has no {marker}",
            subject=str(output),
            advice="name another folder with --output",
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    for kind in ("partial", "old"):
        remove_leftovers(output.parent, f".{output.name}.{kind}")
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_file(output: Path) -> Iterator[BinaryIO]:
    """A seekable file to write to, which becomes ``output`` if the block ends well and vanishes otherwise."""
    if output.is_dir():
        raise OutputError("is a folder", subject=str(output), advice="name a file with --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.absolute().with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        with partial.open("w+b") as stream:
            yield stream
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _replaceable(output: Path, marker: str) -> bool:
    return output.is_dir() and ((output / marker).is_file() or not any(output.iterdir()))


def _replace(partial: Path, output: Path) -> None:
    if not output.exists():
        partial.rename(output)
        return
    old = output.with_name(f".{output.name}.old-{os.getpid()}")
    output.rename(old)
    partial.rename(output)
    shutil.rmtree(old)


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove ``prefix``-PID folders below ``folder`` whose process is gone."""
    for path in folder.glob(f"{prefix}-*"):
        owner = path.name.removeprefix(f"{prefix}-").partition("-")[0]
        if owner.isdigit() and not _is_running(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
