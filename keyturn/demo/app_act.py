"""The app of the demo: ``examples/hello``, built for this KMS, booted, called, verified, booted again."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keyturn.demo.governance import Chain
from keyturn.demo.guest import NETWORK, Guest, Machine
from keyturn.demo.images import BASE, LOCK, REFERENCE, keep_lock, lock_and_fetch
from keyturn.demo.kms_act import NODE, RunningKms, Tpms
from keyturn.demo.runner import DemoError, DemoRefusedError, Runner
from keyturn.demo.story import Story

HELLO = "hello"
SERVICE_PORT = 8080
KEPT_LOCK = "locks/hello.lock"
SIGNED_PREFIX = b"keyturn-sign/1\0"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "hello"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pins:
    """What an app names in its manifest: its contract, the chain, the registry, the KMS."""

    app: str
    chain: Chain
    registry: str
    kms_id: str

    def words(self) -> tuple[str, ...]:
        """The options of ``keyturn app build``."""
        return (
            *("--app-id", self.app, "--chain-id", str(self.chain.chain_id)),
            *("--contract", self.registry, "--kms-root", self.kms_id),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A checked answer of the service: the key that signed it (base64) and the count on its disk."""

    public: str
    visits: int


def copy_example(story: Story, runner: Runner) -> None:
    """The example's project, locked."""
    if not EXAMPLE.is_dir():
        raise DemoError(
            "is not there", subject=str(EXAMPLE), advice="run the demo from a checkout of the repository"
        )
    shutil.copytree(EXAMPLE, runner.folder / HELLO)
    kept = runner.folder / KEPT_LOCK
    if kept.exists():
        shutil.copyfile(kept, runner.folder / HELLO / "root" / LOCK)
    with story.step("locks the packages of examples/hello") as step:
        step.result = lock_and_fetch(story, runner, f"{HELLO}/root")
        keep_lock(runner, f"{HELLO}/root", kept)
        runner.run("app", "lock", f"{HELLO}/app.toml")


def build_app(runner: Runner, project: str, pins: Pins) -> str:
    """Build a locked app project; the app hash."""
    return str(runner.run("app", "build", f"{project}/app.toml", *pins.words())["app_hash"])


def configure(runner: Runner, name: str, *, app: str, kms_url: str) -> str:
    """The config disk of one instance; its instance id."""
    made = runner.run(
        *("app", "config", app, "--output", f"{name}.config", "--kms", kms_url),
        *(*NETWORK, "--reference", REFERENCE),
    )
    return str(made["instance_id"])


def predict_app(runner: Runner, name: str, *, app: str) -> str:
    """PCR 14 (SHA-256) at the time of the key release, predicted."""
    found = runner.run("predict", "--app", app, "--config", f"{name}.config")
    return str(found["runtime"]["release"]["sha256"])


def machine(name: str, *, app: str, image: str = f"{BASE}/image", port: int | None = None) -> Machine:
    """A guest that runs an app."""
    return Machine(
        name=name,
        image=image,
        app=app,
        config=f"{name}.config",
        port=None if port is None else (port, SERVICE_PORT),
    )


def call_service(guest: Guest) -> Answer:
    """Call the service with a nonce and check who signed the answer. Raises ``DemoRefusedError``."""
    nonce = secrets.token_hex(16)
    return check_answer(guest.await_answer(f"/?nonce={nonce}"), nonce=nonce)


def check_answer(document: dict[str, Any], *, nonce: str) -> Answer:
    """Check an answer of examples/hello against its own key. Raises ``DemoRefusedError``."""
    payload = base64.b64decode(document["payload"], validate=True)
    public = base64.b64decode(document["public"], validate=True)
    signature = base64.b64decode(document["signature"], validate=True)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, SIGNED_PREFIX + payload)
    except (InvalidSignature, ValueError) as error:
        raise _refused("is not signed by the key beside it") from error
    said = json.loads(payload)
    if said["nonce"] != nonce:
        raise _refused("is not about our nonce")
    return Answer(public=document["public"], visits=int(said["visits"]))


def verify_service(
    runner: Runner, guest: Guest, kms: RunningKms, *, pins: Pins, tpms: Tpms, bundle: str
) -> dict[str, Any]:
    """``keyturn verify`` of the service's URL; the tree. A failed check is a ``CommandError``."""
    assert guest.machine.port is not None
    return runner.run(
        *("verify", f"http://127.0.0.1:{guest.machine.port[0]}/", *_anchors(pins, tpms)),
        *("--kms", kms.url, "--kms-node", NODE, "--kms-reference", REFERENCE, "--rpc", pins.chain.url),
        *("--reference", REFERENCE, "--write-bundle", bundle),
    )


def check_released(bundle: Path, answer: Answer) -> None:
    """Check that the key of ``answer`` is in the verified bundle's receipt. Raises ``DemoRefusedError``."""
    receipt = json.loads(bundle.read_text(encoding="utf-8"))["receipt"]
    keys = json.loads(base64.b64decode(receipt["payload"]))["keys"]
    if base64.b64decode(answer.public).hex() not in [key["public"] for key in keys]:
        raise _refused("is signed by a key that the KMS did not release")


def verify_offline(runner: Runner, *, pins: Pins, tpms: Tpms, bundle: str) -> dict[str, Any]:
    """``keyturn verify --bundle`` of what the other verification has kept; the tree."""
    return runner.run("verify", "--bundle", bundle, *_anchors(pins, tpms))


def count_checks(tree: dict[str, Any]) -> int:
    """How many checks a tree has."""
    return sum(len(group["checks"]) for group in tree["groups"])


def _anchors(pins: Pins, tpms: Tpms) -> tuple[str, ...]:
    return (
        *("--root", tpms.root, "--intermediate", tpms.intermediate),
        *("--chain-id", str(pins.chain.chain_id), "--contract", pins.registry),
        *("--kms-id", pins.kms_id, "--app-id", pins.app),
    )


def _refused(reason: str) -> DemoRefusedError:
    return DemoRefusedError(
        reason, subject="answer of the service", advice="somebody stands between you and the app"
    )
