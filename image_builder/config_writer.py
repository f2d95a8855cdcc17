"""Writes the config disk of an app: what the host tells one instance of it."""

from __future__ import annotations

import os
from pathlib import Path

from measurements.app_manifest import parse_manifest
from measurements.config_disk import Config, check_config, encode_config, frame_config, parse_config


def write_config(path: Path, config: Config) -> bytes:
    """Write the disk and return the bytes that are measured. A configuration that the guest would refuse is
    refused here (``ConfigError``, ``ManifestError``). The file can be read by its owner only: it may hold an
    envelope and variables that are nobody else's business.
    """
    document = encode_config(config)
    check_config(parse_config(document), parse_manifest(config.app_manifest))
    disk = frame_config(document)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.unlink(missing_ok=True)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(disk)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return document
