"""What a report says of its guest and of the platform's settings, against a policy.

=========================  ==============================================================================
``vmpl``                   privilege level that asked, one of the policy's and below 4: the host can ask
                           too, for level 0xffffffff, and then chooses the report data
``guest-policy``           only defined bits, bit 17 set; the least ABI is not above the firmware's
``debug``                  the host may not read memory: never up to a policy
``cxl``                    no memory on CXL devices, which is outside the socket: never up to a policy
``migration-agent``        none in guest policy and report id, unless allowed
``smt``                    neither on nor allowed by the guest, unless allowed
``required-guest-policy``  bits that must be set in the guest policy
``platform-info``          only defined bits
``required-platform-info`` bits that must be set there
``provisional-firmware``   reported and current TCB and firmware are the committed ones, unless allowed
``guest-svn``              at least the policy's
``id-key``, ``author-key`` digests of the keys that signed the guest's identity, zeros where there is none
=========================  ==============================================================================

None ends the list. Bits and fields: 56860 revision 1.58, tables 10, 23 and 24.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from functools import lru_cache

from attestation.policy import SnpPolicy
from attestation.verdict import CheckList
from measurements.sev.guest_policy import GuestPolicy, GuestPolicyError, PolicyFlag
from measurements.sev.report import PlatformInfo, SnpReport

GUEST_CHECKS = (
    "vmpl",
    "guest-policy",
    "debug",
    "cxl",
    "migration-agent",
    "smt",
    "required-guest-policy",
    "platform-info",
    "required-platform-info",
    "provisional-firmware",
    "guest-svn",
    "id-key",
    "author-key",
)
GUEST_POLICY_NAMES: Mapping[str, PolicyFlag] = {
    "single-socket": PolicyFlag.SINGLE_SOCKET,
    "aes-256-xts": PolicyFlag.MEM_AES_256_XTS,
    "rapl-disabled": PolicyFlag.RAPL_DIS,
    "ciphertext-hiding": PolicyFlag.CIPHERTEXT_HIDING_DRAM,
    "page-swap-disabled": PolicyFlag.PAGE_SWAP_DISABLE,
}
"""Names in ``SnpPolicy.required_guest_policy``."""
PLATFORM_INFO_NAMES: Mapping[str, PlatformInfo] = {
    "ecc": PlatformInfo.ECC_EN,
    "tsme": PlatformInfo.TSME_EN,
    "rapl-disabled": PlatformInfo.RAPL_DIS,
    "ciphertext-hiding": PlatformInfo.CIPHERTEXT_HIDING_DRAM_EN,
    "alias-check": PlatformInfo.ALIAS_CHECK_COMPLETE,
}
"""Names in ``SnpPolicy.required_platform_info``."""

_HIGHEST_VMPL = 3
_NO_AGENT = b"\xff" * 32
_KNOWN_INFO = sum(PlatformInfo)
_START_AGAIN = "start the guest again with another guest policy"
_ASK_OPERATOR = "ask the host's operator for a machine that is set up so, or change the policy"


def check_guest(checks: CheckList, report: SnpReport, policy: SnpPolicy) -> None:
    """The checks of ``GUEST_CHECKS``; none ends the list."""
    checks.note(
        "vmpl",
        report.vmpl in policy.vmpls and report.vmpl <= _HIGHEST_VMPL,
        expected=", ".join(map(str, sorted(policy.vmpls))) or "none",
        found=str(report.vmpl),
        reason="the report was asked for at another privilege level, where other software runs",
        advice="ask for the report at an allowed VMPL, or allow this one",
    )
    _check_guest_policy(checks, report)
    _check_settings(checks, report, policy)
    _check_platform(checks, report, policy)
    checks.note(
        "guest-svn",
        report.guest_svn >= policy.min_guest_svn,
        expected=f"at least {policy.min_guest_svn}",
        found=str(report.guest_svn),
        reason="the guest's security version is too low",
        advice="start the guest with a newer ID block",
    )
    _check_keys(checks, report, policy)


def _check_guest_policy(checks: CheckList, report: SnpReport) -> None:
    firmware = report.current_firmware
    try:
        parsed = _parse(report.policy)
        least = (parsed.abi_major, parsed.abi_minor)
        reason = f"it asks for ABI {least[0]}.{least[1]}, and the firmware has {firmware}"
        sane = least <= (firmware.major, firmware.minor)
    except GuestPolicyError as error:
        reason, sane = error.reason, False
    checks.note(
        "guest-policy",
        sane,
        expected="defined bits, bit 17 set, least ABI not above the firmware's",
        found=f"{report.policy:#x}",
        reason=reason,
        advice="check how the report was made: no firmware accepts this guest policy",
    )
    for name, flag, reason in (
        ("debug", PolicyFlag.DEBUG, "the host may read and write the guest's memory"),
        ("cxl", PolicyFlag.CXL_ALLOW, "the guest may get memory on CXL devices, outside the socket"),
    ):
        checks.note(
            name,
            not report.policy & flag,
            expected=f"{flag.name} not set",
            found=f"guest policy {report.policy:#x}",
            reason=reason,
            advice=_START_AGAIN,
        )


@lru_cache(maxsize=64)
def _parse(word: int) -> GuestPolicy:
    return GuestPolicy.parse(word)


def _check_settings(checks: CheckList, report: SnpReport, policy: SnpPolicy) -> None:
    agent = bool(report.policy & PolicyFlag.MIGRATE_MA) or report.report_id_ma != _NO_AGENT
    checks.note(
        "migration-agent",
        policy.migration_agent or not agent,
        expected="allowed" if policy.migration_agent else "none",
        found=f"guest policy {report.policy:#x}, agent's report id {report.report_id_ma.hex()}",
        reason="a migration agent may move the guest, with its memory, to another machine",
        advice=_START_AGAIN,
    )
    on, allowed = report.platform_info & PlatformInfo.SMT_EN, report.policy & PolicyFlag.SMT
    checks.note(
        "smt",
        policy.smt or not (on or allowed),
        expected="allowed" if policy.smt else "off, and not allowed by the guest policy",
        found=f"{'on' if on else 'off'}, guest policy {report.policy:#x}",
        reason="two threads share a core: SMT is on, or the guest would start where it is",
        advice="switch SMT off in the host's firmware and clear bit 16 of the guest policy, or allow it",
    )
    _check_required(
        checks, "required-guest-policy", report.policy, policy.required_guest_policy, GUEST_POLICY_NAMES
    )


def _check_platform(checks: CheckList, report: SnpReport, policy: SnpPolicy) -> None:
    unknown = report.platform_info & ~_KNOWN_INFO
    checks.note(
        "platform-info",
        not unknown,
        expected="only defined bits",
        found=f"{report.platform_info:#x}",
        reason=f"bits {unknown:#x} are not defined, so what they say is not known",
        advice="take a newer version of this program",
    )
    _check_required(
        checks,
        "required-platform-info",
        report.platform_info,
        policy.required_platform_info,
        PLATFORM_INFO_NAMES,
    )
    _check_provisional(checks, report, policy)


def _check_provisional(checks: CheckList, report: SnpReport, policy: SnpPolicy) -> None:
    apart = [
        f"{name} {found}"
        for name, found, committed in (
            ("reported TCB", report.reported_tcb, report.committed_tcb),
            ("current TCB", report.current_tcb, report.committed_tcb),
            ("current firmware", report.current_firmware, report.committed_firmware),
        )
        if found != committed
    ]
    checks.note(
        "provisional-firmware",
        policy.provisional_firmware or not apart,
        expected="allowed"
        if policy.provisional_firmware
        else f"as committed: {report.committed_tcb}; firmware {report.committed_firmware}",
        found="; ".join(apart) or "as committed",
        reason="what runs or signs is not what the platform is committed to: it can change under the guest",
        advice=_ASK_OPERATOR,
    )


def _check_keys(checks: CheckList, report: SnpReport, policy: SnpPolicy) -> None:
    checks.note(
        "id-key",
        policy.id_keys.holds(report.id_key_digest.hex()),
        expected=str(policy.id_keys),
        found=report.id_key_digest.hex(),
        reason="the guest's identity is not signed by an allowed ID key",
        advice="start the guest with an ID block of an allowed key, or list this key's digest",
    )
    present = report.author_key_digest != bytes(48)
    agrees = present == report.author_key_enabled
    checks.note(
        "author-key",
        agrees and policy.author_keys.holds(report.author_key_digest.hex()),
        expected=str(policy.author_keys),
        found=report.author_key_digest.hex(),
        reason="the ID key is not signed by an allowed author key"
        if agrees
        else "key info and author key digest contradict each other",
        advice="start the guest with an author key that is allowed, or list this key's digest",
    )


def _check_required(
    checks: CheckList, name: str, value: int, required: frozenset[str], names: Mapping[str, IntFlag]
) -> None:
    """A name that is not known is missing: nothing can show that it holds."""
    missing = sorted(one for one in required if one not in names or not value & names[one])
    checks.note(
        name,
        not missing,
        expected=", ".join(sorted(required)) or "nothing",
        found=f"{value:#x}" + (f", without {', '.join(missing)}" if missing else ""),
        reason=f"{', '.join(missing)} not set",
        advice=_ASK_OPERATOR if names is PLATFORM_INFO_NAMES else _START_AGAIN,
    )
