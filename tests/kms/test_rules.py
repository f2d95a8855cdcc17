"""TCB rules: an app names a policy by its digest, and the KMS holds the evidence against it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attestation.container import EvidencePlatform
from attestation.policy import (
    AkProof,
    Environment,
    Measurements,
    MeasurementSet,
    Policy,
    RootPurpose,
    TrustAnchor,
)
from attestation.policy_document import encode_policy, policy_digest
from attestation.tpm_policy import RULE_CHECKS, rule_defects
from contracts import layout
from kms.release import JournalledRefusalError
from kms.rules import MAX_RULES, read_rules
from kms.verification import verify_bundle
from measurements.app_manifest import app_hash
from measurements.errors import KeyturnError
from tests.kms.bundles import anchors_of, make_bundle
from tests.kms.fake_chain import NOW
from tests.kms.guests import AUTHORITY, BOOTED, World, app_manifest
from tests.kms.receipts import DEVELOPMENT_ROOT
from tests.support.paper_tpm import Authority
from tests.support.policies import NONE, only, permissive_gpu, permissive_policy

OTHER = "77" * 32


def root_of(certificate: bytes, purpose: RootPurpose = RootPurpose.TPM_EK) -> TrustAnchor:
    return TrustAnchor(
        purpose=purpose,
        fingerprint=hashlib.sha256(certificate).digest(),
        subject="CN=paper",
        source="tests",
        date="2026-11-30",
    )


def machine(name: str, banks: dict[str, dict[int, bytes]]) -> MeasurementSet:
    registers = {f"{bank}:{pcr}": value for bank, values in banks.items() for pcr, value in values.items()}
    return MeasurementSet(name=name, registers=registers)


def strict(world: World, *, environment: Environment = Environment.RELEASE) -> Policy:
    """The strictest policy that this world's guest meets."""
    base = permissive_policy(
        EvidencePlatform.TPM, roots=[root_of(AUTHORITY.certificate)], environment=environment
    )
    assert base.tpm is not None
    booted = {bank: {pcr: values[pcr] for pcr in (0, 4, 9)} for bank, values in BOOTED[1].items()}
    section = dataclasses.replace(
        base.tpm,
        ak_proofs=frozenset({AkProof.CREDENTIAL}),
        banks=frozenset({"sha256", "sha384"}),
        pcrs=frozenset(range(15)),
        event_log=True,
        platform_ids=only(world.chain.query.platform_id.hex()),
        measurements=Measurements(
            sets=(
                machine("other", {"sha256": {0: bytes(32)}}),
                machine("booted", booted),
            )
        ),
    )
    return dataclasses.replace(base, app_hashes=only(app_hash(world.manifest).hex()), tpm=section)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.kms.journal.close()


def govern(world: World, policy: Policy, *, known: bool = True) -> None:
    """The app names ``policy``; the KMS has it, if ``known``."""
    world.chain.app[layout.tcb_rule_slots()[0]] = policy_digest(policy)
    rules = {policy_digest(policy): policy} if known else {}
    world.kms = dataclasses.replace(world.kms, rules=rules)


def refusal(ask: Callable[[], object]) -> JournalledRefusalError:
    with pytest.raises(JournalledRefusalError) as caught:
        ask()
    reason = caught.value.recorded.receipt.outcome.reason
    assert reason is not None
    assert reason.code == caught.value.code
    return caught.value


def test_a_guest_that_meets_the_rule_gets_its_keys(world: World) -> None:
    govern(world, strict(world))
    assert world.guest().ask().recorded.receipt.outcome.keys


def test_a_rule_that_the_kms_does_not_have_is_refused(world: World) -> None:
    policy = strict(world)
    govern(world, policy, known=False)
    error = refusal(world.guest().ask)
    assert error.code == "tcb-rule"
    assert policy_digest(policy).hex() in error.reason


def test_the_other_policies_of_the_kms_do_not_count(world: World) -> None:
    govern(world, strict(world), known=False)
    permissive = permissive_policy(EvidencePlatform.TPM, roots=[root_of(AUTHORITY.certificate)])
    world.kms = dataclasses.replace(world.kms, rules={policy_digest(permissive): permissive})
    assert refusal(world.guest().ask).code == "tcb-rule"


def test_without_a_rule_policies_change_nothing(world: World) -> None:
    closed = dataclasses.replace(strict(world), app_hashes=NONE)
    world.kms = dataclasses.replace(world.kms, rules={policy_digest(closed): closed})
    assert world.guest().ask().recorded.receipt.outcome.keys


def section(**changes: Any) -> Callable[[Policy], Policy]:
    def change(policy: Policy) -> Policy:
        assert policy.tpm is not None
        return dataclasses.replace(policy, tpm=dataclasses.replace(policy.tpm, **changes))

    return change


def whole(**changes: Any) -> Callable[[Policy], Policy]:
    return lambda policy: dataclasses.replace(policy, **changes)


