"""Signed manifests: NVIDIA's own at its time, generated ones, and everything that can be wrong with them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from attestation.anchors import vendor_anchors
from attestation.nvidia.device import Architecture
from attestation.nvidia.golden import MAX_FITTING, differences
from attestation.nvidia.rim import Manifest, load_manifest
from attestation.nvidia.spdm import parse_report
from attestation.nvidia.xml_signature import MAX_DOCUMENT, SignedXmlError
from attestation.policy import RootPurpose
from attestation.x509_chain import CertificateError, check_windows
from measurements.errors import KeyturnError
from tests.attestation.nvidia.cases import Case, good_collateral
from tests.support.nvidia_pki import DRIVER, DRIVER_GOLDEN, gpu_pki, manifest_text, manifests, sign_manifest
from tests.support.vectors import vector

VECTOR = "attestation/nvidia/vbios_rim_1010_0200_882_96005E0001.swidtag"
IN_TIME = 1_700_000_000
EXPIRED = 1_750_584_634
"""One second after its signer's certificate ends, 2025-06-22."""
NVIDIA = frozenset(one.fingerprint for one in vendor_anchors() if one.purpose is RootPurpose.NVIDIA_RIM)


def real() -> bytes:
    return vector(VECTOR).read_bytes()


def load(data: bytes) -> Manifest:
    return load_manifest(data, (), frozenset(one.fingerprint for one in gpu_pki().anchors))


def good() -> bytes:
    return manifests()[0]


def test_nvidia_s_manifest_holds_at_its_time_only() -> None:
    manifest = load_manifest(real(), (), NVIDIA)
    assert (manifest.version, manifest.product) == ("96.00.5E.00.01", "GH100")
    assert sorted(manifest.golden) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert len(manifest.golden[12].values) == 4
    check_windows(manifest.chain.windows, IN_TIME)
    check_windows(manifest.chain.windows, EXPIRED - 1)
    with pytest.raises(CertificateError, match="HCC RIM L4 Signer is expired"):
        check_windows(manifest.chain.windows, EXPIRED)


def test_nvidia_s_manifest_needs_its_root() -> None:
    with pytest.raises(CertificateError, match="does not chain"):
        load_manifest(real(), (), frozenset())


def test_real_report_has_the_measurements_of_its_vbios_manifest() -> None:
    """Of the SDK's Hopper sample, whose VBIOS the manifest is for. Its driver's manifest is not at hand, so
    what is left is what no manifest covers.
    """
    sample = vector("attestation/nvidia/hopperAttestationReport.txt").read_text()
    report = parse_report(bytes.fromhex(sample))
    manifest = load_manifest(real(), (), NVIDIA)
    assert report.vbios_version == manifest.version
    left = differences(report, Architecture.HOPPER, [manifest])
    assert not [one for one in left if one.expected]
    assert {one.index for one in left} <= {7, *range(21, 42)}


def attributes(data: bytes) -> list[int]:
    """Places of the first letter of each attribute's value and each text, outside the signature's end."""
    return [one.start(1) for one in re.finditer(rb'(?:="|>)([A-Za-z0-9])', data)]


def test_every_changed_value_and_text_of_nvidia_s_manifest_is_refused() -> None:
    data = real()
    places = attributes(data)
    assert len(places) > 400
    for place in places[::5]:
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(KeyturnError):
            load_manifest(bytes(changed), (), NVIDIA)


def test_good_manifest_is_read() -> None:
    manifest = load(good())
    assert manifest.version == DRIVER
    assert {index: one.values for index, one in manifest.golden.items()} == DRIVER_GOLDEN


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"<SoftwareIdentity", b'<!DOCTYPE a [<!ENTITY b "c">]><SoftwareIdentity', "declaration"),
        (b"<ns0:Payload>", b"<ns0:Payload><!-- -->", "comment"),
        (b"<ns0:Payload>", b"<ns0:Payload><?a b?>", "instruction"),
        (b'edition="GPU"', b'edition="&#71;PU"', "entity"),
        (b'edition="GPU"', b"edition='GPU'", "one form"),
        (b'edition="GPU"', b'edition="GP\xc3\x9c"', "ASCII"),
        (b"<SoftwareIdentity", b"\n<SoftwareIdentity", "one form"),
        (b"xml-c14n11", b"xml-c14n12", "other algorithms"),
        (b"#ecdsa-sha384", b"#ecdsa-sha256", "other algorithms"),
        (b"xmldsig-more#sha384", b"xmldsig-more#sha224", "other algorithms"),
        (b'URI=""', b'URI="#a"', "other algorithms"),
        (b"<ds:KeyInfo>", b"<ds:KeyInfo><ds:KeyName/>", "certificates alone"),
        (b"<ds:X509Data>", b"<ds:X509Data><ds:X509SKI>AA==</ds:X509SKI>", "besides certificates"),
        (b"<ds:KeyInfo>", b"<ds:KeyInfo> ", "besides certificates"),
        (b"<ds:SignatureValue>", b'<ds:SignatureValue Id="a">', "besides certificates"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA", "not signed by its signer"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue> ", "base64"),
        (b'revision="r1"', b'revision="r2"', "not signed by its signer"),
        (b'name="Measurement_7"', b'name="Measurement_8"', "not signed by its signer"),
    ],
)
def test_manifest_of_another_shape_is_refused(old: bytes, new: bytes, reason: str) -> None:
    assert old in good()
    with pytest.raises(SignedXmlError, match=reason):
        load(good().replace(old, new, 1))


