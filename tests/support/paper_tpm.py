"""A TPM on paper: keys of ``cryptography`` that make the structures of a TPM, for tests that need no machine.

``PaperTpm.evidence`` gives evidence that verifies, for any runtime events and registers; its parts can be
changed by name to try attacks. What a real TPM makes is compared in ``tests/attestation/test_real_tpm.py``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.evidence import Evidence
from attestation.report_data import qualifying_data
from measurements.canonical import Json
from measurements.eventlog import Algorithm
from measurements.reference_digest import ReferenceValues
from measurements.runtime_events import DEV_IMAGE, RuntimeEvent, replay_runtime_events
from tests.support.event_log_writer import Record, write_log

VALID_FROM = datetime(2025, 1, 1, tzinfo=UTC)
VALID_TO = datetime(2035, 1, 1, tzinfo=UTC)
NOW = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
RESTRICTED_SIGNING = 0x00050472
LOGGED = (*range(10), 11, 12, 13)
SHAPE: dict[str, Json] = {"memory": "2GiB", "cpus": 1}
EK_EXTENSIONS: tuple[tuple[x509.ExtensionType, bool], ...] = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.1")]), False),
)


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return struct.pack(">H", len(data)) + data


def key_usage(**used: bool) -> x509.KeyUsage:
    """Key usage with only the named bits."""
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    names += ["key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: used.get(name, False) for name in names})


def tpm_name(*, model: str = "paper", repeat: int = 1) -> x509.SubjectAlternativeName:
    """The directory name of a TPM."""
    values = {"2.23.133.2.1": "id:00001014", "2.23.133.2.2": model, "2.23.133.2.3": "id:1"}
    attributes = [x509.NameAttribute(x509.ObjectIdentifier(oid), text) for oid, text in values.items()]
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(attributes))] * repeat)


class Authority:
    """A certificate authority; ``parent`` is the one above it, none for a root."""

    def __init__(
        self,
        name: str,
        *,
        parent: Authority | None = None,
        ca: bool = True,
        path_length: int | None = None,
        usage: x509.KeyUsage | None = None,
        valid: tuple[datetime, datetime] = (VALID_FROM, VALID_TO),
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = parent or self
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=ca, path_length=path_length), True),
            (usage or key_usage(key_cert_sign=True), True),
        ]
        self.certificate = issuer.issue(self.key.public_key(), self.name, extensions, valid=valid)

    def issue(
        self,
        public_key: Any,
        subject: x509.Name,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        *,
        valid: tuple[datetime, datetime] = (VALID_FROM, VALID_TO),
        algorithm: hashes.SHA256 | hashes.SHA224 | None = None,
    ) -> bytes:
        """DER of a certificate signed by this authority; ``extensions`` with their criticality."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(valid[0])
            .not_valid_after(valid[1])
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, algorithm or hashes.SHA256()).public_bytes(Encoding.DER)

    def issue_ek(self, public_key: Any) -> bytes:
        """An EK certificate that is all that is required."""
        rsa_key = isinstance(public_key, rsa.RSAPublicKey)
        usage = key_usage(key_encipherment=rsa_key, key_agreement=not rsa_key)
        return self.issue(public_key, x509.Name([]), [*EK_EXTENSIONS, (usage, True), (tpm_name(), True)])


def firmware_log(*, seed: bytes = b"") -> tuple[bytes, dict[str, dict[int, bytes]]]:
    """A log with two records for every register of firmware, and PCR 0 to 14 of both banks after it; other
    ``seed``, other registers.
    """
    records, registers = [], start_registers()
    for pcr in LOGGED:
        for number in range(2):
            data = seed + b"%d of PCR %d" % (number, pcr)
            digests = {a: hashlib.new(a.bank, data).digest() for a in (Algorithm.SHA256, Algorithm.SHA384)}
            records.append(Record(pcr=pcr, event_type=13, digests=digests))
            for algorithm, digest in digests.items():
                extended = hashlib.new(algorithm.bank, registers[algorithm.bank][pcr] + digest).digest()
                registers[algorithm.bank][pcr] = extended
    return write_log(records, algorithms=[Algorithm.SHA256, Algorithm.SHA384]), registers


def start_registers() -> dict[str, dict[int, bytes]]:
    """PCR 0 to 14 of both banks before any event."""
    return {bank: {pcr: bytes(size) for pcr in range(15)} for bank, size in (("sha256", 32), ("sha384", 48))}


def reference_of(registers: Mapping[str, Mapping[int, bytes]], *, dev: bool = False) -> ReferenceValues:
    """Reference values of an image with these registers, PCR 14 as the image alone leaves it."""
    start = replay_runtime_events([DEV_IMAGE] if dev else [])
    return ReferenceValues(
        shape=SHAPE, banks={bank: {**values, 14: start[bank]} for bank, values in registers.items()}
    )


