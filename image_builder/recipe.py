"""The recipe ``keyturn.toml``: what an image is made of, as its author writes it.

A recipe is TOML 1.0. The models below are the whole format: every table and key that exists, nothing else; an
unknown key is an error that names the nearest known one. Image paths in a recipe are absolute
(``/etc/motd``); sources are relative to the recipe.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    model_validator,
)

from image_builder.recipe_errors import RecipeError, recipe_error
from image_builder.recipe_values import (
    absolute_path,
    accounts_name,
    capability_set,
    command_line_word,
    file_mode,
    image_label,
    module_name,
    package_name,
    relative_source,
    size_in_bytes,
    suite_name,
    unique,
    wheel_pin,
)

RECIPE_NAME = "keyturn.toml"

ImagePath = Annotated[str, AfterValidator(absolute_path)]
Label = Annotated[str, AfterValidator(image_label)]
PackageName = Annotated[str, AfterValidator(package_name)]
SuiteName = Annotated[str, AfterValidator(suite_name)]
Size = Annotated[int, BeforeValidator(size_in_bytes)]
Mode = Annotated[int, BeforeValidator(file_mode)]
AccountName = Annotated[str, AfterValidator(accounts_name)]
AccountId = Annotated[StrictInt, Field(ge=1, le=65533)]


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=_kebab)


class ImageTable(_Table):
    """``[image]``: name and version of the image, ``dev`` mark, and the largest root allowed, in bytes."""

    name: Label
    version: Label
    dev: StrictBool = False
    root_size_limit: Size = 120 << 20


class ArchiveTable(_Table):
    """``[archive]``: the package archive, the suites and components that are read, and the keyring that
    must have signed them.
    """

    keyring: Annotated[str, Field(min_length=1)]
    suites: Annotated[tuple[SuiteName, ...], Field(min_length=1), AfterValidator(unique)]
    components: Annotated[tuple[Label, ...], Field(min_length=1), AfterValidator(unique)] = ("main",)
    architecture: Literal["amd64"] = "amd64"


class PinnedPackage(_Table):
    """``[[packages.pinned]]``: a package that is taken from another suite."""

    name: PackageName
    suite: SuiteName


class PackagesTable(_Table):
    """``[packages]``: what is installed; dependencies left out and packages whose scripts are accepted as
    never running, each with the reason.
    """

    install: Annotated[tuple[PackageName, ...], AfterValidator(unique)]
    omit: dict[PackageName, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    scripts: dict[PackageName, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    pinned: tuple[PinnedPackage, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unique(tuple(pin.name for pin in self.pinned))
        both = sorted(set(self.install) & set(self.omit))
        if both:
            raise ValueError(f"{both[0]} is both installed and omitted")
        return self


class KernelTable(_Table):
    """``[kernel]``: the kernel's package, the modules the initrd loads in this order, and additions to the
    command line.
    """

    package: PackageName
    suite: SuiteName | None = None
    modules: Annotated[tuple[Annotated[str, AfterValidator(module_name)], ...], AfterValidator(unique)] = ()
    command_line: Annotated[
        tuple[Annotated[str, AfterValidator(command_line_word)], ...], AfterValidator(unique)
    ] = ()


class BootTable(_Table):
    """``[boot]``: the package that has the UEFI stub of the unified kernel image."""

    stub_package: PackageName
    suite: SuiteName | None = None


class PythonTable(_Table):
    """``[python]``: wheels, each pinned as ``name==version``."""

    wheels: Annotated[tuple[Annotated[str, AfterValidator(wheel_pin)], ...], AfterValidator(unique)] = ()


class FileEntry(_Table):
    """``[[file]]``: a local file that is put into the image."""

    source: Annotated[str, AfterValidator(relative_source)]
    path: ImagePath
    owner: AccountName = "root"
    group: AccountName = "root"
    mode: Mode = 0o644


class UserEntry(_Table):
    """``[[user]]``: an account of the image; its primary group has the same name."""

    name: AccountName
    uid: AccountId
    gid: AccountId
    home: ImagePath = "/nonexistent"
    groups: Annotated[tuple[AccountName, ...], AfterValidator(unique)] = ()


class TmpfsEntry(_Table):
    """``[[tmpfs]]``: one more place that can be written at run time, in memory; ``size`` in bytes."""

    path: ImagePath
    size: Size
    mode: Mode = 0o755


class PermissionsTable(_Table):
    """``[permissions]``: files of packages that may carry set-id bits or file capabilities."""

    setuid: Annotated[tuple[ImagePath, ...], AfterValidator(unique)] = ()
    capabilities: dict[ImagePath, Annotated[str, AfterValidator(capability_set)]] = Field(
        default_factory=dict
    )


class Recipe(_Table):
    """A whole recipe; ``sha256`` is the hash of the file's bytes."""

    image: ImageTable
    archive: ArchiveTable
    packages: PackagesTable
    kernel: KernelTable
    boot: BootTable
    python: PythonTable = PythonTable()
    files: Annotated[tuple[FileEntry, ...], Field(alias="file")] = ()
    users: Annotated[tuple[UserEntry, ...], Field(alias="user")] = ()
    tmpfs: tuple[TmpfsEntry, ...] = ()
    divert: dict[ImagePath, PackageName] = Field(default_factory=dict)
    permissions: PermissionsTable = PermissionsTable()
    sha256: Annotated[str, Field(exclude=True)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unique(tuple(entry.path for entry in self.files))
        unique(tuple(user.name for user in self.users))
        unique(tuple(str(user.uid) for user in self.users))
        unique(tuple(entry.path for entry in self.tmpfs))
        for entry in self.files:
            if entry.mode & 0o7000 and entry.path not in self.permissions.setuid:
                raise ValueError(f"{entry.path} has a set-id mode but is not listed in permissions.setuid")
        return self

    @property
    def all_suites(self) -> tuple[str, ...]:
        """The suites of the archive table, then every other suite that something is pinned to, in order of
        appearance.
        """
        pinned = [pin.suite for pin in self.packages.pinned]
        others = [suite for suite in (*pinned, self.kernel.suite, self.boot.suite) if suite is not None]
        return tuple(dict.fromkeys((*self.archive.suites, *others)))

    @property
    def request_sha256(self) -> str:
        """Hash of what decides about packages and wheels, so that a change elsewhere needs no new
        resolution.
        """
        request = "\n".join(_request_lines(self))
        return hashlib.sha256(request.encode()).hexdigest()


def _request_lines(recipe: Recipe) -> Iterable[str]:
    yield "keyturn-request/1"
    yield f"architecture {recipe.archive.architecture}"
    yield from (f"suite {suite}" for suite in recipe.archive.suites)
    yield from (f"component {component}" for component in recipe.archive.components)
    yield from (f"install {name}" for name in sorted(recipe.packages.install))
    yield from (f"omit {name}" for name in sorted(recipe.packages.omit))
    yield from sorted(f"pin {pin.name} {pin.suite}" for pin in recipe.packages.pinned)
    yield f"kernel {recipe.kernel.package} {recipe.kernel.suite or '-'}"
    yield f"stub {recipe.boot.stub_package} {recipe.boot.suite or '-'}"
    yield from (f"wheel {wheel}" for wheel in sorted(recipe.python.wheels))


def parse_recipe(data: bytes, *, name: str = RECIPE_NAME) -> Recipe:
    """The recipe in ``data``; ``name`` is how errors call it.

    Raises :class:`RecipeError` when the bytes are not TOML, a key is unknown or missing, or a value is not
    allowed.
    """
    try:
        document: dict[str, Any] = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(
            f"not valid TOML: {error}", subject=name, advice="correct the file at the place named above"
        ) from None
    if "sha256" in document:
        raise RecipeError("unknown key sha256", subject=name, advice="remove the key")
    try:
        return Recipe.model_validate({**document, "sha256": hashlib.sha256(data).hexdigest()})
    except ValidationError as error:
        raise recipe_error(error, model=Recipe, name=name) from None


def read_recipe(path: Path) -> Recipe:
    """The recipe in the file ``path``; raises :class:`RecipeError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"cannot be read: {error.strerror}",
            subject=path.name,
            advice="name the recipe's file, or write one with `keyturn init`",
        ) from None
    return parse_recipe(data, name=path.name)
