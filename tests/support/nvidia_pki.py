"""A test PKI with the structure of NVIDIA's: device chains, reports, signed manifests, OCSP answers.

Everything is signed for real, under roots that only a policy of a test trusts.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from attestation.container import GpuPart
from attestation.nvidia.spdm import Opaque
from attestation.policy import RootPurpose, TrustAnchor
from tests.support.certificates import Issued, Wish, issue

NOW = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
NONCE = bytes(range(1, 33))
FWID = hashlib.sha384(b"firmware").digest()
DRIVER = "580.10.01"
VBIOS = "96.00.AA.00.01"
VBIOS_GOLDEN = {index: (hashlib.sha384(b"vbios %d" % index).digest(),) for index in range(1, 7)}
DRIVER_GOLDEN = {
    7: (hashlib.sha384(b"driver").digest(), hashlib.sha384(b"another driver").digest()),
    35: (hashlib.sha384(b"decoder").digest(),),
}
MEASUREMENTS = {index: values[0] for index, values in {**VBIOS_GOLDEN, **DRIVER_GOLDEN}.items()}
COUNT = 40
NVDEC_ON, NVDEC_OFF = b"\xaa", b"\x55"

_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
_CA: dict[str, Any] = {"ca": True, "crl_sign": True}


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _issue(name: str, by: Issued | None = None, **more: Any) -> Issued:
    wish = Wish(name=name, key=_key(), digest=hashes.SHA384(), serial=x509.random_serial_number())
    for key, value in more.items():
        setattr(wish, key, value)
    return issue(wish, by=by)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device: the keys of its chain, leaf first, without the root."""

    leaf: Issued
    chain: tuple[Issued, ...]
    root: Issued

    @property
    def ders(self) -> tuple[bytes, ...]:
        return tuple(one.der for one in (*self.chain, self.root))


@dataclass(frozen=True, kw_only=True)
class GpuPki:
    """Roots and authorities."""

    root: Issued
    identity: Issued
    provisioner: Issued
    rim_root: Issued
    rim_authority: Issued
    rim_signer: Issued

    @property
    def anchors(self) -> tuple[TrustAnchor, ...]:
        return (
            _anchor(self.root, RootPurpose.NVIDIA_DEVICE),
            _anchor(self.rim_root, RootPurpose.NVIDIA_RIM),
        )

    @property
    def rim_chain(self) -> tuple[Issued, ...]:
        return (self.rim_signer, self.rim_authority, self.rim_root)


def _anchor(root: Issued, purpose: RootPurpose) -> TrustAnchor:
    return TrustAnchor(
        purpose=purpose,
        fingerprint=hashlib.sha256(root.der).digest(),
        subject="test",
        source="generated",
        date="2026-01-01",
    )


@cache
def gpu_pki() -> GpuPki:
    """One PKI for all tests."""
    root = _issue("Test Device Identity CA", **_CA)
    identity = _issue("Test GH100 Identity", root, **_CA)
    rim_root = _issue("Test Manifest Root", **_CA)
    authority = _issue("Test Manifest CA", rim_root, **_CA)
    return GpuPki(
        root=root,
        identity=identity,
        provisioner=_issue("Test GH100 Provisioner", identity, **_CA),
        rim_root=rim_root,
        rim_authority=authority,
        rim_signer=_issue("Test Manifest Signer", authority),
    )


def device_name(chip: str = "GH100", device_id: str = "48B02D0000000001") -> x509.SubjectAlternativeName:
    """The alternative name that names a device."""
    text = f"NVIDIA:{chip}:{device_id}".encode("ascii")
    other = x509.OtherName(ObjectIdentifier("1.3.6.1.4.1.412.274.1"), bytes((0x0C, len(text))) + text)
    return x509.SubjectAlternativeName([other])


def composite_id(fwid: bytes = FWID) -> x509.UnrecognizedExtension:
    """The older extension that names firmware, with the public key of some device."""
    public = gpu_pki().root.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body = b"\x02\x01\x01" + public + _fwid(fwid)
    value = b"\x30\x81" + bytes((len(body),)) + body
    return x509.UnrecognizedExtension(ObjectIdentifier("2.23.133.5.4.1"), value)


