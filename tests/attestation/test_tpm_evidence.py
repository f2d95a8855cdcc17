"""TPM evidence: one good boot, and every attack by its name with the check that stops it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.evidence import MAX_SIZES, Evidence, decode_evidence, encode_evidence
from attestation.report_data import ReportDataError
from attestation.tpm_evidence import Expectations, LogPart, TpmVerification, verify_tpm_evidence
from measurements.app_manifest import app_hash
from measurements.errors import FormatError
from measurements.eventlog import Algorithm, parse_event_log
from measurements.reference_digest import ReferenceValues, reference_digest
from measurements.runtime_events import (
    DEV_IMAGE,
    KmsProvider,
    RuntimeEvent,
    Storage,
    app_hash_event,
    app_id_event,
    boot_complete_event,
    boot_event,
    config_hash_event,
    instance_id_event,
    key_provider_event,
    storage_event,
)
from tests.support.event_log_writer import Record, write_log
from tests.support.paper_tpm import BOTH_BANKS, NOW, Authority, PaperTpm, firmware_log, reference_of

MANIFEST = b'{"name":"hello"}'
REPORT_DATA = bytes(range(64))
RELEASE: list[RuntimeEvent] = [
    boot_event(),
    app_id_event(b"\x01" * 20),
    app_hash_event(app_hash(MANIFEST)),
    config_hash_event(b"\x03" * 32),
    instance_id_event(b"\x04" * 16),
    key_provider_event(KmsProvider(kms_root=b"\x05" * 32, chain_id=1, contract=b"\x06" * 20)),
]
FULL = [*RELEASE, storage_event(Storage.OPENED), boot_complete_event()]
ROOT = Authority("root")
TPM = PaperTpm(ROOT)
FIRMWARE = firmware_log()
REFERENCE = reference_of(FIRMWARE[1])


def evidence_of(
    runtime_events: Sequence[RuntimeEvent] = RELEASE, *, tpm: PaperTpm = TPM, manifest: bytes = MANIFEST
) -> Evidence:
    return tpm.evidence(
        report_data=REPORT_DATA, runtime_events=runtime_events, app_manifest=manifest, firmware=FIRMWARE
    )


EVIDENCE = evidence_of()
EXPECTED = Expectations(
    report_data=REPORT_DATA, roots=[ROOT.certificate], reference=REFERENCE, now=NOW, part=LogPart.RELEASE
)


def requoted(
    evidence: Evidence,
    *,
    selections: Sequence[tuple[int, bytes]] = BOTH_BANKS,
    banks: Sequence[str] = ("sha256", "sha384"),
) -> Evidence:
    """The same, signed again by the guest's TPM."""
    quote = TPM.quote(REPORT_DATA, {bank: evidence.pcrs[bank] for bank in banks}, selections=selections)
    return evidence._replace(quote=quote, signature=TPM.sign(quote))


def stopped_at(evidence: Evidence, expectations: Expectations = EXPECTED) -> str:
    """Name of the check that refuses; the only one that failed, and the last."""
    verification = verify_tpm_evidence(evidence, expectations)
    assert verification.facts is None
    failed = [check for check in verification.verdict.checks if not check.passed]
    assert failed == [verification.verdict.checks[-1]]
    assert failed[0].reason
    assert failed[0].advice
    return failed[0].name


def with_part(part: str, data: bytes) -> Evidence:
    parts: dict[str, Any] = {**EVIDENCE._asdict(), part: data}
    return Evidence(**parts)


def passed(verification: TpmVerification) -> bool:
    return verification.verdict.passed and verification.facts is not None


def test_evidence_of_a_good_boot_passes_with_its_facts() -> None:
    verification = verify_tpm_evidence(EVIDENCE, EXPECTED)
    assert verification.verdict.first_failure is None
    facts = verification.facts
    assert facts is not None
    assert facts.release.app_id == b"\x01" * 20
    assert (facts.release.dev, facts.running) == (False, None)
    assert facts.reference_digest == reference_digest(REFERENCE)
    assert facts.ak_name == TPM.ak_name
    assert facts.app_manifest == MANIFEST
    assert [check.name for check in verification.verdict.checks] == [
        "size",
        "ek-chain",
        "ak-key",
        "ak-attributes",
        "quote-signature",
        "quote-type",
        "quote-signer",
        "report-data",
        "pcr-selection",
        "pcr-digest",
        "event-log",
        "event-log-registers",
        "event-log-replay",
        "runtime-events",
        "runtime-replay",
        "runtime-log",
        "reference-form",
        "reference",
        "registers",
        "image-kind",
        "app-manifest",
    ]


