"""A PKI like AMD's with keys of its own, and reports that its keys sign: what no public vector has.

Names, extensions and algorithms are AMD's (RSASSA-PSS with SHA-384, VCEK and VLEK on P-384), so the only
difference to real ones is the root. RSA keys have 2048 bits, for speed.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from attestation.policy import TrustAnchor
from attestation.snp.products import Product
from measurements.sev.report import REPORT_SIZE, SIGNED_SIZE, SigningKey

NOW = int(datetime(2026, 11, 30, tzinfo=UTC).timestamp())
DAY = 86400
CSP = "test.cloud.example"
CPUS = {Product.MILAN: (25, 1, 1), Product.GENOA: (25, 17, 1), Product.TURIN: (26, 2, 1)}
_ARC = "1.3.6.1.4.1.3704.1"
_OTHER_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)


@dataclass(frozen=True, kw_only=True)
class Levels:
    """One TCB."""

    boot_loader: int = 4
    tee: int = 1
    snp: int = 24
    microcode: int = 219
    fmc: int | None = None

    def word(self) -> bytes:
        """The 8 bytes in a report."""
        if self.fmc is not None:
            return bytes((self.fmc, self.boot_loader, self.tee, self.snp, 0, 0, 0, self.microcode))
        return bytes((self.boot_loader, self.tee, 0, 0, 0, 0, self.snp, self.microcode))


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a report is to say; the defaults are of a machine with which nothing is wrong."""

    product: Product = Product.GENOA
    version: int = 5
    kind: SigningKey = SigningKey.VCEK
    guest_svn: int = 3
    policy: int = 0x30000 | 55 | 1 << 8
    vmpl: int = 0
    algorithm: int = 1
    platform_info: int = 0b100101
    key_bits: int = 0
    report_data: bytes = hashlib.sha512(b"report data").digest()
    measurement: bytes = hashlib.sha384(b"measurement").digest()
    host_data: bytes = hashlib.sha256(b"host data").digest()
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id_ma: bytes = b"\xff" * 32
    reported: Levels | None = None
    committed: Levels | None = None
    launch: Levels | None = None
    current: Levels | None = None
    cpu: tuple[int, int, int] | None = None
    chip_id: bytes | None = None
    firmware: tuple[int, int, int] = (29, 55, 1)
    committed_firmware: tuple[int, int, int] = (29, 55, 1)


def levels_of(product: Product) -> Levels:
    """The TCB of a machine that is up to date."""
    return Levels(fmc=1) if product is Product.TURIN else Levels()


def chip_of(product: Product) -> bytes:
    """64 bytes of chip id, of which Turin uses 8."""
    chip = hashlib.sha512(f"chip {product}".encode()).digest()
    return chip[:8] + bytes(56) if product is Product.TURIN else chip


@dataclass(frozen=True, kw_only=True)
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    @cached_property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, kw_only=True)
class LeafWishes:
    """What a certificate of a signing key is to say. ``extensions`` replaces values by their suffix, or
    leaves them out (None).
    """

    kind: SigningKey = SigningKey.VCEK
    levels: Levels = field(default_factory=Levels)
    name: str | None = None
    product_name: str | None = None
    extensions: tuple[tuple[str, bytes | None], ...] = ()
    start: int = NOW - 300 * DAY
    days: int = 2000
    issuer: str | None = None
    key_name: str | None = None
    curve: ec.EllipticCurve = field(default_factory=ec.SECP384R1)
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()


