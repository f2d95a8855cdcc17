"""Evidence as other software writes it, through the importers to the verdict."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidencePlatform
from attestation.importers import import_evidence
from attestation.platform_verification import PlatformVerification
from attestation.policy import Policy
from attestation.snp.certificate_table import TableEntry
from attestation.snp.verify import verify_snp
from measurements.sev.report import SigningKey
from tests.support.policies import only, permissive_policy
from tests.support.snp_cases import failed, good_case, pem, roots
from tests.support.snp_pki import NOW, Wishes
from tests.support.vectors import vector


def verify(data: bytes, policy: Policy, *certificates: bytes) -> PlatformVerification:
    return verify_snp(
        import_evidence(data),
        collateral=Collateral(certificates=certificates),
        anchors=anchors_for(policy),
        policy=policy,
        now=NOW,
    )


def allowing(chip_id: str) -> Policy:
    policy = permissive_policy(EvidencePlatform.SNP)
    assert policy.snp is not None
    return replace(policy, snp=replace(policy.snp, chip_ids=only(chip_id)))


FILES = {
    "attestation/snp/azure-evidence-v1.json": (),
    "attestation/snp/azure-evidence-genoa.json": (),
    "dstack/sev-snp-attestation.json": (),
    "attestation/snp/dstack-versioned-attestation.bin": ("dstack-vcek.pem",),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_others_lack_only_a_list(name: str) -> None:
    data = vector(name).read_bytes()
    more = [der for file in FILES[name] for der in pem(file)]
    policy = allowing(import_evidence(data).report[0x1A0:0x1E0].hex())
    assert failed(verify(data, policy, *more, *roots("milan", "genoa"))) == {"crl"}


@pytest.mark.parametrize("kind", [SigningKey.VCEK, SigningKey.VLEK])
def test_extended_report_needs_nothing_else(kind: SigningKey) -> None:
    case = good_case(Wishes(kind=kind))
    names = (TableEntry[kind.name], TableEntry.ASK, TableEntry.ARK, TableEntry.CRL)
    contents = list(zip(names, (*case.certificates, *case.crls), strict=True))
    at, entries = 24 * (len(contents) + 1), b""
    for name, content in contents:
        entries += name.value.bytes + struct.pack("<II", at, len(content))
        at += len(content)
    table = entries + bytes(24) + b"".join(content for _name, content in contents)
    found = verify(case.report + table.ljust(8192, b"\0"), case.policy)
    assert failed(found) == set()
    assert found.passed
