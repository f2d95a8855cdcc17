"""Proofs that an attestation key is a real TPM's. Each is a list of checks of its own.

A part may hold several proofs. Those that the policy allows and that are there must all hold; at least one
must be there. What the policy does not allow is not looked at.

``credential``, for any TPM: EK certificate, and a secret that the verifier sealed for EK and AK together.

=========================  ===============================================================================
``ek-chain``               the EK certificate chains to a root pinned for EKs
``ek-certificate``         it is one for an endorsement key (``attestation.ek_certificate``)
``ek-validity``            it and its issuers are valid and not revoked
``credential-activation``  the secret is of this EK and AK and on the policy's list, which ``any`` never is
=========================  ===============================================================================

``ak-certificate``, for clouds that certify the AK (Google, Azure):

=========================  ===============================================================================
``ak-chain``               the AK certificate chains to a root pinned for AKs
``ak-certificate``         it is one for an attestation key (``attestation.tpm.ak_certificate``)
``ak-certificate-key``     its key is the AK
``ak-validity``            it and its issuers are valid and not revoked
=========================  ===============================================================================

``hcl-report`` (Azure) and ``nitro-document`` (AWS): see ``attestation.tpm.cloud_proofs``.

Where no credential binds the AK's whole public area, the quote itself must: ``quote-signer`` holds its
qualified signer against the AK as a primary key of a hierarchy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.credential import CredentialError
from attestation.ek_certificate import read_ek_certificate
from attestation.policy import AkProof, RootPurpose
from attestation.tpm.activation import activation_value
from attestation.tpm.ak_certificate import read_ak_certificate
from attestation.tpm.cloud_proofs import HCL_CHECKS, NITRO_CHECKS, check_hcl, check_nitro
from attestation.tpm.context import Context, ProofFindings, SignedQuote
from attestation.tpm.revocation import check_revocation
from attestation.tpm_signature import public_key
from attestation.verdict import CheckList
from attestation.x509_chain import build_chain, check_windows, load_certificate

CREDENTIAL_CHECKS = ("ek-chain", "ek-certificate", "ek-validity", "credential-activation")
CERTIFICATE_CHECKS = ("ak-chain", "ak-certificate", "ak-certificate-key", "ak-validity")


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """One way to prove a key: names and the function of its checks, which end at their first failure."""

    kind: AkProof
    title: str
    names: tuple[str, ...]
    check: Callable[[CheckList, Context, SignedQuote], ProofFindings]


def proofs_of(context: Context) -> tuple[Proof, ...]:
    """The proofs that are in the part and allowed."""
    return tuple(proof for proof in _present(context) if proof.kind in context.section.ak_proofs)


def _present(context: Context) -> Iterator[Proof]:
    part = context.part
    there = {
        AkProof.CREDENTIAL: part.ek_certificate is not None and part.activated_secret is not None,
        AkProof.AK_CERTIFICATE: part.ak_certificate is not None,
        AkProof.HCL_REPORT: part.hcl_report is not None,
        AkProof.NITRO_DOCUMENT: part.nitro_document is not None,
    }
    yield from (proof for proof in _PROOFS if there[proof.kind])


def ak_id(signed: SignedQuote) -> bytes:
    """SHA-256 of the attestation key's SubjectPublicKeyInfo."""
    key = public_key(signed.ak)
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _check_credential(checks: CheckList, context: Context, signed: SignedQuote) -> ProofFindings:
    der, secret = context.part.ek_certificate, context.part.activated_secret
    assert der is not None  # only then this proof is present
    assert secret is not None
    with checks.step("ek-chain", expected="an EK certificate under a pinned root"):
        roots = context.anchors.fingerprints(RootPurpose.TPM_EK)
        chain = build_chain(der, context.pool, roots=roots, what="the EK certificate")
    with checks.step("ek-certificate", expected="a certificate for an endorsement key"):
        ek = read_ek_certificate(der, platform_root=chain.fingerprint)
    with checks.step("ek-validity", expected="all certificates valid, none revoked"):
        check_windows(chain.windows, context.now)
        lists = check_revocation(chain, context.collateral.crls, context.now)
    with checks.step("credential-activation", expected="a secret sealed for this EK and AK"):
        _check_secret(
            context, activation_value(secret=secret, ek_platform_id=ek.platform_id, ak_name=signed.ak.name)
        )
    return ProofFindings(
        platform_id=ek.platform_id,
        identity={"ek_platform_id": ek.platform_id.hex(), "ek_platform_root": ek.platform_root.hex()},
        details={"tpm": f"{ek.manufacturer} {ek.model} {ek.version}"},
        windows=(*chain.windows, *lists),
        chain=chain.links,
    )


def _check_secret(context: Context, value: bytes) -> None:
    # ``any`` is no excuse here: a secret that nobody chose proves nothing.
    if value.hex() not in context.section.activation_secrets.values:
        raise CredentialError(
            f"the secret's activation value {value.hex()} is not on the policy's list",
            subject="credential",
            advice="make a credential for these keys, and list its activation value in the policy",
        )


def _check_certificate(checks: CheckList, context: Context, signed: SignedQuote) -> ProofFindings:
    der = context.part.ak_certificate
    assert der is not None  # only then this proof is present
    with checks.step("ak-chain", expected="an AK certificate under a pinned root"):
        roots = context.anchors.fingerprints(RootPurpose.TPM_AK)
        chain = build_chain(der, context.pool, roots=roots, what="the AK certificate")
    with checks.step("ak-certificate", expected="a certificate for an attestation key"):
        details = read_ak_certificate(der)
    certified = load_certificate(der).public_key()
    checks.equal(
        "ak-certificate-key",
        expected=certified.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        found=public_key(signed.ak).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        reason="the certificate is for another key than the one that signed the quote",
        advice="take certificate and quote from the same machine",
    )
    with checks.step("ak-validity", expected="all certificates valid, none revoked"):
        check_windows(chain.windows, context.now)
        lists = check_revocation(chain, context.collateral.crls, context.now)
    return ProofFindings(
        platform_id=ak_id(signed),
        identity={"ak_root": chain.fingerprint.hex()},
        details=details,
        windows=(*chain.windows, *lists),
        chain=chain.links,
    )


_PROOFS = (
    Proof(
        kind=AkProof.CREDENTIAL,
        title="endorsement key and credential",
        names=CREDENTIAL_CHECKS,
        check=_check_credential,
    ),
    Proof(
        kind=AkProof.AK_CERTIFICATE,
        title="certificate of the attestation key",
        names=CERTIFICATE_CHECKS,
        check=_check_certificate,
    ),
    Proof(kind=AkProof.HCL_REPORT, title="Azure's HCL report", names=HCL_CHECKS, check=check_hcl),
    Proof(kind=AkProof.NITRO_DOCUMENT, title="NitroTPM document", names=NITRO_CHECKS, check=check_nitro),
)