def attest(
    signer: bytes, qualifying: bytes, digest: bytes, *, selections: Sequence[tuple[int, bytes]]
) -> bytes:
    """A TPMS_ATTEST of type quote."""
    chosen = b"".join(struct.pack(">HB", bank, len(bitmap)) + bitmap for bank, bitmap in selections)
    return (
        struct.pack(">IH", 0xFF544347, 0x8018)
        + sized(signer)
        + sized(qualifying)
        + struct.pack(">QIIBQ", 1000, 1, 0, 1, 7)
        + struct.pack(">I", len(selections))
        + chosen
        + sized(digest)
    )


BOTH_BANKS = ((0x000B, b"\xff\x7f\x00"), (0x000C, b"\xff\x7f\x00"))


class PaperTpm:
    """EK (RSA 2048) with a certificate of ``authority``, and an AK (P-256)."""

    def __init__(self, authority: Authority, *, attributes: int = RESTRICTED_SIGNING) -> None:
        self.ek = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ek_certificate = authority.issue_ek(self.ek.public_key())
        self.ak = ec.generate_private_key(ec.SECP256R1())
        point = self.ak.public_key().public_numbers()
        self.ak_public = (
            struct.pack(">HHIH", 0x0023, 0x000B, attributes, 0)
            + struct.pack(">HHHHH", 0x0010, 0x0018, 0x000B, 0x0003, 0x0010)
            + sized(point.x.to_bytes(32, "big"))
            + sized(point.y.to_bytes(32, "big"))
        )

    @property
    def ak_name(self) -> bytes:
        """The AK's name."""
        return b"\x00\x0b" + hashlib.sha256(self.ak_public).digest()

    @property
    def qualified_name(self) -> bytes:
        """The AK's qualified name as a primary key of the endorsement hierarchy."""
        return b"\x00\x0b" + hashlib.sha256(b"\x40\x00\x00\x0b" + self.ak_name).digest()

    def sign(self, message: bytes) -> bytes:
        """A TPMT_SIGNATURE over any bytes (which a real restricted key would not give)."""
        r, s = decode_dss_signature(self.ak.sign(message, ec.ECDSA(hashes.SHA256())))
        numbers = sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))
        return struct.pack(">HH", 0x0018, 0x000B) + numbers

    def quote(
        self,
        report_data: bytes,
        registers: Mapping[str, Mapping[int, bytes]],
        *,
        selections: Sequence[tuple[int, bytes]] = BOTH_BANKS,
    ) -> bytes:
        """A quote over PCR 0 to 14 of the banks in ``registers``."""
        values = b"".join(value for bank in registers.values() for _, value in sorted(bank.items()))
        digest = hashlib.sha256(values).digest()
        return attest(self.qualified_name, qualifying_data(report_data), digest, selections=selections)

    def evidence(
        self,
        *,
        report_data: bytes,
        runtime_events: Sequence[RuntimeEvent],
        app_manifest: bytes,
        firmware: tuple[bytes, dict[str, dict[int, bytes]]] | None = None,
        reference: ReferenceValues | None = None,
    ) -> Evidence:
        """Evidence of a boot with these runtime events. ``firmware`` is a log and its registers; by default
        the reference is that of what was booted.
        """
        log, booted = firmware or firmware_log()
        runtime = replay_runtime_events(runtime_events)
        registers = {bank: {**values, 14: runtime[bank]} for bank, values in booted.items()}
        quote = self.quote(report_data, registers)
        dev = bool(runtime_events) and runtime_events[0] == DEV_IMAGE
        return Evidence(
            quote=quote,
            signature=self.sign(quote),
            ak_public=self.ak_public,
            ek_certificate=self.ek_certificate,
            pcrs=registers,
            event_log=log,
            runtime_events=tuple(runtime_events),
            app_manifest=app_manifest,
            reference=reference or reference_of(booted, dev=dev),
        )

    def activate(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        """What TPM2_ActivateCredential gives for this EK and AK; the integrity is not checked."""
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=b"IDENTITY\0")
        seed = self.ek.decrypt(encrypted_secret[2:], oaep)
        kdf = KBKDFHMAC(
            algorithm=hashes.SHA256(),
            mode=Mode.CounterMode,
            length=16,
            rlen=4,
            llen=4,
            location=CounterLocation.BeforeFixed,
            label=b"STORAGE",
            context=self.ak_name,
            fixed=None,
        )
        encrypted = id_object[2 + 2 + 32 :]
        opened = Cipher(algorithms.AES(kdf.derive(seed)), CFB(bytes(16))).decryptor().update(encrypted)
        return opened[2:]
