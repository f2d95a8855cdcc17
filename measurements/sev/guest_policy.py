"""The policy of an SNP guest: a u64 that the owner chooses, the secure processor enforces and reports show.

Layout (SEV Secure Nested Paging Firmware ABI, 56860 revision 1.58, section 4.3, table 10): bits 0-7 least ABI
minor version, 8-15 least ABI major version, 17 always one, then the flags of PolicyFlag.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from measurements.errors import FormatError

_ALWAYS_ONE = 1 << 17


class GuestPolicyError(FormatError):
    """A policy that no guest can have."""

    code = "guest-policy"


class PolicyFlag(IntFlag):
    """The flags that are defined."""

    SMT = 1 << 16
    MIGRATE_MA = 1 << 18
    DEBUG = 1 << 19
    SINGLE_SOCKET = 1 << 20
    CXL_ALLOW = 1 << 21
    MEM_AES_256_XTS = 1 << 22
    RAPL_DIS = 1 << 23
    CIPHERTEXT_HIDING_DRAM = 1 << 24
    PAGE_SWAP_DISABLE = 1 << 25


_KNOWN = sum(PolicyFlag) | _ALWAYS_ONE | 0xFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestPolicy:
    """A policy, taken apart."""

    abi_major: int
    abi_minor: int
    flags: PolicyFlag

    @classmethod
    def parse(cls, word: int) -> GuestPolicy:
        """The policy in a u64; refuses bits that are not defined and a zero in bit 17."""
        if word < 0 or word & ~_KNOWN:
            raise _error(word, f"has bits {word & ~_KNOWN:#x}, which are not defined")
        if not word & _ALWAYS_ONE:
            raise _error(word, "has a zero in bit 17, which is always one")
        flags = PolicyFlag(word & sum(PolicyFlag))
        return cls(abi_major=word >> 8 & 0xFF, abi_minor=word & 0xFF, flags=flags)

    @property
    def debug(self) -> bool:
        """Whether the host may read the guest's memory."""
        return bool(self.flags & PolicyFlag.DEBUG)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the flags that are set, the lowest first."""
        return tuple(str(flag.name) for flag in PolicyFlag if flag & self.flags)


def _error(word: int, reason: str) -> GuestPolicyError:
    return GuestPolicyError(
        reason,
        subject=f"guest policy {word:#x}",
        advice="give the policy that the guest is started with, such as 0x30000 (QEMU's default)",
    )
