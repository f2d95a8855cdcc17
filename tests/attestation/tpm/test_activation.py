"""Challenges made of evidence: for which keys, and what cannot be challenged."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from attestation.container import EvidenceContainer, EvidencePlatform, TpmPart
from attestation.credential import Credential, CredentialError
from attestation.ek_certificate import EkCertificateError
from attestation.tpm.activation import ChallengeError, make_challenge
from attestation.tpm.credential_file import credential_file
from attestation.tpm_structures import TpmStructureError
from measurements.errors import KeyturnError
from tests.support.containers import SMALL
from tests.support.limits import BUSY_SECONDS
from tests.support.paper_tpm import Authority
from tests.support.tpm_containers import SECRET, PaperMachine, container, failures, verify


@lru_cache(maxsize=2)
def machine(number: int = 1) -> PaperMachine:
    return PaperMachine()


def fresh(**changes: Any) -> EvidenceContainer:
    """Evidence as it is before a challenge."""
    return container(machine(), machine().part(activated_secret=None, **changes))


def test_a_challenge_is_opened_and_passes() -> None:
    made = make_challenge(fresh(), secret=SECRET)
    tpm = machine().tpm
    opened = tpm.activate(made.credential.id_object, made.credential.encrypted_secret)
    assert opened == SECRET
    assert (made.activation.hex(), made.ek_platform_id) == (machine().activation(), machine().ek_id)
    assert made.ak_name == tpm.ak_name
    evidence = container(machine(), machine().part(activated_secret=opened))
    policy = machine().policy()
    assert failures(verify(evidence, policy)) == []


def test_two_challenges_with_one_secret_look_nothing_alike() -> None:
    first, second = (make_challenge(fresh(), secret=SECRET) for _ in range(2))
    assert first.activation == second.activation
    assert first.credential.encrypted_secret != second.credential.encrypted_secret
    assert first.credential.id_object[2:] != second.credential.id_object[2:]
    assert SECRET not in credential_file(first.credential)


def test_the_value_is_of_secret_ek_and_ak() -> None:
    value = make_challenge(fresh(), secret=SECRET).activation
    other = machine(2)
    for evidence, secret in (
        (fresh(), b"t" * 32),
        (fresh(ek_certificate=other.tpm.ek_certificate), SECRET),
        (fresh(ak_public=other.tpm.ak_public), SECRET),
    ):
        assert make_challenge(evidence, secret=secret).activation != value


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_secrets_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(CredentialError):
        make_challenge(fresh(), secret=b"s" * size)


def test_a_machine_without_a_tpm_is_not_challenged() -> None:
    with pytest.raises(ChallengeError, match="no TPM part"):
        make_challenge(SMALL, secret=SECRET)


def test_a_machine_without_an_ek_certificate_is_not_challenged() -> None:
    with pytest.raises(ChallengeError, match="no EK certificate"):
        make_challenge(fresh(ek_certificate=None), secret=SECRET)


@pytest.mark.parametrize("cut", range(1, 90, 7))
def test_an_attestation_key_that_is_cut_off_is_refused(cut: int) -> None:
    whole = machine().tpm.ak_public
    assert len(whole) > 84
    with pytest.raises(TpmStructureError):
        make_challenge(fresh(ak_public=whole[: max(0, len(whole) - cut)]), secret=SECRET)


def ed25519_key() -> ed25519.Ed25519PublicKey:
    return ed25519.Ed25519PrivateKey.generate().public_key()


def ecc_key(curve: ec.EllipticCurve) -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(curve).public_key()


def rsa_key(size: int) -> rsa.RSAPublicKey:
    return rsa.generate_private_key(65537, size).public_key()


STRANGE: dict[str, tuple[Callable[[], Any], str]] = {
    "rsa-4096": (partial(rsa_key, 4096), "4096 bits has no template"),
    "p-521": (partial(ecc_key, ec.SECP521R1()), "521 bits has no template"),
    "p-256k1": (partial(ecc_key, ec.SECP256K1()), "too weak or of an unknown kind"),
    "ed25519": (ed25519_key, "neither RSA nor ECC"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_eks_of_kinds_that_no_template_has_are_refused(kind: str) -> None:
    make, reason = STRANGE[kind]
    certificate = machine().issuer.issue_ek(make())
    with pytest.raises((CredentialError, EkCertificateError), match=reason):
        make_challenge(fresh(ek_certificate=certificate), secret=SECRET)


@pytest.mark.parametrize(
    ("make", "seed"),
    [
        (partial(rsa_key, 3072), 384),
        (partial(ecc_key, ec.SECP256R1()), 2 * 34),
        (partial(ecc_key, ec.SECP384R1()), 2 * 50),
    ],
    ids=["rsa-3072", "p-256", "p-384"],
)
def test_eks_of_the_other_templates_are_challenged(make: Callable[[], Any], seed: int) -> None:
    certificate = machine().issuer.issue_ek(make())
    made = make_challenge(fresh(ek_certificate=certificate), secret=SECRET)
    assert struct.unpack(">H", made.credential.encrypted_secret[:2]) == (seed,)


def test_a_certificate_that_is_not_of_an_ek_is_refused() -> None:
    ca = Authority("no EK").certificate
    with pytest.raises(EkCertificateError, match="is an authority"):
        make_challenge(fresh(ek_certificate=ca), secret=SECRET)


@pytest.mark.parametrize("size", [8193, 1 << 20])
@pytest.mark.parametrize("field", ["ek_certificate", "ak_public"])
def test_parts_that_are_too_large_are_refused_at_once(field: str, size: int) -> None:
    good = {"ek_certificate": machine().tpm.ek_certificate, "ak_public": machine().tpm.ak_public}
    part = TpmPart(quote=b"q", signature=b"s", pcrs={}, **{**good, field: good[field].ljust(size, b"\0")})
    evidence = replace(SMALL, platform=EvidencePlatform.TPM, report=b"", tpm=part)
    began = time.process_time()
    with pytest.raises(KeyturnError):
        make_challenge(evidence, secret=SECRET)
    assert time.process_time() - began < BUSY_SECONDS


def test_the_file_has_a_header_and_both_structures() -> None:
    made = Credential(id_object=b"\0\x02id", encrypted_secret=b"\0\x03key")
    assert credential_file(made) == bytes.fromhex("badcc0de00000001 0002 6964 0003 6b6579")
