"""SEV_FEATURES: the word of a processor's save area that says how a guest is protected.

Bits as in the AMD64 Architecture Programmer's Manual volume 2 (24593), table B-4, offset 0x3B0. QEMU and KVM
set ``SNP_ACTIVE``, Linux 6.6 to 6.9 also ``DEBUG_SWAP`` wherever the processor has it.
"""

from __future__ import annotations

from enum import IntFlag

from measurements.errors import KeyturnError


class GuestFeaturesError(KeyturnError):
    """A word of features that no guest can have."""

    code = "guest-features"


class GuestFeatures(IntFlag):
    """The features that are defined."""

    SNP_ACTIVE = 1 << 0
    VIRTUAL_TOM = 1 << 1
    REFLECT_VC = 1 << 2
    RESTRICTED_INJECTION = 1 << 3
    ALTERNATE_INJECTION = 1 << 4
    DEBUG_SWAP = 1 << 5
    PREVENT_HOST_IBS = 1 << 6
    BTB_ISOLATION = 1 << 7
    VMPL_SSS = 1 << 8
    SECURE_TSC = 1 << 9
    VMGEXIT_PARAMETER = 1 << 10
    PMC_VIRTUALIZATION = 1 << 11
    IBS_VIRTUALIZATION = 1 << 12
    VMSA_REG_PROT = 1 << 14
    SMT_PROTECTION = 1 << 15
    SECURE_AVIC = 1 << 16
    IBPB_ON_ENTRY = 1 << 21


SNP_ONLY = GuestFeatures.SNP_ACTIVE
SNP_AND_DEBUG_SWAP = GuestFeatures.SNP_ACTIVE | GuestFeatures.DEBUG_SWAP

USUAL: tuple[GuestFeatures, ...] = (SNP_ONLY, SNP_AND_DEBUG_SWAP)
"""What KVM starts SNP guests with unless it is told otherwise."""

_ALL = sum(GuestFeatures)


def snp_features(word: int) -> GuestFeatures:
    """The features of an SNP guest; refuses bits that are not defined, and a word without ``SNP_ACTIVE``."""
    if word < 0 or word & ~_ALL:
        raise _error(word, f"has bits {word & ~_ALL:#x}, which are not defined")
    if not word & GuestFeatures.SNP_ACTIVE:
        raise _error(word, "lacks bit 0 (SNP_ACTIVE), which every SNP guest has")
    return GuestFeatures(word)


def names(features: GuestFeatures) -> tuple[str, ...]:
    """The names of the bits that are set, the lowest first."""
    return tuple(str(bit.name) for bit in GuestFeatures if bit & features)


def _error(word: int, reason: str) -> GuestFeaturesError:
    return GuestFeaturesError(
        reason,
        subject=f"guest features {word:#x}",
        advice="give the word of the host's kernel: 0x1, or 0x21 with DebugSwap",
    )
