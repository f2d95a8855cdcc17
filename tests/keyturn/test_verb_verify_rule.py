"""``keyturn verify --bundle … --policy``: the policy that an app names on chain as its TCB rule."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from attestation.policy import Policy
from attestation.policy_document import encode_policy, policy_digest
from contracts import layout
from keyturn.policy_verification import is_judged_file
from kms.bundle import Bundle, encode_bundle
from tests.keyturn.test_verb_verify import Shell, trusted
from tests.kms.bundles import make_bundle
from tests.kms.fake_chain import NOW
from tests.kms.guests import World
from tests.kms.test_rules import strict


class Ruled:
    """A bundle of an app whose contract names a policy that its KMS knows."""

    def __init__(self, folder: Path) -> None:
        world = World(folder)
        self.policy: Policy = strict(world)
        world.chain.app[layout.tcb_rule_slots()[0]] = policy_digest(self.policy)
        world.kms = dataclasses.replace(world.kms, rules={policy_digest(self.policy): self.policy})
        try:
            self.bundle: Bundle = make_bundle(world, world.guest())
        finally:
            world.kms.journal.close()


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Ruled:
    return Ruled(tmp_path_factory.mktemp("ruled"))


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr("keyturn.verb_verify._now", lambda: NOW)
    return Shell(capsys, tmp_path)


def words_of(shell: Shell, ruled: Ruled, policy: Policy | None) -> list[str]:
    words = [
        "--bundle",
        shell.file("bundle.json", encode_bundle(ruled.bundle)),
        *trusted(shell, ruled.bundle),
    ]
    if policy is not None:
        words += ["--policy", shell.file("policy.json", encode_policy(policy))]
    return words


def test_the_policy_that_the_app_names(shell: Shell, ruled: Ruled) -> None:
    assert shell.failures(*words_of(shell, ruled, ruled.policy)) == (0, [])


def test_another_policy_is_not_the_rule(shell: Shell, ruled: Ruled) -> None:
    other = dataclasses.replace(ruled.policy, name="another")
    status, failed = shell.failures(*words_of(shell, ruled, other))
    assert status == 1
    assert "policy-tcb-rule" in failed


def test_an_app_with_a_rule_needs_its_policy(shell: Shell, ruled: Ruled) -> None:
    status, failed = shell.failures(*words_of(shell, ruled, None))
    assert status == 1
    assert "policy-tcb-rule" in failed


@pytest.mark.parametrize(
    "option",
    [["--now", "2026-01-01"], ["--offline"], ["--html", "x.html"], ["--collateral", "x"], ["--pccs", "x"]],
)
def test_options_for_other_evidence_are_not_ignored(shell: Shell, ruled: Ruled, option: list[str]) -> None:
    found = shell.failures(*words_of(shell, ruled, ruled.policy), *option)
    assert found == (2, ["verify-usage"])


def test_a_receipt_is_not_judged_as_evidence(shell: Shell, ruled: Ruled) -> None:
    shown = {"receipt": ruled.bundle.receipt, "inclusion": ruled.bundle.inclusion}
    receipt = shell.file("receipt.json", shown)
    words = words_of(shell, ruled, ruled.policy)[2:]
    assert shell.failures(receipt, *words) == (2, ["verify-usage"])  # no node was named
    assert not is_judged_file(receipt)
