"""The image's bill of materials in CycloneDX 1.6 JSON, the same bytes for the same image.

Source: ECMA-424, "CycloneDX Bill of Materials"; JSON schema bom-1.6. The serial number is a version 5 UUID of
the image id, and there is no time of making. Written without a library: importing one takes longer than
writing the root file system.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid5

from image_builder.lockfile import Lock
from image_builder.provenance import package_url

SBOM_NAME = "sbom.cdx.json"
_NAMESPACE = UUID("5b6d2c80-2a3f-5f0e-9a35-1d1d6c0f7a11")
_IMAGE = "image"


def sbom_bytes(*, lock: Lock, name: str, version: str, image: str) -> bytes:
    """The document of the image ``name`` with the image id ``image``, in canonical JSON."""
    import rfc8785

    components = sorted((*_packages(lock), *_wheels(lock), *_files(lock)), key=_order)
    references = sorted(str(component["bom-ref"]) for component in components)
    subject: dict[str, Any] = {
        "bom-ref": _IMAGE,
        "type": "operating-system",
        "name": name,
        "version": version,
        "hashes": _sha256(image),
    }
    return rfc8785.dumps(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": uuid5(_NAMESPACE, image).urn,
            "version": 1,
            "metadata": {"component": subject},
            "components": components,
            "dependencies": [
                {"ref": reference, "dependsOn": references} if reference == _IMAGE else {"ref": reference}
                for reference in sorted((_IMAGE, *references))
            ],
        }
    )


def _packages(lock: Lock) -> Iterator[dict[str, Any]]:
    for package in lock.packages:
        properties = {
            "keyturn:role": package.role.value,
            "keyturn:source": f"{package.source} {package.source_version}",
            "keyturn:suite": package.suite,
        }
        yield {
            "bom-ref": f"{package.role.value}/{package.name}",
            "type": "library",
            "name": package.name,
            "version": package.version,
            "purl": package_url(package.name, package.version, package.architecture),
            "hashes": _sha256(package.sha256),
            "properties": [{"name": key, "value": value} for key, value in properties.items()],
        }


def _wheels(lock: Lock) -> Iterator[dict[str, Any]]:
    for wheel in lock.wheels:
        # The package URL specification normalises names of this type.
        name = wheel.name.lower().replace("_", "-")
        yield {
            "bom-ref": f"wheel/{wheel.name}",
            "type": "library",
            "name": wheel.name,
            "version": wheel.version,
            "purl": f"pkg:pypi/{quote(name, safe='')}@{quote(wheel.version, safe='')}",
            "hashes": _sha256(wheel.sha256),
        }


def _files(lock: Lock) -> Iterator[dict[str, Any]]:
    for entry in (*lock.files, *lock.agent):
        yield {
            "bom-ref": f"file{entry.path}",
            "type": "file",
            "name": entry.path,
            "hashes": _sha256(entry.sha256),
        }


def _order(component: dict[str, Any]) -> tuple[str, ...]:
    return tuple(component.get(key, "") for key in ("type", "name", "version", "bom-ref"))


def _sha256(value: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": value}]