def tcb_info(fwid: bytes = FWID, *, flags: int = 0x80) -> x509.UnrecognizedExtension:
    """The newer extension, DiceTcbInfo, with flags."""
    digests = _fwid(fwid) + _fwid(bytes(48))
    body = b"\x80\x06NVIDIA" + b"\xa6" + bytes((len(digests),)) + digests
    body += b"\x87\x05\x00" + bytes((flags, 0, 0, 1))
    value = b"\x30\x81" + bytes((len(body),)) + body
    return x509.UnrecognizedExtension(ObjectIdentifier("2.23.133.5.4.1.1"), value)


def _fwid(digest: bytes) -> bytes:
    body = bytes.fromhex("0609608648016503040202") + b"\x04" + bytes((len(digest),)) + digest
    return b"\x30" + bytes((len(body),)) + body


@cache
def gpu(number: int = 1, chip: str = "GH100") -> Device:
    """A good device."""
    return make_device((device_name(chip, f"48B02D{number:010X}"), False), (composite_id(), False))


def make_device(*extensions: tuple[x509.ExtensionType, bool], **leaf: object) -> Device:
    """A device whose first certificate has these extensions."""
    pki = gpu_pki()
    own = _issue("GH100 A01 GSP BROM", pki.provisioner, **_CA)
    made = _issue("GH100 A01 GSP FMC LF", own, **{"constraints": False, "extensions": extensions, **leaf})
    return Device(leaf=made, chain=(made, own, pki.provisioner, pki.identity), root=pki.root)


def opaque_fields(**changes: bytes | None) -> dict[int, bytes]:
    """What a Hopper says; ``None`` leaves a field out."""
    fields: dict[str, bytes | None] = {
        "VBIOS_VERSION": bytes.fromhex("00aa009601000000"),
        "BOARD_ID": b"\1\0\0\0",
        "PROJECT": b"1010\0",
        "PROJECT_SKU": b"0200\0",
        "CHIP_SKU": b"882\0",
        "DRIVER_VERSION": DRIVER.encode("ascii") + b"\0",
        "NVDEC0_STATUS": NVDEC_ON,
        "FWID": FWID,
        "PROTECTED_PCIE_STATUS": b"\x55",
        "OPAQUE_DATA_VERSION": b"\1\0",
        "FEATURE_FLAG": b"\1\0",
        **changes,
    }
    return {Opaque[name].value: value for name, value in fields.items() if value is not None}


def report(
    device: Device,
    *,
    nonce: bytes = NONCE,
    measurements: Mapping[int, bytes] = MEASUREMENTS,
    opaque: Mapping[int, bytes] | None = None,
) -> bytes:
    """A signed report; measurements that are not named are zero."""
    blocks = b"".join(
        struct.pack("<BBHBH", index + 1, 1, 51, 1, 48) + measurements.get(index, bytes(48))
        for index in range(COUNT)
    )
    fields = opaque_fields() if opaque is None else opaque
    listed = b"".join(struct.pack("<HH", key, len(value)) + value for key, value in fields.items())
    body = b"\x11\xe0\x01\xff" + nonce + b"\0" + b"\x11\x60\0\0"
    body += bytes((COUNT,)) + len(blocks).to_bytes(3, "little") + blocks
    body += hashlib.sha256(nonce).digest() + struct.pack("<H", len(listed)) + listed
    return body + sign(device.leaf, body)


