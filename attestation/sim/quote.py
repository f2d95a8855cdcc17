"""DCAP quotes of simulated trust domains and enclaves: version 3 (SGX), 4 (TDX 1.0) and 5 (TDX 1.0 and 1.5).

Layout as in ``measurements.tdx.quote`` and Intel's Quote Generation libraries (TDX DCAP Quoting Library API,
appendix A; SGX ECDSA QuoteLibReference, appendix A); little endian. Signature data::

    64 bytes signature | 64 bytes attestation key | certification data

Certification data is u16 type, u32 size and the value. Version 3 has, in its place, the QE report (384) with
its signature (64), u16 length and QE authentication data, and the PCK chain of type 5; versions 4 and 5 have
the same inside of type 6.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.sim.pki import SimPki, raw_signature
from attestation.sim.plan import QE_SVN, TEE_TCB_SVN, Part
from attestation.sim.tcb import Tee, qe_mrsigner, qe_product_id
from measurements.tdx.quote import BodyType, TdBody, TdExtension

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
SEPT_VE_DISABLE = (1 << 28).to_bytes(8, "little")
_XFAM = 0x61AE7.to_bytes(8, "little")
_QE_ATTRIBUTES = (0x15).to_bytes(8, "little") + (0xE7).to_bytes(8, "little")
_ENCLAVE_ATTRIBUTES = (5).to_bytes(8, "little") + (0xE7).to_bytes(8, "little")
_ECDSA_P256, _TEE_TDX, _TEE_SGX = 2, 0x81, 0
_PCK_CHAIN, _QE_REPORT = 5, 6
_REPORT_DATA = 64

_HEADER = struct.Struct("<HHIHH16s20s")
_ENCLAVE = struct.Struct("<16sI28x16s32s32x32s96xHH60x64s")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimEnclave:
    """An enclave report: what its fields are in an SGX quote, and in the report of a quoting enclave."""

    cpu_svn: bytes
    attributes: bytes = _ENCLAVE_ATTRIBUTES
    misc_select: int = 0
    mrenclave: bytes = hashlib.sha256(b"keyturn simulated enclave").digest()
    mrsigner: bytes = hashlib.sha256(b"keyturn simulated signer").digest()
    product_id: int = 1
    isv_svn: int = 1
    report_data: bytes = bytes(_REPORT_DATA)

    def encode(self) -> bytes:
        """The 384 bytes of the report."""
        return _ENCLAVE.pack(
            self.cpu_svn,
            self.misc_select,
            self.attributes,
            self.mrenclave,
            self.mrsigner,
            self.product_id,
            self.isv_svn,
            self.report_data,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class QuoteShape:
    """What does not come from the domain. ``vendor`` is Intel's, since verifiers demand it."""

    vendor: bytes = INTEL_QE_VENDOR
    user_data: bytes = bytes(20)
    qe_authentication: bytes = bytes(range(32))
    qe_svn: int = QE_SVN
    qe_attributes: bytes = _QE_ATTRIBUTES
    qe_mrsigner: bytes | None = None
    certification: int = _PCK_CHAIN


def sim_domain(*, report_data: bytes = bytes(_REPORT_DATA), version: BodyType = BodyType.TDX_1_0) -> TdBody:
    """A trust domain that is good in every respect: no debugging, nothing configured, registers zero."""
    later = version is BodyType.TDX_1_5
    zeros = bytes(48)
    return TdBody(
        kind=version,
        tee_tcb_svn=TEE_TCB_SVN,
        mrseam=hashlib.sha384(b"keyturn simulated TDX module").digest(),
        mrsignerseam=zeros,
        seam_attributes=bytes(8),
        td_attributes=SEPT_VE_DISABLE,
        xfam=_XFAM,
        mrtd=hashlib.sha384(b"keyturn simulated firmware").digest(),
        mrconfigid=zeros,
        mrowner=zeros,
        mrownerconfig=zeros,
        rtmrs=(zeros, zeros, zeros, zeros),
        report_data=report_data,
        tee_tcb_svn_2=TEE_TCB_SVN if later else None,
        mrservicetd=zeros if later else None,
    )


