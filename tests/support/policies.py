"""Policies for tests: permissive ones, which ask for nothing beyond what is never up to a policy.

Tests tighten one thing at a time with ``dataclasses.replace``.
"""

from __future__ import annotations

from collections.abc import Iterable

from attestation.container import EvidencePlatform
from attestation.policy import (
    AkProof,
    Allowed,
    DcapPolicy,
    Environment,
    GpuPolicy,
    Measurements,
    NitroPolicy,
    Policy,
    SnpFloor,
    SnpPolicy,
    TcbStatus,
    TpmPolicy,
    TrustAnchor,
)

ANY = Allowed(values=frozenset(), any=True)
NONE = Allowed(values=frozenset())
ANY_MACHINE = Measurements(sets=(), any=True)
CENTURY = 100 * 365 * 86400
"""In seconds: a limit that nothing reaches."""


def only(*values: str) -> Allowed:
    """A list of exactly these values."""
    return Allowed(values=frozenset(values))


def permissive_policy(
    first: EvidencePlatform,
    *more: EvidencePlatform,
    gpu: bool = False,
    roots: Iterable[TrustAnchor] = (),
    environment: Environment = Environment.DEV,
) -> Policy:
    """A policy that allows the named platforms in every way that a policy can allow them, and any report
    data. With ``TPM`` or ``gpu`` every evidence must have that part. Chips of Milan and activation secrets
    still have to be listed.
    """
    named = frozenset((first, *more))
    return Policy(
        name="permissive",
        environment=environment,
        platforms=named,
        report_data=ANY,
        app_hashes=ANY,
        tdx=permissive_dcap() if EvidencePlatform.TDX in named else None,
        sgx=permissive_dcap() if EvidencePlatform.SGX in named else None,
        sim=permissive_dcap() if EvidencePlatform.SIM in named else None,
        snp=permissive_snp() if EvidencePlatform.SNP in named else None,
        tpm=permissive_tpm() if EvidencePlatform.TPM in named else None,
        nitro=permissive_nitro() if EvidencePlatform.NITRO in named else None,
        gpu=permissive_gpu() if gpu else None,
        roots=tuple(roots),
    )


def permissive_dcap() -> DcapPolicy:
    """Every status but ``Revoked``, any advisory, any machine, nothing too old."""
    return DcapPolicy(
        statuses=frozenset(TcbStatus) - {TcbStatus.REVOKED},
        grace=(),
        min_tcb_date=0,
        min_evaluation_number=0,
        max_collateral_age=CENTURY,
        advisories_accepted=ANY,
        advisories_denied=frozenset(),
        dynamic_platform=True,
        cached_keys=True,
        smt=True,
        migratable=True,
        ppids=ANY,
        platform_instances=ANY,
        fmspcs=ANY,
        service_tds=ANY,
        measurements=ANY_MACHINE,
    )


def permissive_snp() -> SnpPolicy:
    """Every product with floors of zero, any chip, every VMPL, nothing required."""
    return SnpPolicy(
        floors={
            "milan": SnpFloor(boot_loader=0, tee=0, snp=0, microcode=0),
            "genoa": SnpFloor(boot_loader=0, tee=0, snp=0, microcode=0),
            "turin": SnpFloor(fmc=0, boot_loader=0, tee=0, snp=0, microcode=0),
        },
        vlek=True,
        chip_ids=ANY,
        csp_ids=ANY,
        vmpls=frozenset(range(4)),
        smt=True,
        migration_agent=True,
        provisional_firmware=True,
        min_guest_svn=0,
        required_platform_info=frozenset(),
        required_guest_policy=frozenset(),
        id_keys=ANY,
        author_keys=ANY,
        max_crl_age=CENTURY,
        measurements=ANY_MACHINE,
    )


def permissive_tpm() -> TpmPolicy:
    """Every proof of the attestation key, a quote of any bank and register, no event log."""
    return TpmPolicy(
        ak_proofs=frozenset(AkProof),
        banks=frozenset(),
        pcrs=frozenset(),
        event_log=False,
        activation_secrets=NONE,
        platform_ids=ANY,
        measurements=ANY_MACHINE,
    )


def permissive_nitro() -> NitroPolicy:
    """A document of any age and any enclave."""
    return NitroPolicy(max_age=CENTURY, module_ids=ANY, measurements=ANY_MACHINE)


def permissive_gpu() -> GpuPolicy:
    """One GPU of any kind, without manifests, OCSP answers or a binding."""
    return GpuPolicy(
        count=1,
        architectures=ANY,
        driver_versions=ANY,
        vbios_versions=ANY,
        rims=False,
        ocsp=False,
        bound=False,
    )
