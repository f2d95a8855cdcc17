"""The policy: what a verifier demands of evidence beyond its signatures. One typed model, with no defaults.

``attestation.policy_file`` reads it from TOML, ``attestation.policy_document`` gives its canonical JSON and
the digest that stands on chain, ``attestation.policy_words`` says it in words. A list is exactly what is
allowed, so an empty one allows nothing; ``Allowed.any`` has to be written out. Debug is never allowed and has
no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from attestation.container import EvidencePlatform
from measurements.errors import KeyturnError


class PolicyError(KeyturnError):
    """A policy that contradicts itself or is not well formed."""

    code = "policy"


class Environment(StrEnum):
    """Where the policy is used. Only ``DEV`` may hold roots of simulated TEEs and development images."""

    RELEASE = "release"
    DEV = "dev"


class TcbStatus(StrEnum):
    """TCB statuses of Intel, as its collateral names them. ``Revoked`` and no matching level are always
    refused and are no statuses of a policy.
    """

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    REVOKED = "Revoked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """A list of allowed values (lower-case hexadecimal digits or names), or openly any."""

    values: frozenset[str]
    any: bool = False

    def holds(self, value: str) -> bool:
        """Whether ``value`` is allowed."""
        return self.any or value in self.values

    def __str__(self) -> str:
        if self.any:
            return "any"
        return ", ".join(sorted(self.values)) or "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementSet:
    """One allowed machine: registers by the names of ``PlatformFacts.registers``, all of which must be as
    they stand here.
    """

    name: str
    registers: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Allowed machines: one of ``sets`` must hold as a whole; ``any`` (written out) demands nothing."""

    sets: tuple[MeasurementSet, ...]
    any: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class GraceWindow:
    """Statuses that are accepted until a date, seconds since 1970 (the last second in which they are)."""

    statuses: frozenset[TcbStatus]
    until: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DcapPolicy:
    """For quotes of TDX, SGX and simulated domains.

    ``min_tcb_date`` is in seconds since 1970. ``advisories_accepted`` lists what the platform's level may
    carry; ``advisories_denied`` is refused even where any is accepted. ``service_tds`` allows values of
    MRSERVICETD besides zero. ``xfam`` and ``td_attributes`` beyond the fixed rules belong in measurement
    sets. ``migratable`` allows trust domains that can move.
    """

    statuses: frozenset[TcbStatus]
    grace: tuple[GraceWindow, ...]
    min_tcb_date: int
    min_evaluation_number: int
    max_collateral_age: int
    """Seconds since the oldest of TCB info, QE identity and revocation lists (but the root's) was issued."""
    advisories_accepted: Allowed
    advisories_denied: frozenset[str]
    dynamic_platform: bool
    cached_keys: bool
    smt: bool
    migratable: bool
    ppids: Allowed
    platform_instances: Allowed
    fmspcs: Allowed
    service_tds: Allowed
    measurements: Measurements


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpFloor:
    """Lowest security patch levels of one product. ``fmc`` exists from Turin on and is None before."""

    boot_loader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpPolicy:
    """For SEV-SNP reports.

    ``floors`` names the products that are allowed (``milan``, ``genoa``, ``turin``): all four TCB versions of
    a report (reported, committed, launch, current) must reach the floor. Milan is accepted only from listed
    chips, even where any chip is allowed, and with a VLEK only from clouds that are listed by name: its keys
    can be taken by software (arXiv 2605.12990).
    """

    floors: Mapping[str, SnpFloor]
    vlek: bool
    chip_ids: Allowed
    csp_ids: Allowed
    vmpls: frozenset[int]
    smt: bool
    migration_agent: bool
    provisional_firmware: bool
    """Whether reported and current TCB may differ from the committed one, which cannot be rolled back."""
    min_guest_svn: int
    required_platform_info: frozenset[str]
    """Of ``ecc``, ``tsme``, ``rapl-disabled``, ``ciphertext-hiding``, ``alias-check``."""
    required_guest_policy: frozenset[str]
    """Of ``single-socket``, ``aes-256-xts``, ``rapl-disabled``, ``ciphertext-hiding``,
    ``page-swap-disabled``.
    """
    id_keys: Allowed
    author_keys: Allowed
    max_crl_age: int
    measurements: Measurements


