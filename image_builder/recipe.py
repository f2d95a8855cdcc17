"""The recipe ``keyturn.toml``: what an image is made of, as its author writes it.

A recipe is TOML 1.0. The classes below are the whole format: every table and key that exists, nothing else;
an unknown key is an error that names the nearest known one. Image paths in a recipe are absolute
(``/etc/motd``); sources are relative to the recipe.
"""

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

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
    accounts_name,
    capability_set,
    command_line_word,
    file_mode,
    image_label,
    module_name,
    not_empty,
    package_name,
    relative_source,
    size_in_bytes,
    suite_name,
    unique,
    wheel_pin,
)

RECIPE_NAME = "keyturn.toml"

ImagePath = Annotated[str, text(absolute_path)]
ImagePaths = Annotated[tuple[str, ...], listed(text(absolute_path), check=unique)]
Label = Annotated[str, text(image_label)]
PackageName = Annotated[str, text(package_name)]
PackageReasons = Annotated[dict[str, str], mapped(text(package_name), text(not_empty))]
SuiteName = Annotated[str, text(suite_name)]
OptionalSuite = Annotated[str | None, text(suite_name)]
Flag = Annotated[bool, boolean]
Size = Annotated[int, size_in_bytes]
Mode = Annotated[int, file_mode]
AccountName = Annotated[str, text(accounts_name)]
AccountId = Annotated[int, number(1, 65533)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTable:
    """``[image]``: name and version of the image, ``dev`` mark, and the largest root allowed, in bytes."""

    name: Label
    version: Label
    dev: Flag = False
    root_size_limit: Size = 120 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveTable:
    """``[archive]``: the package archive, the suites and components that are read, and the keyring that
    must have signed them.
    """

    keyring: Annotated[str, text(not_empty)]
    suites: Annotated[tuple[str, ...], listed(text(suite_name), check=unique, at_least=1)]
    components: Annotated[tuple[str, ...], listed(text(image_label), check=unique, at_least=1)] = ("main",)
    architecture: Annotated[str, one_of("amd64")] = "amd64"


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedPackage:
    """``[[packages.pinned]]``: a package that is taken from another suite."""

    name: PackageName
    suite: SuiteName


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagesTable:
    """``[packages]``: what is installed; dependencies left out and packages whose scripts are accepted as
    never running, each with the reason.
    """

    install: Annotated[tuple[str, ...], listed(text(package_name), check=unique)]
    omit: PackageReasons = field(default_factory=dict)
    scripts: PackageReasons = field(default_factory=dict)
    pinned: Annotated[tuple[PinnedPackage, ...], tables(PinnedPackage)] = ()

    def __post_init__(self) -> None:
        unique(tuple(pin.name for pin in self.pinned))
        both = sorted(set(self.install) & set(self.omit))
        if both:
            raise ValueError(f"{both[0]} is both installed and omitted")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelTable:
    """``[kernel]``: the kernel's package, the modules the initrd loads in this order, and additions to the
    command line.
    """

    package: PackageName
    suite: OptionalSuite = None
    modules: Annotated[tuple[str, ...], listed(text(module_name), check=unique)] = ()
    command_line: Annotated[tuple[str, ...], listed(text(command_line_word), check=unique)] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BootTable:
    """``[boot]``: the package that has the UEFI stub of the unified kernel image."""

    stub_package: PackageName
    suite: OptionalSuite = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonTable:
    """``[python]``: wheels, each pinned as ``name==version``."""

    wheels: Annotated[tuple[str, ...], listed(text(wheel_pin), check=unique)] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """``[[file]]``: a local file that is put into the image."""

    source: Annotated[str, text(relative_source)]
    path: ImagePath
    owner: AccountName = "root"
    group: AccountName = "root"
    mode: Mode = 0o644


@dataclass(frozen=True, kw_only=True, slots=True)
class UserEntry:
    """``[[user]]``: an account of the image; its primary group has the same name."""

    name: AccountName
    uid: AccountId
    gid: AccountId
    home: ImagePath = "/nonexistent"
    groups: Annotated[tuple[str, ...], listed(text(accounts_name), check=unique)] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TmpfsEntry:
    """``[[tmpfs]]``: one more place that can be written at run time, in memory; ``size`` in bytes."""

    path: ImagePath
    size: Size
    mode: Mode = 0o755


@dataclass(frozen=True, kw_only=True, slots=True)
class PermissionsTable:
    """``[permissions]``: files of packages that may carry set-id bits or file capabilities."""

    setuid: ImagePaths = ()
    capabilities: Annotated[dict[str, str], mapped(text(absolute_path), text(capability_set))] = field(
        default_factory=dict
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A whole recipe; ``sha256`` is the hash of the file's bytes."""

    image: ImageTable
    archive: ArchiveTable
    packages: PackagesTable
    kernel: KernelTable
    boot: BootTable
    python: PythonTable = field(default_factory=PythonTable)
    files: Annotated[tuple[FileEntry, ...], tables(FileEntry)] = field(default=(), metadata={"key": "file"})
    users: Annotated[tuple[UserEntry, ...], tables(UserEntry)] = field(default=(), metadata={"key": "user"})
    tmpfs: Annotated[tuple[TmpfsEntry, ...], tables(TmpfsEntry)] = ()
    divert: Annotated[dict[str, str], mapped(text(absolute_path), text(package_name))] = field(
        default_factory=dict
    )
    permissions: PermissionsTable = field(default_factory=PermissionsTable)
    sha256: str

    def __post_init__(self) -> None:
        unique(tuple(entry.path for entry in self.files))
        unique(tuple(user.name for user in self.users))
        unique(tuple(str(user.uid) for user in self.users))
        unique(tuple(entry.path for entry in self.tmpfs))
        for entry in self.files:
            if entry.mode & 0o7000 and entry.path not in self.permissions.setuid:
                raise ValueError(f"{entry.path} has a set-id mode but is not listed in permissions.setuid")

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
    try:
        return read_table(Recipe, document, sha256=hashlib.sha256(data).hexdigest())
    except ProblemsError as error:
        raise recipe_error(error.problems, name=name) from None


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
