"""Options of ``predict`` and ``verify`` that are about dstack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ReleaseFolderOption = Annotated[
    Path | None, typer.Option("--dstack", help="A dstack release's folder, instead of an image.")
]
VmConfigOption = Annotated[
    Path | None, typer.Option("--vm-config", help="For --dstack: the machine, as dstack describes it.")
]
ReportOption = Annotated[
    Path | None, typer.Option("--dstack", help="A dstack guest's report (quote, log, vm_config) to judge.")
]
ReleaseOption = Annotated[
    Path | None, typer.Option("--release", help="For --dstack: the folder of the release that must run.")
]
ImageHashOption = Annotated[
    str | None, typer.Option("--image-hash", help="For --dstack: os_image_hash that must run, in hex.")
]
TablesOption = Annotated[
    Path | None,
    typer.Option("--acpi", help="For --dstack: ACPI tables (etc/acpi/tables), instead of QEMU's own."),
]
TablesQemuOption = Annotated[
    Path | None, typer.Option("--qemu", help="For --dstack: the QEMU that ACPI tables are read from.")
]
PhysBitsOption = Annotated[
    int | None, typer.Option("--phys-bits", min=36, max=52, help="For --dstack: width of guest addresses.")
]
ComposeOption = Annotated[
    Path | None, typer.Option("--app-compose", help="For --dstack: the app's app-compose.json.")
]
InstanceIdOption = Annotated[str, typer.Option("--instance-id", help="For --app-compose: 20 bytes in hex.")]
ProviderIdOption = Annotated[
    str, typer.Option("--provider-id", help="For --app-compose: id of the key provider, as in its event.")
]
AggregatedOption = Annotated[
    str | None, typer.Option("--mr-aggregated", help="For --dstack: the mr_aggregated that is allowed.")
]
SystemOption = Annotated[
    str | None, typer.Option("--mr-system", help="For --dstack: the mr_system that is allowed.")
]
AppEventOption = Annotated[
    list[str] | None,
    typer.Option("--app-event", help="For --dstack: an event of the app that is allowed. May be repeated."),
]
UnboundOption = Annotated[
    bool, typer.Option("--unbound", help="For --dstack: accept a guest whose launch binds no app.")
]
