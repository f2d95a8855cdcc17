"""A development chain: anvil on a free loopback port, whose ``finalized`` block lags by two.

Nothing of it is secret or lasting: state lives in memory and whoever reaches the port can give itself money.
It runs without node: npm's package holds a plain program.
"""

from __future__ import annotations

import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import requests

from measurements.errors import KeyturnError, MissingToolError

MODULES = Path(__file__).resolve().parents[1] / "node_modules"
CHAIN_ID = 31337
START_SECONDS = 30
STOP_SECONDS = 5
CALL_SECONDS = 10
_LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class DevChainError(KeyturnError):
    """The development chain does not start or does not answer."""

    code = "dev-chain"


@dataclass(frozen=True, kw_only=True, slots=True)
class DevChain:
    """A running anvil."""

    url: str
    chain_id: int
    process: subprocess.Popen[str]

    def call(self, method: str, *parameters: object) -> Any:
        """Result of one JSON-RPC call; raises ``DevChainError`` for an error answer."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        answer = requests.post(self.url, json=body, timeout=CALL_SECONDS)
        answer.raise_for_status()
        document = answer.json()
        if "error" in document:
            raise DevChainError(
                document["error"].get("message", "error"),
                subject=method,
                advice="look at the call's parameters",
            )
        return document["result"]

    def fund(self, address: str, wei: int = 10**21) -> None:
        """Set the balance of ``address``."""
        self.call("anvil_setBalance", address, hex(wei))

    def mine(self, blocks: int = 1) -> None:
        """Add ``blocks`` blocks at once."""
        self.call("anvil_mine", hex(blocks))

    def skip_time(self, seconds: int) -> None:
        """Let the next block be ``seconds`` later."""
        self.call("evm_increaseTime", hex(seconds))
        self.mine()

    def stop(self) -> None:
        """End the program; waits until it is gone. Stopping twice does nothing."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def find_anvil() -> str:
    """Path of anvil: npm's package in the repository, else one in PATH; raises ``MissingToolError``."""
    system = "win32" if sys.platform == "win32" else sys.platform
    machine = _MACHINES.get(platform.machine().lower(), "unknown")
    packaged = MODULES / "@foundry-rs" / f"anvil-{system}-{machine}" / "bin" / "anvil"
    found = str(packaged) if packaged.exists() else shutil.which("anvil")
    if found is None:
        raise MissingToolError("is not installed", subject="anvil", advice="run npm ci in the repository")
    return found


def start_dev_chain(*, block_seconds: int | None = 1, port: int = 0) -> DevChain:
    """Start anvil; ``block_seconds`` None means a block for each transaction. The caller stops it.

    Port 0 is a free port that the system chooses. Raises ``DevChainError`` when it does not listen in time.
    """
    command = [find_anvil(), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(CHAIN_ID)]
    command += ["--slots-in-an-epoch", "1", "--accounts", "1"]
    if block_seconds is not None:
        command += ["--block-time", str(block_seconds)]
    # A file, not a pipe: a pipe that nobody reads would stop the program when it is full.
    with tempfile.NamedTemporaryFile("r", prefix="keyturn-anvil-", encoding="utf-8") as log:
        with Path(log.name).open("w", encoding="utf-8") as sink:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, text=True, start_new_session=True
            )
        try:
            listening = _wait_for_port(process, log)
        except BaseException:
            process.kill()
            process.wait()
            raise
    return DevChain(url=f"http://127.0.0.1:{listening}", chain_id=CHAIN_ID, process=process)


@contextmanager
def dev_chain(*, block_seconds: int | None = 1, port: int = 0) -> Iterator[DevChain]:
    """A development chain for the time of a ``with`` block."""
    chain = start_dev_chain(block_seconds=block_seconds, port=port)
    try:
        yield chain
    finally:
        chain.stop()


def _wait_for_port(process: subprocess.Popen[str], log: IO[str]) -> int:
    deadline = time.monotonic() + START_SECONDS
    text = ""
    while time.monotonic() < deadline:
        text += log.read()
        found = _LISTENING.search(text)
        if found:
            return int(found.group(1))
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise DevChainError(
        f"does not listen: {text.strip()[-500:]}",
        subject="anvil",
        advice="choose another port or free some memory",
    )
