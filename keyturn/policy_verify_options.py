"""The options of ``keyturn verify`` that go with a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        help="Judge evidence by this policy (keyturn policy init); for receipts, the app's TCB rule.",
    ),
]
CollateralOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--collateral", help="Bundle, certificates or lists that vendors published; more than once."
    ),
]
NowOption = Annotated[
    str | None,
    typer.Option("--now", help="With --policy: judge at this time (RFC 3339 or seconds since 1970)."),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="With --policy: ask no network, use only what is given.")
]
ActivationOption = Annotated[
    str | None,
    typer.Option(
        "--activation", help="With --policy: the one activation value that counts (keyturn tpm challenge)."
    ),
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="With --policy: also write the verdict as a page.")
]
PccsOption = Annotated[
    str | None, typer.Option("--pccs", help="With --policy: take Intel's collateral from this service.")
]
KdsOption = Annotated[
    str | None, typer.Option("--kds", help="With --policy: take AMD's certificates from this service.")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="With --policy: folder of collateral fetched before.")
]
