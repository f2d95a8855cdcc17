"""Checks of a dstack guest's runtime events, against its quote and against the app that is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from measurements.dstack.aggregates import compose_hash
from measurements.dstack.app_compose import AppCompose, Deployment, boot_events, parse_app_compose
from measurements.dstack.errors import DstackFormatError
from measurements.dstack.event_log import (
    RUNTIME_REGISTER,
    LogEvent,
    digests,
    replay_digests,
    runtime_events,
    wrong_digests,
)
from measurements.dstack.expectations import Expectations
from measurements.dstack.json_documents import closed_object, octets, parse_document, text
from measurements.dstack.judgement import Checks
from measurements.dstack.mr_config import (
    KeyProvider,
    config_id_v1,
    config_id_v2,
    config_id_v3,
    parse_mr_config,
)
from measurements.dstack.runtime_events import BootFacts, EventName, RuntimeEvent, read_boot
from measurements.errors import KeyturnError
from measurements.tdx.quote import TdBody

_TAKE_AGAIN = "take the report again; if it stays so, do not trust the deployment"
_ASK_OWNER = "ask the app's owner for the file of this deployment, and compare it with the one you have"


def check_events(checks: Checks, log: Sequence[LogEvent], body: TdBody) -> BootFacts | None:
    """Digests, replay and order of the runtime events; the boot's facts, or ``None`` if it is none."""
    wrong = wrong_digests(log)
    checks.require(
        "runtime-digests",
        not wrong,
        expected="every stated digest is that of its name and payload",
        found=", ".join(event.name for event in wrong) or "all are",
        reason="the log states digests that its own names and payloads do not have",
        advice=_TAKE_AGAIN,
    )
    checks.equal(
        "rtmr3-replay",
        expected=body.rtmrs[RUNTIME_REGISTER],
        found=replay_digests(digests(log, RUNTIME_REGISTER)),
        reason="the log's runtime events do not give the RTMR3 of the quote",
        advice=_TAKE_AGAIN,
    )
    return checks.attempt(
        "runtime-order",
        lambda: read_boot(runtime_events(log)),
        expected="the events of one boot, in their order",
    )


def check_app(checks: Checks, events: Sequence[RuntimeEvent], facts: BootFacts, known: Expectations) -> None:
    """The app: its own events, its file's hash, and that the boot's events follow from the file."""
    unknown = sorted({event.name for event in facts.app_events} - known.app_events)
    checks.require(
        "app-events",
        not unknown,
        expected=", ".join(sorted(known.app_events)) or "no event after system-ready",
        found=", ".join(event.name for event in facts.app_events) or "none",
        reason=f"the app extended {', '.join(unknown)} after its boot, which is not expected",
        advice="find out what the event means, and name it as expected if it is harmless",
    )
    if known.app_compose is None:
        for name in ("compose-hash", "app-events-derived"):
            checks.unchecked(
                name,
                expected="the hash of the app's own file",
                reason=f"the deployment says {facts.compose_hash.hex()}, and no file is given",
                advice="give the app-compose.json that you expect",
            )
        return
    same = checks.equal(
        "compose-hash",
        expected=compose_hash(known.app_compose),
        found=facts.compose_hash,
        reason="the deployment runs another app-compose.json",
        advice=_ASK_OWNER,
    )
    if not same:
        return
    compose = known.app_compose
    checks.attempt(
        "app-events-derived",
        lambda: _require_derived(parse_app_compose(compose), events, facts),
        expected="the events that follow from app-compose.json",
    )


def check_configuration(
    checks: Checks, body: TdBody, facts: BootFacts, document: bytes | None, known: Expectations
) -> None:
    """MRCONFIGID: what the host bound at launch must be what the guest says that it runs."""
    name, found = "mr-config-id", body.mrconfigid
    if not any(found):
        if known.unbound:
            checks.equal(name, expected=found, found=found, reason="", advice="")
            return
        checks.unchecked(
            name,
            expected="the app's identity, bound at launch",
            reason="the host bound nothing at launch, so the app's identity rests on RTMR3 alone",
            advice="accept it knowingly (unbound), or have the host set MRCONFIGID",
        )
        return
    try:
        expected = _config_id(found[0], facts, document)
    except KeyturnError as error:
        checks.require(
            name,
            False,
            expected="a configuration that the events confirm",
            found=found.hex(),
            reason=f"{error.subject}: {error.reason}",
            advice=error.advice,
        )
        return
    checks.equal(
        name,
        expected=expected,
        found=found,
        reason="the host bound another app at launch than the events name",
        advice=_TAKE_AGAIN,
    )


