"""TPM parts made on paper: what passes, and which check refuses each change."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from cryptography import x509

from attestation.collateral import Collateral
from attestation.container import EvidencePlatform
from attestation.policy import AkProof, Environment, Measurements, MeasurementSet, RootPurpose
from attestation.report_data import qualifying_data
from tests.support.paper_tpm import (
    BOTH_BANKS,
    RESTRICTED_SIGNING,
    VALID_FROM,
    VALID_TO,
    Authority,
    PaperTpm,
    attest,
)
from tests.support.policies import ANY, NONE, only, permissive_policy
from tests.support.tpm_containers import (
    CA_USAGE,
    REGISTERS,
    REPORT_DATA,
    SECRET,
    PaperMachine,
    anchor,
    container,
    failures,
    verify,
)


@cache
def machine(number: int = 0) -> PaperMachine:
    return PaperMachine()


def test_a_part_with_a_credential_passes() -> None:
    result = verify(container(machine(), machine().part()), machine().policy())
    assert failures(result) == []
    assert [group.name for group in result.groups] == ["tpm-quote", "tpm-credential", "tpm-policy"]
    facts = result.facts
    assert facts is not None
    assert facts.registers["sha384:4"] == REGISTERS["sha384"][4]
    assert len(facts.registers) == 30
    assert facts.report_data == qualifying_data(REPORT_DATA)
    assert facts.identity["platform_id"] == machine().ek_id.hex()
    assert facts.identity["ak_id"] == hashlib.sha256(machine().ak_info).hexdigest()
    assert facts.details["ak_hierarchy"] == "endorsement"
    assert len(result.chain) == 4


def test_a_policy_without_tpm_and_evidence_without_a_part_are_refused() -> None:
    good, policy = machine().part(), machine().policy()
    other = permissive_policy(EvidencePlatform.SNP)
    assert failures(verify(container(machine(), good), other)) == ["tpm-allowed"]
    assert failures(verify(container(machine(), None), policy)) == ["tpm-allowed"]
    for field, size in (("quote", 4097), ("signature", 1025), ("ak_public", 1025), ("hcl_report", 16385)):
        change: dict[str, Any] = {field: bytes(size)}
        large = replace(good, **change)
        assert failures(verify(container(machine(), large), policy)) == ["tpm-allowed"]


def test_the_policy_decides_on_machine_registers_and_request() -> None:
    evidence = container(machine(), machine().part())
    sets = (MeasurementSet(name="mine", registers={"sha256:0": REGISTERS["sha256"][0]}),)
    strict = replace(
        machine().policy(
            banks=frozenset({"sha256", "sha384"}),
            pcrs=frozenset(range(15)),
            event_log=True,
            platform_ids=only(machine().ek_id.hex()),
            measurements=Measurements(sets=sets),
        ),
        report_data=only(REPORT_DATA.hex()),
        environment=Environment.RELEASE,
    )
    assert failures(verify(evidence, strict)) == []
    plain = replace(strict, report_data=only(qualifying_data(REPORT_DATA).hex()))
    assert failures(verify(evidence, plain)) == []
    other = replace(machine(1).policy(), report_data=only(bytes(64).hex()), roots=machine().anchors)
    assert other.tpm is not None
    assert strict.tpm is not None
    wrong = replace(
        other,
        tpm=replace(
            strict.tpm,
            pcrs=frozenset(range(17)),
            platform_ids=only(machine(1).ek_id.hex()),
            measurements=Measurements(sets=(MeasurementSet(name="no", registers={"sha256:0": bytes(32)}),)),
        ),
    )
    bare = replace(evidence, logs=())
    assert failures(verify(bare, wrong)) == [
        "pcr-coverage",
        "platform-id",
        "measurements",
        "report-data",
        "event-log-present",
    ]


@pytest.mark.parametrize(
    ("attributes", "passes"),
    [
        (RESTRICTED_SIGNING, True),
        (RESTRICTED_SIGNING & ~0x400, True),
        (RESTRICTED_SIGNING & ~0x10000, False),
        (RESTRICTED_SIGNING & ~0x2, False),
        (RESTRICTED_SIGNING & ~0x10, False),
        (RESTRICTED_SIGNING & ~0x20, False),
        (RESTRICTED_SIGNING & ~0x40000, False),
        (RESTRICTED_SIGNING | 0x20000, False),
        (RESTRICTED_SIGNING | 0x80000, False),
        (RESTRICTED_SIGNING | 0x800, False),
    ],
)
def test_the_key_must_be_a_restricted_signing_key(attributes: int, passes: bool) -> None:
    mine = machine()
    other = PaperMachine()
    other.root, other.issuer, other.tpm = mine.root, mine.issuer, PaperTpm(mine.issuer, attributes=attributes)
    result = verify(container(other, other.part()), other.policy())
    assert failures(result) == ([] if passes else ["ak-attributes"])


def test_a_quote_of_another_key_is_refused() -> None:
    part, other = machine().part(), machine(1).part()
    for changed in (
        replace(part, signature=other.signature),
        replace(part, ak_public=other.ak_public),
        replace(part, quote=other.quote),
    ):
        assert failures(verify(container(machine(), changed), machine().policy())) == ["quote-signature"]


def test_a_secret_is_worth_nothing_beside_another_key() -> None:
    """Who has any real TPM opens a credential for *its* keys, and shows the secret with a software key."""
    attacker = PaperMachine()
    attacker.tpm.ek, attacker.tpm.ek_certificate = machine().tpm.ek, machine().tpm.ek_certificate
    policy = machine().policy()
    assert failures(verify(container(machine(), attacker.part()), policy)) == ["credential-activation"]


@pytest.mark.parametrize("secret", [bytes(32), SECRET[:31], SECRET + b"s", b""])
def test_other_secrets_are_refused(secret: bytes) -> None:
    part = machine().part(activated_secret=secret)
    assert failures(verify(container(machine(), part), machine().policy())) == ["credential-activation"]


def test_any_secret_and_no_secret_are_refused() -> None:
    evidence = container(machine(), machine().part())
    for secrets in (ANY, NONE, only(SECRET.hex())):
        policy = machine().policy(activation_secrets=secrets)
        assert failures(verify(evidence, policy)) == ["credential-activation"]
    good = machine().part()
    for part in (replace(good, activated_secret=None), replace(good, ek_certificate=None)):
        assert failures(verify(container(machine(), part), machine().policy())) == ["ak-proof"]


def test_a_proof_that_is_not_allowed_does_not_count() -> None:
    evidence = container(machine(), machine().part())
    policy = machine().policy(ak_proofs=frozenset(AkProof) - {AkProof.CREDENTIAL})
    assert failures(verify(evidence, policy)) == ["ak-proof"]
    assert failures(verify(evidence, machine().policy(ak_proofs=frozenset()))) == ["ak-proof"]


def test_the_root_counts_only_for_its_purpose() -> None:
    evidence = container(machine(), machine().part())
    wrong = anchor(machine().root.certificate, RootPurpose.TPM_AK)
    for roots in ((), (wrong,), machine(1).anchors):
        assert failures(verify(evidence, replace(machine().policy(), roots=roots))) == ["ek-chain"]
    assert failures(verify(replace(evidence, certificates=()), machine().policy())) == ["ek-chain"]


def test_certificates_may_come_with_the_collateral() -> None:
    evidence = replace(container(machine(), machine().part()), certificates=())
    collateral = Collateral(certificates=machine().pool)
    assert failures(verify(evidence, machine().policy(), collateral=collateral)) == []
    assert failures(verify(replace(evidence, collateral=collateral), machine().policy())) == []


def test_certificates_hold_only_in_their_time() -> None:
    evidence = container(machine(), machine().part())
    for now, passes in (
        (int(VALID_FROM.timestamp()), True),
        (int(VALID_FROM.timestamp()) - 1, False),
        (int(VALID_TO.timestamp()), True),
        (int(VALID_TO.timestamp()) + 1, False),
    ):
        assert failures(verify(evidence, machine().policy(), now=now)) == ([] if passes else ["ek-validity"])


def test_a_certificate_for_something_else_is_no_ek_certificate() -> None:
    part = machine().part(ek_certificate=machine().issue_ak(key=machine().tpm.ek.public_key()))
    assert failures(verify(container(machine(), part), machine().policy())) == ["ek-certificate"]


def test_revocation_lists_count_where_they_are_given() -> None:
    mine, evidence = machine(), container(machine(), machine().part())
    serial = x509.load_der_x509_certificate(mine.tpm.ek_certificate).serial_number
    authority = x509.load_der_x509_certificate(mine.issuer.certificate).serial_number
    old = (VALID_FROM, datetime(2026, 1, 1, tzinfo=UTC))
    cases: list[tuple[list[bytes], bool]] = [
        ([], True),
        ([mine.revocation_list(1)], True),
        ([mine.revocation_list(serial)], False),
        ([mine.revocation_list(authority, of=mine.root)], False),
        ([mine.revocation_list(serial, of=mine.root)], True),
        ([mine.revocation_list(serial, number=2), mine.revocation_list(number=1)], False),
        ([mine.revocation_list(number=3), mine.revocation_list(serial, number=2)], True),
        ([mine.revocation_list(days=old)], False),
        ([machine(1).revocation_list(serial, of=Authority("another", usage=CA_USAGE))], True),
        ([machine(1).revocation_list(of=Authority("paper issuer", usage=CA_USAGE))], False),
        ([b"no list"], False),
        ([bytes([one]) for one in range(65)], False),
    ]
    for lists, passes in cases:
        result = verify(evidence, mine.policy(), collateral=Collateral(crls=tuple(lists)))
        assert failures(result) == ([] if passes else ["ek-validity"])


@pytest.mark.parametrize(
    ("selections", "registers"),
    [
        (BOTH_BANKS, {"sha256": REGISTERS["sha256"]}),
        (BOTH_BANKS[:1], REGISTERS),
        ((BOTH_BANKS[0], BOTH_BANKS[0]), {"sha256": REGISTERS["sha256"]}),
        ((), {}),
        (((0x000B, b"\0\0\0"),), {"sha256": {}}),
        (((0x0004, b"\x01\0\0"),), {"sha1": {0: bytes(20)}}),
        (((0x000B, b"\x01\0\0"),), {"sha256": {1: bytes(32)}}),
        (((0x000B, b"\x01\0\0"),), {"sha256": {0: bytes(31)}}),
        (((0x000B, b"\x01\0\0"),), {"sha384": {0: bytes(48)}}),
        (((0x000B, b"\x03\0\0"),), {"sha256": {0: bytes(33), 1: bytes(31)}}),
    ],
)
def test_registers_are_exactly_those_quoted(
    selections: tuple[tuple[int, bytes], ...], registers: dict[str, dict[int, bytes]]
) -> None:
    part = machine().part(registers, selections=selections)
    assert failures(verify(container(machine(), part), machine().policy())) == ["pcr-selection"]


def test_the_values_of_two_registers_cannot_change_places() -> None:
    bank = REGISTERS["sha256"]
    swapped = {**REGISTERS, "sha256": {**bank, 0: bank[1], 1: bank[0]}}
    part = replace(machine().part(), pcrs=swapped)
    assert failures(verify(container(machine(), part), machine().policy())) == ["pcr-digest"]


def test_the_extra_data_may_be_shorter_than_a_hash() -> None:
    tpm = machine().tpm
    digest = hashlib.sha256(b"".join(REGISTERS["sha256"][pcr] for pcr in range(15))).digest()
    quote = attest(tpm.qualified_name, b"challenge", digest, selections=BOTH_BANKS[:1])
    part = replace(
        machine().part(), quote=quote, signature=tpm.sign(quote), pcrs={"sha256": REGISTERS["sha256"]}
    )
    evidence = container(machine(), part)
    good = replace(machine().policy(), report_data=only(b"challenge".hex()))
    assert failures(verify(evidence, good)) == []
    bad = replace(machine().policy(), report_data=only(b"challeng".hex()))
    assert failures(verify(evidence, bad)) == ["report-data"]
