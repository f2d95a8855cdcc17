"""The KMS of the demo: an app like any other, in a guest of its own, whose key comes into being there."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.artefacts import ContractName, artefact
from keyturn.demo.governance import Chain, Governance
from keyturn.demo.guest import GATEWAY, NETWORK, Guest, Machine
from keyturn.demo.images import BASE, LOCK, REFERENCE, keep_lock, lock_and_fetch
from keyturn.demo.runner import Runner
from keyturn.demo.story import Story
from keyturn.input_files import read_certificates
from keyturn.kms_app import PORT

KMS = "kms"
NODE = "kms-node.json"
AUTHORITY = "tpm/ca"
KEPT_LOCK = "locks/kms.lock"
INSTANCE = "4b4d5300000000000000000000000001"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tpms:
    """The maker of the demo's TPMs: paths of its certificates (PEM), and its digest on chain."""

    root: str
    intermediate: str
    platform_root: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningKms:
    """The KMS in its guest; ``url`` as the host reaches it."""

    guest: Guest
    url: str
    kms_id: str
    node: dict[str, Any]

    @property
    def guest_url(self) -> str:
        """The KMS behind a guest's gateway."""
        return self.url.replace("127.0.0.1", GATEWAY)


def make_tpm(runner: Runner, name: str) -> Tpms:
    """A TPM for one guest, by the one maker of this demo."""
    made = runner.run("tpm", "make", f"tpm/{name}", "--authority", AUTHORITY)
    return Tpms(root=made["root"], intermediate=made["intermediate"], platform_root=made["platform_root"])


def build_kms(story: Story, runner: Runner, *, chain: Chain, registry: str) -> str:
    """The KMS as an app pinned to the chain and the code of its contracts; the app hash."""
    pins = (
        *("--chain-id", str(chain.chain_id), "--registry", registry),
        *("--registry-code-hash", artefact(ContractName.REGISTRY).runtime_code_hash.hex()),
        *("--app-code-hash", artefact(ContractName.APP).runtime_code_hash.hex()),
    )
    runner.run("app", "kms", KMS, *pins)
    kept = runner.folder / KEPT_LOCK
    if kept.exists():
        shutil.copyfile(kept, runner.folder / KMS / "root" / LOCK)
    with story.step("locks the KMS's own packages and wheels") as step:
        step.result = lock_and_fetch(story, runner, f"{KMS}/root")
        keep_lock(runner, f"{KMS}/root", kept)
    with story.step("builds the KMS as an app, pinned to chain, registry and the code of both") as step:
        runner.run("app", "lock", f"{KMS}/app.toml")
        built = runner.run("app", "build", f"{KMS}/app.toml")
        step.result = f"app hash {built['app_hash']}"
    return str(built["app_hash"])


def configure_kms(runner: Runner, *, chain: Chain, tpms: Tpms) -> None:
    """The KMS's config disk: where a node is, and the certificates of TPM makers."""
    found = read_certificates([runner.folder / tpms.root, runner.folder / tpms.intermediate])
    certificates = ",".join(base64.b64encode(der).decode("ascii") for der in found)
    runner.run(
        *("app", "config", f"{KMS}/app", "--output", f"{KMS}.config", "--instance-id", INSTANCE),
        *("--env", f"KEYTURN_RPC_URL={chain.guest_url}"),
        *("--env", f"KEYTURN_EK_CERTIFICATES={certificates}"),
        *(*NETWORK, "--reference", REFERENCE),
    )


def start_kms(runner: Runner, *, port: int, boot: int = 1) -> Guest:
    """Start the KMS's guest; it stops if its registers are not the predicted ones."""
    machine = Machine(
        name=KMS,
        image=f"{BASE}/image",
        app=f"{KMS}/app",
        config=f"{KMS}.config",
        reference=REFERENCE,
        port=(port, PORT),
    )
    return Guest(runner, machine, boot=boot)


def check_kms(story: Story, runner: Runner, guest: Guest, *, tpms: Tpms) -> RunningKms:
    """Wait for the KMS and check its evidence over a nonce of ours."""
    assert guest.machine.port is not None
    url = f"http://127.0.0.1:{guest.machine.port[0]}"
    with story.step("the KMS serves, with a root key made inside and sealed to its TPM") as step:
        identity = guest.await_answer("/v1/public-key")
        step.result = f"KMS id {identity['kms_id']}"
    with story.step("checks the KMS's evidence over a fresh nonce, from its TPM's maker to its app") as step:
        anchors = ("--root", tpms.root, "--intermediate", tpms.intermediate)
        checked = runner.run(
            *("kms", "check", url, "--reference", REFERENCE, "--app", f"{KMS}/app"),
            *(*anchors, "--output", NODE),
        )
        step.result = f"{_count(checked)} checks hold"
    node = json.loads(Path(runner.folder, NODE).read_text(encoding="utf-8"))
    return RunningKms(guest=guest, url=url, kms_id=node["kms_id"], node=node)


def register_kms(story: Story, governance: Governance) -> None:
    """Register the KMS's keys, app hash and evidence on chain."""
    with story.step("registers the KMS's root keys and the digest of that evidence, timelocked") as step:
        block = governance.allow("kms-node", "--kms", NODE)
        governance.finalize(block)
        step.result = f"block {block}, final"


def _count(checked: dict[str, Any]) -> int:
    return sum(len(group["checks"]) for group in checked["groups"])
