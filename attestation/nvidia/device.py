"""Certificates of a GPU or switch, and what they say of the device.

NVIDIA's chains go from the key that signs reports over the device's own key, a provisioning authority and
the chip's authority to ``NVIDIA Device Identity CA``. The device itself makes the first certificate when its
firmware starts. That certificate names

- the device, as ``NVIDIA:<chip>:<device id>`` in an alternative name of type 1.3.6.1.4.1.412.274.1 (DMTF
  DSP0274, section 10.5, device information),
- the firmware that holds the key (FWID), by one of two extensions of TCG DICE Attestation Architecture:
  2.23.133.5.4.1 in an older form, ``{version, public key, {hash algorithm, digest}}``, or
  2.23.133.5.4.1.1, ``DiceTcbInfo`` (version 1.1, section 6.1.1), whose first FWID it is, and whose flags must
  say neither ``notSecure`` nor ``recovery`` nor ``debug``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from attestation.limited_cache import limited_cache
from attestation.nvidia.spdm import SIGNATURE_SIZE
from attestation.x509_chain import MALFORMED, Chain, build_chain, load_certificate, refuse
from measurements.der import OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, Element, read_element

FWID_SIZE = 48

_DEVICE_INFO = ObjectIdentifier("1.3.6.1.4.1.412.274.1")
_COMPOSITE_ID = ObjectIdentifier("2.23.133.5.4.1")
_TCB_INFO = ObjectIdentifier("2.23.133.5.4.1.1")
_LEAF_CRITICAL = {ExtensionOID.KEY_USAGE, ExtensionOID.BASIC_CONSTRAINTS}
_SHA384_OID = bytes.fromhex("608648016503040202")
_DEVICE = re.compile(rb"\x0c(.)(NVIDIA:([A-Z0-9_]{1,16}):([0-9A-F]{16}))", re.DOTALL)
_FWIDS_TAG = 0xA6
_FLAGS_TAG = 0x87
_FLAGS = {0x40: "notSecure", 0x20: "recovery", 0x10: "debug"}
"""Of the first byte of the flags; bit 0 of DICE is the highest."""


class Architecture(StrEnum):
    """Families of devices, by the names that NVIDIA's tools use."""

    HOPPER = "HOPPER"
    BLACKWELL = "BLACKWELL"
    LS10 = "LS10"
    """NVSwitch of the third generation."""


