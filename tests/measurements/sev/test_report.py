"""Attestation reports: the fields of real ones, of every version, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import KeyturnError
from measurements.platforms import Platform
from measurements.sev.cpu_models import find_cpu_model
from measurements.sev.guest_policy import GuestPolicy
from measurements.sev.kernel_hashes import KernelHashes
from measurements.sev.ovmf_metadata import SevFirmwareError, described_image
from measurements.sev.predict import SevChoices, predict_sev
from measurements.sev.report import ReportError, SigningKey, SnpReport, TcbVersion, parse_report
from tests.support.vectors import vector

MILAN_1_52 = ("boot loader 3, tee 0, snp 8, microcode 115", "1.52 build 4")

REPORTS = {
    "snp/trustee/test-report.bin": (2, 0x3001F, "a1f39304", *MILAN_1_52, None),
    "snp/microsoft-aci/snp_report.bin": (2, 0x3001F, "51068107", *MILAN_1_52, None),
    "snp/virtee-sev/report_milan.hex": (2, 0x30000, "7a1e5c26", *MILAN_1_52, None),
    "attestation/snp/azure-hcl-report.bin": (2, 0x3001F, "9ac48fca", *MILAN_1_52, None),
    "snp/go-sev-guest/attestation.bin": (
        *(2, 0xB0000, "b07af962", "boot loader 2, tee 0, snp 5, microcode 68", "1.49 build 3", None),
    ),
    "snp/trustee/test-vlek-report.bin": (
        *(3, 0x30000, "8922ebbd", "boot loader 4, tee 0, snp 24, microcode 217", "1.55 build 29", "25/1/1"),
    ),
    "snp/dstack/sev_snp_attestation.bin": (
        *(3, 0x30000, "7f51e17f", "boot loader 4, tee 0, snp 23, microcode 213", "1.55 build 29", "25/1/1"),
    ),
    "azure-vtpm/az-snp-vtpm/evidence-genoa.json": (
        *(3, 0x3001F, "f57dc09a", "boot loader 10, tee 0, snp 23, microcode 84", "1.55 build 40", "25/17/1"),
    ),
}
"""Version, policy, start of the measurement, reported TCB, firmware, CPU, as the reports have them."""


def report_bytes(name: str) -> bytes:
    path = vector(name)
    if path.suffix == ".hex":
        return bytes.fromhex(path.read_text())
    if path.suffix == ".json":
        return bytes(json.loads(path.read_text())["report"])[32 : 32 + 1184]
    offset = {"azure-hcl-report.bin": 32, "sev_snp_attestation.bin": 4}.get(path.name, 0)
    return path.read_bytes()[offset : offset + 1184]


@pytest.mark.parametrize("name", REPORTS)
def test_real_reports(name: str) -> None:
    report = parse_report(report_bytes(name))
    cpu = report.cpu.name if report.cpu else None
    assert (
        *(report.version, report.policy, report.measurement.hex()[:8], str(report.reported_tcb)),
        *(str(report.current_firmware), cpu),
    ) == REPORTS[name]
    assert report.launch_mitigations is None
    assert GuestPolicy.parse(report.policy).debug == ("go-sev-guest" in name)


def test_facts_of_the_vectors() -> None:
    """What the manifest says: trustee's VLEK report is of VMPL 1, without chip id, its TCB lags behind."""
    report = parse_report(report_bytes("snp/trustee/test-vlek-report.bin"))
    assert (report.vmpl, report.signing_key, report.chip_id) == (1, SigningKey.VLEK, bytes(64))
    assert report.reported_tcb.microcode < report.committed_tcb.microcode
    policy = base64.b64decode(vector("snp/microsoft-aci/uvm_security_policy.base64").read_bytes())
    aci = parse_report(report_bytes("snp/microsoft-aci/snp_report.bin"))
    assert aci.host_data.hex() == hashlib.sha256(policy).hexdigest()


def test_the_signature_is_where_it_is_read() -> None:
    data = report_bytes("snp/trustee/test-report.bin")
    # The serial number of a VCEK is zero, which a parser of certificates may refuse: only its key is read.
    certificate = vector("attestation/snp/trustee-vcek.der").read_bytes()
    start = certificate.index(bytes.fromhex("3076301006072a8648ce3d020106052b81040022"))
    key = load_der_public_key(certificate[start : start + 120])
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(utils.encode_dss_signature(*parse_report(data).signature), data[:0x2A0], ec.ECDSA(SHA384()))


