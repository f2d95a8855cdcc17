"""A development chain with deployed contracts; state is put back after every test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from web3 import Web3

from contracts import binding
from contracts.binding import AppSettings, Batch, Call, ContractRefusedError
from contracts.deployment import Deployment
from contracts.dev_chain import DevChain, find_anvil, start_dev_chain
from contracts.signers import KeySigner
from measurements.errors import MissingToolError
from tests.support.tools import unavailable

DELAY = 100


@dataclass(frozen=True, kw_only=True)
class World:
    """Everybody who acts on the test chain."""

    chain: DevChain
    web3: Web3
    proposer: KeySigner
    guardian: KeySigner
    stranger: KeySigner
    deployment: Deployment

    @property
    def registry(self) -> str:
        return self.deployment.registry

    @property
    def timelock(self) -> str:
        return self.deployment.timelock

    def govern(self, call: Call | Batch) -> None:
        """Propose, let the delay pass, execute (as anybody may)."""
        binding.propose(self.web3, self.proposer, timelock=self.timelock, call=call)
        self.chain.skip_time(DELAY)
        binding.execute(self.web3, self.stranger, timelock=self.timelock, call=call)

    def guard(self, call: Call) -> None:
        binding.send(self.web3, self.guardian, call)

    def now(self) -> int:
        return int(self.web3.eth.get_block("latest")["timestamp"])

    def app(self, settings: AppSettings | None = None) -> str:
        return binding.create_app(
            self.web3,
            self.stranger,
            registry=self.registry,
            timelock=self.timelock,
            guardian=self.guardian.address,
            settings=settings or AppSettings(),
        )

    def refused(self, call: Call, *, by: KeySigner) -> str:
        """Name of the error with which the contract refuses ``call``."""
        with pytest.raises(ContractRefusedError) as caught:
            binding.send(self.web3, by, call)
        return caught.value.error_name

    def refused_by_governor(self, call: Call | Batch) -> str:
        """Name of the error with which the contract refuses the timelock itself."""
        binding.propose(self.web3, self.proposer, timelock=self.timelock, call=call)
        self.chain.skip_time(DELAY)
        with pytest.raises(ContractRefusedError) as caught:
            binding.execute(self.web3, self.stranger, timelock=self.timelock, call=call)
        return caught.value.error_name


def require_anvil() -> str:
    try:
        return find_anvil()
    except MissingToolError as error:
        unavailable(f"{error}: {error.advice}")


@pytest.fixture(scope="session")
def deployed_world() -> Iterator[World]:
    require_anvil()
    chain = start_dev_chain(block_seconds=None)
    try:
        web3 = binding.connect(chain.url, chain_id=chain.chain_id)
        proposer, guardian, stranger = KeySigner.create(), KeySigner.create(), KeySigner.create()
        for signer in (proposer, guardian, stranger):
            chain.fund(signer.address)
        deployment = binding.deploy(
            web3, stranger, proposer=proposer.address, guardian=guardian.address, delay_seconds=DELAY
        )
        yield World(
            chain=chain,
            web3=web3,
            proposer=proposer,
            guardian=guardian,
            stranger=stranger,
            deployment=deployment,
        )
    finally:
        chain.stop()


@pytest.fixture
def world(deployed_world: World) -> Iterator[World]:
    snapshot = deployed_world.chain.call("evm_snapshot")
    yield deployed_world
    deployed_world.chain.call("evm_revert", snapshot)
