"""``keyturn app``: from a recipe to an app folder and the config disk of an instance."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.output import JsonOption, Output, escape
from keyturn.verb_app_seal import seal
from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from image_builder.app_build import BuiltApp
    from measurements.canonical import Json
    from measurements.config_disk import Network

RECIPE_NAME = "app.toml"
DEFAULT_OUTPUT = "app"
INSTANCE_ID_SIZE = 16

RecipeArgument = Annotated[Path, typer.Argument(help="The app's recipe; its lock lies next to it.")]


class AppUsageError(KeyturnError):
    """An option that cannot be used."""

    code = "usage"


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verbs = typer.Typer(help="Build apps: containers with a measured manifest.", no_args_is_help=True)
    for verb in (init, lock, build, push, seal, config, kms):
        verbs.command(verb.__name__)(verb)
    app.add_typer(verbs, name="app")


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("."),
    json: JsonOption = False,
) -> None:
    """Write a commented recipe."""
    out = Output(json=json)
    path = folder / RECIPE_NAME
    if path.exists():
        raise AppUsageError(
            "it exists already", subject=str(path), advice="remove it, or name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(resources.files("image_builder").joinpath("data/app_recipe.toml").read_bytes())
    out.line(f"wrote {escape(str(path))}; next: keyturn app lock")
    out.result({"recipe": str(path)})


def lock(recipe: RecipeArgument = Path(RECIPE_NAME), json: JsonOption = False) -> None:
    """Name every container image by digest, and put its blobs into the store."""
    from image_builder.app_build import lock_app
    from image_builder.app_lock import APP_LOCK_NAME, parse_lock
    from image_builder.app_recipe import read_app_recipe
    from image_builder.store import Store, default_store_root

    out = Output(json=json)
    data = lock_app(read_app_recipe(recipe), folder=recipe.parent, store=Store(default_store_root()))
    path = recipe.with_name(APP_LOCK_NAME)
    path.write_bytes(data)
    images = parse_lock(data).image
    out.table("container images", ("image", "digest"), [(escape(i.reference), i.digest) for i in images])
    out.line(f"wrote {escape(str(path))}; next: keyturn app build")
    out.result({"lock": str(path), "images": {image.reference: image.digest for image in images}})


def build(
    recipe: RecipeArgument = Path(RECIPE_NAME),
    output: Annotated[
        Path | None,
        typer.Option("--output", help=f"App folder to write; {DEFAULT_OUTPUT} next to the recipe."),
    ] = None,
    app_id: Annotated[str, typer.Option("--app-id", help="Address of the app's contract.")] = "",
    chain_id: Annotated[int, typer.Option("--chain-id", help="Chain of the contracts.")] = 0,
    contract: Annotated[str, typer.Option("--contract", help="Address of the registry.")] = "",
    kms_root: Annotated[str, typer.Option("--kms-root", help="Hash of the KMS's root key.")] = "",
    json: JsonOption = False,
) -> None:
    """Build the app folder of a locked recipe: the same bytes on every machine."""
    from image_builder.app_build import build_app
    from image_builder.app_lock import APP_LOCK_NAME, read_lock
    from image_builder.app_normalise import Pins
    from image_builder.app_recipe import read_app_recipe
    from image_builder.store import Store, default_store_root

    out = Output(json=json)
    built = build_app(
        read_app_recipe(recipe),
        read_lock(recipe.with_name(APP_LOCK_NAME)),
        pins=Pins(app_id=app_id, chain_id=chain_id, contract=contract, kms_root=kms_root),
        folder=recipe.parent,
        store=Store(default_store_root()),
        output=output or recipe.with_name(DEFAULT_OUTPUT),
    )
    _show(out, built)


def push(
    layout: Annotated[Path, typer.Argument(help="An OCI image layout, with :TAG if it has several images.")],
    target: Annotated[str, typer.Argument(help="HOST/REPOSITORY:TAG.")],
    json: JsonOption = False,
) -> None:
    """Push an image to a registry; credentials come from your auth file."""
    from image_builder.oci_layout import OciLayout
    from image_builder.oci_push import push_image
    from image_builder.oci_reference import RegistryReference, parse_reference
    from image_builder.oci_registry import open_repository

    out = Output(json=json)
    try:
        parsed = parse_reference(target)
    except ValueError as error:
        raise AppUsageError(str(error), subject=target, advice="name HOST/REPOSITORY:TAG") from None
    if not isinstance(parsed, RegistryReference) or not parsed.tag or parsed.digest:
        raise AppUsageError("is not HOST/REPOSITORY:TAG", subject=target, advice="name a tag, and no digest")
    folder, _, tag = layout.name.partition(":")
    source = OciLayout(layout.with_name(folder))
    client = open_repository(parsed.host, parsed.repository)
    digest = push_image(source, source.find(tag), client=client, tag=parsed.tag)
    pinned = f"{parsed.host}/{parsed.repository}@{digest}"
    out.line(f"pushed {escape(pinned)}")
    out.result({"image": pinned, "digest": digest})


def config(
    app: Annotated[Path, typer.Argument(help="An app folder.")],
    output: Annotated[Path, typer.Option("--output", help="The disk to write.")] = Path("config.disk"),
    instance_id: Annotated[
        str, typer.Option("--instance-id", help="32 hex digits; a new one if not given.")
    ] = "",
    kms: Annotated[list[str] | None, typer.Option("--kms", help="URL of a KMS. Repeatable.")] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", help="NAME=value that the app allows. Repeatable.")
    ] = None,
    address: Annotated[str, typer.Option("--address", help="Guest's address: 10.0.2.15/24.")] = "",
    gateway: Annotated[str, typer.Option("--gateway", help="Gateway of the guest: 10.0.2.2.")] = "",
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Reference values of `keyturn predict`.")
    ] = None,
    envelope: Annotated[
        Path | None, typer.Option("--envelope", help="Sealed envelope, signed by the owner.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write the config disk of one instance."""
    from image_builder.app_build import MANIFEST_NAME
    from image_builder.config_writer import write_config
    from measurements.config_disk import Config, config_hash

    out = Output(json=json)
    manifest = (app / MANIFEST_NAME).read_bytes()
    identity = _instance_id(instance_id)
    document = write_config(
        output,
        Config(
            app_manifest=manifest,
            instance_id=identity,
            network=_network(address, gateway),
            kms_urls=tuple(kms or ()),
            env=_environment(env or ()),
            envelope=None if envelope is None else _envelope(envelope, manifest),
            reference=None if reference is None else _reference(reference),
        ),
    )
    digest = config_hash(document).hex()
    out.line(f"wrote {escape(str(output))}")
    out.line(f"instance id {identity.hex()}")
    out.line(f"config hash {digest}")
    out.result({"disk": str(output), "instance_id": identity.hex(), "config_hash": digest})


