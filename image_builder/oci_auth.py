"""Credentials for container registries, from the user's auth file.

Source: containers-auth.json(5). The first that exists of ``$REGISTRY_AUTH_FILE``,
``$XDG_RUNTIME_DIR/containers/auth.json``, ``$DOCKER_CONFIG/config.json`` and ``~/.docker/config.json`` is
read: ``{"auths": {"HOST[/NAMESPACE]": {"auth": base64 of USER:PASSWORD}}}``; the longest fitting key counts.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path

from image_builder.oci_image import oci_error, parse_document


def auth_file(environment: Mapping[str, str]) -> Path | None:
    """The user's auth file, if there is one."""
    home = environment.get("HOME", "")
    candidates = [
        environment.get("REGISTRY_AUTH_FILE", ""),
        _below(environment.get("XDG_RUNTIME_DIR", ""), "containers/auth.json"),
        _below(environment.get("DOCKER_CONFIG", ""), "config.json"),
        _below(home, ".docker/config.json"),
    ]
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)


def read_credentials(host: str, repository: str, *, path: Path | None = None) -> tuple[str, str] | None:
    """User and password for a repository, or ``None``. Raises ``OciError`` for a file that is damaged."""
    source = path if path is not None else auth_file(os.environ)
    if source is None:
        return None
    auths = parse_document(source.read_bytes(), subject=source.name).get("auths") or {}
    name = f"{host}/{repository}"
    fitting = [key for key in auths if name == key or name.startswith(f"{key}/")]
    entry = auths[max(fitting, key=len)] if fitting else None
    if not isinstance(entry, dict) or not entry.get("auth"):
        return None
    try:
        user, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (ValueError, TypeError):
        user, colon, password = "", "", ""
    if not colon:
        raise oci_error(
            f"the entry for {host} is damaged", subject=source.name, advice="log in to the registry again"
        )
    return user, password


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else ""
