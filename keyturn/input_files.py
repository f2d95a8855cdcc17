"""Files that the command line reads: never more than a limit, and certificates in either form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measurements.errors import KeyturnError, RefusedError

LARGEST_FILE = 16 << 20


class InputFileError(KeyturnError):
    """A file that is not what it should be."""

    code = "input-file"


class PlatformRootError(RefusedError):
    """A certificate that is no root of a platform."""

    code = "platform-root"


def read_limited(path: Path) -> bytes:
    """A file of at most ``LARGEST_FILE`` bytes."""
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise _error(f"is larger than {LARGEST_FILE} bytes", path)
    return data


def read_document(path: Path) -> Any:
    """The JSON document in a file."""
    from measurements.canonical import parse_json

    return parse_json(read_limited(path), subject=str(path))


def read_certificates(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """DER of every certificate in the files, which are DER or PEM."""
    return tuple(der for path in paths for der in _certificates(path))


def platform_root(path: Path) -> bytes:
    """``SHA-256`` (32 bytes) of the DER of the one root certificate in the file, which is DER or PEM.

    Raises ``InputFileError`` unless there is exactly one certificate, ``PlatformRootError`` unless it is
    signed by itself (RFC 5280, 3.2): one that another authority issued is no root.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    found = _certificates(path)
    if len(found) != 1:
        raise _error(f"holds {len(found)} certificates, not one", path)
    try:
        certificate = x509.load_der_x509_certificate(found[0])
    except ValueError as error:
        raise _error("holds no certificate", path) from error
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise PlatformRootError(
            "is not signed by itself",
            subject=str(path),
            advice="take the root certificate; what it issued is an --intermediate",
        ) from error
    return hashlib.sha256(found[0]).digest()


def _certificates(path: Path) -> list[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    data = read_limited(path)
    if b"-----BEGIN" not in data:
        return [data]
    try:
        return [found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(data)]
    except ValueError as error:
        raise _error("holds no certificate", path) from error


def _error(reason: str, path: Path) -> InputFileError:
    return InputFileError(reason, subject=str(path), advice="name the file that the option asks for")
