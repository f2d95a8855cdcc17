"""Certificates of devices: what they must say, and to whom they chain."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ObjectIdentifier

from attestation.nvidia.device import Architecture, Device, load_device, signs
from attestation.x509_chain import CertificateError
from measurements.errors import KeyturnError
from tests.support import nvidia_pki as pki
from tests.support.certificates import Wish, issue
from tests.support.nvidia_pki import composite_id, device_name, gpu, gpu_pki, make_device, tcb_info

Extension = tuple[x509.ExtensionType, bool]
NAME: Extension = (device_name(), False)
FIRMWARE: Extension = (composite_id(), False)
FWID_OID = ObjectIdentifier("2.23.133.5.4.1")
TCB_OID = ObjectIdentifier("2.23.133.5.4.1.1")


def roots() -> frozenset[bytes]:
    return frozenset({gpu_pki().anchors[0].fingerprint})


def load(device: pki.Device) -> Device:
    return load_device(device.ders, (), roots())


def test_device_is_read() -> None:
    device = load(gpu())
    assert (device.chip, device.device_id) == ("GH100", "48B02D0000000001")
    assert device.architecture is Architecture.HOPPER
    assert device.fwid == pki.FWID


@pytest.mark.parametrize(
    ("chip", "architecture"),
    [
        ("GH100", Architecture.HOPPER),
        ("GB100", Architecture.BLACKWELL),
        ("GB202", Architecture.BLACKWELL),
        ("LS_10", Architecture.LS10),
    ],
)
def test_chips_are_of_their_architectures(chip: str, architecture: Architecture) -> None:
    assert load(gpu(1, chip)).architecture is architecture


@pytest.mark.parametrize("chip", ["GA100", "GH1000", "GR100", "LS10", "GB300"])
def test_unknown_chip_is_refused(chip: str) -> None:
    with pytest.raises(CertificateError, match="no known architecture"):
        load(make_device((device_name(chip), False), FIRMWARE))


def other_name(value: bytes, oid: str = "1.3.6.1.4.1.412.274.1") -> Extension:
    return x509.SubjectAlternativeName([x509.OtherName(ObjectIdentifier(oid), value)]), False


@pytest.mark.parametrize(
    "extension",
    [
        other_name(b"\x0c\x1dNVIDIA:GH100:48B02D0000000001", oid="1.2.3"),
        other_name(b"\x0c\x1cNVIDIA:GH100:48B02D000000001"),
        other_name(b"\x0c\x1dNVIDIA:GH100:48b02d0000000001"),
        other_name(b"\x0c\x1dNVIDIE:GH100:48B02D0000000001"),
        other_name(b"\x0c\x03abc"),
        (x509.SubjectAlternativeName([x509.DNSName("a")]), False),
    ],
)
def test_certificate_that_names_no_device_is_refused(extension: Extension) -> None:
    with pytest.raises(CertificateError, match="name a device"):
        load(make_device(extension, FIRMWARE))


def raw(value: str, oid: ObjectIdentifier = FWID_OID) -> Extension:
    return x509.UnrecognizedExtension(oid, bytes.fromhex(value)), False


@pytest.mark.parametrize(
    "extensions",
    [
        (NAME,),
        (FIRMWARE,),
        (),
        (NAME, FIRMWARE, (tcb_info(), False)),
        (NAME, raw("")),
        (NAME, raw("0500")),
        (NAME, raw("3000")),
        (NAME, raw("30030201010500")),
        (NAME, raw("3000", TCB_OID)),
        (NAME, raw("3002a600", TCB_OID)),
        (NAME, raw("3004a6023000", TCB_OID)),
        (NAME, (composite_id(hashlib.sha256().digest()), False)),
        (NAME, (tcb_info(hashlib.sha256().digest()), False)),
        (NAME, FIRMWARE, (x509.UnrecognizedExtension(ObjectIdentifier("1.2.3"), b"\5\0"), True)),
    ],
)
def test_certificate_with_other_extensions_is_refused(extensions: tuple[Extension, ...]) -> None:
    with pytest.raises(KeyturnError):
        load(make_device(*extensions))


@pytest.mark.parametrize("flags", [0x40, 0x20, 0x10, 0xF0])
def test_firmware_in_another_state_is_refused(flags: int) -> None:
    with pytest.raises(CertificateError, match="reports the state"):
        load(make_device(NAME, (tcb_info(flags=flags), False)))


def test_flags_of_the_published_devices_pass() -> None:
    assert load(make_device(NAME, (tcb_info(flags=0x80), False))).fwid == pki.FWID


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-256", "RSA"],
)
def test_key_that_is_not_of_p384_is_refused(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    with pytest.raises(CertificateError, match=r"P-384"):
        load(make_device(NAME, FIRMWARE, key=key))


def test_authority_that_poses_as_a_device_is_refused() -> None:
    for changes in ({"ca": True}, {"ca": True, "constraints": True}, {"usage": False}):
        with pytest.raises(CertificateError):
            load(make_device(NAME, FIRMWARE, **changes))


def test_certificates_must_be_one_chain_in_order() -> None:
    first, second, *rest = gpu().ders
    for wrong in (
        (),
        (second, first, *rest),
        (first, *rest, second),
        (first, second, *rest, gpu_pki().rim_root.der),
        (first, first, second, *rest),
        (*gpu(2).ders[:1], second, *rest),
        (b"",),
        (first, b"", second, *rest),
    ):
        with pytest.raises(CertificateError):
            load_device(wrong, (), roots())
    assert load_device((first, second), tuple(rest), roots()) == load_device(
        (first,), (second, *rest), roots()
    )


def test_self_made_device_is_refused() -> None:
    """The attacker's own root, with everything else as it should be."""
    own = issue(Wish(name="NVIDIA Device Identity CA", ca=True, key=ec.generate_private_key(ec.SECP384R1())))
    leaf = issue(Wish(name="GH100 A01 GSP FMC LF", extensions=[NAME, FIRMWARE]), by=own)
    with pytest.raises(CertificateError, match="does not chain"):
        load_device((leaf.der, own.der), (), roots())


def test_only_the_device_s_own_signature_counts() -> None:
    device = load(gpu())
    good = pki.sign(gpu().leaf, b"data")
    assert signs(device, b"data", good)
    assert not signs(device, b"date", good)
    assert not signs(device, b"data", pki.sign(gpu(2).leaf, b"data"))
    for wrong in (b"", bytes(96), good[:-1], good + b"\0", b"\xff" * 96):
        assert not signs(device, b"data", wrong)
