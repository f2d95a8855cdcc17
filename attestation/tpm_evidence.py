"""Verification of TPM evidence: from the EK certificate to the app manifest, one check after another.

A pure function of evidence, expectations and time; the first failed check ends it. Order and names of checks:

=======================  =================================================================================
``size``                 every part within its cap, both banks complete
``ek-chain``             the EK certificate chains to an allowed root
``ak-key``               the AK's public area is well formed
``ak-attributes``        restricted signing key that never left its TPM (part 1, section 25)
``quote-signature``      the AK signed the quote
``quote-type``           it is a quote that a TPM made
``quote-signer``         qualified signer: this AK, as a primary key of the endorsement hierarchy
``report-data``          qualifying data is SHA-256 of the report data: nonce, keys, identities
``pcr-selection``        PCR 0 to 14 of SHA-256, then of SHA-384
``pcr-digest``           the digest is that of the register values shown
``event-log``            the firmware's log is well formed and has both banks
``event-log-registers``  it extends PCR 0 to 9 and 11 to 13 only
``event-log-replay``     it yields those registers, in both banks
``runtime-events``       the runtime events are well formed
``runtime-replay``       they yield PCR 14, in both banks
``runtime-log``          they are exactly those of a boot (``measurements.runtime_events``)
``reference-form``       the reference values have a digest
``reference``            the declared reference values are the expected ones
``registers``            PCR 0 to 13 are those of the reference
``image-kind``           PCR 14 begins as the reference says: development image or not
``app-manifest``         the app manifest has the measured app hash
=======================  =================================================================================

That the AK sits beside the EK is proven by a credential, not by the evidence: the caller makes one with
``credential_for`` and checks what the guest opened with ``credential.check_activation``. Descriptions inside
the firmware's log are not covered by any signature and not used here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from attestation.credential import Credential, make_credential
from attestation.ek_certificate import EkCertificate, ek_public_key, verify_ek_certificate
from attestation.evidence import MAX_PAYLOAD, MAX_RUNTIME_EVENTS, MAX_SIZES, Evidence
from attestation.report_data import qualifying_data
from attestation.tpm_signature import verify_signature
from attestation.tpm_structures import (
    Attributes,
    HashAlgorithm,
    Public,
    Quote,
    Selection,
    parse_public,
    parse_quote,
    parse_signature,
)
from attestation.verdict import CheckFailedError, CheckList, Verdict
from measurements.app_manifest import app_hash
from measurements.eventlog import Algorithm, EventLog, parse_event_log
from measurements.reference_digest import BANK_SIZES, PCRS, ReferenceValues, reference_digest
from measurements.runtime_events import (
    DEV_IMAGE,
    RUNTIME_BANKS,
    RUNTIME_PCR,
    FullFacts,
    ReleaseFacts,
    parse_full_log,
    parse_release_log,
    replay_runtime_events,
)

LOGGED_PCRS = tuple(pcr for pcr in PCRS if pcr not in (10, RUNTIME_PCR))
"""Registers of the firmware's log; IMA keeps PCR 10 and the guest PCR 14."""

AK_REQUIRED = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.RESTRICTED
    | Attributes.SIGN
)
AK_FORBIDDEN = Attributes.DECRYPT | Attributes.ENCRYPTED_DUPLICATION | Attributes.X509_SIGN
SELECTIONS = (
    Selection(algorithm=HashAlgorithm.SHA256, pcrs=PCRS),
    Selection(algorithm=HashAlgorithm.SHA384, pcrs=PCRS),
)

_ALGORITHMS = {"sha256": Algorithm.SHA256, "sha384": Algorithm.SHA384}
_AGAIN = "take new evidence from the guest"
_EXPLAIN = "let keyturn explain name the input that differs, then build or predict again"

Registers = Mapping[str, Mapping[int, bytes]]


class LogPart(Enum):
    """How far the guest's boot must be: at the quote for key release, or with its workload running."""

    RELEASE = "release"
    FULL = "full"


@dataclass(frozen=True, kw_only=True, slots=True)
class TpmFacts:
    """What verified evidence says. ``running`` is there for ``LogPart.FULL``; ``release.dev`` marks a
    development image, which is a fact and no failure.
    """

    ek: EkCertificate
    ak_name: bytes
    release: ReleaseFacts
    running: FullFacts | None
    reference_digest: bytes
    app_manifest: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class TpmVerification:
    """The verdict, and the facts only if it passed: a claim that was not verified is no fact."""

    verdict: Verdict
    facts: TpmFacts | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectations:
    """What the verifier holds against the evidence.

    ``report_data`` (64 bytes) is computed by the verifier from its own nonce and the request; ``roots`` and
    ``intermediates`` are DER; ``now`` is in seconds since 1970. ``reference`` holds the values that the
    caller expects; a KMS passes those of the evidence and then asks the chain for ``reference_digest``.
    """

    report_data: bytes
    roots: Sequence[bytes]
    reference: ReferenceValues
    now: int
    part: LogPart
    intermediates: Sequence[bytes] = ()


