"""What is at hand is not asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation.collateral import Collateral
from attestation.fetch.coverage import missing
from attestation.fetch.needs import DcapNeed, OcspNeed, PckCa, RimNeed, SnpNeed, Tee
from attestation.snp.products import Product
from measurements.sev.report import TcbVersion
from tests.attestation.fetch.worlds import NOW, collateral_set, fmspc
from tests.support.revocation_lists import certificate, ocsp_answer, revocation_list

DCAP = DcapNeed(tee=Tee.TDX, fmspc=fmspc(), ca=PckCa.PLATFORM)
TCB = TcbVersion(fmc=None, boot_loader=4, tee=0, snp=24, microcode=219)
SNP = SnpNeed(products=(Product.MILAN, Product.GENOA), vlek=False, chip_id="ab" * 64, tcb=TCB)
RIM = RimNeed(name="NV_GPU_DRIVER_GH100_590.12")
VCEK = certificate("SEV-VCEK", NOW)
ARK = certificate("ARK-Genoa", NOW)
LIST = revocation_list("ARK-Genoa", NOW)
OF_SNP = Collateral(certificates=(VCEK, ARK), crls=(LIST,))


def test_nothing_at_hand() -> None:
    assert missing((DCAP, SNP, RIM), Collateral()) == (DCAP, SNP, RIM)


def test_everything_at_hand() -> None:
    given = replace(OF_SNP, dcap=(collateral_set(),), rims=(b"rim",))
    assert missing((DCAP, SNP, RIM), given) == ()


@pytest.mark.parametrize(
    "need",
    [replace(DCAP, tee=Tee.SGX), replace(DCAP, fmspc="00a067110000")],
)
def test_a_set_of_another_platform_does_not_count(need: DcapNeed) -> None:
    assert missing((need,), Collateral(dcap=(collateral_set(),))) == (need,)


def test_early_and_unreadable_sets_do_not_count() -> None:
    broken = replace(collateral_set(), tcb_info="{")
    assert missing((DCAP,), Collateral(dcap=(broken,), early=(collateral_set(),))) == (DCAP,)


@pytest.mark.parametrize(
    "given",
    [
        replace(OF_SNP, certificates=(ARK,)),
        replace(OF_SNP, certificates=(VCEK,)),
        replace(OF_SNP, certificates=(VCEK, b"none")),
        replace(OF_SNP, crls=()),
        replace(OF_SNP, crls=(revocation_list("ARK-Milan", NOW),)),
    ],
)
def test_parts_of_what_a_report_needs_do_not_count(given: Collateral) -> None:
    assert missing((SNP,), given) == (SNP,)


def test_an_answer_for_the_same_certificate_counts() -> None:
    leaf, issuer = certificate("leaf", NOW, issuer="ARK-Genoa"), certificate("ARK-Genoa", NOW)
    need = OcspNeed(certificate=leaf, issuer=issuer)
    given = Collateral(ocsp=(b"none", ocsp_answer(NOW), ocsp_answer(NOW, leaf, issuer)))
    assert missing((need,), given) == ()
    assert missing((need,), replace(given, ocsp=given.ocsp[:2])) == (need,)


def test_a_report_that_brings_its_certificate_needs_less() -> None:
    need = replace(SNP, chip_id=None)
    assert missing((need,), replace(OF_SNP, certificates=(ARK,))) == ()
