"""Which app runs, by the runtime events in the evidence.

Called once every log has been held against verified registers, so that what is read here was measured:

=================  ======================================================================================
``release-image``  keyturn's runtime events do not mark a development image, unless the policy is for
                   development
``runtime-log``    keyturn's runtime events are exactly those of one boot, in their order
``app-hash``       the app is one of the policy: its hash stands in keyturn's ``app-hash`` event, or in
                   dstack's ``compose-hash`` event, exactly once
``app-manifest``   the app manifest in the evidence, if there is one, has the measured hash
=================  ======================================================================================
"""

from __future__ import annotations

from functools import lru_cache

from attestation.container import EvidenceContainer, Log, LogFormat
from attestation.event_log_records import LogRecord, parse_runtime_log
from attestation.event_logs import parse_log
from attestation.policy import Environment, Policy
from attestation.verdict import CheckList
from measurements.app_manifest import app_hash
from measurements.dstack.runtime_events import EVENT_TYPE as DSTACK_EVENT_TYPE
from measurements.dstack.runtime_events import EventName as DstackEvent
from measurements.errors import KeyturnError
from measurements.runtime_events import EventName, RuntimeEvent, parse_full_log, parse_release_log

APP_CHECKS = ("release-image", "runtime-log", "app-hash", "app-manifest")

_HASH_SIZE = 32
_AGAIN = "take the evidence again, with its runtime events"


def check_app(checks: CheckList, evidence: EvidenceContainer, policy: Policy) -> None:
    """Make the checks; raises ``CheckFailedError`` at the first that fails."""
    events = _runtime_events(evidence)
    _check_kind(checks, events, policy)
    with checks.step("runtime-log", expected="the runtime events of one boot, if there are any"):
        _check_order(events)
    found = _app_hash(evidence, events)
    checks.require(
        "app-hash",
        policy.app_hashes.any or (found is not None and policy.app_hashes.holds(found.hex())),
        expected=str(policy.app_hashes),
        found="no app hash in the runtime events" if found is None else found.hex(),
        reason="the policy does not allow this app, or nothing says which it is",
        advice="allow the app's hash in the policy, or send the log of the runtime events",
    )
    _check_manifest(checks, evidence, found)


def _runtime_events(evidence: EvidenceContainer) -> tuple[RuntimeEvent, ...] | None:
    for log in evidence.logs:
        if log.format is LogFormat.KEYTURN:
            return parse_runtime_log(log.data)
    return None


def _check_kind(checks: CheckList, events: tuple[RuntimeEvent, ...] | None, policy: Policy) -> None:
    development = any(event.name == EventName.DEV_IMAGE for event in events or ())
    allowed = policy.environment is Environment.DEV
    checks.require(
        "release-image",
        allowed or not development,
        expected="an image of any kind" if allowed else "a release image",
        found="a development image" if development else "no mark of a development image",
        reason="a development image lets its operator in",
        advice="boot an image that was built without dev = true, or use a policy for development",
    )


def _check_order(events: tuple[RuntimeEvent, ...] | None) -> None:
    """Either part of a boot, or both; raises what is wrong with the longer."""
    if events is None:
        return
    try:
        parse_release_log(events)
    except KeyturnError:
        parse_full_log(events)


def _app_hash(evidence: EvidenceContainer, events: tuple[RuntimeEvent, ...] | None) -> bytes | None:
    """The one hash that the measured events name; None without one, or with more than one."""
    found = [event.payload for event in events or () if event.name == EventName.APP_HASH]
    for log in evidence.logs:
        if log.format is LogFormat.DSTACK:
            found += _compose_hashes(log)
    return found[0] if len(found) == 1 and len(found[0]) == _HASH_SIZE else None


@lru_cache(maxsize=16)
def _compose_hashes(log: Log) -> tuple[bytes, ...]:
    return tuple(one.data for one in parse_log(log).records if _is_compose_hash(one))


def _is_compose_hash(record: LogRecord) -> bool:
    """Only of runtime events does the digest cover the name: that of any other is the sender's choice."""
    return record.event_type == DSTACK_EVENT_TYPE and record.name == DstackEvent.COMPOSE_HASH


def _check_manifest(checks: CheckList, evidence: EvidenceContainer, measured: bytes | None) -> None:
    if evidence.app_manifest is None:
        checks.require(
            "app-manifest", True, expected="none, or the measured one", found="none", reason="", advice=""
        )
        return
    checks.equal(
        "app-manifest",
        expected=measured or b"",
        found=app_hash(evidence.app_manifest),
        reason="the app manifest is not the one that the guest measured",
        advice=_AGAIN,
    )
