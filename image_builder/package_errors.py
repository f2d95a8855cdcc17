"""What can be wrong with a package."""

from __future__ import annotations

from measurements.errors import KeyturnError


class PackageError(KeyturnError):
    """A package that is damaged, or that holds something an image must not take from it."""

    code = "package"


def bad_package(
    package: str, reason: str, *, advice: str = "get the package again, or leave it out"
) -> PackageError:
    """The error for ``package`` (a name, or ``name: member``)."""
    return PackageError(reason, subject=package, advice=advice)
