"""``keyturn chain set`` as a user calls it, on a development chain; and which calls it makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestation.container import EvidencePlatform
from attestation.policies import policy_template
from attestation.policy_document import policy_digest
from attestation.policy_file import parse_policy
from contracts.binding import Batch, Call
from contracts.dev_chain import dev_chain
from contracts.dev_keys import write_dev_keys
from contracts.layout import UpgradeMode
from keyturn.chain_options import ChainUsageError
from keyturn.chain_settings import Settings, settings_call
from keyturn.verb_chain_set import rule_of
from tests.contracts.conftest import require_anvil
from tests.keyturn.test_verb_chain import DELAY, HASH, Shell

APP = "0x" + "aa" * 20
FAR = 4_000_000_000


class TestCalls:
    def test_one_setting_is_one_call(self) -> None:
        call = settings_call(APP, Settings(expiry=FAR), current_notice=0)
        assert isinstance(call, Call)
        assert (call.target, call.function, call.arguments) == (APP, "setExpiry", (FAR,))

    def test_several_are_one_batch_in_a_fixed_order(self) -> None:
        wanted = Settings(
            expiry=FAR, mode=UpgradeMode.DELAYED, notice=60, any_device=True, tcb_rule="11" * 32
        )
        batch = settings_call(APP, wanted, current_notice=0)
        assert isinstance(batch, Batch)
        assert [call.function for call in batch.calls] == [
            "setExpiry", "tighten", "allowAnyDevice", "setTcbRule",
        ]  # fmt: skip

    def test_a_mode_without_notice_keeps_the_app_s(self) -> None:
        call = settings_call(APP, Settings(mode=UpgradeMode.FROZEN), current_notice=3600)
        assert isinstance(call, Call)
        assert call.arguments == (int(UpgradeMode.FROZEN), 3600)

    @pytest.mark.parametrize(
        ("wanted", "subject"),
        [
            (Settings(), "chain set"),
            (Settings(notice=60), "--notice"),
            (Settings(mode=UpgradeMode.DELAYED), "--notice"),
            (Settings(mode=UpgradeMode.DELAYED, notice=0), "--notice"),
            (Settings(mode=UpgradeMode.DELAYED, notice=1 << 32), "--notice"),
            (Settings(require_listed_device=True, expiry=FAR), "--require-listed-device"),
            (Settings(require_listed_device=True, any_device=True), "--require-listed-device"),
            (Settings(tcb_rule="11" * 20), "--tcb-rule"),
            (Settings(tcb_rule="00" * 32), "--tcb-rule"),
        ],
    )
    def test_refused(self, wanted: Settings, subject: str) -> None:
        with pytest.raises(ChainUsageError) as caught:
            settings_call(APP, wanted, current_notice=0)
        assert caught.value.subject == subject


class Governed(Shell):
    """A shell with an app."""

    def make_app(self, *words: str) -> str:
        guardian = self.addresses["guardian"]
        app = self("deploy", "app", "--guardian", guardian, *words, by="payer")["app"]
        assert isinstance(app, str)
        return app

    def set(self, app: str, *words: str) -> dict[str, Any]:
        """Propose, wait, execute; the state afterwards."""
        proposed = self("set", "--app", app, *words, by="proposer")
        before = self.state(app)
        assert proposed["state"] == "proposed"
        self.chain.skip_time(DELAY)
        assert self.state(app) == before
        assert self("set", "--app", app, *words, by="proposer")["state"] == "done"
        return self.state(app)

    def state(self, app: str) -> dict[str, Any]:
        state = self("status", "--app", app)["state"]
        assert isinstance(state, dict)
        return state


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Governed]:
    require_anvil()
    with dev_chain(block_seconds=None) as chain:
        addresses = write_dev_keys(chain, tmp_path / "keys")
        ready = Governed(chain=chain, folder=tmp_path, addresses=addresses, capsys=capsys)
        people = ["--proposer", addresses["proposer"], "--guardian", addresses["guardian"]]
        ready("deploy", "registry", *people, "--delay", str(DELAY), by="payer")
        yield ready


def test_settings_through_the_timelock_and_by_the_guardian(shell: Governed) -> None:
    app = shell.make_app()
    assert shell.set(app, "--expiry", str(FAR))["expiry"] == FAR
    state = shell.set(app, "--mode", "delayed", "--notice", "60", "--any-device")
    assert (state["upgrade_mode"], state["notice_seconds"], state["any_device"]) == ("delayed", 60, True)
    done = shell("set", "--app", app, "--require-listed-device", by="guardian")
    assert done["state"] == "done"
    assert shell.state(app)["any_device"] is False
    state = shell.set(app, "--mode", "frozen")
    assert (state["upgrade_mode"], state["notice_seconds"]) == ("frozen", 60)
    shell.set(app, "--tcb-rule", HASH)
    names = [item["name"] for item in shell("history", "--app", app)["events"]]
    assert names[-6:] == [
        "ExpirySet", "UpgradeModeSet", "AnyDeviceSet", "AnyDeviceSet", "UpgradeModeSet", "TcbRuleSet",
    ]  # fmt: skip


POLICY_EDITS = {
    "report-data = []": 'report-data = "any"',
    "platform-ids = []": 'platform-ids = "any"',
    "\nmeasurements = []": '\nmeasurements = "any"',
}
ROOT = f"""
[[roots]]
purpose = "tpm-ek"
fingerprint = "{HASH.removeprefix("0x")}"
subject = "CN=mine"
source = "my own"
date = 2026-11-30
"""


def policy_text(*, leave: str = "") -> str:
    """A policy that guests can meet, but for what ``leave`` keeps of the template."""
    text = policy_template([EvidencePlatform.TPM]) + ROOT
    for old, new in POLICY_EDITS.items():
        assert old in text
        text = text if old == leave else text.replace(old, new, 1)
    return text


def test_a_policy_file_as_a_rule(shell: Governed, tmp_path: Path) -> None:
    app, path = shell.make_app(), tmp_path / "policy.toml"
    path.write_text(policy_text())
    assert shell.state(app)["tcb_rule"] is None
    digest = policy_digest(parse_policy(path.read_bytes())).hex()
    assert shell.set(app, "--tcb-rule", str(path))["tcb_rule"] == digest


@pytest.mark.parametrize("leave", POLICY_EDITS)
def test_a_policy_that_no_guest_can_meet_is_no_rule(leave: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(policy_text(leave=leave))
    with pytest.raises(ChainUsageError, match="no guest can meet the policy") as caught:
        rule_of(str(path))
    assert caught.value.subject == "--tcb-rule"
    path.write_text(policy_text())
    assert rule_of(str(path)) == policy_digest(parse_policy(path.read_bytes())).hex()
    assert rule_of(HASH) == HASH


def test_attack_loosened_mode(shell: Governed) -> None:
    app = shell.make_app("--mode", "delayed", "--notice", "60")
    for words in (("--mode", "mutable"), ("--mode", "delayed", "--notice", "30")):
        shell("set", "--app", app, *words, by="proposer")
        shell.chain.skip_time(DELAY)
        error = shell("set", "--app", app, *words, by="proposer", status=1)["error"]
        assert (error["code"], "Loosened" in error["reason"]) == ("contract-refused", True)
    assert shell.state(app)["notice_seconds"] == 60


def test_one_bad_setting_of_a_batch_changes_nothing(shell: Governed) -> None:
    app = shell.make_app("--mode", "delayed", "--notice", "60")
    before = shell.state(app)
    words = ("--expiry", str(FAR), "--mode", "mutable")
    shell("set", "--app", app, *words, by="proposer")
    shell.chain.skip_time(DELAY)
    assert shell("set", "--app", app, *words, by="proposer", status=1)["error"]["code"] == "contract-refused"
    assert shell.state(app) == before


def test_the_wrong_person_is_refused(shell: Governed) -> None:
    app = shell.make_app("--any-device")
    words = ("set", "--app", app)
    for more, who in ((("--require-listed-device",), "proposer"), (("--expiry", str(FAR)), "guardian")):
        error = shell(*words, *more, by=who, status=1)["error"]
        assert "AccessControlUnauthorizedAccount" in error["reason"]
    assert shell.state(app)["any_device"] is True


def test_another_contract_is_refused(shell: Governed) -> None:
    registry = json.loads(shell.deployment.read_text())["registry"]
    for address in (registry, "0x" + "77" * 20):
        error = shell("set", "--app", address, "--expiry", str(FAR), by="proposer", status=2)["error"]
        assert error["code"] == "chain"
