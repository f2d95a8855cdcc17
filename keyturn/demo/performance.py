"""The demo from the first step to the last: what depends on what, and what may happen at once.

Booting is what takes time, and an emulated machine uses one processor: guests that do not depend on each
other boot side by side, and the chain is governed while a guest boots.
"""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from contracts.layout import NEVER
from contracts.policy import AppList, RegistryList
from keyturn.demo import app_act, images, kms_act
from keyturn.demo.app_act import HELLO, Answer, Pins
from keyturn.demo.governance import Chain, Governance, running_chain
from keyturn.demo.guest import Guest, Machine
from keyturn.demo.kms_act import RunningKms, Tpms
from keyturn.demo.refusals import Refusal, Refusals, table_rows
from keyturn.demo.relay import Relay
from keyturn.demo.runner import DemoRefusedError, Runner
from keyturn.demo.story import Story
from keyturn.output import Output, escape

BUNDLE = "bundle.json"
SHOWN_CHARACTERS = 20


class Performance:
    """One demo. ``play`` does it, ``conclude`` shows what happened; facts are kept for both."""

    def __init__(self, out: Output, folder: Path, *, ports: tuple[int, int]) -> None:
        self.out = out
        self.story = Story(out)
        self._runner = Runner(folder)
        self._kms_port, self._app_port = ports
        self._facts: dict[str, Any] = {}
        self._refusals: list[Refusal] = []
        self._events: list[dict[str, Any]] = []
        self._app: Guest | None = None

    def play(self, stack: ExitStack, pool: ThreadPoolExecutor) -> None:
        """All acts; what is left running is stopped with ``stack``."""
        self.story.chapter("1. The image, the chain, the KMS")
        image = images.make_base_image(self.story, self._runner)
        chain, governance, registry = self._found(stack)
        tpms = kms_act.make_tpm(self._runner, kms_act.KMS)
        self._facts["kms_app_hash"] = kms_act.build_kms(
            self.story, self._runner, chain=chain, registry=registry
        )
        kms_act.configure_kms(self._runner, chain=chain, tpms=tpms)

        self.story.chapter("2. The KMS boots; its image is allowed meanwhile")
        guest = kms_act.start_kms(self._runner, port=self._kms_port)
        kms_url = f"http://127.0.0.1:{self._kms_port}"
        refusals = Refusals(self.story, self._runner, kms_url=kms_url)
        prepared = pool.submit(refusals.prepare)
        app = self._allow_image(governance, image, tpms)
        app_act.copy_example(self.story, self._runner)
        wrong = Pins(app=app, chain=chain, registry=registry, kms_id=secrets.token_hex(32))
        refused = [pool.submit(refusals.wrong_kms, wrong)]
        kms = self._meet_kms(guest, image, tpms)

        self.story.chapter("3. The app, pinned to this KMS")
        pins = replace(wrong, kms_id=kms.kms_id)
        relay = stack.enter_context(Relay(kms.url).serving())
        app_hash = self._build_app(pins)
        prepared.result()
        refused.append(pool.submit(refusals.changed_command_line))
        kms_act.register_kms(self.story, governance)
        refused.append(pool.submit(refusals.changed_container, pins))
        refused.append(pool.submit(refusals.app_hash, pins))
        self._allow_app(governance, pins, relay, app_hash)

        self.story.chapter("4. The app boots and answers; others are refused")
        first = self._serve()
        self._refusals.append(refusals.replayed_evidence(relay))
        self._verify(governance, kms, pins, tpms, first)
        last = pool.submit(refusals.image_revoked)
        self._reboot(first)
        self._refusals += [each.result() for each in refused]
        self._revoke(governance, image)
        refusals.revoked.set()
        self._refusals.append(last.result())

        self.story.chapter("5. What is on chain")
        self._record(governance, kms, pins)

    def stop(self) -> None:
        """End every guest and the chain; also in the middle of the play."""
        self._runner.stop_all()

    def conclude(self) -> None:
        """Tables of what was refused and of what the chain has seen, and the JSON result."""
        self.out.table(
            "Refused, and nothing released", ("what", "by", "code", "reason"), _escaped(self._refusals)
        )
        rows = [
            (str(each["block"]), each["contract"], each["name"], escape(_arguments(each)))
            for each in self._events
        ]
        self.out.table("Events on chain", ("block", "contract", "event", "arguments"), rows)
        seconds = round(time.monotonic() - self.story.started, 1)
        self.out.line(f"[bold]Both keys turned, and every other hand was refused[/bold] ({seconds:.0f} s)")
        self.out.line(
            "[yellow]TPMs, chain and people of this demo are made up on this machine: "
            "it shows the mechanism, not a host to be trusted.[/yellow]"
        )
        self.out.result(
            {
                **self._facts,
                "refusals": [each.as_json() for each in self._refusals],
                "events": self._events,
                "addresses": self.addresses(),
                "steps": self.story.told,
                "seconds": seconds,
            }
        )

    def addresses(self) -> dict[str, str]:
        """Where chain, KMS and app are reached."""
        return {
            "chain": self._facts["chain_url"],
            "registry": self._facts["registry"],
            "app contract": self._facts["app_id"],
            "KMS": f"http://127.0.0.1:{self._kms_port}",
            "app": f"http://127.0.0.1:{self._app_port}",
        }

    def _found(self, stack: ExitStack) -> tuple[Chain, Governance, str]:
        with self.story.step("starts a development chain and deploys registry and timelock") as step:
            chain = stack.enter_context(running_chain(self._runner))
            governance = Governance(self._runner, chain)
            registry = str(governance.deploy()["registry"])
            step.result = f"registry {registry} on chain {chain.chain_id}"
        self._facts |= {"chain_url": chain.url, "chain_id": chain.chain_id, "registry": registry}
        return chain, governance, registry

    def _allow_image(self, governance: Governance, image: images.BaseImage, tpms: Tpms) -> str:
        """Allow image, reference values and maker of TPMs; make the app's contract, which allows it, too."""
        with self.story.step("allows the image and its reference values on chain, timelocked") as step:
            governance.allow("image", image.image_id)
            block = governance.allow("reference", image.reference_digest, "--image", image.image_id)
            step.result = f"block {block}"
        with self.story.step("allows the maker of the TPMs as a platform root, timelocked") as step:
            block = governance.allow("platform-root", "--certificate", tpms.root)
            step.result = f"{tpms.platform_root[:16]}… in block {block}"
        with self.story.step("makes the app's contract, and allows the image in it") as step:
            app = governance.make_app()
            block = governance.allow("app-image", image.image_id, "--app", app)
            step.result = f"app {app}, block {block}"
        self._facts |= {"image_id": image.image_id, "app_id": app, "platform_root": tpms.platform_root}
        return app

    def _meet_kms(self, guest: Guest, image: images.BaseImage, tpms: Tpms) -> RunningKms:
        with self.story.step("the KMS guest boots: OVMF, a TPM, no disk key but its own") as step:
            report = guest.await_report()
            step.result = "reported"
        self._facts |= images.compare_registers(self.out, image.predicted, report)
        kms = kms_act.check_kms(self.story, self._runner, guest, tpms=tpms)
        self._facts["kms_id"] = kms.kms_id
        return kms

    def _build_app(self, pins: Pins) -> str:
        with self.story.step("builds examples/hello, pinned to KMS, registry and chain") as step:
            app_hash = app_act.build_app(self._runner, HELLO, pins)
            step.result = f"app hash {app_hash}"
        return app_hash

    def _allow_app(self, governance: Governance, pins: Pins, relay: Relay, app_hash: str) -> None:
        with self.story.step("predicts its runtime register, and allows the app hash, timelocked") as step:
            instance = app_act.configure(self._runner, HELLO, app=f"{HELLO}/app", kms_url=relay.guest_url)
            register = app_act.predict_app(self._runner, HELLO, app=f"{HELLO}/app")
            block = governance.allow("app-hash", app_hash, "--app", pins.app)
            governance.finalize(block)
            step.result = f"PCR 14 {register[:16]}…, block {block}, final"
        self._facts |= {"app_hash": app_hash, "instance_id": instance, "pcr14": register}

    def _serve(self) -> Answer:
        """The first boot, and an answer."""
        kms_act.make_tpm(self._runner, HELLO)
        with self.story.step("the app guest boots, gets its keys, formats its disk, and answers") as step:
            self._app = Guest(self._runner, self._app_machine())
            first = app_act.call_service(self._app)
            step.result = f"signed by {first.public}, visit {first.visits}"
        return first

    def _verify(self, governance: Governance, kms: RunningKms, pins: Pins, tpms: Tpms, first: Answer) -> None:
        """From the answer to the contract on one side and to the maker of the TPM on the other."""
        with self.story.step("puts the KMS's receipts on chain, verifies the service up to there") as step:
            for batch in governance.anchor(kms.url, kms.kms_id):
                governance.finalize(batch["block"])
            assert self._app is not None
            tree = app_act.verify_service(self._runner, self._app, kms, pins=pins, tpms=tpms, bundle=BUNDLE)
            app_act.check_released(self._runner.folder / BUNDLE, first)
            offline = app_act.verify_offline(self._runner, pins=pins, tpms=tpms, bundle=BUNDLE)
            checks = app_act.count_checks(tree)
            step.result = f"{checks} checks hold, {app_act.count_checks(offline)} without any network"
        self._facts |= {"public": first.public, "verified": checks}

    def _reboot(self, first: Answer) -> None:
        """The second boot, on the same disk."""
        with self.story.step("the app guest boots again, and finds its data") as step:
            assert self._app is not None
            self._app.close()
            again = self._app = Guest(self._runner, self._app_machine(), boot=2)
            second = app_act.call_service(again)
            if (second.public, second.visits) != (first.public, first.visits + 1):
                raise DemoRefusedError(
                    f"visit {second.visits} follows visit {first.visits}",
                    subject="rebooted app",
                    advice=f"read {again.log}",
                )
            step.result = f"the same key, visit {second.visits}"
        self._facts["visits"] = [first.visits, second.visits]

    def _app_machine(self) -> Machine:
        return app_act.machine(HELLO, app=f"{HELLO}/app", port=self._app_port)

    def _revoke(self, governance: Governance, image: images.BaseImage) -> None:
        with self.story.step("the guardian revokes the image, which takes effect at once") as step:
            block = governance.revoke("image", image.image_id)
            governance.finalize(block)
            step.result = f"block {block}, final"

    def _record(self, governance: Governance, kms: RunningKms, pins: Pins) -> None:
        with self.story.step("puts the receipts of all refusals on chain, too") as step:
            batches = governance.anchor(kms.url, kms.kms_id)
            last = max((batch["to_seq"] for batch in batches), default=0)
            step.result = f"receipts up to {last}"
        events = [{"contract": "registry", **each} for each in governance.history()]
        events += [{"contract": "app", **each} for each in governance.history(pins.app)]
        self._events = sorted(events, key=lambda each: int(each["block"]))


def _escaped(refusals: list[Refusal]) -> list[tuple[str, ...]]:
    return [tuple(escape(cell) for cell in row) for row in table_rows(refusals)]


def _arguments(event: dict[str, Any]) -> str:
    """An event's arguments, lists by name and long values cut; bounds that bound nothing are left out."""
    lists = RegistryList if event["contract"] == "registry" else AppList
    shown = []
    for name, value in event["arguments"].items():
        if name == "list":
            shown.append(f"list {lists(value).name.lower().replace('_', '-')}")
        elif (name, value) not in {("notBefore", 0), ("notAfter", NEVER), ("expiry", NEVER)}:
            text = str(value)
            shown.append(f"{name} {text if len(text) <= SHOWN_CHARACTERS else f'{text[:16]}…'}")
    return ", ".join(shown)
