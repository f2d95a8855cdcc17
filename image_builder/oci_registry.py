"""Container images of a registry.

Source: OCI Distribution Specification 1.1 ("Pulling manifests", "Pulling blobs"); token authentication of
CNCF Distribution. HTTPS, except on the loopback interface.

The registry is not trusted: blobs are checked by digest, sizes are bounded, and credentials go to the
registry itself or to the token service it names, over HTTPS only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

import requests

from image_builder.oci_auth import read_credentials
from image_builder.oci_image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    Descriptor,
    OciError,
    oci_error,
    parse_document,
)
from image_builder.oci_layout import checked_chunks
from image_builder.oci_reference import RegistryReference

CONNECT_SECONDS = 15.0
READ_SECONDS = 60.0
CHUNK = 1 << 20
_ACCEPT = ", ".join(sorted(INDEX_TYPES | MANIFEST_TYPES))
_CHALLENGE = re.compile(r'([a-z]+)="([^"]*)"')
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class RegistryClient:
    """Requests to one repository, with the authentication that the registry asks for."""

    def __init__(self, host: str, repository: str, *, credentials: tuple[str, str] | None) -> None:
        self.name = f"{host}/{repository}"
        scheme = "http" if urlsplit(f"//{host}").hostname in _LOOPBACK else "https"
        self._base = f"{scheme}://{host}/v2/{repository}/"
        self._credentials = credentials
        self._authorization = ""
        self._session = requests.Session()
        self._session.auth = _keep_headers

    def send(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, data: Any = None
    ) -> requests.Response:
        """One request below the repository; a registry that wants authentication is asked a second time.

        The answer's body is not read yet. Raises ``OciError`` where there is no answer.
        """
        url = urljoin(self._base, path)
        if urlsplit(url)[:2] != urlsplit(self._base)[:2]:
            self._refuse(f"leads to another host: {url}")
        response = self._once(method, url, headers, data)
        if response.status_code != 401:
            return response
        # A token is for one scope, so that pushing after pulling needs another one.
        authorization = self._authenticate(response.headers.get("WWW-Authenticate", ""))
        if authorization == self._authorization:
            return response
        self._authorization = authorization
        response.close()
        if hasattr(data, "seek"):
            data.seek(0)
        return self._once(method, url, headers, data)

    def check(self, response: requests.Response, *expected: int, what: str) -> None:
        """Refuse an answer with another status."""
        if response.status_code not in expected:
            self._refuse(f"{what}: the registry answers {response.status_code} {response.reason}")

    def _once(self, method: str, url: str, headers: Mapping[str, str] | None, data: Any) -> requests.Response:
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        if self._authorization:
            sent["Authorization"] = self._authorization
        try:
            return self._session.request(
                method, url, headers=sent, data=data, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)
            )
        except requests.RequestException as error:
            self._refuse(f"no answer: {type(error).__name__}")

    def _authenticate(self, challenge: str) -> str:
        """The value of ``Authorization`` that the challenge asks for."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and self._credentials is not None:
            return _basic(*self._credentials)
        fields = dict(_CHALLENGE.findall(rest))
        realm = fields.pop("realm", "")
        if scheme.lower() != "bearer" or not realm:
            self._refuse("asks for credentials that the auth file does not have")
        parts = urlsplit(realm)
        local = parts.hostname in _LOOPBACK and urlsplit(self._base).hostname in _LOOPBACK
        if parts.scheme != "https" and not (local and parts.scheme == "http"):
            self._refuse(f"sends credentials over an open connection to {parts.netloc}")
        return f"Bearer {self._token(realm, fields)}"

    def _token(self, realm: str, fields: Mapping[str, str]) -> str:
        wanted = {key: fields[key] for key in ("service", "scope") if key in fields}
        headers = {"Authorization": _basic(*self._credentials)} if self._credentials else {}
        try:
            with self._session.get(
                realm,
                params=wanted,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
            ) as response:
                self.check(response, 200, what="token service")
                document = parse_document(bounded(response, self.name), subject=self.name)
        except requests.RequestException as error:
            self._refuse(f"no answer from the token service: {type(error).__name__}")
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isprintable():
            self._refuse("the token service gives no token")
        return token

    def _refuse(self, reason: str) -> NoReturn:
        raise oci_error(
            reason, subject=self.name, advice="check the reference, the network and your registry login"
        )


class RegistrySource:
    """An image of a registry, found by tag or digest."""

    def __init__(self, reference: RegistryReference, *, client: RegistryClient | None = None) -> None:
        self._reference = reference
        self._client = client or open_repository(reference.host, reference.repository)

    def find(self) -> Descriptor:
        """What the reference stands for now: an index or a manifest, by the SHA-256 of its bytes."""
        wanted = self._reference.digest or self._reference.tag
        with self._get(f"manifests/{wanted}", what=wanted) as response:
            data = bounded(response, self._client.name)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if self._reference.digest and digest != self._reference.digest:
            raise oci_error(
                f"the registry sends {digest} instead of {self._reference.digest}", subject=self._client.name
            )
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob's bytes; a wrong length or digest raises ``OciError``."""
        is_manifest = descriptor.media_type in INDEX_TYPES | MANIFEST_TYPES
        kind = "manifests" if is_manifest else "blobs"
        with self._get(f"{kind}/{descriptor.digest}", what=descriptor.digest) as response:
            yield from checked_chunks(_pieces(response, self._client.name), descriptor)

    @contextmanager
    def _get(self, path: str, *, what: str) -> Iterator[requests.Response]:
        with self._client.send("GET", path, headers={"Accept": _ACCEPT}) as response:
            self._client.check(response, 200, what=what)
            yield response


def open_repository(host: str, repository: str) -> RegistryClient:
    """A client with the user's credentials."""
    return RegistryClient(host, repository, credentials=read_credentials(host, repository))


def bounded(response: requests.Response, subject: str) -> bytes:
    """The whole body, of at most ``MAX_DOCUMENT`` bytes."""
    data = bytearray()
    for piece in _pieces(response, subject):
        data += piece
        if len(data) > MAX_DOCUMENT:
            raise oci_error(f"the answer has more than {MAX_DOCUMENT} bytes", subject=subject)
    return bytes(data)


def _pieces(response: requests.Response, subject: str) -> Iterator[bytes]:
    try:
        yield from response.iter_content(CHUNK)
    except requests.RequestException as error:
        raise _broken(error, subject) from error


def _broken(error: requests.RequestException, subject: str) -> OciError:
    return oci_error(f"the connection broke: {type(error).__name__}", subject=subject, advice="try again")


def _basic(user: str, password: str) -> str:
    return str(requests.auth._basic_auth_str(user, password))


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """In the place of requests' own rule, which would take credentials from ``~/.netrc``."""
    return request
