"""How a recipe names a container image.

``oci:FOLDER`` or ``oci:FOLDER:TAG``
    an OCI image layout, relative to the recipe; its digest is taken when the app is locked
``recipe:FOLDER``
    a root file system from packages: the folder's ``keyturn.toml`` and ``keyturn.lock``, relative
    to the app's recipe
``HOST/REPOSITORY:TAG``, ``HOST/REPOSITORY@sha256:…``, or both
    an image of a registry (OCI Distribution Specification 1.1, "Pulling manifests"); a tag is replaced by a
    digest when the app is locked

There is no default registry and no default tag, and ``latest`` needs a digest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from image_builder.oci_image import DIGEST
from image_builder.recipe_values import relative_source

LAYOUT = "oci:"
RECIPE = "recipe:"
_HOST = re.compile(r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:[0-9]))(?::[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutReference:
    """A layout folder below the recipe's; ``tag`` may be ""."""

    folder: str
    tag: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeReference:
    """A folder below the recipe's, with an image recipe and its lock."""

    folder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryReference:
    """An image of a registry; ``tag`` or ``digest`` may be "", not both."""

    host: str
    repository: str
    tag: str
    digest: str


def parse_reference(value: str) -> LayoutReference | RecipeReference | RegistryReference:
    """What ``value`` names; raises ``ValueError`` with the reason."""
    if value.startswith(LAYOUT):
        folder, _, tag = value.removeprefix(LAYOUT).partition(":")
        if tag and not _TAG.fullmatch(tag):
            raise ValueError(f"{tag!r} is not a tag")
        return LayoutReference(folder=relative_source(folder), tag=tag)
    if value.startswith(RECIPE):
        return RecipeReference(folder=relative_source(value.removeprefix(RECIPE)))
    return _registry_reference(value)


def _registry_reference(value: str) -> RegistryReference:
    name, at, digest = value.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is not a digest (sha256: and 64 lower-case hex digits)")
    host, _, path = name.partition("/")
    if not path or not _HOST.fullmatch(host):
        raise ValueError(f"{value!r} names no registry: write HOST/REPOSITORY@sha256:…, or oci:FOLDER")
    repository, _, tag = path.partition(":")
    if not _REPOSITORY.fullmatch(repository) or (tag and not _TAG.fullmatch(tag)):
        raise ValueError(f"{path!r} is not a repository with a tag")
    if not digest and tag in {"", "latest"}:
        raise ValueError(f"{value!r} may become another image at any time: add @sha256:… or a version's tag")
    return RegistryReference(host=host, repository=repository, tag=tag, digest=digest)


def image_reference(value: str) -> str:
    """``value``, if it is a reference."""
    parse_reference(value)
    return value
