"""The release decision (design 7.3), as pure functions: the first check that fails is the refusal.

The order is that of the functions here, called one after the other by ``kms.release``::

    kms.challenge.check_challenge     ours, alive, unused, for this request, activated
    check_evidence                    the verdict on the evidence; what it says agrees with the request
    kms.chain_view                    the head, and every word of the policy
    check_policy                      registry, KMS, platform root, reference, image, app, app hash, device
    check_rule                        the policy that the app names as its TCB rule, if it names one
    decide_instance                   whether the instance's disk may be formatted

An entry of the policy must hold both at the finalized block's time and now, where "now" is never before that
block: a clock that is set back helps nobody. Codes of entries are ``<entry>-not-allowed``, ``-revoked``,
``-not-yet-valid`` and ``-expired``; those of a rule's checks are ``tcb-rule-<check>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from attestation.tpm_evidence import TpmFacts, TpmVerification
from attestation.tpm_policy import check_tpm_policy
from contracts.layout import Entry
from kms.chain_view import ChainView, PolicyQuery
from kms.journal import ConfirmedInstance
from kms.messages import KeysRequest, listed_keys
from kms.refusal import RefusalCode, RefusalError
from kms.root_key import Identity
from kms.rules import Rules
from measurements.app_manifest import AppManifest, ProviderMode, parse_manifest
from measurements.errors import KeyturnError
from measurements.runtime_events import KmsProvider


class EntryName(StrEnum):
    """Entries of the policy, in the order in which they are checked."""

    KMS_NODE = "kms-node"
    PLATFORM_ROOT = "platform-root"
    REFERENCE = "reference"
    IMAGE = "image"
    APP = "app"
    APP_IMAGE = "app-image"
    APP_HASH = "app-hash"
    DEVICE = "device"


class EntryFault(StrEnum):
    """Why an entry does not permit."""

    NOT_ALLOWED = "not-allowed"
    REVOKED = "revoked"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"


_FAULT_TEXT = {
    EntryFault.NOT_ALLOWED: "is not allowed on chain",
    EntryFault.REVOKED: "is revoked on chain",
    EntryFault.NOT_YET_VALID: "is allowed on chain, but not yet",
    EntryFault.EXPIRED: "was allowed on chain, and has expired",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Established:
    """What verified evidence says about the guest that asks."""

    facts: TpmFacts
    manifest: AppManifest

    def query(self, kms_id: bytes) -> PolicyQuery:
        """What to ask the chain."""
        return PolicyQuery(
            kms_id=kms_id,
            reference_digest=self.facts.reference_digest,
            platform_root=self.facts.ek.platform_root,
            platform_id=self.facts.ek.platform_id,
            app_id=self.facts.release.app_id,
            app_hash=self.facts.release.app_hash,
        )


def check_evidence(request: KeysRequest, verification: TpmVerification, identity: Identity) -> Established:
    """What the evidence establishes. Raises ``RefusalError``; the code of a failed check is its name."""
    failure = verification.verdict.first_failure
    if failure is not None:
        raise RefusalError(
            failure.name,
            f"{failure.reason} (expected {failure.expected}, found {failure.found})",
            subject="evidence",
            advice=failure.advice,
        )
    facts = verification.facts
    assert facts is not None
    release = facts.release
    if release.dev and not identity.development:
        raise _refusal(
            RefusalCode.DEV_IMAGE, "a development image asks a release KMS", advice="build without dev = true"
        )
    if (release.app_id, release.instance_id) != (request.app_id, request.instance_id):
        raise _refusal(
            RefusalCode.APP_ID,
            "the guest measured another app or instance than it asks for",
            advice="ask for the app and instance of the configuration disk",
        )
    manifest = _read_manifest(facts.app_manifest)
    if manifest.app_id != release.app_id:
        raise _refusal(
            RefusalCode.APP_ID, "the app manifest is of another app", advice="build the app with its own id"
        )
    _check_pin(facts, manifest, identity)
    _check_keys(request, manifest)
    return Established(facts=facts, manifest=manifest)


def check_policy(established: Established, view: ChainView, identity: Identity, *, now: int) -> None:
    """Raises ``RefusalError`` unless the contracts allow everything that was established."""
    times = (view.head.time, max(now, view.head.time))
    facts, state = established.facts, view.app_state
    if view.registry.paused:
        raise _refusal(RefusalCode.REGISTRY_PAUSED, "the registry is paused", advice="ask its guardian")
    _check_entry(EntryName.KMS_NODE, view.kms_node.entry, identity.kms_id, times)
    if view.kms_node.signer != identity.address:
        raise _refusal(
            RefusalCode.KMS_SIGNER,
            "this KMS is registered with another signer",
            advice="register the KMS with the address that /v1/public-key shows",
        )
    _check_entry(EntryName.PLATFORM_ROOT, view.platform_root, facts.ek.platform_root, times)
    _check_entry(EntryName.REFERENCE, view.reference, facts.reference_digest, times)
    _check_entry(EntryName.IMAGE, view.image, view.image_id, times)
    _check_entry(EntryName.APP, view.app, facts.release.app_id, times)
    if state.paused:
        raise _refusal(RefusalCode.APP_PAUSED, "the app is paused", advice="ask its guardian")
    if any(time >= state.expiry for time in times):
        raise _refusal(RefusalCode.APP_EXPIRED, "the app has expired", advice="extend it on chain")
    _check_entry(EntryName.APP_IMAGE, view.app_image, view.image_id, times)
    _check_entry(EntryName.APP_HASH, view.app_hash, facts.release.app_hash, times)
    if not state.any_device:
        _check_entry(EntryName.DEVICE, view.device, facts.ek.platform_id, times)


def check_rule(
    established: Established, view: ChainView, request: KeysRequest, rules: Rules, *, report_data: bytes
) -> None:
    """Raises ``RefusalError`` unless the app names no TCB rule, or one that allows the evidence.

    ``report_data`` (64 bytes) is what the quote binds. The refusal says each check that failed, what the
    evidence has and what the rule needs.
    """
    if view.tcb_rule is None:
        return
    policy = rules.get(view.tcb_rule)
    if policy is None:
        raise _refusal(
            RefusalCode.TCB_RULE,
            f"the app asks for TCB rule {view.tcb_rule.hex()}, which this KMS does not know",
            advice="give the KMS the policy with this digest, or ask a KMS that has it",
        )
    verdict = check_tpm_policy(policy, established.facts, pcrs=request.evidence.pcrs, report_data=report_data)
    if verdict.passed:
        return
    failures = [check for check in verdict.checks if not check.passed]
    raise RefusalError(
        f"{RefusalCode.TCB_RULE}-{failures[0].name}",
        "; ".join(f"{one.name}: {one.reason} (have {one.found}, need {one.expected})" for one in failures),
        subject=f"TCB rule {policy.name}",
        advice=failures[0].advice,
    )


def decide_instance(request: KeysRequest, *, epoch: int, confirmed: ConfirmedInstance | None) -> bool:
    """Whether the instance's disk may be formatted: until it is confirmed. Raises ``RefusalError``.

    A disk that was formatted under another key epoch is refused: its key is not given out again, and
    formatting it anew would lose its data.
    """
    if not request.wants_storage:
        return False
    if confirmed is None:
        return True
    if confirmed.epoch != epoch:
        raise _refusal(
            RefusalCode.INSTANCE_EPOCH,
            f"the instance's disk belongs to key epoch {confirmed.epoch}, the app is at {epoch}",
            advice="start a new instance and restore its data",
        )
    return False


def _check_entry(name: EntryName, entry: Entry, value: bytes, times: tuple[int, int]) -> None:
    fault = entry_fault(entry, times)
    if fault is not None:
        raise RefusalError(
            f"{name.value}-{fault.value}",
            f"{name.value} {value.hex()} {_FAULT_TEXT[fault]}",
            subject="policy",
            advice="keyturn chain status shows the entries, keyturn chain allow proposes one",
        )


def entry_fault(entry: Entry, times: tuple[int, int]) -> EntryFault | None:
    """Why ``entry`` does not hold at both times, if it does not."""
    if not entry.exists:
        return EntryFault.NOT_ALLOWED
    if entry.revoked:
        return EntryFault.REVOKED
    if any(time < entry.not_before for time in times):
        return EntryFault.NOT_YET_VALID
    if not all(entry.holds_at(time) for time in times):
        return EntryFault.EXPIRED
    return None


def _read_manifest(data: bytes) -> AppManifest:
    try:
        return parse_manifest(data)
    except KeyturnError as error:
        raise RefusalError(
            RefusalCode.APP_MANIFEST, error.reason, subject=error.subject, advice=error.advice
        ) from error


def _check_pin(facts: TpmFacts, manifest: AppManifest, identity: Identity) -> None:
    pin = identity.pin
    measured = facts.release.key_provider
    wanted = KmsProvider(kms_root=identity.kms_id, chain_id=pin.chain_id, contract=pin.contract)
    provider = manifest.key_provider
    pinned = (provider.mode, provider.kms_root, provider.chain_id, provider.contract)
    if measured != wanted or pinned != (ProviderMode.KMS, wanted.kms_root, wanted.chain_id, wanted.contract):
        raise _refusal(
            RefusalCode.KMS_PIN,
            "the app pins another KMS, chain or registry than this one",
            advice="ask the KMS that the app manifest names, or build the app for this one",
        )


def _check_keys(request: KeysRequest, manifest: AppManifest) -> None:
    listed = listed_keys(manifest)
    unlisted = [key for key in request.keys if (key.path, key.kind, key.scope) not in listed]
    if unlisted:
        raise _refusal(
            RefusalCode.UNLISTED_KEY,
            f"the app manifest does not list key {unlisted[0].path!r} of this kind and scope",
            advice="list the key in app.toml and build the app again",
        )


def _refusal(code: RefusalCode, reason: str, *, advice: str) -> RefusalError:
    return RefusalError(code, reason, subject="key release", advice=advice)
