"""The app recipe ``app.toml``: containers, volumes and keys of an app, as its author writes it.

TOML 1.0; the classes below are the whole format (docs/apps.md). An unknown key is an error that names the
nearest known one, and keys that other tools have are refused with the reason. ``[app] compose`` takes the
containers from a Compose file instead.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from image_builder import app_values
from image_builder.oci_reference import image_reference
from image_builder.recipe_errors import RecipeError, recipe_error
from image_builder.recipe_tables import (
    ProblemsError,
    boolean,
    listed,
    mapped,
    number,
    one_of,
    read_table,
    tables,
    text,
)
from image_builder.recipe_values import (
    absolute_path,
    file_mode,
    image_label,
    relative_source,
    size_in_bytes,
    unique,
)

APP_RECIPE_NAME = "app.toml"
DEFAULT_SIZE_LIMIT = 1 << 30

Name = Annotated[str, text(app_values.name)]
Text = Annotated[str, text(app_values.plain_text)]
Words = Annotated[tuple[str, ...], listed(text(app_values.plain_text))]
Path_ = Annotated[str, text(app_values.inner_path)]
Flag = Annotated[bool, boolean]
Size = Annotated[int, size_in_bytes]
Seconds = Annotated[int, number(0, 86400)]
SomeSeconds = Annotated[int, number(1, 86400)]


@dataclass(frozen=True, kw_only=True, slots=True)
class AppTable:
    """``[app]``; ``size_limit`` bounds the uncompressed layers of each image, in bytes."""

    name: Annotated[str, text(image_label)]
    version: Annotated[str, text(image_label)]
    app_id: Annotated[str, text(app_values.address)] = ""
    update: Annotated[str, one_of("mutable", "delayed", "frozen")] = "mutable"
    owner_key: Annotated[str, text(app_values.key_hash)] = ""
    volumes: Annotated[tuple[str, ...], listed(text(app_values.name), check=unique)] = ()
    compose: Annotated[str, text(relative_source)] = ""
    size_limit: Size = DEFAULT_SIZE_LIMIT


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyProviderTable:
    """``[key-provider]``: the pinned source of keys. What is not known before deployment may be left out and
    given when the app is built.
    """

    mode: Annotated[str, one_of("kms", "tpm-seal")] = "kms"
    chain_id: Annotated[int, number(0, (1 << 53) - 1)] = 0
    contract: Annotated[str, text(app_values.address)] = ""
    kms_root: Annotated[str, text(app_values.key_hash)] = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TmpfsEntry:
    """``[[container.tmpfs]]``; ``size`` in bytes."""

    path: Path_
    size: Size
    mode: Annotated[int, file_mode] = 0o755


@dataclass(frozen=True, kw_only=True, slots=True)
class MountEntry:
    """``[[container.mounts]]``: a named volume of the encrypted disk."""

    volume: Name
    path: Path_
    read_only: Flag = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartTable:
    """``[container.restart]``; ``max_retries`` 0 means no limit."""

    policy: Annotated[str, one_of("no", "on-failure", "always")] = "on-failure"
    max_retries: Annotated[int, number(0, 1_000_000)] = 5
    delay_seconds: Seconds = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthTable:
    """``[container.health]``."""

    command: Annotated[tuple[str, ...], listed(text(app_values.plain_text), at_least=1)]
    interval_seconds: SomeSeconds = 10
    timeout_seconds: SomeSeconds = 5
    retries: Annotated[int, number(1, 1000)] = 3
    start_seconds: Seconds = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DependencyEntry:
    """``[[container.depends-on]]``."""

    container: Name
    condition: Annotated[str, one_of("started", "healthy", "completed")] = "started"


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitsTable:
    """``[container.limits]``; ``memory`` in bytes, ``cpu_percent`` of one CPU."""

    memory: Size = 256 << 20
    pids: Annotated[int, number(1, 1 << 22)] = 256
    cpu_percent: Annotated[int, number(1, 102400)] = 100
    open_files: Annotated[int, number(16, 1 << 20)] = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerEntry:
    """``[[container]]``. ``entrypoint`` and ``command`` replace those of the image, as in Compose; ``user``
    and ``working_dir`` do if they are given.
    """

    name: Name
    image: Annotated[str, text(image_reference)]
    entrypoint: Words = ()
    command: Words = ()
    working_dir: Annotated[str, text(absolute_path)] = ""
    env: Annotated[dict[str, str], mapped(text(app_values.env_name), text(app_values.plain_text))] = field(
        default_factory=dict
    )
    allowed_env: Annotated[tuple[str, ...], listed(text(app_values.allowed_env_name), check=unique)] = ()
    user: Annotated[str, text(app_values.user)] = ""
    capabilities: Annotated[tuple[str, ...], listed(text(app_values.capability), check=unique)] = ()
    read_only: Flag = True
    tmpfs: Annotated[tuple[TmpfsEntry, ...], tables(TmpfsEntry)] = ()
    mounts: Annotated[tuple[MountEntry, ...], tables(MountEntry)] = ()
    ports: Annotated[tuple[tuple[int, str], ...], listed(app_values.port, check=unique)] = ()
    restart: RestartTable = field(default_factory=RestartTable)
    health: Annotated[HealthTable | None, lambda value: read_table(HealthTable, value)] = None
    depends_on: Annotated[tuple[DependencyEntry, ...], tables(DependencyEntry)] = ()
    limits: LimitsTable = field(default_factory=LimitsTable)
    socket: Flag = False


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyEntry:
    """``[[key]]``: a key that the app may ask for."""

    path: Annotated[str, text(app_values.key_path)]
    kind: Annotated[str, one_of("raw-256", "aes-256", "ed25519", "x25519", "secp256k1", "p256")]
    scope: Annotated[str, one_of("app", "code", "instance")] = "app"


@dataclass(frozen=True, kw_only=True, slots=True)
class AppRecipe:
    """A whole recipe."""

    app: AppTable
    key_provider: KeyProviderTable = field(default_factory=KeyProviderTable)
    containers: Annotated[tuple[ContainerEntry, ...], tables(ContainerEntry)] = field(
        default=(), metadata={"key": "container"}
    )
    keys: Annotated[tuple[KeyEntry, ...], tables(KeyEntry)] = field(default=(), metadata={"key": "key"})

    def __post_init__(self) -> None:
        if not self.containers:
            raise ValueError("there is no container: add [[container]]")
        unique(tuple(container.name for container in self.containers))
        unique(tuple(key.path for key in self.keys))
        for container in self.containers:
            for mount in container.mounts:
                if mount.volume not in self.app.volumes:
                    raise ValueError(
                        f"container {container.name} mounts {mount.volume}, which is not in app.volumes"
                    )

    @property
    def images(self) -> tuple[str, ...]:
        """The references of all images, each once."""
        return tuple(dict.fromkeys(container.image for container in self.containers))


def app_recipe(document: Mapping[str, Any], *, name: str = APP_RECIPE_NAME) -> AppRecipe:
    """The recipe in a parsed document; raises :class:`RecipeError`."""
    for where, table in _tables(document):
        for key in table:
            if reason := app_values.forbidden_reason(str(key)):
                raise RecipeError(f"{where}{key} is refused: {reason}", subject=name, advice=f"remove {key}")
    try:
        return read_table(AppRecipe, document)
    except ProblemsError as error:
        raise recipe_error(error.problems, name=name) from None


def _tables(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = [("", document)]
    containers = document.get("container")
    for index, entry in enumerate(containers if isinstance(containers, list) else []):
        if isinstance(entry, Mapping):
            found.append((f"container[{index}].", entry))
    return found


def read_app_recipe(path: Path) -> AppRecipe:
    """The recipe in the file ``path``, with its Compose file if it names one; raises :class:`RecipeError`."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise RecipeError(
            f"cannot be read: {error.strerror}",
            subject=path.name,
            advice="name the app's recipe, or write one with `keyturn app init`",
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(
            f"not valid TOML: {error}", subject=path.name, advice="correct the file at the place named above"
        ) from None
    return app_recipe(_with_compose(document, path), name=path.name)


def _with_compose(document: dict[str, Any], path: Path) -> dict[str, Any]:
    app = document.get("app")
    compose = app.get("compose") if isinstance(app, dict) else None
    if not isinstance(compose, str) or not isinstance(app, dict):
        return document
    from image_builder.app_compose import compose_document

    if "container" in document or "volumes" in app:
        raise RecipeError(
            "containers and volumes stand in the recipe and in its Compose file",
            subject=path.name,
            advice="keep one of the two",
        )
    try:
        relative_source(compose)
    except ValueError as error:
        raise RecipeError(
            f"app.compose: {error}", subject=path.name, advice="name a file next to the recipe"
        ) from None
    containers, volumes = compose_document(path.parent / compose)
    return document | {"app": app | {"volumes": volumes}, "container": containers}
