"""``keyturn init``, ``lock``, ``fetch`` and ``store``: from nothing to a filled store."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from image_builder.fetch import FetchTools, fetch_lock
from image_builder.lock import Locked, LockTools, lock_local, lock_recipe, still_answers
from image_builder.lock_diff import LockChange, diff_locks
from image_builder.lockfile import (
    Lock,
    LockError,
    PackageRole,
    check_lock,
    lock_bytes,
    lock_sha256,
    read_lock,
)
from image_builder.mirrors import machine_mirrors
from image_builder.recipe import RECIPE_NAME, Recipe, read_recipe
from image_builder.recipe_errors import RecipeError
from image_builder.snapshot import machine_snapshot
from image_builder.store import Store, clear_disk_errors, default_store_root
from image_builder.store_archive import export_objects, import_objects
from image_builder.transport import Transport
from image_builder.wheel_index import machine_wheel_index
from keyturn.output import JsonOption, Output

RecipeArgument = Annotated[Path, typer.Argument(help="The recipe; its lock lies next to it.")]
MirrorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mirror", help="Mirror: URL or folder, or security=URL. Repeatable; else the ones of apt."
    ),
]


class Template(StrEnum):
    """Recipes to start from, files ``recipe_<name>.toml`` of the image builder."""

    DEFAULT = "default"
    APPS = "apps"


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("init")(init)
    app.command("lock")(lock)
    app.command("fetch")(fetch)
    store = typer.Typer(help="Keep the inputs of a lock for good.", no_args_is_help=True)
    store.command("export")(store_export)
    store.command("import")(store_import)
    app.add_typer(store, name="store")


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("."),
    template: Annotated[
        Template,
        typer.Option(help="What the image is for: a boot that reports itself, or one that runs apps."),
    ] = Template.DEFAULT,
    json: JsonOption = False,
) -> None:
    """Write a commented recipe that builds as it is."""
    out = Output(json=json)
    path = folder / RECIPE_NAME
    if path.exists():
        raise RecipeError("it exists already", subject=str(path), advice="remove it, or name another folder")
    data = resources.files("image_builder").joinpath(f"data/recipe_{template}.toml").read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, data)
    out.line(f"wrote {path}; next: keyturn lock")
    out.result({"recipe": str(path)})


def lock(
    recipe: RecipeArgument = Path(RECIPE_NAME),
    update: Annotated[
        bool,
        typer.Option("--update", help="Take the newest versions the archive has, and show what changes."),
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Only hash the local files again; no network.")
    ] = False,
    mirror: MirrorOption = None,
    json: JsonOption = False,
) -> None:
    """Name every input of the image by hash: resolve packages from the signed archive, hash local files."""
    out = Output(json=json)
    asked = read_recipe(recipe)
    path = lock_path(recipe)
    previous = read_lock(path) if path.exists() else None
    if local and previous is None:
        raise LockError("there is no lock yet", subject=path.name, advice="run `keyturn lock`")
    keep = previous is not None and not update and (local or still_answers(previous, asked))
    if keep and previous is not None:
        made = Locked(
            lock=lock_local(asked, previous=previous, folder=recipe.parent, store=Store(default_store_root()))
        )
    else:
        made = _lock_afresh(asked, recipe.parent, mirror or [], out)
    for warning in made.warnings:
        out.warn(warning)
    data = lock_bytes(made.lock)
    _write(path, data)
    changes = () if previous is None else diff_locks(previous, made.lock)
    _report_lock(out, path, made.lock, changes, kept=keep, first=previous is None)


def fetch(
    recipe: RecipeArgument = Path(RECIPE_NAME),
    mirror: MirrorOption = None,
    store: Annotated[
        list[Path] | None, typer.Option("--store", help="Folder made by `keyturn store export`. Repeatable.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Fill the store with everything the lock names."""
    out = Output(json=json)
    locked = _checked_lock(recipe)
    given = mirror or []
    tools = FetchTools(
        store=Store(default_store_root()),
        transport=Transport(),
        mirrors=lambda: machine_mirrors(given),
        wheel_index=machine_wheel_index,
        snapshot=machine_snapshot(),
        folders=[Store(folder) for folder in store or []],
    )
    with out.progress() as progress:
        done = fetch_lock(locked, folder=recipe.parent, tools=tools, progress=progress)
    for name in done.replaced:
        out.warn(f"the store's copy of {name} was altered; it was fetched again")
    size = f"{done.downloaded_bytes / 1e6:.1f} MB"
    out.line(f"{done.files} files in the store, {done.downloaded} fetched now ({size})")
    out.result(
        {
            "files": done.files,
            "fetched": done.downloaded,
            "bytes": done.downloaded_bytes,
            "replaced": list(done.replaced),
        }
    )


