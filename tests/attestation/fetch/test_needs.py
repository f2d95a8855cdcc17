"""What evidence needs: read from real evidence, and never a way to choose where to."""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform, GpuPart
from attestation.fetch.errors import FetchError
from attestation.fetch.needs import DcapNeed, Need, OcspNeed, PckCa, RimNeed, SnpNeed, Tee, needs
from attestation.fetch.resources import (
    dcap_resources,
    ocsp_resource,
    rim_resource,
    snp_resources,
    vcek_resource,
)
from attestation.nvidia.evidence_files import read_gpu_evidence
from attestation.snp.products import Product
from measurements.errors import KeyturnError
from measurements.sev.report import TcbVersion
from tests.attestation.fetch.worlds import NOW, evidence, fmspc
from tests.support.revocation_lists import certificate
from tests.support.vectors import vector

CHIP = bytes(range(1, 65))
TARGET = re.compile(r"/[A-Za-z0-9/_.]{1,300}(?:\?[A-Za-z0-9=&]{1,120})?")


def snp_report(
    *, version: int = 3, cpu: tuple[int, int] = (25, 1), key_info: int = 0, chip: bytes = CHIP
) -> bytes:
    report = bytearray(1184)
    struct.pack_into("<I", report, 0, version)
    struct.pack_into("<I", report, 0x34, 1)
    struct.pack_into("<I", report, 0x48, key_info)
    turin = cpu[0] >= 26
    report[0x180:0x188] = bytes([1, 4, 0, 9, 0, 0, 0, 72] if turin else [4, 0, 0, 0, 0, 0, 24, 219])
    if version >= 3:
        report[0x188:0x18B] = bytes([*cpu, 1])
    report[0x1A0:0x1E0] = chip
    return bytes(report)


def snp(report: bytes, *certificates: bytes) -> EvidenceContainer:
    return EvidenceContainer(platform=EvidencePlatform.SNP, report=report, certificates=certificates)


def targets(need: Need) -> list[str]:
    if isinstance(need, DcapNeed):
        return [
            one.target
            for pccs in (False, True)
            for one in (
                *dcap_resources(need, pccs=pccs),
                *dcap_resources(need, pccs=pccs, early=True),
                *dcap_resources(need, pccs=pccs, evaluation_number=18),
            )
        ]
    if isinstance(need, RimNeed):
        return [rim_resource(need).target]
    if isinstance(need, OcspNeed):
        return [ocsp_resource(need).target]
    found = [one.target for product in need.products for one in snp_resources(product, vlek=need.vlek)]
    if need.chip_id is not None:
        found += [vcek_resource(product, need).target for product in need.products]
    return found


def test_a_quote_of_the_simulated_machine() -> None:
    assert needs(evidence()) == (DcapNeed(tee=Tee.TDX, fmspc=fmspc(), ca=PckCa.PLATFORM),)


def test_the_targets_of_a_quote() -> None:
    (need,) = needs(evidence())
    assert isinstance(need, DcapNeed)
    name = fmspc().upper()
    assert [one.target for one in dcap_resources(need, pccs=False)] == [
        f"/tdx/certification/v4/tcb?fmspc={name}&update=standard",
        "/tdx/certification/v4/qe/identity?update=standard",
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "/IntelSGXRootCA.der",
    ]
    assert [one.target for one in dcap_resources(need, pccs=True, early=True)] == [
        f"/tdx/certification/v4/tcb?fmspc={name}&update=early",
        "/tdx/certification/v4/qe/identity?update=early",
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "/sgx/certification/v4/rootcacrl",
    ]
    assert [one.target for one in dcap_resources(need, pccs=True, evaluation_number=18)][:2] == [
        f"/tdx/certification/v4/tcb?fmspc={name}&tcbEvaluationDataNumber=18",
        "/tdx/certification/v4/qe/identity?tcbEvaluationDataNumber=18",
    ]


