"""Bill of materials and provenance: complete, readable by others, the same every time."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom

from image_builder.lockfile import Lock, LockedFile, LockedPackage, LockedWheel, PackageRole, lock_bytes
from image_builder.provenance import provenance_bytes
from image_builder.sbom import draft_sbom, finish_sbom, make_draft
from image_builder.store import Store


def package(name: str, role: PackageRole) -> LockedPackage:
    return LockedPackage(
        name=name,
        version="1:2.0+x~1",
        architecture="amd64",
        role=role,
        size=1,
        sha256="ab" * 32,
        path=f"pool/{name}.deb",
        suite="trixie",
        source="src",
        source_version="2",
    )


def entry(path: str) -> LockedFile:
    return LockedFile(path=path, source="s", size=1, sha256="ef" * 32, mode=0o644, owner="root", group="root")


LOCK = Lock(
    architecture="amd64",
    recipe_sha256="11" * 32,
    request_sha256="22" * 32,
    packages=(package("libstdc++6", PackageRole.ROOT), package("linux", PackageRole.KERNEL)),
    wheels=(LockedWheel(name="Demo", version="1", filename="demo.whl", size=1, sha256="cd" * 32),),
    files=(entry("/etc/motd"),),
    agent=(entry("/usr/lib/keyturn/__main__.py"),),
)
IMAGE = "33" * 32


def sbom_bytes(image: str = IMAGE) -> bytes:
    return finish_sbom(make_draft(lock=LOCK, name="demo", version="1"), lock=LOCK, image=image)


def document(data: bytes) -> dict[str, Any]:
    parsed = json.loads(data)
    assert isinstance(parsed, dict)
    return parsed


def test_sbom_names_every_input() -> None:
    data = sbom_bytes()
    parsed = document(data)
    assert parsed["specVersion"] == "1.6"
    assert {component["name"] for component in parsed["components"]} == {
        "libstdc++6",
        "linux",
        "Demo",
        "/etc/motd",
        "/usr/lib/keyturn/__main__.py",
    }
    (library,) = (one for one in parsed["components"] if one["name"] == "libstdc++6")
    assert library["purl"] == "pkg:deb/debian/libstdc%2B%2B6@1:2.0%2Bx~1?arch=amd64"
    assert library["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]


def test_sbom_has_no_time_and_depends_on_the_image_only() -> None:
    first = sbom_bytes()
    assert first == sbom_bytes()
    assert "timestamp" not in document(first)["metadata"]
    other = sbom_bytes("44" * 32)
    assert document(other)["serialNumber"] != document(first)["serialNumber"]


def test_sbom_can_be_read_back() -> None:
    data = document(sbom_bytes())
    bom = Bom.from_json(data=data)  # type: ignore[attr-defined]
    assert len(bom.components) == 5


def test_a_kept_draft_gives_the_same_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def written(lock: Lock) -> bytes:
        draft = draft_sbom(lock=lock, lock_data=lock_bytes(lock), name="demo", version="1", store=store)
        return finish_sbom(draft, lock=lock, image=IMAGE)

    assert written(LOCK) == sbom_bytes()
    monkeypatch.setattr(sys, "executable", "/absent")
    assert written(LOCK) == sbom_bytes()
    changed = replace(LOCK, files=(replace(LOCK.files[0], sha256="99" * 32),))
    expected = finish_sbom(make_draft(lock=changed, name="demo", version="1"), lock=changed, image=IMAGE)
    assert written(changed) == expected != sbom_bytes()
    with pytest.raises(FileNotFoundError):
        written(replace(LOCK, files=(entry("/etc/issue"),)))


def test_provenance_is_an_in_toto_statement_with_every_input() -> None:
    data = provenance_bytes(
        lock=LOCK, lock_sha256="55" * 32, artefacts={"uki.efi": "66" * 32}, image=IMAGE, builder_version="0.1"
    )
    parsed = document(data)
    assert parsed["_type"] == "https://in-toto.io/Statement/v1"
    assert parsed["predicateType"] == "https://slsa.dev/provenance/v1"
    assert parsed["subject"] == [{"name": "uki.efi", "digest": {"sha256": "66" * 32}}]
    definition = parsed["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["recipe"] == {"digest": {"sha256": "11" * 32}}
    digests = [dependency["digest"]["sha256"] for dependency in definition["resolvedDependencies"]]
    assert sorted(digests) == sorted(["ab" * 32] * 2 + ["cd" * 32] + ["ef" * 32] * 2)
    assert parsed["predicate"]["runDetails"]["builder"]["id"]
    assert "metadata" not in parsed["predicate"]["runDetails"]
