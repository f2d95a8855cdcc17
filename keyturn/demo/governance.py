"""The demo's chain: anvil on loopback, the registry behind a timelock, and who may change what."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests

from keyturn.demo.guest import GATEWAY
from keyturn.demo.runner import DemoError, Runner

DELAY_SECONDS = 1
"""Delay of the demo's timelock; of a real one, days."""

KEYS = "keys"
DEPLOYMENT = "deployment.json"
START_SECONDS = 60
CALL_SECONDS = 30
PATIENCE_SECONDS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """A running chain: its node as the host and as guests reach it, and the addresses of the three people."""

    url: str
    chain_id: int
    addresses: dict[str, str]

    @property
    def guest_url(self) -> str:
        """The node behind a guest's gateway."""
        return self.url.replace("127.0.0.1", GATEWAY)


@contextmanager
def running_chain(runner: Runner) -> Iterator[Chain]:
    """A development chain for the time of a ``with`` block."""
    output = runner.folder / "chain.json"
    words = ("chain", "dev", "--port", "0", "--keys", KEYS, "--json")
    with runner.background(*words, output=output) as process:
        deadline = time.monotonic() + START_SECONDS
        document = None
        while document is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(
                    output.read_text(errors="replace").strip()[-400:] or "it says nothing",
                    subject="development chain",
                    advice="try `keyturn chain dev` alone",
                )
            time.sleep(0.1)
            document = _whole_json(output.read_text(errors="replace"))
        yield Chain(url=document["url"], chain_id=document["chain_id"], addresses=dict(document["addresses"]))


class Governance:
    """Changes of policy by the people whose right they are."""

    def __init__(self, runner: Runner, chain: Chain) -> None:
        self._runner = runner
        self.chain = chain

    def deploy(self) -> dict[str, Any]:
        """Deploy registry and timelock; the deployment."""
        return self._call(
            *("deploy", "registry", "--delay", str(DELAY_SECONDS)),
            *("--guardian", self.chain.addresses["guardian"]),
            *("--proposer", self.chain.addresses["proposer"]),
            who="payer",
        )

    def make_app(self) -> str:
        """A new app of the registry; its address."""
        guardian = ("--guardian", self.chain.addresses["guardian"])
        return str(self._call("deploy", "app", *guardian, "--any-device", who="payer")["app"])

    def allow(self, *words: str) -> int:
        """Propose, wait for the timelock, carry out; the block."""
        wait = ("--wait", str(PATIENCE_SECONDS))
        return int(self._call("allow", *words, *wait, who="proposer")["block"])

    def revoke(self, *words: str) -> int:
        """The guardian's removal of an entry, at once; the block."""
        return int(self._call("revoke", *words, who="guardian")["block"])

    def anchor(self, kms_url: str, kms_id: str) -> list[dict[str, Any]]:
        """Put the KMS's new receipts on chain; the batches."""
        found: list[dict[str, Any]] = self._call("anchor", kms_url, "--kms-id", kms_id, who="payer")[
            "batches"
        ]
        return found

    def finalize(self, block: int) -> None:
        """Wait until ``block`` is final, which is what the KMS reads."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._finalized() < block:
            if time.monotonic() > deadline:
                raise DemoError(
                    f"block {block} does not become final", subject="chain", advice="look at anvil"
                )
            time.sleep(0.2)

    def _finalized(self) -> int:
        """Number of the newest final block."""
        call = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["finalized", False]}
        try:
            answer = requests.post(self.chain.url, json=call, timeout=CALL_SECONDS)
            return int(answer.json()["result"]["number"], 16)
        except (requests.RequestException, KeyError, TypeError, ValueError) as error:
            raise DemoError(str(error), subject="development chain", advice="look at chain.json") from error

    def history(self, app: str | None = None) -> list[dict[str, Any]]:
        """Every event of the registry, or of an app."""
        found: list[dict[str, Any]] = self._call("history", *(() if app is None else ("--app", app)))[
            "events"
        ]
        return found

    def _call(self, *words: str, who: str | None = None) -> dict[str, Any]:
        signs = ("--keystore", f"{KEYS}/{who}.json", "--password-file", f"{KEYS}/password")
        return self._runner.run(
            *("chain", *words, "--url", self.chain.url, "--deployment", DEPLOYMENT),
            *(signs if who is not None else ()),
        )


def _whole_json(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