def td_quote(pki: SimPki, body: TdBody, *, version: int = 4, shape: QuoteShape | None = None) -> bytes:
    """A quote of ``body``; version 4 is for TDX 1.0 alone."""
    how = shape or QuoteShape()
    header = _HEADER.pack(version, _ECDSA_P256, _TEE_TDX, 0, 0, how.vendor, how.user_data)
    encoded = encode_td_body(body)
    descriptor = b"" if version == 4 else struct.pack("<HI", body.kind.value, len(encoded))
    return _signed(pki, header + descriptor + encoded, Tee.TDX, how)


def sgx_quote(pki: SimPki, enclave: SimEnclave, *, shape: QuoteShape | None = None) -> bytes:
    """A quote of version 3."""
    how = shape or QuoteShape()
    header = _HEADER.pack(
        3, _ECDSA_P256, _TEE_SGX, how.qe_svn, pki.plan.platform.pce_svn, how.vendor, how.user_data
    )
    return _signed(pki, header + enclave.encode(), Tee.SGX, how)


def encode_td_body(body: TdBody) -> bytes:
    """The body as bytes: 584 of TDX 1.0, 648 of TDX 1.5, 885 of its extended form."""
    parts = (
        body.tee_tcb_svn,
        body.mrseam,
        body.mrsignerseam,
        body.seam_attributes,
        body.td_attributes,
        body.xfam,
        body.mrtd,
        body.mrconfigid,
        body.mrowner,
        body.mrownerconfig,
        *body.rtmrs,
        body.report_data,
        body.tee_tcb_svn_2 or b"",
        body.mrservicetd or b"",
        b"" if body.extension is None else _encode_extension(body.extension),
    )
    return b"".join(parts)


def _encode_extension(extension: TdExtension) -> bytes:
    return b"".join(
        (
            bytes([extension.vm_index]),
            extension.td_id,
            extension.device_info,
            extension.initial_service_td_hash,
            extension.initial_service_td_attributes,
            extension.initial_cpu_svn,
            extension.initial_tee_tcb_svn,
            extension.initial_fmspc,
            extension.service_td_hash,
            extension.service_td_attributes,
        )
    )


def _signed(pki: SimPki, signed: bytes, tee: Tee, shape: QuoteShape) -> bytes:
    attestation = pki.keys.attestation
    certified = _certified_key(pki, tee, shape)
    if tee is Tee.TDX:
        certified = _sized(_QE_REPORT, certified)
    data = raw_signature(attestation, signed) + _point(attestation) + certified
    return signed + struct.pack("<I", len(data)) + data


def _certified_key(pki: SimPki, tee: Tee, shape: QuoteShape) -> bytes:
    """The quoting enclave's report over the attestation key, signed by the PCK, with the PCK's chain."""
    bound = hashlib.sha256(_point(pki.keys.attestation) + shape.qe_authentication).digest()
    enclave = SimEnclave(
        cpu_svn=pki.plan.platform.cpu_svn,
        attributes=shape.qe_attributes,
        mrenclave=hashlib.sha256(b"keyturn simulated quoting enclave").digest(),
        mrsigner=shape.qe_mrsigner or qe_mrsigner(tee),
        product_id=qe_product_id(tee),
        isv_svn=shape.qe_svn,
        report_data=bound.ljust(_REPORT_DATA, b"\0"),
    )
    report = enclave.encode()
    authentication = struct.pack("<H", len(shape.qe_authentication)) + shape.qe_authentication
    chain = pki.pck_chain.encode("ascii") + b"\0"
    signature = raw_signature(pki.keys.certificates[Part.PCK], report)
    return report + signature + authentication + _sized(shape.certification, chain)


def _sized(kind: int, value: bytes) -> bytes:
    return struct.pack("<HI", kind, len(value)) + value


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Public key as 64 bytes: x ‖ y, big-endian."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
