"""A generated PKI with the structure of Intel's DCAP: root, PCK CA, PCK certificate with the SGX extension,
TCB signing certificate, revocation lists, TCB info and QE identity.

Names, extensions and key usages are those of Intel SGX PCK Certificate and Certificate Revocation List
Profile Specification, section 1.3, since verifiers go by names. Only the organisation differs: it says
``ORGANISATION`` in every certificate, and the root's fingerprint is none that a vendor has.

All times come from the plan and signatures are deterministic (RFC 6979), so a plan and keys give one PKI.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from attestation.collateral import Collateral, DcapCollateral
from attestation.platform_verification import Window
from attestation.policy import RootPurpose, TrustAnchor
from attestation.sim.plan import CERTIFICATES, Part, SimPlan
from attestation.sim.platform import SGX_EXTENSION, sgx_extension
from attestation.sim.tcb import Tee, iso_time, qe_identity_text, tcb_info_text

ORGANISATION = "keyturn simulated TEE, for development only"
_ROOT_CRL_URL = "https://sim.invalid/root.crl"
_SHA256 = hashes.SHA256()


@dataclass(frozen=True, kw_only=True, slots=True)
class SimKeys:
    """Private keys on P-256, one for each certificate, and the attestation key of the quoting enclave."""

    certificates: Mapping[Part, ec.EllipticCurvePrivateKey]
    attestation: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, kw_only=True, slots=True)
class SimPki:
    """A PKI with all that it signed. ``certificates`` and lists are DER."""

    plan: SimPlan
    keys: SimKeys
    certificates: Mapping[Part, bytes]
    root_crl: bytes
    pck_crl: bytes

    @property
    def root(self) -> bytes:
        """The root certificate, DER."""
        return self.certificates[Part.ROOT]

    @property
    def pck_chain(self) -> str:
        """PEM from the PCK certificate to the root, as quotes carry it."""
        return self._chain_pem(Part.PCK)

    def anchor(self) -> TrustAnchor:
        """The root as a policy for development pins it."""
        return TrustAnchor(
            purpose=RootPurpose.SIM,
            fingerprint=hashlib.sha256(self.root).digest(),
            subject=x509.load_der_x509_certificate(self.root).subject.rfc4514_string(),
            source=ORGANISATION,
            date=iso_time(self.plan.windows[Part.TCB_INFO].start)[:10],
        )

    def collateral(self) -> Collateral:
        """What Intel would publish for the platform: one set for trust domains, one for enclaves."""
        return Collateral(dcap=tuple(self.dcap(tee) for tee in Tee), certificates=(self.root,))

    def dcap(
        self, tee: Tee = Tee.TDX, *, tcb_info: str | None = None, qe_identity: str | None = None
    ) -> DcapCollateral:
        """The set of one TEE; ``tcb_info`` and ``qe_identity`` are other texts to sign in place of the
        plan's.
        """
        plan = self.plan
        info = tcb_info if tcb_info is not None else self.tcb_info(tee)
        identity = qe_identity if qe_identity is not None else self.qe_identity(tee)
        return DcapCollateral(
            pck_crl_issuer_chain=self._chain_pem(Part.CA),
            root_ca_crl=self.root_crl,
            pck_crl=self.pck_crl,
            tcb_info_issuer_chain=self._chain_pem(plan.tcb_info_signer),
            tcb_info=info,
            tcb_info_signature=raw_signature(self.keys.certificates[plan.tcb_info_signer], info.encode()),
            qe_identity_issuer_chain=self._chain_pem(plan.qe_identity_signer),
            qe_identity=identity,
            qe_identity_signature=raw_signature(
                self.keys.certificates[plan.qe_identity_signer], identity.encode()
            ),
        )

    def tcb_info(self, tee: Tee = Tee.TDX) -> str:
        """The plan's TCB info, as JSON text."""
        plan = self.plan
        return tcb_info_text(
            plan.tcb_info,
            tee=tee,
            fmspc=plan.platform.fmspc,
            pce_id=plan.platform.pce_id,
            window=plan.windows[Part.TCB_INFO],
        )

    def qe_identity(self, tee: Tee = Tee.TDX) -> str:
        """The plan's QE identity, as JSON text."""
        return qe_identity_text(self.plan.qe_identity, tee=tee, window=self.plan.windows[Part.QE_IDENTITY])

    def _chain_pem(self, leaf: Part) -> str:
        parts = [leaf]
        while parts[-1] is not Part.ROOT:
            parts.append(issuer_of(self.plan, parts[-1]))
        return "".join(pem(self.certificates[part]) for part in parts)


