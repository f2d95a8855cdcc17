"""Python wheels for the guest: which file of a release fits its interpreter, locked by the hash that the
package index gives.

Wheel names follow PEP 427, tags PEP 425 and PEP 600. Dependencies are not resolved; one that is neither a
wheel of the recipe nor a package of the root is reported.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from image_builder.lockfile import LockedWheel
from image_builder.store import Store
from image_builder.wheel_index import IndexedWheel, WheelError, WheelIndex

_INTERPRETER = re.compile(r"python3\.([0-9]+)-minimal")
_OLDEST_MANYLINUX = 5
_LEGACY_PLATFORMS = {17: "manylinux2014_x86_64", 12: "manylinux2010_x86_64", 5: "manylinux1_x86_64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestPython:
    """The guest's interpreter: CPython 3.``minor`` on x86-64 with glibc 2.``glibc_minor``; ``packages`` are
    the root's packages.
    """

    minor: int
    glibc_minor: int
    packages: frozenset[str]

    @classmethod
    def of_packages(cls, versions: Mapping[str, str]) -> GuestPython:
        """The interpreter among the root's packages (name → version); raises :class:`WheelError` when there
        is none.
        """
        minors = [int(match[1]) for name in versions if (match := _INTERPRETER.fullmatch(name))]
        glibc = re.match(r"2\.([0-9]+)", versions.get("libc6", ""))
        if not minors or glibc is None:
            raise WheelError(
                "the recipe has wheels but no Python interpreter",
                subject="python.wheels",
                advice="install python3.13-minimal (packages.install), or remove the wheels",
            )
        return cls(minor=max(minors), glibc_minor=int(glibc[1]), packages=frozenset(versions))

    def tags(self) -> list[Tag]:
        """Wheel tags that fit, best first."""
        platforms = list(_platforms(self.glibc_minor))
        version = (3, self.minor)
        interpreter = f"cp3{self.minor}"
        return [
            *cpython_tags(version, abis=[interpreter], platforms=platforms),
            *compatible_tags(version, interpreter=interpreter, platforms=platforms),
        ]

    def markers(self) -> dict[str, str]:
        """Environment for dependency markers (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"3.{self.minor}.0",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"3.{self.minor}.0",
            "python_version": f"3.{self.minor}",
            "sys_platform": "linux",
            "extra": "",
        }


def _platforms(glibc_minor: int) -> Iterator[str]:
    for minor in range(glibc_minor, _OLDEST_MANYLINUX - 1, -1):
        yield f"manylinux_2_{minor}_x86_64"
        if minor in _LEGACY_PLATFORMS:
            yield _LEGACY_PLATFORMS[minor]
    yield "linux_x86_64"


def lock_wheels(
    pins: Sequence[str], *, guest: GuestPython, index: WheelIndex, store: Store
) -> tuple[tuple[LockedWheel, ...], tuple[str, ...]]:
    """The wheels of ``pins`` (``name==version``), put in the store, and warnings; raises
    :class:`WheelError`.
    """
    locked: list[LockedWheel] = []
    warnings: list[str] = []
    for pin in pins:
        name, _, version = pin.partition("==")
        chosen = choose_wheel(index.files(name), version=version, guest=guest, subject=pin)
        if chosen.yanked:
            warnings.append(f"wheel {chosen.filename} was yanked by its authors")
        data = index.download(chosen)
        found = hashlib.sha256(data).hexdigest()
        if found != chosen.sha256:
            raise WheelError(
                f"wrong bytes: the index says SHA-256 {chosen.sha256}, found {found}",
                subject=chosen.filename,
                advice="use another index (PIP_INDEX_URL)",
            )
        locked.append(
            LockedWheel(
                name=str(canonicalize_name(name)),
                version=version,
                filename=chosen.filename,
                size=len(data),
                sha256=store.add_bytes(data),
            )
        )
    for wheel in locked:
        path = store.path(wheel.sha256)
        warnings += missing_dependencies(path, wheel=wheel, wheels=locked, guest=guest)
    return tuple(sorted(locked, key=lambda wheel: wheel.name)), tuple(warnings)


def choose_wheel(
    files: Sequence[IndexedWheel], *, version: str, guest: GuestPython, subject: str
) -> IndexedWheel:
    """The file of ``version`` with the best tag for ``guest``; raises :class:`WheelError`."""
    ranks = {tag: rank for rank, tag in enumerate(guest.tags())}
    best: tuple[int, IndexedWheel] | None = None
    for file in files:
        rank = _rank(file, version=version, ranks=ranks)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, file)
    if best is None:
        raise WheelError(
            f"the index has no wheel of it with a hash for CPython 3.{guest.minor} on x86-64 Linux",
            subject=subject,
            advice="pin a version that has one, or use the Debian package",
        )
    return best[1]


def _rank(file: IndexedWheel, *, version: str, ranks: Mapping[Tag, int]) -> int | None:
    """Place of the file's best tag among those that fit; None for a file that is no candidate."""
    if not file.filename.endswith(".whl") or not file.sha256:
        return None
    try:
        _, file_version, _, tags = parse_wheel_filename(file.filename)
        if file_version != Version(version):
            return None
    except (InvalidWheelFilename, InvalidVersion):
        return None
    fitting = [ranks[tag] for tag in tags if tag in ranks]
    return min(fitting, default=None)


def missing_dependencies(
    path: Path, *, wheel: LockedWheel, wheels: Sequence[LockedWheel], guest: GuestPython
) -> list[str]:
    """Warnings for what the wheel at ``path`` requires (Requires-Dist) and neither the wheels nor the
    root's packages have.
    """
    versions = {each.name: each.version for each in wheels}
    warnings = []
    for requirement in _requirements(path, wheel=wheel):
        if requirement.marker is not None and not requirement.marker.evaluate(guest.markers()):
            continue
        name = str(canonicalize_name(requirement.name))
        if name in versions and requirement.specifier.contains(versions[name], prereleases=True):
            continue
        if name not in versions and f"python3-{name}" in guest.packages:
            continue
        warnings.append(
            f"wheel {wheel.name} {wheel.version} requires {requirement}, which is not in the image"
        )
    return warnings


def _requirements(path: Path, *, wheel: LockedWheel) -> list[Requirement]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            metadata = Parser().parsestr(archive.read(names[0]).decode(), headersonly=True)
        return [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    except (zipfile.BadZipFile, IndexError, UnicodeDecodeError, InvalidRequirement) as error:
        raise WheelError(
            f"not a usable wheel: {error}", subject=wheel.filename, advice="pin another version"
        ) from None