def store_export(
    folder: Annotated[Path, typer.Argument(help="Where to keep the files.")],
    recipe: Annotated[Path, typer.Option(help="The recipe whose lock is exported.")] = Path(RECIPE_NAME),
    json: JsonOption = False,
) -> None:
    """Copy all inputs of a lock to a folder that can be kept for good."""
    out = Output(json=json)
    with out.progress() as progress:
        number = export_objects(
            _checked_lock(recipe), store=Store(default_store_root()), folder=folder, progress=progress
        )
    out.line(f"{number} files kept in {folder}")
    out.result({"files": number, "folder": str(folder)})


def store_import(
    folder: Annotated[Path, typer.Argument(help="A folder made by `keyturn store export`.")],
    json: JsonOption = False,
) -> None:
    """Copy the files of an exported folder into the store."""
    out = Output(json=json)
    with out.progress() as progress:
        number = import_objects(folder, store=Store(default_store_root()), progress=progress)
    out.line(f"{number} files taken from {folder}")
    out.result({"files": number, "folder": str(folder)})


def lock_path(recipe: Path) -> Path:
    """Where the lock of a recipe lies: next to it, ``.lock`` for ``.toml``."""
    return recipe.with_suffix(".lock")


def _checked_lock(recipe: Path) -> Lock:
    locked = read_lock(lock_path(recipe))
    if recipe.exists():
        check_lock(recipe_sha256=read_recipe(recipe).sha256, lock=locked)
    return locked


def _lock_afresh(recipe: Recipe, folder: Path, mirrors: list[str], out: Output) -> Locked:
    with out.progress() as progress:
        tools = LockTools(
            store=Store(default_store_root()),
            transport=Transport(),
            mirrors=machine_mirrors(mirrors),
            wheel_index=machine_wheel_index(),
            now=datetime.now(UTC),
            progress=progress,
        )
        return lock_recipe(recipe, folder=folder, tools=tools)


def _write(path: Path, data: bytes) -> None:
    """Replace the file in one step, unless it holds these bytes already."""
    if path.exists() and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.new")
    try:
        with clear_disk_errors(path.name):
            temporary.write_bytes(data)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _report_lock(
    out: Output, path: Path, lock: Lock, changes: tuple[LockChange, ...], *, kept: bool, first: bool
) -> None:
    if kept:
        out.line(
            f"kept the packages of {path.name}: they still answer the recipe (--update takes newer ones)"
        )
    if changes:
        rows = [
            [
                change.kind.value,
                change.what,
                change.name,
                change.before or "-",
                change.after or "-",
                f"{change.suite} (security)" if change.security else change.suite or "-",
            ]
            for change in changes
        ]
        out.table("Changes of the lock", ["change", "what", "name", "before", "after", "suite"], rows)
        security = sum(change.security for change in changes)
        counts = Counter(change.kind.value for change in changes)
        out.line(
            ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
            + f"; {security} from a security suite"
        )
    elif not first:
        out.line("nothing changed")
    roles = Counter(package.role for package in lock.packages)
    packages_size = sum(package.size for package in lock.packages) / 1e6
    out.line(
        f"{path.name}: {roles[PackageRole.ROOT]} packages in the root, "
        f"{roles[PackageRole.KERNEL]} of the kernel, {len(lock.wheels)} wheels, "
        f"{len(lock.files)} local files, "
        f"{len(lock.agent)} files of the agent; {packages_size:.1f} MB of packages"
    )
    out.result(_lock_document(path, lock, changes, kept=kept))


def _lock_document(
    path: Path, lock: Lock, changes: tuple[LockChange, ...], *, kept: bool
) -> dict[str, object]:
    return {
        "lock": str(path),
        "lock_sha256": lock_sha256(lock_bytes(lock)),
        "kept": kept,
        "packages": len(lock.packages),
        "wheels": len(lock.wheels),
        "files": len(lock.files),
        "changes": [
            {
                "change": change.kind.value,
                "what": change.what,
                "name": change.name,
                "before": change.before,
                "after": change.after,
                "suite": change.suite,
                "source": change.source,
                "security": change.security,
            }
            for change in changes
        ],
    }