_CHIPS = (
    (re.compile(r"GH1\d\d"), Architecture.HOPPER),
    (re.compile(r"GB[12]\d\d"), Architecture.BLACKWELL),
    (re.compile(r"LS_10"), Architecture.LS10),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A device whose certificates hold: ``chip`` such as ``GH100``, ``device_id`` of 16 hex digits, ``model``
    as its certificate names it, ``fwid`` of SHA-384. ``key`` signs reports.
    """

    chain: Chain
    key: ec.EllipticCurvePublicKey
    chip: str
    architecture: Architecture
    device_id: str
    model: str
    fwid: bytes


def load_device(certificates: tuple[bytes, ...], pool: Iterable[bytes], roots: frozenset[bytes]) -> Device:
    """The device of a chain (DER, leaf first, each certificate used, in order), with missing issuers out of
    ``pool``. Raises ``KeyturnError``; validity is for the caller (``check_windows``).
    """
    return _load_device(certificates, tuple(dict.fromkeys(pool)), roots)


@limited_cache(maxsize=128, largest=64 << 10)
def _load_device(certificates: tuple[bytes, ...], pool: tuple[bytes, ...], roots: frozenset[bytes]) -> Device:
    if not certificates:
        refuse("the device shows no certificate")
    chain = build_chain(certificates[0], (*certificates[1:], *pool), roots=roots, what="the device")
    if chain.ders[: len(certificates)] != certificates:
        refuse("the device's certificates are not one chain, leaf first")
    leaf = chain.leaf
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        refuse("the device signs with another key than one of P-384")
    try:
        _check_usage(leaf)
        chip, device_id = _device_name(leaf)
        fwid = _fwid(leaf)
    except (x509.ExtensionNotFound, *MALFORMED) as error:
        refuse(f"the device's certificate lacks an extension or has a malformed one: {error}")
    return Device(
        chain=chain,
        key=key,
        chip=chip,
        architecture=_architecture(chip),
        device_id=device_id,
        model=leaf.subject.rfc4514_string(),
        fwid=fwid,
    )


def claimed_architecture(leaf: bytes) -> Architecture:
    """What a device's first certificate (DER) says, which proves nothing; raises ``CertificateError``."""
    try:
        return _architecture(_device_name(load_certificate(leaf, what="the device"))[0])
    except (x509.ExtensionNotFound, *MALFORMED) as error:
        refuse(f"the device's certificate does not name a device of NVIDIA: {error}")


def signs(device: Device, signed: bytes, signature: bytes) -> bool:
    """Whether the device's key made ``signature`` (r ‖ s, 96 bytes) over ``signed``, with SHA-384."""
    if len(signature) != SIGNATURE_SIZE:
        return False
    half = SIGNATURE_SIZE // 2
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    try:
        device.key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _check_usage(leaf: x509.Certificate) -> None:
    extensions = leaf.extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    authority = any(one.value.ca for one in extensions if isinstance(one.value, x509.BasicConstraints))
    critical = {one.oid for one in extensions if one.critical}
    if not usage.digital_signature or usage.key_cert_sign or authority:
        refuse("the device's certificate is not one for signatures")
    if not critical <= _LEAF_CRITICAL:
        refuse("the device's certificate has an unknown critical extension")


def _device_name(leaf: x509.Certificate) -> tuple[str, str]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = [one.value for one in names.get_values_for_type(x509.OtherName) if one.type_id == _DEVICE_INFO]
    match = _DEVICE.fullmatch(found[0]) if len(found) == 1 else None
    if match is None or match[1][0] != len(match[2]):
        refuse("the device's certificate does not name a device of NVIDIA")
    return match[3].decode("ascii"), match[4].decode("ascii")


def _architecture(chip: str) -> Architecture:
    found = next((architecture for form, architecture in _CHIPS if form.fullmatch(chip)), None)
    if found is None:
        refuse(f"the chip {chip} is of no known architecture")
    return found


def _fwid(leaf: x509.Certificate) -> bytes:
    found = [
        one.value
        for one in leaf.extensions
        if one.oid in (_COMPOSITE_ID, _TCB_INFO) and isinstance(one.value, x509.UnrecognizedExtension)
    ]
    if len(found) != 1:
        refuse("the device's certificate does not name its firmware once")
    information = read_element(found[0].value)
    if information.tag != SEQUENCE or information.encoded != found[0].value:
        refuse("the device's certificate names its firmware in a malformed way")
    if found[0].oid == _COMPOSITE_ID:
        return _digest(information.child(2, SEQUENCE))
    _check_flags(information)
    lists = [one for one in information.children() if one.tag == _FWIDS_TAG]
    if len(lists) != 1:
        refuse("the device's certificate does not list its firmware once")
    return _digest(lists[0].child(0, SEQUENCE))


def _digest(fwid: Element) -> bytes:
    algorithm, digest = fwid.child(0, OBJECT_IDENTIFIER), fwid.child(1, OCTET_STRING)
    if algorithm.contents != _SHA384_OID or len(digest.contents) != FWID_SIZE:
        refuse("the device's certificate names its firmware by another hash than SHA-384")
    return digest.contents


def _check_flags(information: Element) -> None:
    """BIT STRING: the number of unused bits, then the bits."""
    for one in information.children():
        if one.tag == _FLAGS_TAG and len(one.contents) > 1:
            raised = [name for bit, name in _FLAGS.items() if one.contents[1] & bit]
            if raised:
                refuse(f"the device's firmware reports the state {', '.join(raised)}")
