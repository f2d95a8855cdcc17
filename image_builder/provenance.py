"""Provenance of an image: an in-toto statement with the SLSA v1 predicate, without times.

Source: in-toto attestation framework, Statement v1; SLSA "Provenance" v1. The subjects are the artefacts, the
external parameters the recipe and the lock, the resolved dependencies every line of the lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from image_builder.lockfile import Lock

PROVENANCE_NAME = "provenance.json"
BUILD_TYPE = "https://keyturn.dev/image-build/v1"
BUILDER_ID = "https://keyturn.dev/builder/v1"


def provenance_bytes(
    *, lock: Lock, lock_sha256: str, artefacts: Mapping[str, str], image: str, builder_version: str
) -> bytes:
    """The statement in canonical JSON. ``artefacts`` maps names to SHA-256, ``image`` is the image id."""
    import rfc8785

    statement: dict[str, Any] = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(artefacts.items())
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "recipe": {"digest": {"sha256": lock.recipe_sha256}},
                    "lock": {"digest": {"sha256": lock_sha256}},
                },
                "internalParameters": {"imageId": image},
                "resolvedDependencies": list(_dependencies(lock)),
            },
            "runDetails": {"builder": {"id": BUILDER_ID, "version": {"keyturn": builder_version}}},
        },
    }
    return rfc8785.dumps(statement)


def package_url(name: str, version: str, architecture: str) -> str:
    """The package URL of a Debian package (purl specification, type deb)."""
    return f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe=':')}?arch={architecture}"


def _dependencies(lock: Lock) -> Iterator[dict[str, Any]]:
    for package in sorted(lock.packages, key=lambda each: (each.name, each.role)):
        uri = package_url(package.name, package.version, package.architecture)
        yield {
            "uri": uri,
            "digest": {"sha256": package.sha256},
            "annotations": {"role": package.role.value, "suite": package.suite, "path": package.path},
        }
    for wheel in sorted(lock.wheels, key=lambda each: each.name):
        uri = f"pkg:pypi/{quote(wheel.name, safe='')}@{quote(wheel.version, safe='')}"
        yield {"uri": uri, "digest": {"sha256": wheel.sha256}}
    for entry in sorted((*lock.files, *lock.agent), key=lambda each: each.path):
        yield {"name": entry.source, "digest": {"sha256": entry.sha256}}
