"""The image's bill of materials in CycloneDX 1.6 JSON, the same bytes for the same image.

The serial number is a version 5 UUID of the image id, and there is no time of making.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from image_builder.kept import KeptFacts
from image_builder.lockfile import Lock, LockedFile, LockedPackage, LockedWheel, parse_lock
from image_builder.provenance import package_url
from image_builder.store import Store
from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from cyclonedx.model import HashType
    from cyclonedx.model.component import Component

SBOM_NAME = "sbom.cdx.json"
KIND = "sbom-1"
_NAMESPACE = UUID("5b6d2c80-2a3f-5f0e-9a35-1d1d6c0f7a11")


class SbomError(KeyturnError):
    """The bill of materials cannot be written."""

    code = "sbom"


def draft_sbom(*, lock: Lock, lock_data: bytes, name: str, version: str, store: Store) -> dict[str, Any]:
    """What :func:`make_draft` returns; the hashes of local files may be those of an earlier lock.

    Importing the library takes longer than writing the root file system, so the draft is kept in ``store``,
    and made by another process of this interpreter.
    """
    digest = hashlib.sha256(_library_bytes())
    digest.update(
        repr((name, version, lock.packages, lock.wheels, [entry.path for entry in _all_files(lock)])).encode()
    )
    draft: dict[str, Any] = KeptFacts(store).of(
        KIND, digest.hexdigest(), lambda: _make_in_process(lock_data, name, version)
    )
    return draft


def _make_in_process(lock_data: bytes, name: str, version: str) -> Any:
    command = [sys.executable, "-m", __name__, name, version]
    done = subprocess.run(command, input=lock_data, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise SbomError(
            f"its process ended with status {done.returncode}: {said}",
            subject=SBOM_NAME,
            advice="install keyturn's locked Python packages again",
        )
    return json.loads(done.stdout)


def _library_bytes() -> bytes:
    """The module that holds the library's version: another version may write another document."""
    found = find_spec("cyclonedx")
    return b"" if found is None or found.origin is None else Path(found.origin).read_bytes()


def make_draft(*, lock: Lock, name: str, version: str) -> dict[str, Any]:
    """The document for image ``name``, as long as the image id is not known."""
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    subject = Component(type=ComponentType.OPERATING_SYSTEM, name=name, version=version, bom_ref="image")
    bom = Bom(
        serial_number=_NAMESPACE,
        metadata=BomMetaData(component=subject),
        components=[*map(_package, lock.packages), *map(_wheel, lock.wheels), *_files(lock)],
    )
    bom.register_dependency(subject, bom.components)
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    # The library always notes the time of writing; the same image must give the same bytes.
    document["metadata"].pop("timestamp", None)
    return document


def finish_sbom(draft: Mapping[str, Any], *, lock: Lock, image: str) -> bytes:
    """The document of the image with the image id ``image``, in canonical JSON; the hashes of the local files
    are those of ``lock``.
    """
    import rfc8785

    files = {_file_reference(entry): entry.sha256 for entry in _all_files(lock)}
    metadata = draft["metadata"]
    subject = {**metadata["component"], "hashes": _hashes(image)}
    components = [
        {**component, "hashes": _hashes(files[component["bom-ref"]])}
        if component["bom-ref"] in files
        else component
        for component in draft["components"]
    ]
    return rfc8785.dumps(
        {
            **draft,
            "serialNumber": uuid5(_NAMESPACE, image).urn,
            "metadata": {**metadata, "component": subject},
            "components": components,
        }
    )


def _package(package: LockedPackage) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        bom_ref=f"{package.role.value}/{package.name}",
        purl=PackageURL.from_string(package_url(package.name, package.version, package.architecture)),
        hashes=_sha256(package.sha256),
        properties=[
            Property(name="keyturn:role", value=package.role.value),
            Property(name="keyturn:source", value=f"{package.source} {package.source_version}"),
            Property(name="keyturn:suite", value=package.suite),
        ],
    )


def _wheel(wheel: LockedWheel) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        type=ComponentType.LIBRARY,
        name=wheel.name,
        version=wheel.version,
        bom_ref=f"wheel/{wheel.name}",
        purl=PackageURL(type="pypi", name=wheel.name, version=wheel.version),
        hashes=_sha256(wheel.sha256),
    )


def _files(lock: Lock) -> Iterator[Component]:
    from cyclonedx.model.component import Component, ComponentType

    for entry in _all_files(lock):
        yield Component(
            type=ComponentType.FILE,
            name=entry.path,
            bom_ref=_file_reference(entry),
            hashes=_sha256(entry.sha256),
        )


def _all_files(lock: Lock) -> tuple[LockedFile, ...]:
    return (*lock.files, *lock.agent)


def _file_reference(entry: LockedFile) -> str:
    return f"file{entry.path}"


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _sha256(value: str) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=value)]


if __name__ == "__main__":
    _document = make_draft(lock=parse_lock(sys.stdin.buffer.read()), name=sys.argv[1], version=sys.argv[2])
    sys.stdout.write(json.dumps(_document))
