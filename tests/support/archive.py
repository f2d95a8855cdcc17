"""A tiny Debian archive, signed with a key made for the test, in a folder or on loopback."""

from __future__ import annotations

import email.utils
import hashlib
import io
import lzma
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pysequoia import SignatureMode, Tsk, sign

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
"""The time at which the archives of tests are valid."""

SHA256_OF_EMPTY = hashlib.sha256(b"").hexdigest()


@cache
def archive_key() -> Tsk:
    """The key that signs the archives of this test run."""
    return Tsk.generate("Test archive <archive@example.invalid>")


@cache
def other_key() -> Tsk:
    """A key that no keyring of the tests holds."""
    return Tsk.generate("Somebody else <else@example.invalid>")


def write_keyring(path: Path, *keys: Tsk) -> Path:
    """A binary keyring with the certificates of ``keys``."""
    path.write_bytes(b"".join(bytes(key.extract_certificate()) for key in keys))
    return path


def make_deb(name: str, version: str, files: Mapping[str, bytes] | None = None) -> bytes:
    """A ``.deb`` (deb(5)): an ar archive of ``debian-binary``, ``control.tar`` and ``data.tar``."""
    control = {"./control": f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n".encode()}
    contents = {f"./{path}": data for path, data in (files or {f"usr/share/doc/{name}": b"doc\n"}).items()}
    members = (("debian-binary", b"2.0\n"), ("control.tar", _tar(control)), ("data.tar", _tar(contents)))
    return b"!<arch>\n" + b"".join(_ar_member(*member) for member in members)


def _ar_member(name: str, data: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return header + data + b"\n" * (len(data) % 2)


def _tar(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@dataclass(kw_only=True)
class Archive:
    """An archive below ``root``; suites are published again after every change."""

    root: Path
    paragraphs: dict[str, list[str]] = field(default_factory=dict)

    def add(
        self, suite: str, name: str, version: str = "1.0", /, *, data: bytes | None = None, **fields: str
    ) -> Path:
        """Add a package; ``fields`` are further control fields (``pre_depends`` → ``Pre-Depends``). The
        path of its file.
        """
        content = make_deb(name, version) if data is None else data
        pool = f"pool/main/{name[0]}/{name}/{name}_{version.rpartition(':')[2]}_amd64.deb"
        path = self.root / pool
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        values = {
            "Package": name,
            "Version": version,
            "Architecture": "amd64",
            **{key.replace("_", "-").title(): value for key, value in fields.items()},
            "Filename": pool,
            "Size": str(len(content)),
            "SHA256": hashlib.sha256(content).hexdigest(),
        }
        paragraph = "".join(f"{key}: {value}\n" for key, value in values.items())
        self.paragraphs.setdefault(suite, []).append(paragraph)
        return path

    def publish(self, suite: str, *, key: Tsk | None = None, **fields: str | None) -> Path:
        """Write and sign the index of ``suite``; ``fields`` replace those of the Release, None leaves one
        out. Path of InRelease.
        """
        text = "\n".join(self.paragraphs.get(suite, []))
        folder = self.root / "dists" / suite
        index = folder / "main/binary-amd64"
        index.mkdir(parents=True, exist_ok=True)
        (index / "Packages").write_text(text)
        (index / "Packages.xz").write_bytes(lzma.compress(text.encode()))
        values: dict[str, str | None] = {
            "Origin": "Test",
            "Suite": f"{suite}-name",
            "Codename": suite,
            "Date": email.utils.format_datetime(NOW - timedelta(days=1)),
            "Architectures": "amd64",
            "Components": "main",
        }
        values.update({name.replace("_", "-").title(): value for name, value in fields.items()})
        lines = [f"{name}: {value}" for name, value in values.items() if value is not None]
        lines.append("SHA256:")
        for file in sorted(index.iterdir()):
            data = file.read_bytes()
            lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/{file.name}")
        signed = sign_text("\n".join(lines) + "\n", key=key or archive_key())
        release = folder / "InRelease"
        release.write_bytes(signed)
        return release


def sign_text(text: str, *, key: Tsk) -> bytes:
    """``text`` as a cleartext signed message."""
    return sign(key.signer(), text.encode(), mode=SignatureMode.CLEAR)


@dataclass(kw_only=True)
class Faults:
    """What a server does wrong: ``cut`` ends an answer after that many bytes of the body (once per path in
    it), ``pause`` is how many seconds it waits after every 64 KiB.
    """

    cut: dict[str, int] = field(default_factory=dict)
    pause: float = 0.0
    no_ranges: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(path, Range header) of every request so far."""


@contextmanager
def serve(
    root: Path, *, faults: Faults | None = None, extra: Mapping[str, bytes] | None = None, json: bool = False
) -> Iterator[str]:
    """A web server for ``root`` on loopback, with byte ranges. Yields its URL.

    ``extra`` are further answers by path; with ``json``, paths that end in a slash answer as a JSON package
    index.
    """
    wrong = faults or Faults()
    answers = dict(extra or {})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            span = self.headers.get("Range", "")
            wrong.requests.append((name, span))
            file = root / name
            data = answers.get(name, file.read_bytes() if file.is_file() else None)
            if data is None:
                self.send_error(404)
                return
            start = 0 if wrong.no_ranges or not span else int(span.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            if json and name.endswith("/"):
                self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            cut = wrong.cut.pop(name, None)
            end = len(data) if cut is None else start + cut
            with suppress(ConnectionError):  # the client may have gone
                for offset in range(start, end, 1 << 16):
                    self.wfile.write(data[offset : min(offset + (1 << 16), end)])
                    time.sleep(wrong.pause)
            if cut is not None:
                self.close_connection = True
                self.wfile.flush()
                self.connection.close()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


RECIPE = """\
[image]
name = "test"
version = "1"
[archive]
keyring = "keyring.gpg"
suites = ["stable", "stable-security"]
[packages]
install = ["app"]
[kernel]
package = "linux-image-amd64"
[boot]
stub-package = "stub"
"""


def standard_archive(root: Path) -> Archive:
    """An archive that answers ``RECIPE``: app → library, a kernel in two packages, a stub, and an empty
    security suite.
    """
    archive = Archive(root=root)
    archive.add("stable", "app", "1.0", depends="library (>= 1)")
    archive.add("stable", "library", "1.2", source="library-src (1.1)")
    archive.add("stable", "linux-image-amd64", "6.1", depends="linux-image-6.1-amd64 (= 6.1), kmod")
    archive.add("stable", "linux-image-6.1-amd64", "6.1", depends="kmod")
    archive.add("stable", "stub", "257-1")
    archive.publish("stable")
    archive.publish("stable-security")
    return archive