def test_a_running_guest_shows_its_whole_log() -> None:
    running = dataclasses.replace(EXPECTED, part=LogPart.FULL)
    facts = verify_tpm_evidence(evidence_of(FULL), running).facts
    assert facts is not None
    assert facts.running is not None
    assert facts.running.storage is Storage.OPENED
    assert stopped_at(EVIDENCE, running) == "runtime-log"


def test_report_data_of_another_size_is_an_error_of_the_caller() -> None:
    with pytest.raises(ReportDataError):
        verify_tpm_evidence(EVIDENCE, dataclasses.replace(EXPECTED, report_data=b"\x01" * 32))


def test_a_replayed_nonce_is_refused() -> None:
    other = dataclasses.replace(EXPECTED, report_data=bytes(reversed(range(64))))
    assert stopped_at(EVIDENCE, other) == "report-data"


def test_a_swapped_ak_is_refused() -> None:
    other = PaperTpm(ROOT)
    assert stopped_at(EVIDENCE._replace(ak_public=other.ak_public)) == "quote-signature"
    quote_of_other_key = EVIDENCE._replace(ak_public=other.ak_public, signature=other.sign(EVIDENCE.quote))
    assert stopped_at(quote_of_other_key) == "quote-signer"


@pytest.mark.parametrize(
    "attributes",
    [
        0x00050472 & ~0x00010000,
        0x00050472 & ~0x00000002,
        0x00050472 & ~0x00000010,
        0x00050472 & ~0x00000020,
        0x00050472 | 0x00020000,
        0x00050472 | 0x00080000,
        0x00050472 | 0x00000800,
    ],
    ids=["unrestricted", "not-fixed-tpm", "not-fixed-parent", "imported", "decrypts", "x509", "duplicable"],
)
def test_an_ak_that_signs_what_no_tpm_made_is_refused(attributes: int) -> None:
    assert stopped_at(evidence_of(tpm=PaperTpm(ROOT, attributes=attributes))) == "ak-attributes"


def test_an_ak_that_only_decrypts_is_refused() -> None:
    assert stopped_at(evidence_of(tpm=PaperTpm(ROOT, attributes=0x00030472))) == "ak-attributes"


def test_an_ek_of_another_root_is_refused() -> None:
    assert stopped_at(evidence_of(tpm=PaperTpm(Authority("root")))) == "ek-chain"
    nothing_allowed = dataclasses.replace(EXPECTED, roots=[])
    assert stopped_at(EVIDENCE, nothing_allowed) == "ek-chain"


def test_an_ek_below_an_intermediate_authority_passes_only_with_it() -> None:
    issuer = Authority("issuer", parent=ROOT)
    evidence = evidence_of(tpm=PaperTpm(issuer))
    assert stopped_at(evidence) == "ek-chain"
    known = dataclasses.replace(EXPECTED, intermediates=[issuer.certificate])
    assert passed(verify_tpm_evidence(evidence, known))


def test_an_ek_certificate_that_expired_is_refused() -> None:
    assert stopped_at(EVIDENCE, dataclasses.replace(EXPECTED, now=NOW + 20 * 365 * 86400)) == "ek-chain"


def test_a_missing_bank_is_refused() -> None:
    assert stopped_at(EVIDENCE._replace(pcrs={"sha256": EVIDENCE.pcrs["sha256"]})) == "size"
    one_bank = requoted(EVIDENCE, selections=BOTH_BANKS[:1], banks=["sha256"])
    assert stopped_at(one_bank) == "pcr-selection"


