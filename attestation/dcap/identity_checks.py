"""Which machine made the quote, and how it is configured, against the policy's lists.

=====================  ==================================================================================
check                  passes if (none ends the list)
=====================  ==================================================================================
``ppid``               the processor's id is on the list
``platform-instance``  the platform's id is on the list; a platform without one only if any is allowed
``fmspc-allowed``      the platform's kind is on the list
``dynamic-platform``   no packages can be added, or the policy allows it
``cached-keys``        Intel keeps no copy of the platform's root keys, or the policy allows it
``smt``                no two threads share a core, or the policy allows it
=====================  ==================================================================================

PCK certificates of the Processor CA do not say how the platform is configured: what is not known is refused
unless the policy allows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from attestation.dcap.pck_extension import PckExtension
from attestation.policy import Allowed, DcapPolicy
from attestation.verdict import CheckList, Verdict

IDENTITY_CHECKS = (
    "ppid",
    "platform-instance",
    "fmspc-allowed",
    "dynamic-platform",
    "cached-keys",
    "smt",
)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a policy says of machines."""

    ppids: Allowed
    platform_instances: Allowed
    fmspcs: Allowed
    dynamic_platform: bool
    cached_keys: bool
    smt: bool


def check_identity(checks: CheckList, machine: PckExtension, policy: DcapPolicy) -> None:
    """Checks of ``IDENTITY_CHECKS``, kept."""
    rules = _Rules(
        policy.ppids,
        policy.platform_instances,
        policy.fmspcs,
        policy.dynamic_platform,
        policy.cached_keys,
        policy.smt,
    )
    checks.replay(_kept(machine, rules), ends=False)


@lru_cache(maxsize=256)
def _kept(machine: PckExtension, rules: _Rules) -> Verdict:
    checks = CheckList()
    instance = machine.platform_instance
    _listed(checks, "ppid", machine.ppid.hex(), rules.ppids, "ppids")
    _listed(
        checks,
        "platform-instance",
        "none" if instance is None else instance.hex(),
        rules.platform_instances,
        "platform_instances",
    )
    _listed(checks, "fmspc-allowed", machine.fmspc.hex(), rules.fmspcs, "fmspcs")
    _flag(checks, "dynamic-platform", machine.dynamic_platform, rules.dynamic_platform)
    _flag(checks, "cached-keys", machine.cached_keys, rules.cached_keys)
    _flag(checks, "smt", machine.smt, rules.smt)
    return checks.verdict()


def flag_word(flag: bool | None) -> str:
    """``yes``, ``no`` or ``unknown``."""
    return "unknown" if flag is None else "yes" if flag else "no"


def _listed(checks: CheckList, name: str, found: str, allowed: Allowed, key: str) -> None:
    checks.note(
        name,
        allowed.any or (found != "none" and allowed.holds(found)),
        expected=str(allowed),
        found=found,
        reason=f"the machine's value is not on the policy's list {key}",
        advice=f"add it to {key} if this machine is meant to be allowed",
    )


def _flag(checks: CheckList, name: str, found: bool | None, allowed: bool) -> None:
    key = name.replace("-", "_")
    checks.note(
        name,
        allowed or found is False,
        expected="any" if allowed else "no",
        found=flag_word(found),
        reason="the platform is configured in a way that the policy does not allow, or does not say how",
        advice=f"have the platform configured otherwise, or set {key} = true in the policy",
    )