@cache
def _rsa_key(_name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def _ec_key(name: str, curve: str) -> ec.EllipticCurvePrivateKey:
    """The same in each process, so that reports are too."""
    chosen = ec.SECP384R1() if curve == "secp384r1" else ec.SECP256R1()
    number = int.from_bytes(hashlib.sha512(f"tests {name}".encode()).digest())
    return ec.derive_private_key(number % (chosen.group_order - 1) + 1, chosen)


def _name(common_name: str) -> x509.Name:
    pairs = (
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
        (NameOID.COMMON_NAME, common_name),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


def _when(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def der_integer(number: int) -> bytes:
    """An INTEGER from 0 to 255."""
    return bytes((2, 1, number)) if number < 0x80 else bytes((2, 2, 0, number))


def der_text(text: str) -> bytes:
    """A short IA5String."""
    return bytes((0x16, len(text))) + text.encode()


class SnpPki:
    """ARK, ASK and ASVK of one product."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.ark = self.authority(product.root_name, serial=0x10000, crl_sign=True)
        self.ask = self.authority(product.issuer_name(SigningKey.VCEK), serial=0x10001)
        self.asvk = self.authority(product.issuer_name(SigningKey.VLEK), serial=0x10101)

    def authority(
        self,
        name: str,
        *,
        serial: int,
        crl_sign: bool = False,
        start: int = NOW - 1000 * DAY,
        days: int = 9000,
        hash_algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
        pss: bool = True,
    ) -> Made:
        """A root, or what the root issues."""
        key, root = _rsa_key(name), name == self.product.root_name
        issuer_key = key if root else _rsa_key(self.product.root_name)
        usage = dict.fromkeys(_OTHER_USAGES, False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.product.root_name))
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(_when(start))
            .not_valid_after(_when(start + days * DAY))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None if root else 0), critical=True)
            .add_extension(
                x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=crl_sign or root), critical=True
            )
        )
        return Made(
            certificate=builder.sign(
                issuer_key, hash_algorithm or hashes.SHA384(), rsa_padding=_PSS if pss else None
            ),
            key=key,
        )

    def leaf(self, wishes: LeafWishes | None = None) -> Made:
        """A VCEK or VLEK."""
        wishes = wishes or LeafWishes(levels=levels_of(self.product))
        plain = f"{self.product} {wishes.kind.name}"
        key = _ec_key(wishes.key_name or plain, wishes.curve.name)
        issuer = wishes.issuer or self.product.issuer_name(wishes.kind)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(wishes.name or f"SEV-{wishes.kind.name}"))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(77)
            .not_valid_before(_when(wishes.start))
            .not_valid_after(_when(wishes.start + wishes.days * DAY))
        )
        values = {**self._extensions(wishes), **dict(wishes.extensions)}
        for suffix, value in values.items():
            if value is not None:
                oid = ObjectIdentifier(f"{_ARC}.{suffix}")
                builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        for extension, critical in wishes.more:
            builder = builder.add_extension(extension, critical=critical)
        signed = builder.sign(_rsa_key(issuer), hashes.SHA384(), rsa_padding=_PSS)
        return Made(certificate=signed, key=key)

    def _extensions(self, wishes: LeafWishes) -> dict[str, bytes | None]:
        turin, levels = self.product is Product.TURIN, wishes.levels
        numbers = {
            "1": int(turin),
            "3.1": levels.boot_loader,
            "3.2": levels.tee,
            "3.3": levels.snp,
            "3.5": 0,
            "3.6": 0,
            "3.7": 0,
            "3.8": levels.microcode,
            **({"3.9": levels.fmc or 0} if turin else {"3.4": 0}),
        }
        name = {"2": der_text(wishes.product_name or self.product.label)}
        chip = chip_of(self.product)[: 8 if turin else 64]
        last = {"5": der_text(f"CN={CSP}")} if wishes.kind is SigningKey.VLEK else {"4": chip}
        return {**{suffix: der_integer(number) for suffix, number in numbers.items()}, **name, **last}

    def crl(
        self,
        *revoked: Made,
        start: int = NOW - DAY,
        days: int = 365,
        issuer: Made | None = None,
        number: int = 4,
        critical: bool = False,
    ) -> bytes:
        """A revocation list of the ARK, or of ``issuer``."""
        by = issuer or self.ark
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(by.certificate.subject)
            .last_update(_when(start))
            .next_update(_when(start + days * DAY))
            .add_extension(x509.CRLNumber(number), critical=critical)
        )
        for one in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(_when(start)).build())
        assert isinstance(by.key, rsa.RSAPrivateKey)
        return builder.sign(by.key, hashes.SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)

    @property
    def anchor(self) -> TrustAnchor:
        """The root, as a policy pins it."""
        return TrustAnchor(
            purpose=self.product.purpose,
            fingerprint=hashlib.sha256(self.ark.der).digest(),
            subject=f"CN={self.product.root_name}, of the tests",
            source="tests/support/snp_pki.py",
            date="2026-11-30",
        )


@cache
def pki(product: Product) -> SnpPki:
    """One PKI for each product, for all tests."""
    return SnpPki(product)


def report_bytes(wishes: Wishes, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """A signed report; ``key`` is that of the product's PKI unless another is given."""
    plain = _ec_key(f"{wishes.product} {wishes.kind.name}", "secp384r1")
    return sign_report(unsigned_report(wishes), key or plain)


def unsigned_report(wishes: Wishes) -> bytes:
    """The report with a signature of zeros."""
    plain = levels_of(wishes.product)
    reported, committed, launch, current = (
        (one or plain).word() for one in (wishes.reported, wishes.committed, wishes.launch, wishes.current)
    )
    chip = chip_of(wishes.product) if wishes.kind is SigningKey.VCEK else bytes(64)
    cpu = bytes(wishes.cpu or CPUS[wishes.product]) if wishes.version >= 3 else bytes(3)
    head = struct.pack(
        "<IIQ16s16sIIQQII64s48s32s48s48s32s32sQ",
        wishes.version,
        wishes.guest_svn,
        wishes.policy,
        b"family".ljust(16, b"\0"),
        b"image".ljust(16, b"\0"),
        wishes.vmpl,
        wishes.algorithm,
        int.from_bytes(current, "little"),
        wishes.platform_info,
        wishes.kind << 2 | wishes.key_bits,
        0,
        wishes.report_data,
        wishes.measurement,
        wishes.host_data,
        wishes.id_key_digest,
        wishes.author_key_digest,
        hashlib.sha256(b"report id").digest(),
        wishes.report_id_ma,
        int.from_bytes(reported, "little"),
    )
    tail = (
        cpu.ljust(0x18, b"\0")
        + (wishes.chip_id if wishes.chip_id is not None else chip)
        + committed
        + bytes((*wishes.firmware, 0, *wishes.committed_firmware, 0))
        + launch
        + (struct.pack("<QQ", 0x3, 0x7) if wishes.version >= 5 else bytes(16))
    )
    return (head + tail).ljust(REPORT_SIZE, b"\0")


def sign_report(report: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """``report`` with a new signature."""
    signature = key.sign(report[:SIGNED_SIZE], ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    numbers = b"".join(one.to_bytes(72, "little") for one in decode_dss_signature(signature))
    return report[:SIGNED_SIZE] + numbers.ljust(512, b"\0")
