"""The contracts as Python calls: deploy, send, and pass what must be passed through the timelock.

A ``Call`` is data: which contract, which function, which arguments. It is sent as it is by the guardian, or
``govern`` takes it through OpenZeppelin's TimelockController: propose, wait for the delay, execute. The salt
of a proposal is the number of times the same call has been carried out before, so asking twice continues the
same proposal, and a call can be repeated later.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

from web3 import Web3
from web3.exceptions import ContractCustomError, ContractLogicError, TimeExhausted, Web3Exception
from web3.logs import DISCARD
from web3.types import TxReceipt

from contracts.artefacts import ContractName, artefact
from contracts.deployment import Deployment
from contracts.layout import NEVER, UpgradeMode
from contracts.signers import Signer
from measurements.errors import KeyturnError, RefusedError

RECEIPT_SECONDS = 180
RECEIPT_POLL_SECONDS = 0.05
POLL_SECONDS = 0.25
MAX_REPEATS = 10_000
DEFAULT_ADMIN_ROLE = bytes(32)
ANYBODY = "0x" + "00" * 20
_ZERO = bytes(32)


class ChainError(KeyturnError):
    """The node does not answer, or is not the chain it should be."""

    code = "chain"


class ContractRefusedError(RefusedError):
    """A contract refused a transaction; ``error_name`` is its own error."""

    code = "contract-refused"

    def __init__(self, error_name: str, *, subject: str) -> None:
        super().__init__(
            f"the contract answered {error_name}",
            subject=subject,
            advice="compare role, delay and current state (keyturn chain status)",
        )
        self.error_name = error_name


class ProposalState(IntEnum):
    """TimelockController.OperationState."""

    UNSET = 0
    WAITING = 1
    READY = 2
    DONE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A function call; ``target`` is an address."""

    contract: ContractName
    target: str
    function: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.contract}.{self.function}"


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls that the timelock carries out in one transaction: all of them or none."""

    calls: tuple[Call, ...]

    def __str__(self) -> str:
        return " + ".join(str(call) for call in self.calls)


@dataclass(frozen=True, kw_only=True, slots=True)
class AppSettings:
    """What an app starts with; by default it takes listed devices only and has no end."""

    mode: UpgradeMode = UpgradeMode.MUTABLE
    notice_seconds: int = 0
    expiry: int = NEVER
    any_device: bool = False

    def as_tuple(self) -> tuple[int, int, int, bool]:
        """In the order of KeyturnApp.Settings."""
        return (int(self.mode), self.notice_seconds, self.expiry, self.any_device)


def connect(url: str, *, chain_id: int | None = None) -> Web3:
    """A connection; raises ``ChainError`` unless it answers, and with ``chain_id`` when given."""
    web3 = Web3(Web3.HTTPProvider(url))
    try:
        found = web3.eth.chain_id
    except (OSError, ValueError, Web3Exception) as error:
        raise ChainError(
            f"does not answer: {error}", subject=url, advice="check the URL and that the node runs"
        ) from error
    if chain_id is not None and found != chain_id:
        raise ChainError(
            f"is chain {found}, not {chain_id}", subject=url, advice="use a node of the deployment's chain"
        )
    return web3


def deploy_timelock(web3: Web3, signer: Signer, *, proposer: str, guardian: str, delay_seconds: int) -> str:
    """A timelock that ``proposer`` proposes to, everybody executes from and ``guardian`` cancels on.

    The deployer is its admin only until the guardian can cancel; after that it administers itself.
    """
    constructor = (delay_seconds, [web3.to_checksum_address(proposer)], [ANYBODY], signer.address)
    timelock, _ = _create(web3, signer, ContractName.TIMELOCK, constructor)
    for function, arguments in (
        ("grantRole", (role("CANCELLER_ROLE"), web3.to_checksum_address(guardian))),
        ("renounceRole", (DEFAULT_ADMIN_ROLE, signer.address)),
    ):
        call = Call(contract=ContractName.TIMELOCK, target=timelock, function=function, arguments=arguments)
        send(web3, signer, call)
    return timelock


def deploy(web3: Web3, signer: Signer, *, proposer: str, guardian: str, delay_seconds: int) -> Deployment:
    """A registry and its timelock."""
    timelock = deploy_timelock(
        web3, signer, proposer=proposer, guardian=guardian, delay_seconds=delay_seconds
    )
    registry, block = _create(
        web3, signer, ContractName.REGISTRY, (timelock, web3.to_checksum_address(guardian))
    )
    return Deployment(
        chain_id=web3.eth.chain_id,
        registry=registry.lower(),
        timelock=timelock.lower(),
        guardian=guardian.lower(),
        block=block,
    )


def create_app(
    web3: Web3, signer: Signer, *, registry: str, timelock: str, guardian: str, settings: AppSettings
) -> str:
    """A new app of ``registry``; returns its address (lower case), which is the app id."""
    call = Call(
        contract=ContractName.REGISTRY,
        target=registry,
        function="createApp",
        arguments=(
            web3.to_checksum_address(timelock),
            web3.to_checksum_address(guardian),
            settings.as_tuple(),
        ),
    )
    receipt = send(web3, signer, call)
    events = (
        _contract(web3, ContractName.REGISTRY, registry).events.AppCreated().process_receipt(receipt, DISCARD)
    )
    return str(events[0]["args"]["app"]).lower()


def send(web3: Web3, signer: Signer, call: Call) -> TxReceipt:
    """Carry out ``call``; raises ``ContractRefusedError`` with the contract's own error, ``ChainError``."""
    function = _contract(web3, call.contract, call.target).get_function_by_name(call.function)
    return _transact(web3, signer, function(*call.arguments), subject=str(call))


