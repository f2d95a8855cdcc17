"""A suite's signed index: ``InRelease``, and the ``Packages`` file that it vouches for.

``InRelease`` is a cleartext-signed deb822 paragraph (Debian repository format, "Release" files): ``Suite``,
``Codename``, ``Date``, ``Valid-Until``, and under ``SHA256:`` lines of hash, size and path. ``Packages`` is
deb822 paragraphs, one per package and version, separated by empty lines. Parsing is pure; only hashes that
the signature covers are believed.
"""

from __future__ import annotations

import email.utils
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from debian_inspector.debcon import get_paragraph_data

from image_builder.relations import AnyOf, Provided, parse_provides, parse_relations
from measurements.errors import KeyturnError

CLOCK_TOLERANCE = timedelta(hours=1)
_SHA256_LINE = re.compile(r"([0-9a-f]{64})\s+([0-9]+)\s+(\S+)")


class ArchiveIndexError(KeyturnError):
    """An index that cannot be used: expired, of another suite, or not what its signature says."""

    code = "index"


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedFile:
    """A file that a Release vouches for: ``path`` below the suite's folder."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What the signed Release of one suite says."""

    suite: str
    codename: str
    date: datetime
    valid_until: datetime | None
    not_automatic: bool
    files: dict[str, IndexedFile]

    def packages_files(self, *, component: str, architecture: str) -> tuple[IndexedFile, IndexedFile]:
        """The compressed (xz) and the plain ``Packages`` of a component; raises :class:`ArchiveIndexError`
        when the suite has none.
        """
        plain = f"{component}/binary-{architecture}/Packages"
        if plain not in self.files or f"{plain}.xz" not in self.files:
            raise ArchiveIndexError(
                f"it has no {plain} with its .xz",
                subject=f"suite {self.codename}",
                advice="correct archive.components and archive.architecture in the recipe",
            )
        return self.files[f"{plain}.xz"], self.files[plain]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedPackage:
    """One version of one package as the index describes it. ``depends`` joins Pre-Depends and Depends in
    that order.
    """

    name: str
    version: str
    architecture: str
    multi_arch: str
    priority: str
    essential: bool
    depends: tuple[AnyOf, ...]
    conflicts: tuple[AnyOf, ...]
    provides: tuple[Provided, ...]
    source: str
    source_version: str
    path: str
    size: int
    sha256: str
    suite: str


def parse_release(text: bytes, *, suite: str, now: datetime) -> Release:
    """The Release in the signed ``text``, for the suite the recipe names ``suite``, at the time ``now``
    (with time zone).

    Raises :class:`ArchiveIndexError` when it is of another suite, has no date, is from the future, or is
    past its ``Valid-Until``.
    """
    fields = get_paragraph_data(text.decode())
    subject = f"suite {suite}"
    names = (fields.get("suite", ""), fields.get("codename", ""))
    if suite not in names:
        raise ArchiveIndexError(
            f"the mirror serves the index of another suite (Suite {names[0]!r}, Codename {names[1]!r})",
            subject=subject,
            advice="use another mirror, or correct the suite's name in the recipe",
        )
    date = _date(fields.get("date", ""), field="Date", subject=subject)
    until = fields.get("valid-until")
    valid_until = _date(until, field="Valid-Until", subject=subject) if until is not None else None
    _check_time(date, valid_until, subject=subject, now=now)
    files = [
        _indexed_file(line, subject=subject) for line in fields.get("sha256", "").splitlines() if line.strip()
    ]
    return Release(
        suite=names[0],
        codename=names[1],
        date=date,
        valid_until=valid_until,
        not_automatic=fields.get("notautomatic", "no").lower() == "yes",
        files={file.path: file for file in files},
    )


def _check_time(date: datetime, valid_until: datetime | None, *, subject: str, now: datetime) -> None:
    if date > now + CLOCK_TOLERANCE:
        raise ArchiveIndexError(
            f"its index is from the future (Date {date:%Y-%m-%d %H:%M} UTC)",
            subject=subject,
            advice="set this machine's clock",
        )
    if valid_until is not None and valid_until < now:
        raise ArchiveIndexError(
            f"its index has expired (Valid-Until {valid_until:%Y-%m-%d %H:%M} UTC)",
            subject=subject,
            advice="use a mirror that is up to date, or set this machine's clock",
        )


