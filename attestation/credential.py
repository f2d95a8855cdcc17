"""MakeCredential: a secret that only the TPM with a given EK opens, and only for a given key beside it.

Source: TPM 2.0 Library part 1, section 24 and annexes B.10.4 (RSA) and C.6.1 (ECC). With ``name`` that of
the key and ``H`` the EK's name algorithm::

    RSA EK   seed random; encrypted secret = RSA-OAEP(H, label "IDENTITY\\0", seed)
    ECC EK   ephemeral key; seed = KDFe(H, Z.x, "IDENTITY", ephemeral.x, EK.x);
             encrypted secret = TPM2B ephemeral.x ‖ TPM2B ephemeral.y
    encrypted = AES-CFB(KDFa(H, seed, "STORAGE", name), iv 0, TPM2B secret)
    integrity = HMAC(KDFa(H, seed, "INTEGRITY"), encrypted ‖ name)
    TPM2B_ID_OBJECT = u16 size ‖ TPM2B integrity ‖ encrypted

KDFa is the counter mode of SP 800-108 with a 32-bit counter first and a 32-bit length last; KDFe is the
concatenation of SP 800-56A. A certificate holds an EK without its template; by key size the templates of the
TCG EK Credential Profile 2.5 (annex B) apply: RSA 2048 and P-256 with SHA-256 and AES-128, RSA 3072 and P-384
with SHA-384 and AES-256.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from measurements.errors import RefusedError

SECRET_SIZE = 32
_LABEL = b"IDENTITY\0"

EkPublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class CredentialError(RefusedError):
    """No credential can be made, or the guest did not open it."""

    code = "credential"


@dataclass(frozen=True, kw_only=True, slots=True)
class Credential:
    """``id_object`` is a TPM2B_ID_OBJECT, ``encrypted_secret`` a TPM2B_ENCRYPTED_SECRET."""

    id_object: bytes
    encrypted_secret: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Profile:
    """Algorithms of an EK template."""

    algorithm: hashes.HashAlgorithm
    cipher_bits: int


_LOW = _Profile(algorithm=hashes.SHA256(), cipher_bits=128)
_HIGH = _Profile(algorithm=hashes.SHA384(), cipher_bits=256)


def make_credential(ek: EkPublicKey, *, name: bytes, secret: bytes) -> Credential:
    """A credential of ``secret`` for the key called ``name`` beside ``ek``.

    Raises ``CredentialError`` for a key size without a template, or a secret larger than the EK's hash.
    """
    profile = _profile(ek)
    if not 0 < len(secret) <= profile.algorithm.digest_size or not name:
        raise _error("the secret has no fitting size, or the key no name", "give a secret of 32 bytes")
    if isinstance(ek, rsa.RSAPublicKey):
        seed, encrypted_seed = _rsa_seed(ek, profile)
    else:
        seed, encrypted_seed = _ecc_seed(ek, profile)
    key = _kdfa(profile, seed, b"STORAGE", name, profile.cipher_bits // 8)
    encrypted = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor().update(_sized(secret))
    integrity = HMAC(_kdfa(profile, seed, b"INTEGRITY", b"", len(seed)), profile.algorithm)
    integrity.update(encrypted + name)
    return Credential(
        id_object=_sized(_sized(integrity.finalize()) + encrypted), encrypted_secret=_sized(encrypted_seed)
    )


def new_secret() -> bytes:
    """A fresh secret for one credential."""
    return secrets.token_bytes(SECRET_SIZE)


def check_activation(opened: bytes, *, secret_hash: bytes) -> None:
    """Raises ``CredentialError`` unless ``opened`` is the secret whose SHA-256 is ``secret_hash``: then the
    named key sits in the TPM of that EK.
    """
    if len(opened) != SECRET_SIZE or not hmac.compare_digest(hashlib.sha256(opened).digest(), secret_hash):
        raise _error(
            "the guest did not open the credential", "ask for a new challenge with this guest's own keys"
        )


def _profile(ek: EkPublicKey) -> _Profile:
    low = ek.key_size == 2048 if isinstance(ek, rsa.RSAPublicKey) else isinstance(ek.curve, ec.SECP256R1)
    high = ek.key_size == 3072 if isinstance(ek, rsa.RSAPublicKey) else isinstance(ek.curve, ec.SECP384R1)
    if not (low or high):
        raise _error(f"an EK of {ek.key_size} bits has no template", "use a TPM with an RSA 2048 or P-256 EK")
    return _LOW if low else _HIGH


def _rsa_seed(ek: rsa.RSAPublicKey, profile: _Profile) -> tuple[bytes, bytes]:
    seed = secrets.token_bytes(profile.algorithm.digest_size)
    oaep = padding.OAEP(mgf=padding.MGF1(profile.algorithm), algorithm=profile.algorithm, label=_LABEL)
    return seed, ek.encrypt(seed, oaep)


def _ecc_seed(ek: ec.EllipticCurvePublicKey, profile: _Profile) -> tuple[bytes, bytes]:
    ephemeral = ec.generate_private_key(ek.curve)
    size = (ek.key_size + 7) // 8
    point, static = ephemeral.public_key().public_numbers(), ek.public_numbers()
    x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
    kdfe = ConcatKDFHash(
        algorithm=profile.algorithm,
        length=profile.algorithm.digest_size,
        otherinfo=_LABEL + x + static.x.to_bytes(size, "big"),
    )
    return kdfe.derive(ephemeral.exchange(ec.ECDH(), ek)), _sized(x) + _sized(y)


def _kdfa(profile: _Profile, key: bytes, label: bytes, context: bytes, length: int) -> bytes:
    kdf = KBKDFHMAC(
        algorithm=profile.algorithm,
        mode=Mode.CounterMode,
        length=length,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    )
    return kdf.derive(key)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _error(reason: str, advice: str) -> CredentialError:
    return CredentialError(reason, subject="credential", advice=advice)