def provider_fields(payload: bytes) -> tuple[KeyProvider, str]:
    """Kind and id in a ``key-provider`` payload; raises ``DstackFormatError``."""
    subject = "key-provider event"
    fields = closed_object(
        parse_document(payload, subject=subject),
        required=frozenset({"name", "id"}),
        optional=frozenset(),
        subject=subject,
    )
    kind = next((each for each in KeyProvider if each.event_name == fields["name"]), None)
    if kind is None:
        raise DstackFormatError(
            f"names the unknown provider {fields['name']!r}",
            subject=subject,
            advice="use a dstack guest of a known version",
        )
    return kind, text(fields["id"], subject=f"{subject}, id")


def _require_derived(app: AppCompose, events: Sequence[RuntimeEvent], facts: BootFacts) -> None:
    """Raise unless the boot's events are those of ``app`` with the facts that it leaves open."""
    kind, provider_id = provider_fields(facts.key_provider)
    deployment = Deployment(
        app_id=facts.app_id,
        instance_id=facts.instance_id,
        provider_id=provider_id,
        os_image_hash=facts.os_image_hash,
        gpu_attestation=facts.gpu_attestation,
        gpu_policy=facts.gpu_policy_hash is not None,
        storage=facts.storage_fs is not None,
    )
    if kind is not app.key_provider:
        _differs(f"the keys come from {kind.value}, and the file asks for {app.key_provider.value}")
    if app.key_provider_id and provider_id != app.key_provider_id.hex():
        _differs("the keys come from another provider than the one that the file pins")
    boot = events[: len(events) - len(facts.app_events)]
    found = [event for event in boot if event.name != EventName.ROOTFS_HASH]
    expected = boot_events(app, deployment)
    for one, other in zip(found, expected, strict=False):
        if one != other:
            _differs(f"{one.name} is {one.payload.hex()} where {other.name} {other.payload.hex()} follows")
    if len(found) != len(expected):
        _differs(f"there are {len(found)} events, and {len(expected)} follow from the file")


def _differs(reason: str) -> None:
    raise DstackFormatError(reason, subject="app-compose.json", advice=_ASK_OWNER)


def _config_id(version: int, facts: BootFacts, document: bytes | None) -> bytes:
    """MRCONFIGID that the events (and for version 3 the document) give."""
    if version == 1:
        return config_id_v1(facts.compose_hash)
    kind, provider_id = provider_fields(facts.key_provider)
    if version == 2:
        return config_id_v2(
            compose_hash=facts.compose_hash,
            app_id=facts.app_id,
            key_provider=kind,
            key_provider_id=octets(provider_id, subject="key-provider event, id"),
        )
    if version == 3 and document is not None:
        require_document(document, facts)
        return config_id_v3(document)
    raise DstackFormatError(
        f"is of version {version}" + ("" if document else ", and there is no mr_config document"),
        subject="MRCONFIGID",
        advice="use a report that carries its mr_config, of version 1 to 3",
    )


def require_document(document: bytes, facts: BootFacts) -> None:
    """Raise ``DstackFormatError`` unless an mr_config document says what the events say."""
    config = parse_mr_config(document)
    kind, provider_id = provider_fields(facts.key_provider)
    # Fields that the document leaves out, or empty, bind nothing.
    said: Mapping[str, tuple[object, object]] = {
        "app_id": (config.app_id, facts.app_id),
        "compose_hash": (config.compose_hash, facts.compose_hash),
        "key_provider": (config.key_provider, kind),
        "key_provider_id": (config.key_provider_id.hex() or None, provider_id),
        "instance_id": (config.instance_id or None, facts.instance_id),
        "gpu_policy_hash": (config.gpu_policy_hash, facts.gpu_policy_hash),
        "init_script_hashes": (config.init_script_hashes, facts.init_script_hashes),
    }
    for field, (bound, event) in said.items():
        if bound is not None and bound != event:
            raise DstackFormatError(
                f"{field} is not what the runtime events say",
                subject="mr_config document",
                advice=_TAKE_AGAIN,
            )