def propose(web3: Web3, signer: Signer, *, timelock: str, call: Call | Batch) -> ProposalState:
    """Put ``call`` to the timelock unless the same proposal is already there; returns the state before."""
    state, salt = proposal(web3, timelock=timelock, call=call)
    if state is ProposalState.UNSET:
        delay = _contract(web3, ContractName.TIMELOCK, timelock).functions.getMinDelay().call()
        send(web3, signer, _timelock_call(web3, timelock, "schedule", call, salt, delay))
    return state


def execute(web3: Web3, signer: Signer, *, timelock: str, call: Call | Batch) -> TxReceipt:
    """Carry out a proposal whose delay is over; the timelock refuses any other."""
    _, salt = proposal(web3, timelock=timelock, call=call)
    return send(web3, signer, _timelock_call(web3, timelock, "execute", call, salt))


def cancel(web3: Web3, signer: Signer, *, timelock: str, call: Call | Batch) -> TxReceipt:
    """Withdraw a proposal that is not carried out yet; the guardian's right, too."""
    _, salt = proposal(web3, timelock=timelock, call=call)
    identifier = read(web3, _timelock_call(web3, timelock, "hashOperation", call, salt))
    withdraw = Call(
        contract=ContractName.TIMELOCK, target=timelock, function="cancel", arguments=(identifier,)
    )
    return send(web3, signer, withdraw)


def role(name: str) -> bytes:
    """Identifier of an AccessControl role."""
    return bytes(Web3.keccak(text=name))


def govern(
    web3: Web3, signer: Signer, *, timelock: str, call: Call | Batch, patience_seconds: float
) -> TxReceipt:
    """Propose, wait for the delay and execute; raises ``ChainError`` when patience ends first."""
    propose(web3, signer, timelock=timelock, call=call)
    deadline = time.monotonic() + patience_seconds
    while proposal(web3, timelock=timelock, call=call)[0] is not ProposalState.READY:
        if time.monotonic() > deadline:
            raise ChainError(
                "is proposed, its delay is not over", subject=str(call), advice="repeat the command later"
            )
        time.sleep(POLL_SECONDS)
    return execute(web3, signer, timelock=timelock, call=call)


def proposal(web3: Web3, *, timelock: str, call: Call | Batch) -> tuple[ProposalState, bytes]:
    """State and salt of the first proposal of ``call`` that is not done."""
    functions = _contract(web3, ContractName.TIMELOCK, timelock).functions
    for repeat in range(MAX_REPEATS):
        salt = repeat.to_bytes(32, "big")
        identifier = read(web3, _timelock_call(web3, timelock, "hashOperation", call, salt))
        state = ProposalState(functions.getOperationState(identifier).call())
        if state is not ProposalState.DONE:
            return state, salt
    raise ChainError("was repeated too often", subject=str(call), advice="choose another period")