@pytest.mark.parametrize(
    "selections",
    [
        (),
        BOTH_BANKS[::-1],
        (BOTH_BANKS[0], BOTH_BANKS[0]),
        ((0x000B, b"\xff\xff\x00"), BOTH_BANKS[1]),
        ((0x000B, b"\xff\x3f\x00"), BOTH_BANKS[1]),
        (*BOTH_BANKS, (0x0004, b"\x00\x00\x00")),
    ],
)
def test_a_wrong_selection_is_refused(selections: Sequence[tuple[int, bytes]]) -> None:
    assert stopped_at(requoted(EVIDENCE, selections=selections)) == "pcr-selection"


def test_registers_that_were_not_signed_are_refused() -> None:
    pcrs = {**EVIDENCE.pcrs, "sha384": {**EVIDENCE.pcrs["sha384"], 4: b"\x01" * 48}}
    assert stopped_at(EVIDENCE._replace(pcrs=pcrs)) == "pcr-digest"


def test_signed_bytes_that_are_no_quote_are_refused() -> None:
    forged = b"\x00" + EVIDENCE.quote[1:]
    assert stopped_at(EVIDENCE._replace(quote=forged, signature=TPM.sign(forged))) == "quote-type"


def test_an_event_log_that_does_not_replay_is_refused() -> None:
    assert stopped_at(EVIDENCE._replace(event_log=firmware_log(seed=b"x")[0])) == "event-log-replay"
    assert stopped_at(EVIDENCE._replace(event_log=EVIDENCE.event_log[:-1])) == "event-log"


def test_an_event_log_without_a_bank_is_refused() -> None:
    record = Record(pcr=0, event_type=13, digests={Algorithm.SHA256: b"\x01" * 32})
    log = write_log([record], algorithms=[Algorithm.SHA256])
    assert stopped_at(EVIDENCE._replace(event_log=log)) == "event-log"


@pytest.mark.parametrize("pcr", [10, 14, 16])
def test_an_event_log_of_registers_that_are_not_the_firmwares_is_refused(pcr: int) -> None:
    digests = {Algorithm.SHA256: b"\x01" * 32, Algorithm.SHA384: b"\x01" * 48}
    log = write_log([Record(pcr=pcr, event_type=13, digests=digests)], algorithms=list(digests))
    assert stopped_at(EVIDENCE._replace(event_log=log)) == "event-log-registers"


def test_an_event_after_the_quote_is_refused() -> None:
    later = (*EVIDENCE.runtime_events, storage_event(Storage.OPENED))
    assert stopped_at(EVIDENCE._replace(runtime_events=later)) == "runtime-replay"


def test_a_hidden_runtime_event_is_refused() -> None:
    assert stopped_at(evidence_of(FULL)._replace(runtime_events=tuple(RELEASE))) == "runtime-replay"


def test_a_runtime_event_without_a_name_is_refused() -> None:
    assert stopped_at(EVIDENCE._replace(runtime_events=(RuntimeEvent("A:b", b""),))) == "runtime-events"


def test_a_duplicate_runtime_event_is_refused() -> None:
    assert stopped_at(evidence_of([*RELEASE[:2], RELEASE[1], *RELEASE[2:]])) == "runtime-log"


def test_keys_are_not_asked_for_after_the_boot() -> None:
    assert stopped_at(evidence_of(FULL)) == "runtime-log"


def test_a_zero_app_id_is_refused() -> None:
    events = [RELEASE[0], RuntimeEvent("app-id", bytes(20)), *RELEASE[2:]]
    assert stopped_at(evidence_of(events)) == "runtime-log"


def test_a_development_image_is_flagged() -> None:
    evidence = evidence_of([DEV_IMAGE, *RELEASE])
    dev = dataclasses.replace(EXPECTED, reference=reference_of(FIRMWARE[1], dev=True))
    facts = verify_tpm_evidence(evidence, dev).facts
    assert facts is not None
    assert facts.release.dev


def test_a_development_image_does_not_pass_under_the_reference_of_a_release_image() -> None:
    evidence = evidence_of([DEV_IMAGE, *RELEASE])
    assert stopped_at(evidence) == "reference"
    assert stopped_at(evidence._replace(reference=REFERENCE)) == "image-kind"