def new_keys() -> SimKeys:
    """Random keys."""
    return SimKeys(
        certificates={part: ec.generate_private_key(ec.SECP256R1()) for part in CERTIFICATES},
        attestation=ec.generate_private_key(ec.SECP256R1()),
    )


def make_pki(plan: SimPlan, keys: SimKeys) -> SimPki:
    """Make the certificates and lists of ``plan``."""
    certificates = {part: _certificate(plan, keys, part) for part in CERTIFICATES}
    root_revoked = [certificates[part] for part in CERTIFICATES if part in plan.revoked - {Part.PCK}]
    pck_revoked = [certificates[Part.PCK]] if Part.PCK in plan.revoked else []
    return SimPki(
        plan=plan,
        keys=keys,
        certificates={part: _der(one) for part, one in certificates.items()},
        root_crl=_list(plan, keys, Part.ROOT, root_revoked, plan.windows[Part.ROOT_CRL]),
        pck_crl=_list(plan, keys, Part.CA, pck_revoked, plan.windows[Part.PCK_CRL]),
    )


def issuer_of(plan: SimPlan, part: Part) -> Part:
    """Whose key signs a certificate."""
    return plan.pck_issuer if part is Part.PCK else Part.ROOT


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256 over ``data`` as 64 bytes: r ‖ s, big-endian."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(_SHA256, deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def pem(der: bytes) -> str:
    """A certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode("ascii")


def _certificate(plan: SimPlan, keys: SimKeys, part: Part) -> x509.Certificate:
    window = plan.windows[part]
    issuer = issuer_of(plan, part)
    key, issuer_key = keys.certificates[part].public_key(), keys.certificates[issuer]
    authority = part in (Part.ROOT, Part.CA)
    path_length = {Part.ROOT: 1, Part.CA: 0}.get(part)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(plan, part))
        .issuer_name(_name(plan, issuer))
        .public_key(key)
        .serial_number(_serial(key))
        .not_valid_before(_moment(window.start))
        .not_valid_after(_moment(window.end))
        .add_extension(identifier, critical=False)
        .add_extension(_distribution_point(), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_key_usage(authority=authority), critical=True)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
    )
    if part is Part.PCK:
        value = sgx_extension(plan.platform, processor_ca=plan.processor_ca)
        extension = x509.UnrecognizedExtension(ObjectIdentifier(SGX_EXTENSION), value)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, _SHA256, ecdsa_deterministic=True)


def _list(plan: SimPlan, keys: SimKeys, part: Part, revoked: list[x509.Certificate], window: Window) -> bytes:
    """The revocation list (DER) of the authority ``part``."""
    key = keys.certificates[part]
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_name(plan, part))
        .last_update(_moment(window.start))
        .next_update(_moment(window.end))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(identifier, critical=False)
    )
    for one in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(one.serial_number)
            .revocation_date(_moment(window.start))
            .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
        )
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, _SHA256, ecdsa_deterministic=True).public_bytes(Encoding.DER)


def _name(plan: SimPlan, part: Part) -> x509.Name:
    attributes = (
        (NameOID.COMMON_NAME, plan.common_name(part)),
        (NameOID.ORGANIZATION_NAME, ORGANISATION),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.COUNTRY_NAME, "US"),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def _serial(key: ec.EllipticCurvePublicKey) -> int:
    """The key identifier as a number, as Intel has it, cut to what is positive in 20 bytes."""
    return int.from_bytes(b"\x01" + x509.SubjectKeyIdentifier.from_public_key(key).digest[1:], "big")


def _distribution_point() -> x509.CRLDistributionPoints:
    name = x509.UniformResourceIdentifier(_ROOT_CRL_URL)
    point = x509.DistributionPoint(full_name=[name], relative_name=None, reasons=None, crl_issuer=None)
    return x509.CRLDistributionPoints([point])


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=not authority,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)
