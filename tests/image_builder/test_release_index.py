"""Release and Packages: dates, names, hashes, paragraphs."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest

from image_builder.relations import Provided, Relation
from image_builder.release_index import (
    ArchiveIndexError,
    PackagesIndex,
    Release,
    parse_package,
    parse_release,
)
from tests.support.archive import NOW

HASH = "ab" * 32


def date(moment: datetime) -> str:
    return email.utils.format_datetime(moment)


def release(
    fields: Mapping[str, str | None] | None = None, *, now: datetime = NOW, suite: str = "trixie"
) -> Release:
    values: dict[str, str | None] = {
        "Suite": "stable",
        "Codename": "trixie",
        "Date": date(NOW - timedelta(days=1)),
        "Valid-Until": date(NOW + timedelta(days=6)),
        "SHA256": f"\n {HASH} 10 main/binary-amd64/Packages\n {HASH} 5 main/binary-amd64/Packages.xz",
        **(fields or {}),
    }
    text = "".join(f"{name}: {value}\n" for name, value in values.items() if value is not None)
    return parse_release(text.encode(), suite=suite, now=now)


def test_a_good_release_is_read() -> None:
    found = release()
    compressed, plain = found.packages_files(component="main", architecture="amd64")
    assert (plain.path, plain.size, plain.sha256) == ("main/binary-amd64/Packages", 10, HASH)
    assert compressed.path == "main/binary-amd64/Packages.xz"
    assert not found.not_automatic
    assert release({"NotAutomatic": "yes"}).not_automatic


@pytest.mark.parametrize("suite", ["trixie", "stable"])
def test_suite_and_code_name_are_both_names(suite: str) -> None:
    assert release(suite=suite).codename == "trixie"


def test_no_end_of_validity_is_allowed_as_debian_has_it() -> None:
    assert release({"Valid-Until": None}).valid_until is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"Codename": "sid", "Suite": "unstable"}, "another suite"),
        ({"Codename": None, "Suite": None}, "another suite"),
        ({"Date": None}, "no usable Date"),
        ({"Date": "soon"}, "no usable Date"),
        ({"Valid-Until": "later"}, "no usable Valid-Until"),
        ({"Valid-Until": date(NOW - timedelta(minutes=1))}, "has expired"),
        ({"Date": date(NOW + timedelta(hours=2))}, "from the future"),
        ({"SHA256": "\n xyz 10 main/binary-amd64/Packages"}, "bad line"),
    ],
)
def test_wrong_releases_are_refused(fields: dict[str, str | None], says: str) -> None:
    with pytest.raises(ArchiveIndexError, match=says):
        release(fields)


def test_a_good_release_expires() -> None:
    assert release(now=NOW + timedelta(days=5))
    with pytest.raises(ArchiveIndexError, match="has expired"):
        release(now=NOW + timedelta(days=7))


def test_an_absent_component_is_named() -> None:
    with pytest.raises(ArchiveIndexError, match="contrib/binary-amd64/Packages"):
        release().packages_files(component="contrib", architecture="amd64")


PARAGRAPH = f"""\
Package: app
Source: app-source (1:2.0)
Version: 1:2.0+b1
Architecture: amd64
Multi-Arch: allowed
Pre-Depends: first
Depends: a (>= 1) | b:any, c
Conflicts: old
Breaks: other (<< 3)
Provides: virtual, versioned (= 4)
Description: Provides: nothing
Filename: pool/main/a/app/app_2.0+b1_amd64.deb
Size: 100
SHA256: {HASH}
"""


def test_a_package_is_read() -> None:
    package = parse_package(PARAGRAPH, suite="trixie")
    assert (package.source, package.source_version) == ("app-source", "1:2.0")
    assert package.depends == (
        (Relation("first"),),
        (Relation("a", ">=", "1"), Relation("b", qualifier="any")),
        (Relation("c"),),
    )
    assert package.conflicts == ((Relation("old"),), (Relation("other", "<<", "3"),))
    assert package.provides == (Provided("virtual"), Provided("versioned", "4"))


def test_the_source_defaults_to_the_package() -> None:
    package = parse_package(PARAGRAPH.replace("Source: app-source (1:2.0)\n", ""), suite="trixie")
    assert (package.source, package.source_version) == ("app", "1:2.0+b1")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Version: 1:2.0+b1\n", ""),
        (f"SHA256: {HASH}\n", ""),
        ("Size: 100", "Size: many"),
        ("pool/main", "/etc"),
        ("pool/main", "pool/../../main"),
        ("a (>= 1)", "a (>= 1"),
        ("a (>= 1)", "a (is 1)"),
    ],
)
def test_a_bad_entry_names_the_package(old: str, new: str) -> None:
    with pytest.raises(ArchiveIndexError, match="package app"):
        parse_package(PARAGRAPH.replace(old, new), suite="trixie")


def test_an_index_is_split_and_searched() -> None:
    index = PackagesIndex(PARAGRAPH + "\n" + PARAGRAPH.replace("Package: app", "Package: other"), suite="s")
    assert index.names() == ("app", "other")
    assert index.providers("virtual") == ("app", "other")
    assert index.providers("nothing") == ()
    assert index.versions("app")[0].suite == "s"
    assert index.versions("absent") == ()