def verify_tpm_evidence(evidence: Evidence, expectations: Expectations) -> TpmVerification:
    """Make all checks in their order; never raises for bad evidence, only ``ReportDataError`` for
    ``report_data`` of another size.
    """
    checks = CheckList()
    try:
        facts = _verify(checks, evidence, expectations)
    except CheckFailedError:
        return TpmVerification(verdict=checks.verdict(), facts=None)
    return TpmVerification(verdict=checks.verdict(), facts=facts)


def credential_for(*, ek_certificate: bytes, ak_public: bytes, secret: bytes) -> Credential:
    """A credential that only the TPM with this EK and this AK opens. Raises ``KeyturnError`` for bad keys;
    neither is verified by it.
    """
    return make_credential(ek_public_key(ek_certificate), name=parse_public(ak_public).name, secret=secret)


def _verify(checks: CheckList, evidence: Evidence, expectations: Expectations) -> TpmFacts:
    _check_sizes(checks, evidence)
    with checks.step("ek-chain", expected="an EK certificate under an allowed root"):
        ek = verify_ek_certificate(
            evidence.ek_certificate,
            roots=expectations.roots,
            intermediates=expectations.intermediates,
            now=expectations.now,
        )
    ak = _check_ak(checks, evidence)
    _check_quote(checks, evidence, ak, qualifying_data(expectations.report_data))
    _check_event_log(checks, evidence)
    release, running = _check_runtime_log(checks, evidence, expectations.part)
    digest = _check_reference(checks, evidence, expectations.reference, release)
    checks.equal(
        "app-manifest",
        expected=release.app_hash,
        found=app_hash(evidence.app_manifest),
        reason="the app manifest is not the one that the guest measured",
        advice="send the manifest from the guest's configuration disk",
    )
    return TpmFacts(
        ek=ek,
        ak_name=ak.name,
        release=release,
        running=running,
        reference_digest=digest,
        app_manifest=evidence.app_manifest,
    )


def _check_sizes(checks: CheckList, evidence: Evidence) -> None:
    """The same limits as in reading, since evidence can be put together without it."""
    wrong = [name for name, limit in MAX_SIZES.items() if not 0 < len(getattr(evidence, name)) <= limit]
    wrong += [bank for bank in RUNTIME_BANKS if not _complete(evidence.pcrs, bank)]
    if set(evidence.pcrs) - set(RUNTIME_BANKS):
        wrong.append("pcrs")
    events = evidence.runtime_events
    if len(events) > MAX_RUNTIME_EVENTS or any(len(event.payload) > MAX_PAYLOAD for event in events):
        wrong.append("runtime_events")
    checks.require(
        "size",
        not wrong,
        expected="every part present and within its cap",
        found=", ".join(wrong) or "as expected",
        reason="parts of the evidence are missing or too large",
        advice=_AGAIN,
    )


def _complete(pcrs: Registers, bank: str) -> bool:
    values = pcrs.get(bank, {})
    return set(values) == set(PCRS) and all(len(value) == BANK_SIZES[bank] for value in values.values())


def _check_ak(checks: CheckList, evidence: Evidence) -> Public:
    with checks.step("ak-key", expected="a TPMT_PUBLIC"):
        ak = parse_public(evidence.ak_public)
    fits = ak.attributes & AK_REQUIRED == AK_REQUIRED and not ak.attributes & AK_FORBIDDEN
    checks.require(
        "ak-attributes",
        fits and ak.name_algorithm is not HashAlgorithm.SHA1,
        expected=f"all of {_names(AK_REQUIRED)}; none of {_names(AK_FORBIDDEN)}",
        found=_names(ak.attributes),
        reason="the key could sign what no TPM made, or live outside its TPM",
        advice="make the attestation key from the guest agent's template",
    )
    return ak


def _names(attributes: Attributes) -> str:
    return ", ".join(flag.name.lower() for flag in attributes if flag.name) or "none"


def _check_quote(checks: CheckList, evidence: Evidence, ak: Public, qualifying: bytes) -> None:
    with checks.step("quote-signature", expected="the quote, signed by the attestation key"):
        verify_signature(ak, parse_signature(evidence.signature), evidence.quote)
    with checks.step("quote-type", expected="a TPMS_ATTEST of type quote"):
        quote = parse_quote(evidence.quote)
    checks.equal(
        "quote-signer",
        expected=ak.qualified_name(),
        found=quote.qualified_signer,
        reason="another key signed, or one that is no primary key of the endorsement hierarchy",
        advice="make the attestation key from the guest agent's template",
    )
    checks.equal(
        "report-data",
        expected=qualifying,
        found=quote.extra_data,
        reason="the quote was taken for another request: another nonce, key, identity or manifest",
        advice="ask for a new challenge and quote again",
    )
    _check_registers_quoted(checks, evidence, ak, quote)


