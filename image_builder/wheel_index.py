"""The Python package index that pip would use on this machine, read through the simple API (PEP 503 as
HTML, PEP 691 as JSON).
"""

from __future__ import annotations

import configparser
import html.parser
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import requests
from packaging.utils import canonicalize_name

from image_builder.transport import CONNECT_SECONDS, READ_SECONDS
from measurements.errors import KeyturnError
from measurements.json_text import json_text

DEFAULT_INDEX = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
_SHA256_FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})")


class WheelError(KeyturnError):
    """A wheel that cannot be had or does not fit the guest."""

    code = "wheel"


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedWheel:
    """A file of a project as the index lists it; ``sha256`` is empty when the index gives none."""

    filename: str
    url: str
    sha256: str
    yanked: bool


class WheelIndex:
    """One package index; ``session`` is replaceable."""

    def __init__(self, url: str, *, session: requests.Session | None = None) -> None:
        self.url = url.rstrip("/")
        self._session = session if session is not None else requests.Session()

    def files(self, name: str) -> list[IndexedWheel]:
        """All files of project ``name``; raises :class:`WheelError`."""
        url = f"{self.url}/{canonicalize_name(name)}/"
        response = self._get(url, subject=name, accept=_ACCEPT)
        if "json" in response.headers.get("Content-Type", ""):
            return _from_json(response.content, base=response.url, subject=name)
        return _from_html(response.text, base=response.url)

    def download(self, wheel: IndexedWheel) -> bytes:
        """The bytes of ``wheel``, unchecked; raises :class:`WheelError`."""
        return self._get(wheel.url, subject=wheel.filename, accept="*/*").content

    def _get(self, url: str, *, subject: str, accept: str) -> requests.Response:
        try:
            response = self._session.get(
                url, headers={"Accept": accept}, timeout=(CONNECT_SECONDS, READ_SECONDS)
            )
            response.raise_for_status()
        except requests.RequestException as error:
            raise WheelError(
                f"the Python package index does not give it: {error}",
                subject=subject,
                advice="check the name and the version, the network and PIP_INDEX_URL",
            ) from None
        return response


def machine_wheel_index() -> WheelIndex:
    """The index pip would use: ``PIP_INDEX_URL``, pip's configuration, else PyPI."""
    session = requests.Session()
    certificates = os.environ.get("PIP_CERT")
    if certificates:
        session.verify = certificates
    texts = [path.read_text(errors="replace") for path in _pip_files(os.environ) if path.is_file()]
    return WheelIndex(index_url(os.environ, texts), session=session)


def index_url(environment: Mapping[str, str], configurations: list[str]) -> str:
    """The index named by the environment, else by the last of pip's ``configurations`` that names one."""
    named = environment.get("PIP_INDEX_URL")
    for text in reversed(configurations):
        if named:
            break
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(text)
        except configparser.Error:
            continue
        named = parser.get("global", "index-url", fallback=None)
    return named or DEFAULT_INDEX


def _pip_files(environment: Mapping[str, str]) -> list[Path]:
    home = Path.home()
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", config / "pip" / "pip.conf"]
    named = environment.get("PIP_CONFIG_FILE")
    return [*files, Path(named)] if named else files


def _from_json(data: bytes, *, base: str, subject: str) -> list[IndexedWheel]:
    try:
        return [
            IndexedWheel(
                filename=entry["filename"],
                url=urljoin(base, entry["url"]),
                sha256=entry["hashes"].get("sha256", ""),
                yanked=bool(entry.get("yanked", False)),
            )
            for entry in json.loads(json_text(data))["files"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WheelError(
            f"the index's answer is not of PEP 691: {error!r}",
            subject=subject,
            advice="use another index (PIP_INDEX_URL)",
        ) from None


def _from_html(text: str, *, base: str) -> list[IndexedWheel]:
    links = _Links()
    links.feed(text)
    found = []
    for href, yanked in links.found:
        url, fragment = urldefrag(urljoin(base, href))
        match = _SHA256_FRAGMENT.search(fragment)
        found.append(
            IndexedWheel(
                filename=unquote(url.rpartition("/")[2]),
                url=url,
                sha256=match[1] if match is not None else "",
                yanked=yanked,
            )
        )
    return found


class _Links(html.parser.HTMLParser):
    """Collects (href, yanked) of anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        href = values.get("href")
        if tag == "a" and href:
            self.found.append((href, "data-yanked" in values))