def _date(text: str, *, field: str, subject: str) -> datetime:
    try:
        parsed = email.utils.parsedate_to_datetime(text)
    except ValueError:
        raise ArchiveIndexError(
            f"its index has no usable {field}", subject=subject, advice="use another mirror"
        ) from None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed


def _indexed_file(line: str, *, subject: str) -> IndexedFile:
    match = _SHA256_LINE.fullmatch(line.strip())
    if match is None:
        raise ArchiveIndexError(
            f"bad line {line!r} in its index", subject=subject, advice="use another mirror"
        )
    return IndexedFile(sha256=match[1], size=int(match[2]), path=match[3])


class PackagesIndex:
    """The packages of one suite and component, parsed when they are asked for (an index has 70,000
    paragraphs).
    """

    def __init__(self, text: str, *, suite: str) -> None:
        self.suite = suite
        self._paragraphs: dict[str, list[str]] = {}
        self._providers: dict[str, list[str]] = {}
        self._parsed: dict[str, tuple[IndexedPackage, ...]] = {}
        for paragraph in text.split("\n\n"):
            name = _first_field(paragraph)
            if not name:
                continue
            self._paragraphs.setdefault(name, []).append(paragraph)
            for provided in _provided_names(paragraph):
                self._providers.setdefault(provided, []).append(name)

    def names(self) -> tuple[str, ...]:
        """All package names, in the order of the index."""
        return tuple(self._paragraphs)

    def versions(self, name: str) -> tuple[IndexedPackage, ...]:
        """All versions of package ``name``."""
        if name not in self._parsed:
            paragraphs = self._paragraphs.get(name, ())
            self._parsed[name] = tuple(parse_package(paragraph, suite=self.suite) for paragraph in paragraphs)
        return self._parsed[name]

    def providers(self, name: str) -> tuple[str, ...]:
        """Names of packages of which some version provides ``name``, in the order of the index."""
        return tuple(dict.fromkeys(self._providers.get(name, ())))


def _first_field(paragraph: str) -> str:
    start = paragraph.find("Package: ")
    if start != 0 and (start < 0 or paragraph[start - 1] != "\n"):
        return ""
    end = paragraph.find("\n", start)
    return paragraph[start + 9 : end if end >= 0 else None].strip()


def _provided_names(paragraph: str) -> list[str]:
    start = paragraph.find("\nProvides: ")
    if start < 0:
        return []
    end = paragraph.find("\n", start + 1)
    value = paragraph[start + 11 : end if end >= 0 else None]
    return [item.partition("(")[0].partition(":")[0].strip() for item in value.split(",")]


def parse_package(paragraph: str, *, suite: str) -> IndexedPackage:
    """One paragraph of a ``Packages`` file; raises :class:`ArchiveIndexError` when a needed field is
    missing or wrong.
    """
    fields = get_paragraph_data(paragraph)
    try:
        source, source_version = _source(fields)
        return IndexedPackage(
            name=fields["package"],
            version=fields["version"],
            architecture=fields["architecture"],
            multi_arch=fields.get("multi-arch", "no"),
            priority=fields.get("priority", "optional"),
            essential=fields.get("essential", "no") == "yes",
            depends=parse_relations(fields.get("pre-depends", ""))
            + parse_relations(fields.get("depends", "")),
            conflicts=parse_relations(fields.get("conflicts", ""))
            + parse_relations(fields.get("breaks", "")),
            provides=parse_provides(fields.get("provides", "")),
            source=source,
            source_version=source_version,
            path=_pool_path(fields["filename"]),
            size=int(fields["size"]),
            sha256=fields["sha256"],
            suite=suite,
        )
    except (KeyError, ValueError) as error:
        raise ArchiveIndexError(
            f"bad entry of package {fields.get('package', '?')} in its index: {error}",
            subject=f"suite {suite}",
            advice="use another mirror",
        ) from None


def _source(fields: dict[str, str]) -> tuple[str, str]:
    """``Source: name (version)``; both default to the binary package's."""
    name, _, version = fields.get("source", fields["package"]).partition(" (")
    return name.strip(), version.rstrip(") ") or fields["version"]


def _pool_path(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "\\" in path:
        raise ValueError(f"path {path!r} leaves the archive")
    return path
