"""Containers with a TPM part made on paper (``tests.support.paper_tpm``), with every proof of the key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat, TpmPart
from attestation.platform_verification import PlatformFacts, PlatformVerification
from attestation.policy import Policy, RootPurpose, TrustAnchor
from attestation.tpm.activation import activation_value
from attestation.tpm.verify import verify_tpm
from tests.support.paper_tpm import NOW, VALID_FROM, VALID_TO, Authority, PaperTpm, firmware_log, key_usage
from tests.support.policies import only, permissive_policy

REPORT_DATA = bytes(range(64))
SECRET = b"s" * 32
CA_USAGE = key_usage(key_cert_sign=True, crl_sign=True)
LOG, REGISTERS = firmware_log()


def anchor(der: bytes, purpose: RootPurpose) -> TrustAnchor:
    """A generated root, for a policy."""
    fingerprint = hashlib.sha256(der).digest()
    return TrustAnchor(
        purpose=purpose, fingerprint=fingerprint, subject="CN=test", source="tests", date="2026-06-01"
    )


class PaperMachine:
    """A TPM under a root with one intermediate authority, and its evidence."""

    def __init__(self, **authority: Any) -> None:
        self.root = Authority("paper root", usage=CA_USAGE)
        self.issuer = Authority("paper issuer", parent=self.root, usage=CA_USAGE, **authority)
        self.tpm = PaperTpm(self.issuer)

    @property
    def pool(self) -> tuple[bytes, ...]:
        """Certificates that go with the evidence."""
        return (self.root.certificate, self.issuer.certificate)

    @property
    def anchors(self) -> tuple[TrustAnchor, ...]:
        """The root for both purposes."""
        return (
            anchor(self.root.certificate, RootPurpose.TPM_EK),
            anchor(self.root.certificate, RootPurpose.TPM_AK),
        )

    @property
    def ek_id(self) -> bytes:
        """SHA-256 of the EK's SubjectPublicKeyInfo."""
        key = self.tpm.ek.public_key()
        return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()

    @property
    def ak_info(self) -> bytes:
        """The AK's SubjectPublicKeyInfo."""
        return self.tpm.ak.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def activation(self, secret: bytes = SECRET) -> str:
        """The activation value of a secret for this machine's keys."""
        value = activation_value(secret=secret, ek_platform_id=self.ek_id, ak_name=self.tpm.ak_name)
        return value.hex()

    def issue_ak(
        self,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] | None = None,
        *,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None,
        **options: Any,
    ) -> bytes:
        """An AK certificate; all that is required unless ``extensions`` says otherwise."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "1234")])
        usual = [(x509.BasicConstraints(ca=False, path_length=None), True), (AK_KEY_USAGE, True)]
        chosen = usual if extensions is None else extensions
        return self.issuer.issue(key or self.tpm.ak.public_key(), name, chosen, **options)

    def part(
        self,
        registers: Mapping[str, Mapping[int, bytes]] = REGISTERS,
        *,
        report_data: bytes = REPORT_DATA,
        selections: Sequence[tuple[int, bytes]] | None = None,
        **changes: Any,
    ) -> TpmPart:
        """A part with a quote over these registers and the credential's proof."""
        chosen = {} if selections is None else {"selections": selections}
        quote = self.tpm.quote(report_data, registers, **chosen)
        part = TpmPart(
            quote=quote,
            signature=self.tpm.sign(quote),
            ak_public=self.tpm.ak_public,
            pcrs=registers,
            ek_certificate=self.tpm.ek_certificate,
            activated_secret=SECRET,
        )
        return replace(part, **changes)

    def policy(self, **changes: Any) -> Policy:
        """A permissive policy with this machine's root and activation value; ``changes`` are of its [tpm]."""
        policy = permissive_policy(EvidencePlatform.TPM, roots=self.anchors)
        assert policy.tpm is not None
        usual = replace(policy.tpm, activation_secrets=only(self.activation()))
        return replace(policy, tpm=replace(usual, **changes))

    def revocation_list(
        self, *serials: int, of: Authority | None = None, number: int = 1, days: Any = None
    ) -> bytes:
        """A list (DER) of an authority, the issuer by default."""
        authority = of or self.issuer
        start, end = days or (VALID_FROM, VALID_TO)
        builder = x509.CertificateRevocationListBuilder().issuer_name(authority.name)
        builder = builder.last_update(start).next_update(end)
        builder = builder.add_extension(x509.CRLNumber(number), False)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.DER)


AK_KEY_USAGE = key_usage(digital_signature=True)


def container(machine: PaperMachine, part: TpmPart | None, **changes: Any) -> EvidenceContainer:
    """A container of a TPM alone, with log and certificates."""
    evidence = EvidenceContainer(
        platform=EvidencePlatform.TPM,
        report=b"",
        certificates=machine.pool,
        tpm=part,
        logs=(Log(format=LogFormat.TCG2, data=LOG),),
    )
    return replace(evidence, **changes)


def verify(
    evidence: EvidenceContainer,
    policy: Policy,
    *,
    now: int = NOW,
    tee: PlatformFacts | None = None,
    collateral: Collateral | None = None,
) -> PlatformVerification:
    """The verdict under a policy's own anchors."""
    return verify_tpm(
        evidence,
        collateral=collateral or Collateral(),
        anchors=anchors_for(policy),
        policy=policy,
        now=now,
        tee=tee,
    )


def failures(result: PlatformVerification) -> list[str]:
    """Names of the checks that were made and failed; the result must be in agreement with itself."""
    failed = [check for group in result.groups for check in group.checks if not check.passed]
    assert all(check.reason and check.advice for check in failed)
    assert result.passed is (not failed) is (result.facts is not None)
    return [check.name for check in failed if check.found != "not checked"]