class AkProof(StrEnum):
    """What ties an attestation key to a real TPM."""

    CREDENTIAL = "credential"
    """EK certificate, and a credential that only EK and AK together open."""
    AK_CERTIFICATE = "ak-certificate"
    """The cloud certified the AK (GCP)."""
    HCL_REPORT = "hcl-report"
    """The AK is in the report data of the machine's TEE report (Azure)."""
    NITRO_DOCUMENT = "nitro-document"
    """The AK is in a signed document of the NitroTPM (AWS)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TpmPolicy:
    """For quotes of TPMs. ``banks`` are those that the quote must cover; ``pcrs`` the indices in each of
    them, or without ``banks`` in each that is quoted.
    """

    ak_proofs: frozenset[AkProof]
    banks: frozenset[str]
    pcrs: frozenset[int]
    event_log: bool
    """Whether an event log that yields the quoted registers is demanded."""
    activation_secrets: Allowed
    """Activation values (``attestation.tpm.activation``): hashes of the secrets in the verifier's own
    credentials with the keys they were for; used with ``AkProof.CREDENTIAL``, which ``any`` never satisfies.
    """
    platform_ids: Allowed
    measurements: Measurements


@dataclass(frozen=True, kw_only=True, slots=True)
class NitroPolicy:
    """For documents of the Nitro Security Module and of NitroTPMs. ``max_age`` is in seconds."""

    max_age: int
    module_ids: Allowed
    measurements: Measurements


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuPolicy:
    """For GPUs and switches beside a CPU's evidence.

    ``count`` is exact. ``ocsp`` demands fresh answers for each certificate but the leaf, which the device
    makes itself, and the root; ``rims`` demands that every measurement is compared with signed manifests of
    driver and VBIOS. ``bound`` demands that the digest of the GPU evidence is in the CPU's report data.
    """

    count: int
    architectures: Allowed
    driver_versions: Allowed
    vbios_versions: Allowed
    rims: bool
    ocsp: bool
    bound: bool


class RootPurpose(StrEnum):
    """What a pinned root certificate is trusted for. A root never serves another purpose."""

    INTEL_DCAP = "intel-dcap"
    AMD_MILAN = "amd-milan"
    AMD_GENOA = "amd-genoa"
    AMD_TURIN = "amd-turin"
    AWS_NITRO = "aws-nitro"
    NVIDIA_DEVICE = "nvidia-device"
    NVIDIA_RIM = "nvidia-rim"
    TPM_EK = "tpm-ek"
    TPM_AK = "tpm-ak"
    SIM = "sim"
    """Roots of simulated TEEs: only in policies for development."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustAnchor:
    """A pinned root certificate: SHA-256 of its DER, and who says so."""

    purpose: RootPurpose
    fingerprint: bytes
    subject: str
    source: str
    date: str
    """When it was pinned, ``YYYY-MM-DD``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The whole policy.

    ``platforms`` lists whose evidence is accepted; each has its section (and so has ``tpm``, if listed).
    A ``tpm`` section demands a TPM part of *every* evidence, and a ``gpu`` section demands GPUs: whoever
    leaves a part out must not get around its rules. Evidence of a TPM alone is accepted only if ``platforms``
    lists ``tpm``.
    """

    name: str
    environment: Environment
    platforms: frozenset[EvidencePlatform]
    report_data: Allowed
    """Hex of the whole report data (64 bytes; a TPM's qualifying data, a document's user data); openly any
    where freshness is proven elsewhere or not asked for.
    """
    app_hashes: Allowed
    tdx: DcapPolicy | None = None
    sgx: DcapPolicy | None = None
    sim: DcapPolicy | None = None
    snp: SnpPolicy | None = None
    tpm: TpmPolicy | None = None
    nitro: NitroPolicy | None = None
    gpu: GpuPolicy | None = None
    roots: tuple[TrustAnchor, ...] = ()
    """The user's own, besides the vendors'."""

    def __post_init__(self) -> None:
        missing = sorted(one for one in self.platforms if getattr(self, one.value) is None)
        surplus = sorted(
            one
            for one in EvidencePlatform
            if one is not EvidencePlatform.TPM and getattr(self, one.value) and one not in self.platforms
        )
        if missing or surplus:
            raise PolicyError(
                f"platforms and sections differ: {', '.join([*missing, *surplus])}",
                subject=f"policy {self.name}",
                advice="give each platform of the list its section, and no other",
            )
        if EvidencePlatform.SIM in self.platforms and self.environment is not Environment.DEV:
            raise PolicyError(
                "allows simulated TEEs, which a release policy never does",
                subject=f"policy {self.name}",
                advice='remove the platform sim, or make it a policy for development: environment = "dev"',
            )
