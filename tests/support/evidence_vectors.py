"""Every vector that is evidence, and what it is imported as."""

from __future__ import annotations

from typing import NamedTuple

from attestation.container import EvidencePlatform, LogFormat

_TDX, _SGX, _SNP = EvidencePlatform.TDX, EvidencePlatform.SGX, EvidencePlatform.SNP
_NITRO, _TPM = EvidencePlatform.NITRO, EvidencePlatform.TPM


class Imported(NamedTuple):
    """One vector and what the container has of it; ``bank`` is the bank whose 24 registers it holds."""

    name: str
    platform: EvidencePlatform
    origin: str
    report: int
    certificates: int = 0
    bank: str | None = None
    logs: tuple[LogFormat, ...] = ()
    shape: bool = False


QUOTES = tuple(
    Imported(f"attestation/dcap/quotes/{name}.bin", platform, "dcap-quote", size)
    for name, platform, size in (
        ("attested-tls-azure-tdx-1764662251380464271", _TDX, 4940),
        ("attested-tls-dcap-tdx-1766059550570652607", _TDX, 4935),
        ("automata-dcap-attestation-quote-sgx", _SGX, 4600),
        ("automata-dcap-attestation-quotev4", _TDX, 4935),
        ("automata-dcap-attestation-sample-quotes-bf0d", _TDX, 4936),
        ("automata-dcap-attestation-sample-quotes", _SGX, 4734),
        ("automata-dcap-attestation-tdx-quote-5", _TDX, 5006),
        ("dcap-qvl-quote-from-tappd", _TDX, 4936),
        ("dcap-qvl-quote-hex", _TDX, 4936),
        ("dcap-qvl-sgx-quote", _SGX, 4600),
        ("dcap-qvl-tdx-quote-48cf", _TDX, 4936),
        ("dcap-qvl-tdx-quote-outdated", _TDX, 5006),
        ("dcap-qvl-tdx-quote", _TDX, 4936),
        ("dstack-examples-report", _TDX, 4936),
        ("dstack-quote-report", _TDX, 4936),
        ("dstack-tdx-quote", _TDX, 4936),
        ("go-tdx-guest-cos-113-tdx-quote", _TDX, 4935),
        ("oasis-core-quote-v3-ecdsa-p256-pck-chain", _SGX, 4730),
        ("oasis-core-quote-v4-tdx-ecdsa-p256", _TDX, 4936),
        ("oasis-quote-v3-certtype3-eppid", _SGX, 1456),
        ("trustee-az-td-quote", _TDX, 4936),
        ("trustee-evidence-v1", _TDX, 4936),
        ("trustee-tdx-quote-4-debug", _TDX, 4936),
    )
)

EVIDENCE = (
    *QUOTES,
    Imported("attestation/snp/trustee-report.bin", _SNP, "snp-report", 1184),
    Imported("attestation/snp/trustee-vlek-report.bin", _SNP, "snp-report", 1184),
    Imported("attestation/snp/go-sev-guest-report.bin", _SNP, "snp-report", 1184),
    Imported("attestation/snp/virtee-report-milan.hex", _SNP, "snp-report", 1184),
    Imported("attestation/snp/azure-hcl-report.bin", _SNP, "azure-hcl-report", 1184),
    Imported("attestation/snp/azure-evidence-v1.json", _SNP, "azure-snp-vtpm", 1184, 1, "sha256"),
    Imported("attestation/snp/azure-evidence-genoa.json", _SNP, "azure-snp-vtpm", 1184, 1, "sha256"),
    Imported("azure-vtpm/az-tdx-vtpm/evidence-v0.json", _TDX, "azure-tdx-vtpm", 4936, 0, "sha256"),
    Imported(
        "attestation/snp/dstack-versioned-attestation.bin", _SNP, "dstack-attestation", 1184, shape=True
    ),
    Imported("attestation/nitro/dstack-nsm.bin", _NITRO, "dstack-attestation", 4527, shape=True),
    Imported("attestation/nitro/dstack-nsm-app.bin", _NITRO, "dstack-attestation", 4526, shape=True),
    Imported("attestation/nitro/dstack-nsm-debug.bin", _NITRO, "dstack-attestation", 4529, shape=True),
    Imported("attestation/nitro/evervault-valid.bin", _NITRO, "nitro-document", 4654),
    Imported("attestation/nitro/evervault-debug.bin", _NITRO, "nitro-document", 4426),
    Imported("attestation/nitro/evervault-valid-ga.b64", _NITRO, "nitro-document", 4748),
    Imported("attestation/tpm/trustee-tpm_evidence.json", _TPM, "coco-tpm", 0, 0, "sha256"),
    Imported(
        "tpm-quote-pairs/go-tpm-tools/gce-cos-85-no-nonce.pb",
        _TPM,
        "go-tpm-tools",
        0,
        bank="sha384",
        logs=(LogFormat.TCG2,),
    ),
    Imported(
        "tpm-quote-pairs/go-tpm-tools/gce-cos-85-nonce9009.pb",
        _TPM,
        "go-tpm-tools",
        0,
        bank="sha384",
        logs=(LogFormat.TCG2,),
    ),
    Imported(
        "dstack/quote-report.json",
        _TDX,
        "dstack-quote",
        4936,
        logs=(LogFormat.DSTACK,),
        shape=True,
    ),
    Imported("dstack/sev-snp-attestation.json", _SNP, "dstack-attestation", 1184, 2, shape=True),
    Imported(
        "dstack/tdx-lite-attestation.json",
        _TDX,
        "dstack-attestation",
        4936,
        logs=(LogFormat.DSTACK,),
        shape=True,
    ),
)

REFUSED = (
    ("attestation/dcap/quotes/automata-dcap-attestation-test-proof.bin", "bytes follow that are not zero"),
    ("attestation/dcap/quotes/dstack-tdx-lite-attestation.bin", "bytes follow that are not zero"),
    ("attestation/tpm/azure-tdx-hcl-report.bin", "holds a TDREPORT"),
    ("attestation/tpm/azure-tpm-quote-v1.json", "give the HCL report beside it"),
    ("attestation/tpm/azure-tpm-quote.msg", "bare TPM quote"),
    ("attestation/tpm/azure-tpm-quote.sig", "no known format. Known are: keyturn-evidence/2"),
    ("attestation/tpm/dstack-tpms_attest_sample.bin", "bare TPM quote"),
    ("attestation/snp/trustee-vcek.der", "certificates"),
    ("attestation/snp/milan_ask_ark_asvk.pem", "certificates"),
    ("attestation/nvidia/hopper_evidence.json", "beside that of the CPU"),
    ("attestation/nvidia/hopperAttestationReport.txt", "report of a GPU"),
)
"""Files that are no evidence, or not alone: the first two have something else behind the quote, as they were
cut out of larger files."""

GPUS = (
    ("attestation/nvidia/hopper_evidence.json", None, 1),
    ("attestation/nvidia/multi_gpu_hopper.json", None, 4),
    ("attestation/nvidia/switch_evidence_ls10.json", None, 1),
    ("attestation/nvidia/veraison-blackwell-evidence.json", None, 1),
    ("attestation/nvidia/hopperAttestationReport.txt", "attestation/nvidia/hopperCertChain.txt", 1),
    ("attestation/nvidia/blackwellAttestationReport.txt", "attestation/nvidia/blackwellCertChain.txt", 1),
)
"""File, file of certificates, number of devices."""