@pytest.mark.parametrize(
    ("quote", "need"),
    [
        ("dcap-qvl-sgx-quote", DcapNeed(tee=Tee.SGX, fmspc="00a067110000", ca=PckCa.PROCESSOR)),
        ("dcap-qvl-tdx-quote-48cf", DcapNeed(tee=Tee.TDX, fmspc="b0c06f000000", ca=PckCa.PLATFORM)),
        (
            "automata-dcap-attestation-tdx-quote-5",
            DcapNeed(tee=Tee.TDX, fmspc="90c06f000000", ca=PckCa.PLATFORM),
        ),
        (
            "oasis-core-quote-v3-ecdsa-p256-pck-chain",
            DcapNeed(tee=Tee.SGX, fmspc="00606a000000", ca=PckCa.PLATFORM),
        ),
    ],
)
def test_real_quotes(quote: str, need: DcapNeed) -> None:
    data = vector(f"attestation/dcap/quotes/{quote}.bin").read_bytes()
    assert needs(EvidenceContainer(platform=EvidencePlatform.TDX, report=data)) == (need,)


def test_a_quote_without_its_certificate_is_refused() -> None:
    data = vector("attestation/dcap/quotes/oasis-quote-v3-certtype3-eppid.bin").read_bytes()
    with pytest.raises(FetchError, match="does not say which platform"):
        needs(EvidenceContainer(platform=EvidencePlatform.SGX, report=data))


@pytest.mark.parametrize(
    ("cpu", "product", "levels"),
    [
        ((25, 0x01), "Milan", "blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"),
        ((25, 0x11), "Genoa", "blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"),
        ((25, 0xA0), "Genoa", "blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"),
        ((26, 0x02), "Turin", "fmcSPL=01&blSPL=04&teeSPL=00&snpSPL=09&ucodeSPL=72"),
    ],
)
def test_reports_name_their_product(cpu: tuple[int, int], product: str, levels: str) -> None:
    (need,) = needs(snp(snp_report(cpu=cpu)))
    chip = CHIP[:8] if product == "Turin" else CHIP
    assert targets(need) == [
        f"/vcek/v1/{product}/cert_chain",
        f"/vcek/v1/{product}/crl",
        f"/vcek/v1/{product}/{chip.hex()}?{levels}",
    ]


def test_a_report_of_version_2_may_be_of_either_product() -> None:
    (need,) = needs(snp(snp_report(version=2)))
    assert isinstance(need, SnpNeed)
    assert need.products == (Product.MILAN, Product.GENOA)


def test_a_certificate_that_is_there_is_not_asked_for() -> None:
    vcek = certificate("SEV-VCEK", NOW, issuer="SEV-Genoa")
    (need,) = needs(snp(snp_report(version=2), b"no certificate", vcek))
    assert isinstance(need, SnpNeed)
    assert (need.products, need.chip_id) == ((Product.GENOA,), None)
    beside = replace(snp(snp_report(version=2)), collateral=Collateral(certificates=(vcek,)))
    assert needs(beside) == (need,)


def test_a_report_signed_by_the_cloud_needs_its_certificate() -> None:
    report = snp_report(key_info=1 << 2, chip=bytes(64))
    with pytest.raises(FetchError, match="only the cloud can give"):
        needs(snp(report))
    (need,) = needs(snp(report, certificate("SEV-VLEK", NOW, issuer="SEV-VLEK-Milan")))
    assert targets(need) == ["/vlek/v1/Milan/cert_chain", "/vlek/v1/Milan/crl"]


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (snp_report(chip=bytes(64)), "hides the chip's id"),
        (snp_report(key_info=7 << 2), "not signed"),
        (snp_report(cpu=(25, 0x50)), "a CPU that is not known: 25/80/1"),
        (snp_report(cpu=(27, 0)), "a CPU that is not known"),
        (bytes(1184), "version 0"),
        (b"", "has 0 bytes"),
    ],
)
def test_reports_that_need_nothing_that_exists(report: bytes, reason: str) -> None:
    with pytest.raises(KeyturnError, match=reason):
        needs(snp(report))


def test_real_reports() -> None:
    report = vector("attestation/snp/trustee-report.bin").read_bytes()
    (need,) = needs(snp(report, vector("attestation/snp/trustee-vcek.der").read_bytes()))
    assert targets(need) == ["/vcek/v1/Milan/cert_chain", "/vcek/v1/Milan/crl"]