def test_launch_of_dstack_gives_the_measurement_of_its_report() -> None:
    """A deployment's launch inputs against its report, which a VCEK signed."""
    bundle = bytes.fromhex(json.loads(vector("dstack/sev-snp-attestation.json").read_text())["attestation"])
    report = parse_report(bundle[4:1188])
    start = bundle.index(b'{"os_image_hash"')
    inputs = json.loads(json.JSONDecoder().raw_decode(bundle[start:].decode())[0]["sev_snp_measurement"])
    document = cbor2.loads(base64.b64decode(inputs["measurement"]))
    firmware = described_image(
        name="ovmf",
        sections=[
            (section["gpa"], section["size"], section["type"]) for section in document["ovmf_sections"]
        ],
        hash_table_gpa=document["hashes_table_gpa"],
        reset_eip=document["reset_eip"],
    )
    kernel = KernelHashes(
        kernel=document["kernel_hash"],
        initrd=document["initrd_hash"],
        cmdline=hashlib.sha256(document["cmdline"].encode() + b"\0").digest(),
    )
    choices = SevChoices(
        cpu_models=[find_cpu_model(inputs["vcpu_type"])],
        guest_features=[inputs["guest_features"]],
        vcpus=[inputs["vcpus"]],
    )
    (found,) = predict_sev(
        Platform.SNP, firmware, kernel=kernel, choices=choices, firmware_digest=document["ovmf_hash"]
    )
    assert found.registers["measurement"]["sha384"] == report.measurement
    assert report.measurement.hex().startswith("7f51e17f")


def changed(data: bytes, *parts: tuple[int, bytes]) -> bytes:
    copy = bytearray(data)
    for offset, part in parts:
        copy[offset : offset + len(part)] = part
    return bytes(copy)


def test_report_of_turin_in_version_5() -> None:
    """No report of Turin is public: its fields, put where the specification has them."""
    base = report_bytes("snp/trustee/test-report.bin")
    tcb = bytes((1, 2, 3, 4, 0, 0, 0, 5))
    data = changed(
        base,
        *((0, b"\x05"), (0x188, bytes((26, 2, 1)))),
        *((offset, tcb) for offset in (0x38, 0x180, 0x1E0, 0x1F0)),
        *((0x1F8, b"\x07"), (0x200, b"\x0f")),
    )
    report = parse_report(data)
    assert report.reported_tcb == TcbVersion(fmc=1, boot_loader=2, tee=3, snp=4, microcode=5)
    assert str(report.launch_tcb) == "fmc 1, boot loader 2, tee 3, snp 4, microcode 5"
    assert (report.launch_mitigations, report.current_mitigations) == (7, 15)
    assert report.cpu is not None
    assert report.cpu.signature == 0x00B00F21
    with pytest.raises(ReportError, match="reserved bytes"):
        parse_report(changed(data, (0x38, bytes((1, 2, 3, 4, 1, 0, 0, 5)))))


@pytest.mark.parametrize(
    ("offset", "part", "why"),
    [
        (0, b"\x01", "version 1"),
        (0, b"\x04", "version 4"),
        (0, b"\x06", "version 6"),
        (0x34, b"\x02", "signature algorithm 2"),
        (0x48, b"\x08", "unknown kind of key"),
        (0x48, b"\x20", "reserved bits"),
        (0x4C, b"\x01", "0x4c and 0x50"),
        (0x188, b"\x19", "0x188 and 0x1a0"),
        (0x1EB, b"\x01", "0x1eb"),
        (0x1EF, b"\x01", "0x1ef"),
        (0x1F8, b"\x01", "0x1f8"),
        (0x29F, b"\x01", "0x1f8 and 0x2a0"),
        (0x330, b"\x01", "0x330"),
        (0x3A, b"\x01", "reserved bytes"),
    ],
)
def test_reports_that_are_refused(offset: int, part: bytes, why: str) -> None:
    data = report_bytes("snp/trustee/test-report.bin")
    with pytest.raises(ReportError, match=why) as caught:
        parse_report(changed(data, (offset, part)), name="report.bin")
    assert caught.value.advice


@pytest.mark.parametrize("size", [0, 1183, 1185, 2600])
def test_reports_of_another_size(size: int) -> None:
    with pytest.raises(ReportError, match="not 1184"):
        parse_report(bytes(size))


def refusal(data: bytes) -> KeyturnError | SnpReport:
    try:
        return parse_report(data)
    except KeyturnError as error:
        return error


@given(st.binary(min_size=1184, max_size=1184), st.sampled_from([2, 3, 5]))
def test_any_bytes_give_fields_or_one_error(data: bytes, version: int) -> None:
    found = refusal(changed(data, (0, version.to_bytes(4, "little")), (0x34, b"\1\0\0\0")))
    assert isinstance(found, (ReportError, SnpReport))


@pytest.mark.parametrize(
    ("sections", "gpa", "eip"),
    [
        ([], 0x810C00, 0),
        ([(0x800000, 0x1000, 9)], 0x810C00, 0),
        ([(-4096, 0x1000, 1)], 0x810C00, 0),
        ([(0x800000, 0x1000, 1)] * 2, 0x810C00, 0),
        ([(0x800000, 0x1000, 1)], 0, 0),
        ([(0x800000, 0x1000, 1)], 1 << 32, 0),
        ([(0x800000, 0x1000, 1)], 0x810C00, 1 << 32),
        ([(0x1000 * n, 0x1000, 1) for n in range(65)], 0x810C00, 0),
    ],
    ids=["none", "kind", "negative", "twice", "no-table", "far-table", "far-start", "many"],
)
def test_descriptions_that_are_refused(sections: list[tuple[int, int, int]], gpa: int, eip: int) -> None:
    with pytest.raises(SevFirmwareError):
        described_image(name="ovmf", sections=sections, hash_table_gpa=gpa, reset_eip=eip)
