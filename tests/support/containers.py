"""Evidence containers for tests: one with every part filled, and a small one."""

from __future__ import annotations

from attestation.collateral import Collateral, DcapCollateral
from attestation.container import EvidenceContainer, EvidencePlatform, GpuPart, Log, LogFormat, TpmPart

SMALL = EvidenceContainer(platform=EvidencePlatform.TDX, report=b"quote")

_SET = DcapCollateral(
    pck_crl_issuer_chain="-----BEGIN 1",
    root_ca_crl=b"crl 1",
    pck_crl=b"crl 2",
    tcb_info_issuer_chain="-----BEGIN 2",
    tcb_info='{"id":"TDX","text":"é"}',
    tcb_info_signature=bytes(range(64)),
    qe_identity_issuer_chain="-----BEGIN 3",
    qe_identity='{"id":"TD_QE"}',
    qe_identity_signature=bytes(range(64, 128)),
)

FULL = EvidenceContainer(
    platform=EvidencePlatform.SNP,
    report=bytes(1184),
    certificates=(b"vcek", b"ask"),
    tpm=TpmPart(
        quote=b"TPMS_ATTEST",
        signature=b"TPMT_SIGNATURE",
        ak_public=b"TPMT_PUBLIC",
        pcrs={"sha256": {0: bytes(32), 23: b"\x01" * 32, 24: b"\x02" * 32}, "sha384": {4: bytes(48)}},
        ek_certificate=b"ek",
        ak_certificate=b"ak",
        hcl_report=b"hcl",
        nitro_document=b"document",
        activated_secret=bytes(32),
    ),
    logs=(Log(format=LogFormat.TCG2, data=b"log 1"), Log(format=LogFormat.KEYTURN, data=b"[]")),
    gpus=(GpuPart(architecture="HOPPER", report=b"spdm", certificates=(b"leaf", b"root"), nonce=bytes(32)),),
    collateral=Collateral(
        dcap=(_SET,), early=(_SET,), certificates=(b"root",), crls=(b"crl",), rims=(b"<rim/>",), ocsp=(b"o",)
    ),
    app_manifest=b"{}",
    shape=b'{"cpus":2}',
    reference=b'{"banks":{}}',
    origin="test importer",
)
