"""Reading files from places that are not trusted: a web server or a folder.

A place is an ``http(s)://`` or ``file://`` URL, or the path of a folder. Whatever comes from here is checked
by hash or signature before it is used.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from measurements.errors import KeyturnError

CONNECT_SECONDS = 15.0
READ_SECONDS = 60.0
CHUNK = 1 << 16
"""Small, because an interrupted download loses what came of the last chunk."""


class TransportError(KeyturnError):
    """A place that does not answer, or does not have a file."""

    code = "transport"

    def __init__(self, reason: str, *, subject: str, absent: bool = False) -> None:
        super().__init__(
            reason, subject=subject, advice="check the network, or name another mirror with --mirror"
        )
        self.absent = absent


@dataclass(frozen=True, slots=True)
class Place:
    """A root below which files are found by relative path."""

    root: str

    @property
    def folder(self) -> Path | None:
        """The folder, when the place is one."""
        parts = urlsplit(self.root)
        if parts.scheme == "file":
            return Path(unquote(parts.path))
        return None if parts.scheme in ("http", "https") else Path(self.root)

    def url(self, path: str) -> str:
        """Address of the file at ``path``."""
        return f"{self.root.rstrip('/')}/{quote(path, safe='/+~:=@!$&,;')}"

    def __str__(self) -> str:
        return self.root


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """An open file: ``start`` is the offset of the first byte that ``chunks`` yields (0 when the place
    cannot resume).
    """

    start: int
    chunks: Iterator[bytes]


class Transport:
    """Reads from places; one per command, usable from several threads."""

    def __init__(self) -> None:
        self._local = threading.local()

    @contextmanager
    def open(self, place: Place, path: str, *, start: int = 0) -> Iterator[Download]:
        """The file at ``path``, from byte ``start`` if the place can do that; raises
        :class:`TransportError`.
        """
        folder = place.folder
        opened = (
            self._open_url(place.url(path), start) if folder is None else _open_file(folder / path, start)
        )
        with opened as download:
            yield download

    def read(self, place: Place, path: str, *, limit: int) -> bytes:
        """The whole file, of at most ``limit`` bytes; raises :class:`TransportError`."""
        data = bytearray()
        with self.open(place, path) as download:
            for piece in download.chunks:
                data += piece
                if len(data) > limit:
                    raise TransportError(f"larger than {limit} bytes", subject=f"{place}/{path}")
        return bytes(data)

    @contextmanager
    def _open_url(self, url: str, start: int) -> Iterator[Download]:
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            with self._session().get(
                url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)
            ) as response:
                if response.status_code not in (200, 206):
                    absent = response.status_code in (403, 404, 410)
                    raise TransportError(
                        f"the server answers {response.status_code} {response.reason}",
                        subject=url,
                        absent=absent,
                    )
                resumed = response.status_code == 206 and _first_byte(response) == start
                yield Download(start=start if resumed else 0, chunks=response.iter_content(CHUNK))
        except requests.RequestException as error:
            raise TransportError(_plain(error), subject=url) from None

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            adapter = HTTPAdapter(
                max_retries=Retry(total=3, backoff_factor=0.5, status_forcelist=(502, 503, 504))
            )
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            self._local.session = session
        return session


@contextmanager
def _open_file(path: Path, start: int) -> Iterator[Download]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise TransportError(f"{error.strerror}", subject=str(path), absent=True) from None
    with stream:
        stream.seek(start)
        yield Download(start=start, chunks=iter(lambda: stream.read(CHUNK), b""))


def _first_byte(response: requests.Response) -> int:
    """First byte of a partial answer (RFC 9110, section 14.4: ``bytes 100-199/200``); -1 when the server
    does not say.
    """
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first = span.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else -1


def _plain(error: requests.RequestException) -> str:
    cause = error.args[0] if error.args else error
    reason = getattr(cause, "reason", cause)
    return f"no answer: {reason}"
