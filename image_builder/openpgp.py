"""OpenPGP: who signed an inline-signed document, checked against a keyring file.

The document is a cleartext signed message (RFC 9580, section 7); the keyring is a file of certificates,
binary or armored, as Debian's ``debian-archive-keyring`` package ships it. Signatures by keys outside the
keyring count for nothing; what is returned is the text that the good signatures cover, never the file as it
came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pysequoia import Cert, verify

from measurements.errors import KeyturnError

_ARMOR_HEAD = b"-----BEGIN PGP SIGNED MESSAGE-----"
_ARMOR_TAIL = b"-----END PGP SIGNATURE-----"


class SignatureError(KeyturnError):
    """A document that is not signed as it has to be."""

    code = "signature"


class KeyringError(KeyturnError):
    """A keyring that cannot be read."""

    code = "keyring"


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedText:
    """``text`` as the good signatures cover it, and the sorted fingerprints (hex) of their certificates'
    primary keys.
    """

    text: bytes
    signers: tuple[str, ...]


def read_keyring(path: Path) -> tuple[Cert, ...]:
    """The certificates of a keyring file. A name ending in ``.gpg`` may be stored as ``.pgp`` (Debian 13)
    and the other way round.
    """
    other = {".gpg": ".pgp", ".pgp": ".gpg"}.get(path.suffix)
    if other is not None and not path.exists():
        path = path.with_suffix(other) if path.with_suffix(other).exists() else path
    try:
        certificates = Cert.split_bytes(path.read_bytes())
    except OSError as error:
        raise KeyringError(
            f"the archive's keyring cannot be read: {error.strerror}",
            subject=str(path),
            advice="install the package debian-archive-keyring, or name another file in archive.keyring",
        ) from None
    except (RuntimeError, ValueError) as error:
        raise KeyringError(
            f"not a keyring: {_first_line(error)}",
            subject=str(path),
            advice="name a file of OpenPGP certificates in archive.keyring",
        ) from None
    if not certificates:
        raise KeyringError(
            "the keyring holds no certificate",
            subject=str(path),
            advice="name a file of OpenPGP certificates in archive.keyring",
        )
    return tuple(certificates)


def verify_inline(document: bytes, *, keyring: Sequence[Cert], name: str) -> SignedText:
    """The signed text of ``document``; raises :class:`SignatureError` unless a certificate of ``keyring``
    made a good signature.
    """
    stripped = document.strip()
    if not stripped.startswith(_ARMOR_HEAD) or not stripped.endswith(_ARMOR_TAIL):
        raise _refused(name, "it is not an inline-signed document, or carries text outside of the signature")
    wanted: list[str] = []

    def certificates(key_ids: list[str]) -> list[Cert]:
        wanted.extend(key_ids)
        return list(keyring)

    try:
        verified = verify(bytes=document, store=certificates)
    except RuntimeError as error:
        keys = ", ".join(sorted(wanted)) or "none"
        raise _refused(name, f"{_first_line(error)} Signing keys: {keys}") from None
    signers = sorted({signature.certificate for signature in verified.valid_sigs})
    if not signers or not verified.bytes:
        raise _refused(name, "no good signature by a certificate of the keyring")
    return SignedText(text=verified.bytes, signers=tuple(signers))


def _refused(name: str, reason: str) -> SignatureError:
    return SignatureError(
        f"signature refused: {reason}",
        subject=name,
        advice="use another mirror; if the archive has new keys, update the keyring named in archive.keyring",
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()