def encode(web3: Web3, call: Call) -> bytes:
    """Call data of ``call``."""
    contract = _contract(web3, call.contract, call.target)
    return bytes.fromhex(
        str(contract.encode_abi(call.function, args=list(call.arguments))).removeprefix("0x")
    )


def read(web3: Web3, call: Call) -> Any:
    """Result of a view; for people, as a verifier reads storage proofs."""
    return (
        _contract(web3, call.contract, call.target)
        .get_function_by_name(call.function)(*call.arguments)
        .call()
    )


def read_words(web3: Web3, address: str, slots: Sequence[bytes], *, block: Any = "finalized") -> list[bytes]:
    """Storage words, unproven, for display."""
    return [
        bytes(
            web3.eth.get_storage_at(web3.to_checksum_address(address), int.from_bytes(slot, "big"), block)
        ).rjust(32, b"\0")
        for slot in slots
    ]


def _contract(web3: Web3, name: ContractName, address: str) -> Any:
    return web3.eth.contract(address=web3.to_checksum_address(address), abi=artefact(name).abi)


def _create(web3: Web3, signer: Signer, name: ContractName, arguments: tuple[Any, ...]) -> tuple[str, int]:
    built = artefact(name)
    factory = web3.eth.contract(abi=built.abi, bytecode=built.bytecode)
    receipt = _transact(web3, signer, factory.constructor(*arguments), subject=f"{name} constructor")
    address = str(receipt["contractAddress"])
    code_hash = bytes(Web3.keccak(web3.eth.get_code(web3.to_checksum_address(address))))
    if code_hash != built.runtime_code_hash:
        raise ChainError(
            "has other code than its artefact",
            subject=address,
            advice="rebuild the artefacts; check the node",
        )
    return address, int(receipt["blockNumber"])


def _timelock_call(
    web3: Web3, timelock: str, function: str, what: Call | Batch, salt: bytes, *more: Any
) -> Call:
    calls = what.calls if isinstance(what, Batch) else (what,)
    targets = [web3.to_checksum_address(call.target) for call in calls]
    data = [encode(web3, call) for call in calls]
    arguments: tuple[Any, ...] = (targets[0], 0, data[0])
    if isinstance(what, Batch):
        function, arguments = f"{function}Batch", (targets, [0] * len(calls), data)
    return Call(
        contract=ContractName.TIMELOCK,
        target=timelock,
        function=function,
        arguments=(*arguments, _ZERO, salt, *more),
    )


def _transact(web3: Web3, signer: Signer, action: Any, *, subject: str) -> TxReceipt:
    try:
        sender = web3.to_checksum_address(signer.address)
        count = web3.eth.get_transaction_count(sender, "pending")
        transaction = action.build_transaction({"from": sender, "nonce": count})
        identifier = web3.eth.send_raw_transaction(signer.sign(transaction))
        receipt = web3.eth.wait_for_transaction_receipt(identifier, RECEIPT_SECONDS, RECEIPT_POLL_SECONDS)
    except ContractCustomError as error:
        raise ContractRefusedError(_error_name(str(error.data or error)), subject=subject) from error
    except ContractLogicError as error:
        raise ContractRefusedError(str(error), subject=subject) from error
    except (OSError, TimeExhausted, Web3Exception) as error:
        raise ChainError(
            f"was not sent: {error}", subject=subject, advice="check node and balance"
        ) from error
    if receipt["status"] != 1:
        raise ContractRefusedError("a revert", subject=subject)
    return receipt


@cache
def _error_names() -> dict[str, str]:
    """Names of the contracts' errors by selector (8 hex digits)."""
    names = {}
    for contract in ContractName:
        for item in artefact(contract).abi:
            if item["type"] == "error":
                signature = f"{item['name']}({','.join(part['type'] for part in item['inputs'])})"
                names[Web3.keccak(text=signature)[:4].hex()] = item["name"]
    return names


def _error_name(data: str) -> str:
    return _error_names().get(data.removeprefix("0x")[:8], data)