def test_xml_declaration_and_last_newline_are_no_difference() -> None:
    bare = good().removesuffix(b"\n")
    assert load(bare).golden == load(good()).golden
    assert load(b'<?xml version="1.0" encoding="UTF-8"?>\n' + good()).golden == load(good()).golden


@pytest.mark.parametrize(
    "text",
    [
        manifest_text(DRIVER, {}),
        manifest_text(DRIVER, DRIVER_GOLDEN, extra="<ns0:Link/>"),
        manifest_text(DRIVER, DRIVER_GOLDEN, extra='<ns0:Resource type="MinSvn" index="1"/>'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('index="7"', 'index="35"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('index="7"', 'index="07"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('index="7"', 'index="-7"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('index="7"', 'index="255"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('active="True"', 'active="true"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('alternatives="2"', 'alternatives="1"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('alternatives="2"', 'alternatives="3"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('alternatives="2"', 'alternatives="0"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('size="48"', 'size="47"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('size="48"', 'size="48" minSvn="3"'),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('colloquialVersion="580.10.01" ', ""),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace('product="GH100" ', ""),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace("SoftwareIdentity", "SoftwareIdentities"),
        manifest_text(DRIVER, DRIVER_GOLDEN).replace("ns0:Payload", "ns0:Evidence"),
    ],
)
def test_signed_manifest_that_says_something_else_is_refused(text: str) -> None:
    """Signed by who may, and still not understood."""
    with pytest.raises(SignedXmlError):
        load(sign_manifest(text))


def test_manifest_with_two_signatures_is_refused() -> None:
    data = good().removesuffix(b"\n")
    signature = data[data.index(b"<ds:Signature") : data.index(b"</SoftwareIdentity>")]
    twice = data.replace(b"</SoftwareIdentity>", signature + b"</SoftwareIdentity>")
    with pytest.raises(SignedXmlError, match="exactly one signature"):
        load(twice)


def test_signature_wrapped_around_other_content_is_refused() -> None:
    """The signed document inside another one: its signature would hold, but not for what is read."""
    signed = good().removesuffix(b"\n")
    other = manifest_text(DRIVER, {1: (b"\1" * 48,)}).encode("ascii")
    wrapped = other.replace(b"</SoftwareIdentity>", signed + b"</SoftwareIdentity>")
    with pytest.raises(SignedXmlError, match="exactly one signature"):
        load(wrapped)


def test_signature_moved_to_another_document_is_refused() -> None:
    signed = good().removesuffix(b"\n")
    signature = signed[signed.index(b"<ds:Signature") : signed.index(b"</SoftwareIdentity>")]
    other = manifest_text(DRIVER, {1: (b"\1" * 48,)}).encode("ascii")
    moved = other.replace(b"</SoftwareIdentity>", signature + b"</SoftwareIdentity>")
    with pytest.raises(SignedXmlError, match="not signed by its signer"):
        load(moved)


def test_manifest_signed_by_a_stranger_is_refused() -> None:
    pki = gpu_pki()
    with pytest.raises(CertificateError, match="does not chain"):
        load_manifest(good(), (), frozenset({pki.anchors[0].fingerprint}))
    stranger = sign_manifest(manifest_text(DRIVER, DRIVER_GOLDEN), (pki.identity, pki.root))
    collateral = replace(good_collateral(), rims=(stranger, *manifests()[1:]))
    assert set(Case(collateral=collateral).failed()) == {"gpu0-driver-manifest"}


def test_certificates_out_of_order_or_unused_are_refused() -> None:
    signer, authority, root = gpu_pki().rim_chain
    text = manifest_text(DRIVER, DRIVER_GOLDEN)
    with pytest.raises(SignedXmlError, match="not one chain"):
        load(sign_manifest(text, (signer, root, authority)))
    with pytest.raises(SignedXmlError, match="not one chain"):
        load(sign_manifest(text, (signer, authority, root, gpu_pki().identity)))
    bare = sign_manifest(text, (signer,))
    pool = (authority.der, root.der)
    roots = frozenset(one.fingerprint for one in gpu_pki().anchors)
    assert load_manifest(bare, pool, roots).version == DRIVER


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a/>",
        b"<a",
        b" " * (MAX_DOCUMENT + 1),
        b"<a>" * 1500,
        b"<a " + b" ".join(b'a%d="b"' % place for place in range(9000)) + b"/>",
        b"<a " + b" ".join(b'xmlns:a%d="b"' % place for place in range(70)) + b"/>",
        b"<a>" * 5000,
        b"\0",
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(SignedXmlError):
        load(data)


def test_a_flood_of_manifests_for_one_driver_is_refused_unverified() -> None:
    """Forged with the real certificates: each would cost the verification of its signature."""
    forged = [good().replace(b'revision="r1"', b'revision="r%d"' % (at + 2)) for at in range(MAX_FITTING)]
    few = replace(good_collateral(), rims=(*manifests(), *forged[1:]))
    assert Case(collateral=few).failed() == {}
    many = replace(good_collateral(), rims=(*manifests(), *forged))
    failed = Case(collateral=many).failed()
    assert set(failed) == {"gpu0-driver-manifest"}
    assert f"more than {MAX_FITTING}" in failed["gpu0-driver-manifest"].reason
