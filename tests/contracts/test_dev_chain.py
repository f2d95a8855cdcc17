"""The development chain starts, lags, and leaves nothing running."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from contracts import dev_chain as module
from contracts.dev_chain import CHAIN_ID, DevChainError, dev_chain, find_anvil
from contracts.dev_keys import NAMES, PASSWORD_FILE, write_dev_keys
from contracts.signers import KeySigner
from measurements.errors import MissingToolError
from tests.contracts.conftest import require_anvil


def test_finalized_lags_by_two_and_nothing_stays() -> None:
    require_anvil()
    with dev_chain(block_seconds=None) as chain:
        chain.mine(5)
        numbers = {
            tag: int(chain.call("eth_getBlockByNumber", tag, False)["number"], 16)
            for tag in ("latest", "finalized")
        }
        assert numbers["latest"] - numbers["finalized"] == 2
        assert int(chain.call("eth_chainId"), 16) == chain.chain_id == CHAIN_ID
    assert chain.process.poll() is not None
    chain.stop()


def test_blocks_come_by_themselves() -> None:
    require_anvil()
    with dev_chain() as chain:
        deadline = time.monotonic() + 20
        while int(chain.call("eth_blockNumber"), 16) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_an_error_in_the_block_stops_the_chain() -> None:
    require_anvil()
    with pytest.raises(RuntimeError), dev_chain(block_seconds=None) as chain:
        raise RuntimeError
    assert chain.process.poll() is not None


def test_a_port_that_is_taken_is_refused() -> None:
    require_anvil()
    with dev_chain(block_seconds=None) as chain:
        port = int(chain.url.rsplit(":", 1)[1])
        with pytest.raises(DevChainError, match="does not listen"):
            module.start_dev_chain(block_seconds=None, port=port)


def test_an_error_answer_is_an_error() -> None:
    require_anvil()
    with dev_chain(block_seconds=None) as chain, pytest.raises(DevChainError):
        chain.call("keyturn_noSuchMethod")


def test_without_anvil_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MODULES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError) as caught:
        find_anvil()
    assert "npm ci" in caught.value.advice


def test_dev_keys_are_fresh_funded_and_not_replaced(tmp_path: Path) -> None:
    require_anvil()
    folder = tmp_path / "keys"
    with dev_chain(block_seconds=None) as chain:
        addresses = write_dev_keys(chain, folder)
        assert set(addresses) == set(NAMES)
        assert len(set(addresses.values())) == len(NAMES)
        for address in addresses.values():
            assert int(chain.call("eth_getBalance", address, "latest"), 16) > 0
        with pytest.raises(FileExistsError):
            write_dev_keys(chain, folder)
    password = (folder / PASSWORD_FILE).read_text().strip()
    signer = KeySigner.from_keystore(folder / "guardian.json", password)
    assert signer.address.lower() == addresses["guardian"]
