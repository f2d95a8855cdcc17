"""Challenges to a TPM, and activation values: which secret was for which pair of keys.

A verifier makes a credential (``attestation.credential``) of a fresh secret, for one EK and one AK; the guest
opens it and shows the secret. The secret alone proves nothing about the keys that come with it: whoever has a
real TPM could open a credential for that TPM's own AK and show the secret beside another key. So policies
list the value::

    SHA-256("keyturn-activation/1" ‖ 0x00 ‖ secret (32 bytes) ‖ SHA-256(EK SubjectPublicKeyInfo) ‖ AK name)

From the value nobody can tell the secret, so it may be shown to anyone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from attestation.container import EvidenceContainer
from attestation.credential import SECRET_SIZE, Credential, CredentialError, make_credential
from attestation.ek_certificate import read_ek_certificate
from attestation.tpm_structures import parse_public
from measurements.errors import KeyturnError

_DOMAIN = b"keyturn-activation/1\0"
_NO_ROOT = bytes(32)


class ChallengeError(KeyturnError):
    """Evidence of a machine that cannot be challenged, or a secret that is none."""

    code = "tpm-challenge"


@dataclass(frozen=True, kw_only=True, slots=True)
class Challenge:
    """``credential`` is for the machine, ``activation`` (32 bytes) for the policy; ``ek_platform_id``
    (SHA-256 of the EK's SubjectPublicKeyInfo) and ``ak_name`` say for which keys. The secret is nowhere in
    the clear.
    """

    credential: Credential
    activation: bytes
    ek_platform_id: bytes
    ak_name: bytes


def make_challenge(evidence: EvidenceContainer, *, secret: bytes) -> Challenge:
    """A challenge with ``secret`` (32 bytes that were never used before) to the machine that has the EK and
    AK in ``evidence``. Neither key is verified by it.

    Raises ``ChallengeError`` for evidence without them, ``EkCertificateError`` or ``TpmStructureError`` where
    they cannot be read, ``CredentialError`` for an EK of a kind that no template has or a secret of another
    size.
    """
    part = evidence.tpm
    if part is None:
        raise _error("has no TPM part, so there is no attestation key", "take evidence with a TPM's quote")
    if part.ek_certificate is None:
        raise _error(
            "has no EK certificate",
            "put in the certificate that the TPM's maker issued: a proof by credential needs it",
        )
    ek = read_ek_certificate(part.ek_certificate, platform_root=_NO_ROOT)
    ak_name = parse_public(part.ak_public).name
    return Challenge(
        activation=activation_value(secret=secret, ek_platform_id=ek.platform_id, ak_name=ak_name),
        credential=make_credential(ek.public_key, name=ak_name, secret=secret),
        ek_platform_id=ek.platform_id,
        ak_name=ak_name,
    )


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


def _error(reason: str, advice: str) -> ChallengeError:
    return ChallengeError(reason, subject="evidence", advice=advice)