def _check_registers_quoted(checks: CheckList, evidence: Evidence, ak: Public, quote: Quote) -> None:
    checks.require(
        "pcr-selection",
        quote.selections == SELECTIONS,
        expected=_describe(SELECTIONS),
        found=_describe(quote.selections),
        reason="the quote is not over exactly the registers that are checked",
        advice="quote PCR 0 to 14 of SHA-256, then of SHA-384",
    )
    assert ak.scheme_hash is not None  # the signature has the same hash
    values = b"".join(evidence.pcrs[bank][pcr] for bank in RUNTIME_BANKS for pcr in PCRS)
    checks.equal(
        "pcr-digest",
        expected=quote.digest,
        found=ak.scheme_hash.digest(values),
        reason="the register values are not those that the TPM signed",
        advice=_AGAIN,
    )


def _describe(selections: Iterable[Selection]) -> str:
    return "; ".join(f"{one.algorithm.bank}: {','.join(map(str, one.pcrs))}" for one in selections) or "none"


def _check_event_log(checks: CheckList, evidence: Evidence) -> None:
    with checks.step("event-log", expected="a TCG event log with both banks"):
        log = parse_event_log(evidence.event_log)
        replayed = {bank: log.replay(algorithm) for bank, algorithm in _ALGORITHMS.items()}
    strange = {pcr for registers in replayed.values() for pcr in registers} - set(LOGGED_PCRS)
    checks.require(
        "event-log-registers",
        log.crypto_agile and not strange,
        expected="records of PCR 0 to 9 and 11 to 13",
        found=f"also PCR {', '.join(map(str, sorted(strange)))}" if strange else "as expected",
        reason="the firmware's log extends registers that it does not keep",
        advice="boot an image of keyturn, which the firmware starts directly",
    )
    wrong = [
        f"{bank} PCR {pcr}"
        for bank, algorithm in _ALGORITHMS.items()
        for pcr in LOGGED_PCRS
        if evidence.pcrs[bank][pcr] != _replayed(log, replayed[bank], pcr, algorithm)
    ]
    _require_none(
        checks,
        "event-log-replay",
        wrong,
        expected="a log that yields the quoted registers",
        reason="the firmware's log is not the one that the TPM measured",
        advice=_AGAIN,
    )


def _replayed(log: EventLog, registers: Mapping[int, bytes], pcr: int, algorithm: Algorithm) -> bytes:
    return registers.get(pcr) or log.start_value(pcr, algorithm)


def _check_runtime_log(
    checks: CheckList, evidence: Evidence, part: LogPart
) -> tuple[ReleaseFacts, FullFacts | None]:
    with checks.step("runtime-events", expected="well-formed runtime events"):
        replayed = replay_runtime_events(evidence.runtime_events)
    _require_none(
        checks,
        "runtime-replay",
        [bank for bank in RUNTIME_BANKS if evidence.pcrs[bank][RUNTIME_PCR] != replayed[bank]],
        expected=f"runtime events that yield PCR {RUNTIME_PCR}",
        reason="the runtime events are not those that the guest extended before the quote",
        advice=_AGAIN,
    )
    with checks.step("runtime-log", expected=f"the {part.value} log of one boot"):
        if part is LogPart.RELEASE:
            return parse_release_log(evidence.runtime_events), None
        full = parse_full_log(evidence.runtime_events)
    return full.release, full


def _check_reference(
    checks: CheckList, evidence: Evidence, reference: ReferenceValues, release: ReleaseFacts
) -> bytes:
    with checks.step("reference-form", expected="reference values with a digest"):
        declared, expected = reference_digest(evidence.reference), reference_digest(reference)
    checks.equal(
        "reference",
        expected=expected,
        found=declared,
        reason="the guest declares another image or machine shape",
        advice="give the reference values of this image on this machine: keyturn predict --json",
    )
    wrong = [
        f"{bank} PCR {pcr}"
        for bank in RUNTIME_BANKS
        for pcr in PCRS
        if pcr != RUNTIME_PCR and evidence.pcrs[bank][pcr] != reference.banks.get(bank, {}).get(pcr)
    ]
    _require_none(
        checks,
        "registers",
        wrong,
        expected="the registers of the reference values",
        reason="the machine booted something else than was predicted",
        advice=_EXPLAIN,
    )
    start = replay_runtime_events([DEV_IMAGE] if release.dev else [])
    _require_none(
        checks,
        "image-kind",
        [bank for bank in RUNTIME_BANKS if reference.banks.get(bank, {}).get(RUNTIME_PCR) != start[bank]],
        expected=f"PCR {RUNTIME_PCR} of a {'development' if release.dev else 'release'} image",
        reason="the runtime events and the reference values differ on whether this is a development image",
        advice=_EXPLAIN,
    )
    return declared


def _require_none(
    checks: CheckList, name: str, wrong: Sequence[str], *, expected: str, reason: str, advice: str
) -> None:
    checks.require(
        name,
        not wrong,
        expected=expected,
        found=f"another value in {', '.join(wrong)}" if wrong else "as expected",
        reason=reason,
        advice=advice,
    )