def sign(by: Issued, data: bytes) -> bytes:
    """r ‖ s, 96 bytes."""
    assert isinstance(by.key, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(by.key.sign(data, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def part(
    device: Device | None = None,
    *,
    measurements: Mapping[int, bytes] = MEASUREMENTS,
    opaque: Mapping[int, bytes] | None = None,
) -> GpuPart:
    """Evidence of a device, good unless something is changed."""
    chosen = device or gpu()
    return GpuPart(
        architecture="HOPPER",
        report=report(chosen, measurements=measurements, opaque=opaque),
        certificates=chosen.ders,
        nonce=NONCE,
    )


def manifest_text(
    version: str, golden: Mapping[int, Sequence[bytes]], *, product: str = "GH100", extra: str = ""
) -> str:
    """A manifest without its signature, as NVIDIA writes it; index 39 is inactive."""
    resources = [_resource(index, values, active=True) for index, values in golden.items()]
    resources.append(_resource(39, [bytes(48)], active=False))
    rim = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
    return (
        f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}" xmlns:ns2="{_SHA384}" corpus="false" '
        f'name="{product}" tagId="{version}-{product}" version="1.0" tagVersion="0">\n'
        '    <ns0:Entity name="NVIDIA Corporation" role="softwareCreator tagCreator"/>\n'
        f'    <ns0:Meta xmlns:ns1="{rim}" colloquialVersion="{version}" edition="GPU" product="{product}" '
        'revision="r1" ns1:BindingSpec="RIMIM"/>\n'
        f"    <ns0:Payload>\n{''.join(resources)}{extra}    </ns0:Payload>\n</SoftwareIdentity>"
    )


def _resource(index: int, values: Sequence[bytes], *, active: bool) -> str:
    listed = " ".join(f'ns2:Hash{place}="{value.hex()}"' for place, value in enumerate(values))
    return (
        f'        <ns0:Resource type="Measurement" index="{index}" active="{active}" '
        f'alternatives="{len(values)}" {listed} name="Measurement_{index}" size="48"/>\n'
    )


def sign_manifest(text: str, chain: Sequence[Issued] | None = None) -> bytes:
    """The manifest, signed by the first of ``chain``."""
    signxml, etree = import_module("signxml"), import_module("lxml.etree")
    signers = gpu_pki().rim_chain if chain is None else chain
    signer = signxml.XMLSigner(
        method=signxml.methods.enveloped,
        signature_algorithm=signxml.SignatureMethod.ECDSA_SHA384,
        digest_algorithm=signxml.DigestAlgorithm.SHA384,
        c14n_algorithm=signxml.CanonicalizationMethod.CANONICAL_XML_1_1,
    )
    pems = [one.certificate.public_bytes(Encoding.PEM).decode("ascii") for one in signers]
    signed: bytes = etree.tostring(
        signer.sign(etree.fromstring(text.encode("ascii")), key=signers[0].key, cert=pems)
    )
    return signed + b"\n"


@cache
def manifests() -> tuple[bytes, ...]:
    """Those of the good driver and the good VBIOS."""
    return (
        sign_manifest(manifest_text(DRIVER, DRIVER_GOLDEN)),
        sign_manifest(manifest_text(VBIOS, VBIOS_GOLDEN)),
    )


@dataclass(kw_only=True)
class Answer:
    """What an OCSP answer should say; ``responder`` signs for the issuer if it is given."""

    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    reason: x509.ReasonFlags | None = None
    start: int = NOW - 3600
    end: int | None = NOW + 3600
    responder: Issued | None = None
    algorithm: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)

    def sign(self, subject: Issued, issuer: Issued) -> bytes:
        """DER."""
        revoked = self.status is ocsp.OCSPCertStatus.REVOKED
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=subject.certificate,
            issuer=issuer.certificate,
            algorithm=self.algorithm,
            cert_status=self.status,
            this_update=_moment(self.start),
            next_update=None if self.end is None else _moment(self.end),
            revocation_time=_moment(self.start) - timedelta(hours=1) if revoked else None,
            revocation_reason=self.reason,
        )
        by = self.responder or issuer
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, by.certificate)
        if self.responder:
            builder = builder.certificates([by.certificate])
        assert isinstance(by.key, ec.EllipticCurvePrivateKey)
        return builder.sign(by.key, hashes.SHA384()).public_bytes(Encoding.DER)


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def responder(by: Issued, *, purpose: ObjectIdentifier = ExtendedKeyUsageOID.OCSP_SIGNING) -> Issued:
    """A certificate that may sign answers."""
    return _issue("Test OCSP responder", by, extensions=[(x509.ExtendedKeyUsage([purpose]), False)])


def answers(device: Device, answer: Answer | None = None) -> tuple[bytes, ...]:
    """Answers, good if not given, for the chains of a device and of the manifests."""
    chains = ((*device.chain[1:], device.root), gpu_pki().rim_chain)
    return tuple((answer or Answer()).sign(one, above) for chain in chains for one, above in pairwise(chain))
