"""Activation values: which secret was for which pair of keys.

A verifier makes a credential (``attestation.credential``) of a fresh secret, for one EK and one AK; the guest
opens it and shows the secret. The secret alone proves nothing about the keys that come with it: whoever has a
real TPM could open a credential for that TPM's own AK and show the secret beside another key. So policies
list the value::

    SHA-256("keyturn-activation/1" ‖ 0x00 ‖ secret (32 bytes) ‖ SHA-256(EK SubjectPublicKeyInfo) ‖ AK name)
"""

from __future__ import annotations

import hashlib

from attestation.credential import SECRET_SIZE, CredentialError

_DOMAIN = b"keyturn-activation/1\0"


def activation_value(*, secret: bytes, ek_platform_id: bytes, ak_name: bytes) -> bytes:
    """The value (32 bytes) of a secret of 32 bytes for an EK, given by SHA-256 of its SubjectPublicKeyInfo,
    and an AK, given by its name. Raises ``CredentialError`` for another size of the secret.
    """
    if len(secret) != SECRET_SIZE:
        raise CredentialError(
            f"the secret has {len(secret)} bytes, {SECRET_SIZE} expected",
            subject="credential",
            advice="show the secret that the credential held",
        )
    return hashlib.sha256(_DOMAIN + secret + ek_platform_id + ak_name).digest()