def test_a_development_image_cannot_hide_its_marker() -> None:
    dev = reference_of(FIRMWARE[1], dev=True)
    evidence = EVIDENCE._replace(reference=dev)
    assert stopped_at(evidence, dataclasses.replace(EXPECTED, reference=dev)) == "image-kind"


def test_the_reference_of_another_shape_is_refused() -> None:
    other = ReferenceValues(shape={"memory": "4GiB", "cpus": 1}, banks=REFERENCE.banks)
    assert stopped_at(EVIDENCE._replace(reference=other)) == "reference"
    assert stopped_at(EVIDENCE, dataclasses.replace(EXPECTED, reference=other)) == "reference"


def test_reference_values_without_a_canonical_form_are_refused() -> None:
    odd = REFERENCE._replace(shape={"memory": "\ud800"})
    assert stopped_at(EVIDENCE._replace(reference=odd)) == "reference-form"


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
@pytest.mark.parametrize("pcr", range(14))
def test_every_register_must_be_that_of_the_reference(bank: str, pcr: int) -> None:
    values = REFERENCE.banks[bank]
    banks = {**REFERENCE.banks, bank: {**values, pcr: b"\x01" * len(values[pcr])}}
    other = REFERENCE._replace(banks=banks)
    evidence = EVIDENCE._replace(reference=other)
    verification = verify_tpm_evidence(evidence, dataclasses.replace(EXPECTED, reference=other))
    failure = verification.verdict.first_failure
    assert failure is not None
    assert (failure.name, failure.found) == ("registers", f"another value in {bank} PCR {pcr}")


def test_another_app_manifest_is_refused() -> None:
    assert stopped_at(EVIDENCE._replace(app_manifest=b"{}")) == "app-manifest"


@pytest.mark.parametrize("part", sorted(MAX_SIZES))
def test_parts_that_are_absent_or_too_large_are_refused(part: str) -> None:
    changes: list[Callable[[], Evidence]] = [
        lambda: with_part(part, b""),
        lambda: with_part(part, bytes(MAX_SIZES[part] + 1)),
    ]
    for change in changes:
        assert stopped_at(change()) == "size"


@pytest.mark.parametrize("part", ["quote", "signature", "ak_public", "ek_certificate", "app_manifest"])
def test_every_flipped_byte_of_a_binary_part_flips_the_verdict(part: str) -> None:
    data: bytes = getattr(EVIDENCE, part)
    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ 0x01]) + data[position + 1 :]
        assert not passed(verify_tpm_evidence(with_part(part, changed), EXPECTED)), position


def test_every_flipped_byte_of_the_event_log_flips_the_verdict_or_only_informs() -> None:
    log = EVIDENCE.event_log
    before = parse_event_log(log)
    for position in range(len(log)):
        changed = log[:position] + bytes([log[position] ^ 0x01]) + log[position + 1 :]
        if passed(verify_tpm_evidence(EVIDENCE._replace(event_log=changed), EXPECTED)):
            after = parse_event_log(changed)
            assert [(e.pcr, e.digests) for e in after.events] == [(e.pcr, e.digests) for e in before.events]


ENCODED = encode_evidence(EVIDENCE)
LOG_AT = ENCODED.index(b'"event_log":"')
LOG_END = ENCODED.index(b'"', LOG_AT + len(b'"event_log":"'))


@given(st.data())
def test_a_flipped_byte_anywhere_in_the_evidence_flips_the_verdict(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(ENCODED) - 1).filter(lambda at: not LOG_AT <= at <= LOG_END))
    changed = bytearray(ENCODED)
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        evidence = decode_evidence(bytes(changed))
    except FormatError:
        return
    assert not passed(verify_tpm_evidence(evidence, EXPECTED))


@given(st.sampled_from(sorted(MAX_SIZES)), st.binary(min_size=1, max_size=100))
def test_arbitrary_parts_give_a_verdict_and_no_error(part: str, data: bytes) -> None:
    verification = verify_tpm_evidence(with_part(part, data), EXPECTED)
    assert not passed(verification)
    assert verification.verdict.first_failure is not None