@pytest.mark.parametrize(
    ("file", "names"),
    [
        (
            "hopper_evidence.json",
            ["NV_GPU_DRIVER_GH100_590.12", "NV_GPU_VBIOS_G520_0200_885_9600A50001"],
        ),
        (
            "veraison-blackwell-evidence.json",
            ["NV_GPU_CC_DRIVER_GB100_590.48.01", "NV_GPU_VBIOS_G525_0220_886_9700E40011"],
        ),
        ("switch_evidence_ls10.json", ["NV_SWITCH_BIOS_5612_0002_890_9610550001"]),
    ],
)
def test_real_gpus_and_switches(file: str, names: list[str]) -> None:
    gpus = read_gpu_evidence(vector(f"attestation/nvidia/{file}").read_bytes())
    found = needs(EvidenceContainer(platform=EvidencePlatform.NITRO, report=b"", gpus=gpus))
    assert [need.name for need in found if isinstance(need, RimNeed)] == names
    asked = [need for need in found if isinstance(need, OcspNeed)]
    assert [need.certificate for need in asked] == list(gpus[0].certificates[1:-1])
    assert [need.issuer for need in asked] == list(gpus[0].certificates[2:])
    expected = [[f"/v1/rim/{name}"] for name in names] + [["/"]] * len(asked)
    assert [targets(need) for need in found] == expected


def test_a_gpu_without_certificates_is_refused() -> None:
    part = GpuPart(architecture="HOPPER", report=b"", certificates=(), nonce=b"")
    with pytest.raises(KeyturnError):
        needs(EvidenceContainer(platform=EvidencePlatform.NITRO, report=b"", gpus=(part,)))


@pytest.mark.parametrize("platform", [EvidencePlatform.NITRO, EvidencePlatform.TPM])
def test_platforms_that_bring_everything(platform: EvidencePlatform) -> None:
    assert needs(EvidenceContainer(platform=platform, report=b"anything")) == ()


TCB = TcbVersion(fmc=None, boot_loader=1, tee=0, snp=2, microcode=3)


@pytest.mark.parametrize(
    "text", ["", "00", "0" * 13, "../../../../x", "00a067/10000", "00A067110000", "00a06711000\n"]
)
def test_no_fmspc_leaves_its_place(text: str) -> None:
    with pytest.raises(FetchError, match="FMSPC"):
        DcapNeed(tee=Tee.TDX, fmspc=text, ca=PckCa.PLATFORM)


@pytest.mark.parametrize(
    "text", ["", "00", "0" * 127 + "/", "0" * 16 + "?", "A" * 16, "0" * 129, "0" * 16 + "\n"]
)
def test_no_chip_id_leaves_its_place(text: str) -> None:
    with pytest.raises(FetchError, match="chip id"):
        SnpNeed(products=(Product.MILAN,), vlek=False, chip_id=text, tcb=TCB)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ids",
        "NV_GPU_",
        "NV_GPU_DRIVER_../x",
        "NV_GPU_DRIVER_GH100_1/2",
        "NV_GPU_DRIVER_GH100_1?x",
        "nv_gpu_driver",
    ],
)
def test_no_manifest_leaves_its_place(name: str) -> None:
    with pytest.raises(FetchError, match="manifest"):
        RimNeed(name=name)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_evidence_never_leaves_the_api(data: st.DataObject) -> None:
    """Evidence chooses values in targets of one form, and nothing else of an address."""
    platform = data.draw(st.sampled_from([EvidencePlatform.TDX, EvidencePlatform.SNP]))
    report = bytearray(evidence().report if platform is EvidencePlatform.TDX else snp_report())
    for _ in range(data.draw(st.integers(1, 4))):
        report[data.draw(st.integers(0, len(report) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(KeyturnError):
        for need in needs(EvidenceContainer(platform=platform, report=bytes(report))):
            assert all(TARGET.fullmatch(target) and ".." not in target for target in targets(need))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1300), st.sampled_from(EvidencePlatform))
def test_garbage_gives_only_refusals(report: bytes, platform: EvidencePlatform) -> None:
    with contextlib.suppress(KeyturnError):
        needs(EvidenceContainer(platform=platform, report=report))