def kms(
    folder: Annotated[Path, typer.Argument(help="New folder for the project.")],
    chain_id: Annotated[int, typer.Option("--chain-id", help="Chain of the registry.")],
    registry: Annotated[str, typer.Option("--registry", help="Address of the registry.")],
    registry_code_hash: Annotated[
        str, typer.Option("--registry-code-hash", help="keccak-256 of the registry's code.")
    ],
    app_code_hash: Annotated[
        str, typer.Option("--app-code-hash", help="keccak-256 of the code of apps' contracts.")
    ],
    json: JsonOption = False,
) -> None:
    """Write the project of the KMS as an app: its root's recipe, its files and app.toml."""
    from keyturn.kms_app import KmsPins, write_kms_app

    out = Output(json=json)
    if folder.exists():
        raise AppUsageError("it exists already", subject=str(folder), advice="name another folder")
    pins = KmsPins(
        chain_id=chain_id,
        registry=registry,
        registry_code_hash=registry_code_hash,
        app_code_hash=app_code_hash,
    )
    path = write_kms_app(folder, pins)
    out.line(
        f"wrote {escape(str(path))}; next: keyturn lock and fetch for root/keyturn.toml, keyturn app lock"
    )
    out.result({"recipe": str(path)})


def _show(out: Output, built: BuiltApp) -> None:
    from image_builder.app_build import DISK_NAME
    from measurements.app_manifest import parse_manifest

    manifest = parse_manifest(built.manifest)
    rows = [
        (each.name, escape(each.image.source), each.volume.root_hash.hex()) for each in manifest.containers
    ]
    out.table(f"{manifest.name} {manifest.version}", ("container", "image", "verity root"), rows)
    out.line(f"app hash {built.app_hash.hex()}")
    size = (built.folder / DISK_NAME).stat().st_size
    out.line(f"{size:,} bytes in {escape(str(built.folder / DISK_NAME))}")
    out.result({"app_hash": built.app_hash.hex(), "folder": str(built.folder), "disk_bytes": size})


def _instance_id(text: str) -> bytes:
    if not text:
        return secrets.token_bytes(INSTANCE_ID_SIZE)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise AppUsageError(
            f"{text!r} is not hex", subject="--instance-id", advice="give 32 hex digits"
        ) from None


def _network(address: str, gateway: str) -> Network | None:
    from measurements.config_disk import Network

    if bool(address) != bool(gateway):
        raise AppUsageError(
            "address and gateway belong together", subject="--address", advice="give both, or none"
        )
    return Network(address=address, gateway=gateway) if address else None


def _environment(entries: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or name in found:
            raise AppUsageError(
                f"{entry!r} is not NAME=value, or given twice", subject="--env", advice="give NAME=value once"
            )
        found[name] = value
    return found


def _envelope(path: Path, app_manifest: bytes) -> bytes:
    """An envelope of the app's owner for this app, as far as that can be seen without the app's key."""
    from guest_agent.owner_envelope import check_owner, target_of
    from keyturn.input_files import read_limited
    from measurements.app_manifest import parse_manifest
    from measurements.envelope import parse_envelope

    data = read_limited(path)
    envelope = parse_envelope(data)
    check_owner(envelope, target_of(parse_manifest(app_manifest), epoch=envelope.target.epoch))
    return data


def _reference(path: Path) -> dict[str, Json]:
    """Reference values without their events, which the guest has no use for."""
    from measurements.canonical import parse_json

    document = parse_json(path.read_bytes(), subject=path.name)
    if not isinstance(document, dict) or not {"platform", "shape", "banks"} <= set(document):
        raise AppUsageError(
            "holds no reference values", subject=path.name, advice="name a file of `keyturn predict`"
        )
    return {key: document[key] for key in ("platform", "shape", "banks")}
