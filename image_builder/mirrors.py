"""Where the archives' files can be had on this machine; never taken from a lock.

The first of these that names anything for an archive decides: ``--mirror``, ``$KEYTURN_MIRROR``
(blank-separated, same form), the machine's own apt sources (their hosts; deb822 and one-line form,
sources.list(5)). A mirror is a URL or a folder that has ``dists/`` and ``pool/``, optionally as
``security=URL`` for the security archive alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from debian_inspector.debcon import get_paragraphs_data

from image_builder.transport import Place
from measurements.errors import KeyturnError

DEBIAN = "debian"
SECURITY = "debian-security"
MIRROR_VARIABLE = "KEYTURN_MIRROR"
_PREFIXES = {"security": SECURITY, "debian": DEBIAN}
_ONE_LINE = re.compile(r"deb\s+(\[[^\]]*\]\s+)?(?P<uri>\S+)\s+\S+")


class MirrorError(KeyturnError):
    """No mirror for an archive."""

    code = "mirror"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirrors:
    """Places to try, in order, by archive."""

    places: Mapping[str, tuple[Place, ...]]

    def of(self, archive: str) -> tuple[Place, ...]:
        """Places of ``archive``; raises :class:`MirrorError` when there is none."""
        places = self.places.get(archive, ())
        if not places:
            raise MirrorError(
                "this machine's apt sources name no mirror of it and none is given",
                subject=f"archive {archive}",
                advice=f"name a Debian mirror with --mirror URL (or security=URL), or in ${MIRROR_VARIABLE}",
            )
        return places


def archive_of(suite: str) -> str:
    """The archive that carries ``suite``: security updates have their own."""
    return SECURITY if suite.endswith(("-security", "/updates")) else DEBIAN


def find_mirrors(
    *, given: Sequence[str], environment: Mapping[str, str], sources: Iterable[tuple[str, str]]
) -> Mirrors:
    """The mirrors of this run. ``sources`` are (file name, text) of apt's sources."""
    named = given or environment.get(MIRROR_VARIABLE, "").split()
    if named:
        return Mirrors(places=_from_names(named))
    uris = list(dict.fromkeys(uri for name, text in sources for uri in source_uris(name, text)))
    return Mirrors(places={archive: _of_archive(uris, archive) for archive in (DEBIAN, SECURITY)})


def machine_mirrors(given: Sequence[str], *, apt_folder: Path = Path("/etc/apt")) -> Mirrors:
    """:func:`find_mirrors` with this process's environment and this machine's apt sources."""
    files = [apt_folder / "sources.list", *sorted((apt_folder / "sources.list.d").glob("*"))]
    texts = [
        (file.name, file.read_text(errors="replace"))
        for file in files
        if file.suffix in (".list", ".sources") and file.is_file()
    ]
    return find_mirrors(given=given, environment=os.environ, sources=texts)


def source_uris(name: str, text: str) -> list[str]:
    """The http, https and file URIs of one apt sources file."""
    if name.endswith(".sources"):
        text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        found = [
            uri
            for fields in get_paragraphs_data(text)
            if fields.get("enabled", "yes").lower() != "no" and "deb" in fields.get("types", "").split()
            for uri in fields.get("uris", "").split()
        ]
    else:
        matches = (_ONE_LINE.match(line.strip()) for line in text.splitlines())
        found = [match["uri"] for match in matches if match is not None]
    return [uri for uri in found if urlsplit(uri).scheme in ("http", "https", "file")]


def _from_names(named: Sequence[str]) -> dict[str, tuple[Place, ...]]:
    places: dict[str, list[Place]] = {DEBIAN: [], SECURITY: []}
    plain: list[str] = []
    for item in named:
        prefix, equals, rest = item.partition("=")
        if equals and prefix in _PREFIXES:
            places[_PREFIXES[prefix]].append(Place(rest))
        else:
            plain.append(item)
    for item in plain:
        places[DEBIAN].append(Place(item))
        places[SECURITY] += [Place(item), *(Place(uri) for uri in _sibling(item, SECURITY))]
    return {archive: tuple(dict.fromkeys(found)) for archive, found in places.items()}


def _of_archive(uris: Sequence[str], archive: str) -> tuple[Place, ...]:
    """Those of ``uris`` that are mirrors of ``archive`` by their path, then what lies next to mirrors of
    the other one.
    """
    same = [uri for uri in uris if _last(uri) == archive]
    beside = [sibling for uri in uris for sibling in _sibling(uri, archive)]
    return tuple(Place(uri.rstrip("/")) for uri in dict.fromkeys((*same, *beside)))


def _sibling(uri: str, archive: str) -> list[str]:
    last = _last(uri)
    if last == archive or last not in (DEBIAN, SECURITY):
        return []
    return [uri.rstrip("/").removesuffix(last) + archive]


def _last(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]
