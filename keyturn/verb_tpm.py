"""``keyturn tpm``: software TPMs for machines of ``keyturn run``, and the authority that certifies them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyturn.output import JsonOption, Output, escape


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    tpm = typer.Typer(no_args_is_help=True, help="Make software TPMs.")
    tpm.callback()(_tpm)
    tpm.command("make")(make)
    app.add_typer(tpm, name="tpm")


def _tpm() -> None:
    """Make software TPMs."""


def make(
    state: Annotated[Path, typer.Argument(help="Folder of the TPM; one that is there is left as it is.")],
    authority: Annotated[
        Path | None,
        typer.Option("--authority", help="Folder of the authority that certifies it; by default its own."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a TPM with an EK certificate; show its authority's certificates, which verifiers are to trust."""
    from keyturn.input_files import platform_root
    from measurements.swtpm import INTERMEDIATE_NAME, ROOT_NAME, manufacture

    manufacture(state, authority=authority)
    folder = state / "ca" if authority is None else authority
    root, intermediate = folder / ROOT_NAME, folder / INTERMEDIATE_NAME
    shown = {
        "state": str(state),
        "root": str(root),
        "intermediate": str(intermediate),
        "platform_root": platform_root(root).hex(),
    }
    out = Output(json=json)
    out.table("software TPM", ("what", "value"), [(key, escape(value)) for key, value in shown.items()])
    out.result(shown)
