"""From the arguments of ``keyturn chain set`` to calls of an app's contract."""

from __future__ import annotations

from dataclasses import dataclass

from contracts import policy
from contracts.binding import Batch, Call
from contracts.layout import UpgradeMode
from keyturn.chain_options import ChainUsageError, parse_identifier

_LARGEST_NOTICE = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What ``set`` is asked for; ``None`` and false leave a setting as it is."""

    expiry: int | None = None
    mode: UpgradeMode | None = None
    notice: int | None = None
    any_device: bool = False
    require_listed_device: bool = False
    tcb_rule: str | None = None


def settings_call(app: str, wanted: Settings, *, current_notice: int) -> Call | Batch:
    """One call, or several that the timelock carries out as a whole.

    ``current_notice`` holds when a mode is set without one. Raises ``ChainUsageError``.
    """
    _check(wanted)
    if wanted.require_listed_device:
        return policy.require_listed_device(app)
    calls: list[Call] = []
    if wanted.expiry is not None:
        calls.append(policy.set_expiry(app, wanted.expiry))
    if wanted.mode is not None:
        notice = current_notice if wanted.notice is None else wanted.notice
        calls.append(policy.tighten(app, wanted.mode, notice))
    if wanted.any_device:
        calls.append(policy.allow_any_device(app))
    if wanted.tcb_rule is not None:
        calls.append(policy.set_tcb_rule(app, _rule(wanted.tcb_rule)))
    return calls[0] if len(calls) == 1 else Batch(tuple(calls))


def _check(wanted: Settings) -> None:
    if wanted == Settings():
        raise _usage("chain set", "is told to set nothing", "name a setting")
    if wanted.require_listed_device and wanted != Settings(require_listed_device=True):
        raise _usage(
            "--require-listed-device",
            "is the guardian's, at once; the other settings are the timelock's",
            "give it in a command of its own",
        )
    if wanted.notice is not None:
        if wanted.mode is None:
            raise _usage("--notice", "belongs to --mode", "name the mode, too")
        if wanted.notice > _LARGEST_NOTICE:
            raise _usage("--notice", f"is more than {_LARGEST_NOTICE} seconds", "choose a shorter notice")
    if wanted.mode is UpgradeMode.DELAYED and not wanted.notice:
        raise _usage("--notice", "is missing for mode delayed", "say how many seconds before new code starts")


def _rule(text: str) -> bytes:
    rule = parse_identifier(text, option="--tcb-rule")
    if len(rule) != 32:
        raise _usage("--tcb-rule", "is no digest", "pass a policy file, or 64 hexadecimal digits")
    return rule


def _usage(subject: str, reason: str, advice: str) -> ChainUsageError:
    return ChainUsageError(reason, subject=subject, advice=advice)
