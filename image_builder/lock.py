"""Makes a lock: reads the signed indexes, resolves, and hashes the local files. The shell around the pure
modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from image_builder.local_files import lock_agent, lock_files
from image_builder.lockfile import Lock, LockedPackage, LockedWheel, LockError, PackageRole
from image_builder.mirrors import Mirrors
from image_builder.openpgp import read_keyring
from image_builder.progress import Progress
from image_builder.recipe import Recipe
from image_builder.relations import Relation
from image_builder.release_index import IndexedPackage
from image_builder.resolver import Resolution, resolve
from image_builder.resolver_errors import ResolveError, unknown_package
from image_builder.store import Store
from image_builder.suite_index import IndexReader, SuiteIndex
from image_builder.transport import Transport
from image_builder.universe import Universe, newest
from image_builder.wheel_index import WheelIndex
from image_builder.wheels import GuestPython, lock_wheels


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """A lock and what its user should know about it."""

    lock: Lock
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LockTools:
    """Where a lock's inputs come from on this machine, and the time at which indexes have to be valid."""

    store: Store
    transport: Transport
    mirrors: Mirrors
    wheel_index: WheelIndex
    now: datetime
    progress: Progress


def still_answers(lock: Lock, recipe: Recipe) -> bool:
    """Whether the packages and wheels of ``lock`` are those that ``recipe`` asks for."""
    return lock.request_sha256 == recipe.request_sha256


def lock_local(recipe: Recipe, *, previous: Lock, folder: Path, store: Store) -> Lock:
    """``previous`` with the local files as they are now; no network. Raises :class:`LockError` if the
    recipe asks for other packages.
    """
    if not still_answers(previous, recipe):
        raise LockError(
            "the recipe asks for other packages or wheels than this lock has",
            subject="keyturn.lock",
            advice="run `keyturn lock` (it needs a mirror)",
        )
    return replace(
        previous,
        recipe_sha256=recipe.sha256,
        files=lock_files(recipe.files, folder=folder, store=store),
        agent=lock_agent(store=store),
    )


def lock_recipe(recipe: Recipe, *, folder: Path, tools: LockTools) -> Locked:
    """A new lock from the archive as it is now."""
    files = lock_files(recipe.files, folder=folder, store=tools.store)
    agent = lock_agent(store=tools.store)
    indexes = _read_indexes(recipe, folder=folder, tools=tools)
    universe = _universe(recipe, indexes)
    _check_pins(recipe, universe)
    resolution = resolve(universe, recipe.packages.install, omit=recipe.packages.omit)
    packages = (
        *(_locked(package, PackageRole.ROOT) for package in resolution.packages),
        *(_locked(package, PackageRole.KERNEL) for package in _kernel(recipe, universe)),
        _locked(
            _from_suite(universe, recipe.boot.stub_package, recipe.boot.suite, key="boot.stub-package"),
            PackageRole.STUB,
        ),
    )
    wheels, wheel_warnings = _wheels(recipe, resolution, tools)
    lock = Lock(
        architecture=recipe.archive.architecture,
        recipe_sha256=recipe.sha256,
        request_sha256=recipe.request_sha256,
        suites=tuple(index.locked for index in indexes),
        packages=tuple(sorted(packages, key=lambda package: (package.name, package.role))),
        wheels=wheels,
        files=files,
        agent=agent,
    )
    return Locked(lock=lock, warnings=(*_unused_omissions(recipe, resolution), *wheel_warnings))


def _read_indexes(recipe: Recipe, *, folder: Path, tools: LockTools) -> list[SuiteIndex]:
    reader = IndexReader(
        transport=tools.transport,
        mirrors=tools.mirrors,
        keyring=read_keyring(folder / recipe.archive.keyring),
        store=tools.store,
        architecture=recipe.archive.architecture,
        now=tools.now,
    )
    indexes: list[SuiteIndex] = []
    suites = recipe.all_suites
    for number, suite in enumerate(suites):
        tools.progress.update("indexes", done=number, total=len(suites))
        indexes += reader.read(suite, recipe.archive.components)
    tools.progress.update("indexes", done=len(suites), total=len(suites))
    return indexes


def _universe(recipe: Recipe, indexes: Sequence[SuiteIndex]) -> Universe:
    main = [index for index in indexes if index.locked.suite in recipe.archive.suites]
    return Universe(
        automatic=[index.packages for index in main if not index.not_automatic],
        reluctant=[index.packages for index in main if index.not_automatic],
        lending=[index.packages for index in indexes if index.locked.suite in _lending_suites(recipe)],
        pins={pin.name: pin.suite for pin in recipe.packages.pinned},
        others=[index.packages for index in indexes],
    )


def _lending_suites(recipe: Recipe) -> set[str]:
    """Suites that only pinned packages of the root come from; the kernel's and the stub's suite lends
    nothing to the root.
    """
    return {pin.suite for pin in recipe.packages.pinned} - set(recipe.archive.suites)


def _check_pins(recipe: Recipe, universe: Universe) -> None:
    for pin in recipe.packages.pinned:
        if not universe.in_suite(pin.name, pin.suite):
            raise ResolveError(
                f"packages.pinned: package {pin.name} is not in {pin.suite}",
                subject=pin.name,
                advice="correct the name or the suite of the pin",
            )


def _kernel(recipe: Recipe, universe: Universe) -> list[IndexedPackage]:
    """The named package and what belongs to it: dependencies of the same build (image, modules, config come
    as packages of their own since Linux 7.x; before, a meta package names one image package). Other
    dependencies are tools for installing a kernel.
    """
    named = _from_suite(universe, recipe.kernel.package, recipe.kernel.suite, key="kernel.package")
    found = {named.name: named}
    queue = [named]
    while queue:
        package = queue.pop()
        for relation in (group[0] for group in package.depends):
            if relation.name in found or not _same_build(relation):
                continue
            part = newest(
                other
                for other in universe.in_suite(relation.name, named.suite)
                if relation.allows(other.version)
            )
            if part is None:
                raise ResolveError(
                    f"kernel.package: {package.name} needs {relation}, which {named.suite} does not have",
                    subject=named.name,
                    advice="try again when the mirror has finished its update",
                )
            found[part.name] = part
            queue.append(part)
    return [found[name] for name in sorted(found)]


def _same_build(relation: Relation) -> bool:
    return relation.name.startswith("linux-") and relation.operator == "="


def _from_suite(universe: Universe, name: str, suite: str | None, *, key: str) -> IndexedPackage:
    package = universe.candidate(name) if suite is None else newest(universe.in_suite(name, suite))
    if package is None:
        raise unknown_package(universe, name, key=key)
    return package


def _locked(package: IndexedPackage, role: PackageRole) -> LockedPackage:
    return LockedPackage(
        name=package.name,
        version=package.version,
        architecture=package.architecture,
        role=role,
        size=package.size,
        sha256=package.sha256,
        path=package.path,
        suite=package.suite,
        source=package.source,
        source_version=package.source_version,
    )


def _wheels(
    recipe: Recipe, resolution: Resolution, tools: LockTools
) -> tuple[tuple[LockedWheel, ...], tuple[str, ...]]:
    if not recipe.python.wheels:
        return (), ()
    names = {package.name: package.version for package in resolution.packages}
    guest = GuestPython.of_packages(names)
    return lock_wheels(recipe.python.wheels, guest=guest, index=tools.wheel_index, store=tools.store)


def _unused_omissions(recipe: Recipe, resolution: Resolution) -> list[str]:
    unused = sorted(set(recipe.packages.omit) - resolution.omitted)
    return [f"packages.omit: nothing depends on {name}" for name in unused]