REFUSED: list[tuple[Callable[[Policy], Policy], str]] = [
    (whole(platforms=frozenset()), "platform-allowed"),
    (whole(platforms=frozenset(), tpm=None), "platform-allowed"),
    (whole(gpu=permissive_gpu()), "parts"),
    (whole(report_data=NONE), "report-data"),
    (whole(report_data=only("00" * 64)), "report-data"),
    (whole(app_hashes=NONE), "app-hash"),
    (whole(app_hashes=only(OTHER)), "app-hash"),
    (section(ak_proofs=frozenset()), "ak-proof"),
    (section(ak_proofs=frozenset(AkProof) - {AkProof.CREDENTIAL}), "ak-proof"),
    (whole(roots=()), "platform-root"),
    (whole(roots=(root_of(Authority("other").certificate),)), "platform-root"),
    (whole(roots=(root_of(AUTHORITY.certificate, RootPurpose.TPM_AK),)), "platform-root"),
    (section(platform_ids=NONE), "platform-id"),
    (section(platform_ids=only(OTHER)), "platform-id"),
    (section(pcrs=frozenset({15})), "pcr-coverage"),
    (section(measurements=Measurements(sets=())), "measurements"),
    (
        section(measurements=Measurements(sets=(machine("other", {"sha384": {4: bytes(48)}}),))),
        "measurements",
    ),
    (section(measurements=Measurements(sets=(machine("x", {"sha256": {15: bytes(32)}}),))), "measurements"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "check"), REFUSED)
def test_a_guest_that_does_not_meet_the_rule_gets_none(
    change: Callable[[Policy], Policy], check: str, world: World
) -> None:
    govern(world, change(strict(world)))
    error = refusal(world.guest().ask)
    assert error.code == f"tcb-rule-{check}"
    assert check in RULE_CHECKS
    assert error.reason.startswith(f"{check}: ")
    assert "(have " in error.reason
    assert "need " in error.reason
    assert error.subject == "TCB rule permissive"


def test_the_refusal_names_everything_that_is_short(world: World) -> None:
    govern(world, section(platform_ids=only(OTHER))(whole(app_hashes=only(OTHER))(strict(world))))
    error = refusal(world.guest().ask)
    assert error.code == "tcb-rule-app-hash"
    assert "; platform-id: the policy does not allow this TPM (have " in error.reason
    assert f"need {OTHER})" in error.reason


@pytest.mark.parametrize("environment", Environment)
def test_development_images_under_rules(environment: Environment, tmp_path: Path) -> None:
    world = World(tmp_path, root=DEVELOPMENT_ROOT, manifest=app_manifest(DEVELOPMENT_ROOT), dev=True)
    try:
        govern(world, strict(world, environment=environment))
        if environment is Environment.RELEASE:
            assert refusal(world.guest(dev=True).ask).code == "tcb-rule-release-image"
        else:
            assert world.guest(dev=True).ask().recorded.receipt.outcome.keys
    finally:
        world.kms.journal.close()


@pytest.mark.parametrize(("change", "check"), REFUSED)
def test_rules_that_nobody_can_meet_are_known_as_such(
    change: Callable[[Policy], Policy], check: str, world: World
) -> None:
    policy = change(strict(world))
    impossible = not any(one.any or one.values for one in (policy.report_data, policy.app_hashes)) or (
        check in ("platform-allowed", "parts", "report-data", "ak-proof", "pcr-coverage")
    )
    if impossible:
        assert rule_defects(policy)
    assert not rule_defects(strict(world))


class TestReading:
    def policy(self, name: str) -> Policy:
        return dataclasses.replace(permissive_policy(EvidencePlatform.TPM), name=name)

    def text(self, *names: str) -> str:
        return ",".join(base64.b64encode(encode_policy(self.policy(name))).decode() for name in names)

    def test_documents_under_their_digests(self) -> None:
        rules = read_rules(self.text("a", "b"))
        assert dict(rules) == {policy_digest(self.policy(name)): self.policy(name) for name in "ab"}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ",",
            "AAAA",
            "####",
            base64.b64encode(b"{}").decode(),
            ",".join(["AAAA"] * (MAX_RULES + 1)),
        ],
    )
    def test_what_is_no_document_is_refused(self, text: str) -> None:
        with pytest.raises(KeyturnError):
            read_rules(text)

    def test_attack_one_document_twice_or_in_another_form(self) -> None:
        with pytest.raises(KeyturnError, match="twice"):
            read_rules(self.text("a", "a"))
        spaced = encode_policy(self.policy("a")).replace(b",", b", ")
        with pytest.raises(KeyturnError, match="canonical"):
            read_rules(base64.b64encode(spaced).decode())


class TestReceipts:
    """Whoever verifies a release gives the policy, and it is the one that the app named."""

    def names(self, world: World, rule: Policy | None) -> list[str]:
        bundle = make_bundle(world, world.guest())
        tree = verify_bundle(bundle, anchors_of(world, rule=rule), now=NOW)
        assert tree.passed is not bool(tree.failures)
        names = [check.name for group in tree.groups for check in group.checks]
        assert len(set(names)) == len(names)
        assert (tree.groups[-1].name == "tcb-rule") is (rule is not None)
        return [check.name for check in tree.failures]

    def test_with_the_policy_of_the_app(self, world: World) -> None:
        govern(world, strict(world))
        assert self.names(world, strict(world)) == []

    def test_without_it_or_with_another(self, world: World) -> None:
        govern(world, strict(world))
        assert self.names(world, None) == ["policy-tcb-rule"]
        assert self.names(world, whole(name="other")(strict(world))) == ["policy-tcb-rule"]

    def test_a_policy_for_an_app_without_a_rule(self, world: World) -> None:
        assert self.names(world, strict(world)) == ["policy-tcb-rule"]

    def test_a_kms_that_ignores_the_rule_is_found_out(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = section(platform_ids=only(OTHER))(strict(world))
        govern(world, policy)
        assert refusal(world.guest().ask).code == "tcb-rule-platform-id"
        monkeypatch.setattr("kms.release.check_rule", lambda *_, **__: None)
        assert self.names(world, policy) == ["tcb-rule-platform-id"]
