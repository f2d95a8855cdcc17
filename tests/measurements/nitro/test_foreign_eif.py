"""Enclave image files of other tools: versions, orders of sections, signatures, and the registers of each."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from contextlib import suppress

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from image_builder.eif import EifDescription, write_eif
from image_builder.tree import BytesContent
from measurements.errors import FormatError, KeyturnError
from measurements.nitro.eif import EifSectionType, read_eif
from measurements.nitro.pcrs import NitroInputError
from measurements.nitro.predict import predict_nitro
from measurements.nitro.signature import EifSignatureError
from measurements.platforms import Platform
from tests.support.eif_files import (
    CMDLINE,
    KERNEL,
    METADATA,
    PARTS,
    RAMDISK,
    SIGNATURE,
    certificate_for,
    cose_sign1,
    eif_file,
    pcr,
    signature_section,
)

KERNEL_DATA, CMDLINE_DATA, METADATA_DATA, INIT, APPLICATION = (data for _, data in PARTS)
PCR0 = pcr(KERNEL_DATA, CMDLINE_DATA, INIT, APPLICATION)
PCR1 = pcr(KERNEL_DATA, CMDLINE_DATA, INIT)
PCR2 = pcr(APPLICATION)
KEY = ec.generate_private_key(ec.SECP384R1())
CERTIFICATE = certificate_for(KEY)
PEM = CERTIFICATE.public_bytes(Encoding.PEM)


def signed(section: bytes) -> bytes:
    return eif_file((*PARTS, (SIGNATURE, section)))


def registers(image: bytes) -> dict[str, bytes]:
    return {name: banks["sha384"] for name, banks in predict_nitro(image).registers.items()}


def test_registers_cover_what_the_specification_says() -> None:
    assert registers(eif_file()) == {"0": PCR0, "1": PCR1, "2": PCR2, "8": bytes(48)}


def test_events_tell_what_each_register_covers() -> None:
    prediction = predict_nitro(eif_file())
    assert prediction.platform is Platform.NITRO
    assert prediction.inputs("0") == (
        "KERNEL section", "CMDLINE section", "RAMDISK section 0", "RAMDISK section 1",
    )  # fmt: skip
    assert prediction.inputs("1") == ("KERNEL section", "CMDLINE section", "RAMDISK section 0")
    assert prediction.inputs("2") == ("RAMDISK section 1",)
    for register in "012":
        last = [event for event in prediction.events if event.register == register][-1]
        assert last.running
        assert last.digests == prediction.registers[register]


def test_the_image_builders_file_gives_the_registers_of_its_parts() -> None:
    stream = io.BytesIO()
    kernel = bytes(0x202) + b"HdrS" + bytes(600)
    description = EifDescription(name="a", version="1", operating_system="debian", kernel_release="6.12")
    write_eif(
        stream,
        kernel=BytesContent(kernel),
        command_line="quiet",
        ramdisks=[BytesContent(b"init"), BytesContent(b"app")],
        description=description,
    )
    assert registers(stream.getvalue())["0"] == pcr(kernel, b"quiet", b"init", b"app")
    assert registers(stream.getvalue())["2"] == pcr(b"app")


def test_metadata_is_in_no_register() -> None:
    other = tuple((kind, b"{}" if kind == METADATA else data) for kind, data in PARTS)
    assert registers(eif_file(other)) == registers(eif_file())


@pytest.mark.parametrize("version", [2, 3])
def test_older_versions_have_no_metadata(version: int) -> None:
    parts = [part for part in PARTS if part[0] != METADATA]
    assert registers(eif_file(parts, version=version)) == registers(eif_file())
    with pytest.raises(FormatError, match=f"of version {version} has 1 METADATA"):
        read_eif(eif_file(version=version))


def test_version_2_knows_no_signature() -> None:
    parts = [part for part in PARTS if part[0] != METADATA]
    section = signature_section(KEY, CERTIFICATE, PCR0)
    assert registers(eif_file((*parts, (SIGNATURE, section)), version=3))["0"] == PCR0
    with pytest.raises(FormatError, match="of version 2 has 1 SIGNATURE"):
        read_eif(eif_file((*parts, (SIGNATURE, section)), version=2))


@pytest.mark.parametrize("place", range(len(PARTS)))
def test_metadata_may_stand_anywhere(place: int) -> None:
    parts = [part for part in PARTS if part[0] != METADATA]
    parts.insert(place, (METADATA, METADATA_DATA))
    assert registers(eif_file(parts)) == registers(eif_file())


def test_registers_follow_the_order_of_the_file() -> None:
    """The specification leaves the command line's place free, and hashes in the order of the file."""
    parts = [(CMDLINE, b"quiet"), (METADATA, b"{}"), (KERNEL, b"kernel"), (RAMDISK, b"init")]
    found = registers(eif_file(parts))
    assert found["0"] == found["1"] == pcr(b"quiet", b"kernel", b"init") != pcr(b"kernel", b"quiet", b"init")
    assert found["2"] == pcr(b"")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (PARTS[1:], "has 0 KERNEL sections"),
        ((*PARTS, PARTS[0]), "has 2 KERNEL sections"),
        ((*PARTS, PARTS[1]), "has 2 CMDLINE sections"),
        (PARTS[:1] + PARTS[2:], "has 0 CMDLINE sections"),
        (PARTS[:3], "has no RAMDISK section"),
        ((PARTS[3], *PARTS[:3]), "in front of its KERNEL"),
        ((*PARTS, PARTS[2]), "has 2 METADATA sections"),
        (PARTS[:2] + PARTS[3:], "has no METADATA section"),
        ((*PARTS, (SIGNATURE, b"a"), (SIGNATURE, b"a")), "has 2 SIGNATURE sections"),
        ((*PARTS, (SIGNATURE, bytes(32769))), "a signature of 32769 bytes"),
        ((*PARTS, (0, b"a")), "bad section header"),
    ],
)
def test_sections_that_make_no_enclave_are_refused(parts: tuple[tuple[int, bytes], ...], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read_eif(eif_file(parts))


def test_a_hidden_section_behind_the_table_is_refused() -> None:
    """Tools that read to the end of the file would measure it, and others would not."""
    data = bytearray(eif_file((*PARTS, (RAMDISK, b"hidden"))))
    struct.pack_into(">H", data, 26, len(PARTS))
    struct.pack_into(">Q", data, 28 + 8 * len(PARTS), 0)
    struct.pack_into(">Q", data, 284 + 8 * len(PARTS), 0)
    with pytest.raises(FormatError, match="checksum"):
        read_eif(bytes(data))
    struct.pack_into(">I", data, 544, zlib.crc32(data[548:], zlib.crc32(data[:544])))
    with pytest.raises(FormatError, match="after its last section"):
        read_eif(bytes(data))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_pcr8_is_over_the_signing_certificate(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    certificate = certificate_for(key)
    prediction = predict_nitro(signed(signature_section(key, certificate, PCR0)))
    der = certificate.public_bytes(Encoding.DER)
    assert prediction.registers["8"]["sha384"] == pcr(der)
    assert prediction.inputs("8") == ("SIGNATURE section",)
    assert prediction.registers["0"]["sha384"] == PCR0


def test_signature_over_another_image_is_refused() -> None:
    with pytest.raises(EifSignatureError, match="is about the PCR 0"):
        predict_nitro(signed(signature_section(KEY, CERTIFICATE, PCR1)))


def test_signature_by_another_key_than_the_certificates_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(EifSignatureError, match="not made with the key"):
        predict_nitro(signed(signature_section(other, CERTIFICATE, PCR0)))


def test_signature_on_another_curve_than_the_certificates_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(EifSignatureError, match="not made with the key"):
        predict_nitro(signed(signature_section(other, CERTIFICATE, PCR0)))


@pytest.mark.parametrize("at", [0, 47, 48, 95])
def test_a_flipped_byte_of_the_signature_is_refused(at: int) -> None:
    (entry,) = cbor2.loads(signature_section(KEY, CERTIFICATE, PCR0))
    protected, unprotected, payload, raw = cbor2.loads(bytes(entry["signature"]))
    wrong = bytes(byte ^ (position == at) for position, byte in enumerate(raw))
    entry["signature"] = list(cbor2.dumps([protected, unprotected, payload, wrong]))
    with pytest.raises(EifSignatureError, match="not made with the key"):
        predict_nitro(signed(cbor2.dumps([entry])))


def section_with(**changes: object) -> bytes:
    (entry,) = cbor2.loads(signature_section(KEY, CERTIFICATE, PCR0))
    return cbor2.dumps([{**entry, **changes}])


def message_with(payload: object) -> list[int]:
    return list(cose_sign1(KEY, cbor2.dumps(payload)))


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (b"", "is not CBOR"),
        (b"\x9b" + b"\xff" * 8, "is not CBOR"),
        (b"\x81" * 5000, "is not CBOR"),
        (cbor2.dumps([]), "not an array of one signature"),
        (cbor2.dumps([{}]), "no map of exactly signing_certificate"),
        (signature_section(KEY, CERTIFICATE, PCR0) + b"\0", "nothing after it"),
        (section_with(extra=1), "no map of exactly"),
        (section_with(signing_certificate=b"bytes"), "not an array of bytes"),
        (section_with(signing_certificate=[256]), "not an array of bytes"),
        (section_with(signing_certificate=[True]), "not an array of bytes"),
        (section_with(signing_certificate=[65]), "is not PEM"),
        (section_with(signing_certificate=list(PEM * 2)), "has 2 certificates"),
        (section_with(signature=[1]), "not an array of four parts"),
        (signature_section(KEY, CERTIFICATE, PCR0, index=1), "is about register 1"),
        (section_with(signature=message_with({"register_index": 0})), "no map of exactly register_index"),
        (
            section_with(signature=message_with({"register_index": False, "register_value": [0] * 48})),
            "is about register False",
        ),
        (
            section_with(signature=message_with({"register_index": 0, "register_value": [0] * 47})),
            "47 bytes, not 48",
        ),
        (
            section_with(signature=list(cbor2.dumps([cbor2.dumps({1: -35}), {4: b"k"}, b"", b""]))),
            "unprotected header",
        ),
        (section_with(signature=list(cbor2.dumps([cbor2.dumps({1: -8}), {}, b"", b""]))), "algorithm -8"),
        (
            section_with(signature=list(cbor2.dumps([cbor2.dumps({1: -35, 4: b"k"}), {}, b"", b""]))),
            "more or less than the algorithm",
        ),
        (section_with(signature=list(cbor2.dumps([b"", {}, "text", b""]))), "payload is not a byte string"),
    ],
)  # fmt: skip
def test_signature_sections_that_are_not_right_are_refused(section: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        predict_nitro(signed(section))


def test_a_key_of_the_signature_twice_is_refused() -> None:
    section = signature_section(KEY, CERTIFICATE, PCR0)
    doubled = b"\x81\xa3" + section[2:] + cbor2.dumps("signature") + cbor2.dumps([1])
    with pytest.raises(FormatError, match="each key once"):
        predict_nitro(signed(doubled))


def test_role_and_instance_have_no_inner_digest() -> None:
    role, instance = "arn:aws:iam::123456789012:role/enclave", "i-0827e799ec9232d44"
    found = predict_nitro(eif_file(), role=role, instance=instance).registers
    assert found["3"]["sha384"] == hashlib.sha384(bytes(48) + role.encode()).digest()
    assert found["4"]["sha384"] == hashlib.sha384(bytes(48) + instance.encode()).digest()


@pytest.mark.parametrize(
    "role", ["", "enclave", "arn:aws:iam::12345:role/a", "arn:aws:iam::123456789012:user/a"]
)
def test_other_roles_are_refused(role: str) -> None:
    with pytest.raises(NitroInputError, match="not the ARN"):
        predict_nitro(eif_file(), role=role)


@pytest.mark.parametrize("instance", ["", "0827e799ec9232d44", "i-0827E799", "i-0827e799ec", "i-0827e799\n"])
def test_other_instances_are_refused(instance: str) -> None:
    with pytest.raises(NitroInputError, match="not an EC2 instance id"):
        predict_nitro(eif_file(), instance=instance)


def test_arm64_images_are_labelled() -> None:
    assert predict_nitro(eif_file(flags=1)).label == {"architecture": "aarch64"}
    assert predict_nitro(eif_file()).label == {"architecture": "x86_64"}


def test_the_section_kinds_are_those_of_the_specification() -> None:
    assert [kind.value for kind in EifSectionType] == [KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.data())
def test_each_byte_of_a_measured_section_is_in_pcr0(index: int, data: st.DataObject) -> None:
    kind, content = PARTS[index]
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytes(byte ^ (position == at) for position, byte in enumerate(content))
    parts = (*PARTS[:index], (kind, changed), *PARTS[index + 1 :])
    found = registers(eif_file(parts))
    assert (found["0"] != PCR0) is (kind != METADATA)
    assert (found["1"] != PCR1) is (index in {0, 1, 3})
    assert (found["2"] != PCR2) is (index == 4)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2000), st.binary(min_size=1, max_size=6))
def test_changed_signatures_give_only_refusals(at: int, value: bytes) -> None:
    section = bytearray(signature_section(KEY, CERTIFICATE, PCR0))
    at %= len(section)
    section[at : at + len(value)] = value
    with suppress(KeyturnError):
        prediction = predict_nitro(signed(bytes(section)))
        assert prediction.registers["0"]["sha384"] == PCR0


def test_text_around_the_certificate_is_in_no_register() -> None:
    prediction = predict_nitro(signed(section_with(signing_certificate=list(b"text\n" + PEM))))
    assert prediction.registers["8"]["sha384"] == pcr(CERTIFICATE.public_bytes(Encoding.DER))
