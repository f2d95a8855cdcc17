"""State of a contract for people: now, finalized, and what its lists hold."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from web3 import Web3

from contracts import binding, layout, policy
from contracts.artefacts import ContractName, artefact
from contracts.layout import NEVER, Entry
from contracts.policy import AppList, RegistryList


def read_status(web3: Web3, contract: ContractName, address: str, *, first_block: int) -> dict[str, Any]:
    """The document that ``keyturn chain status --json`` prints; raises ``ChainError`` for other code."""
    check_code(web3, contract, address)
    latest, finalized = web3.eth.get_block("latest"), web3.eth.get_block("finalized")
    events = policy.history(
        web3, contract, address, first_block=first_block, last_block=int(latest["number"])
    )
    return {
        "contract": str(contract),
        "address": address,
        "block": int(latest["number"]),
        "finalized_block": int(finalized["number"]),
        "state": _state(web3, contract, address, int(latest["number"])),
        "finalized_state": _state(web3, contract, address, int(finalized["number"])),
        "entries": [
            _entry(contract, number, identifier, entry, int(latest["timestamp"]))
            for (number, identifier), entry in sorted(policy.listed(events).items())
        ],
    }


def check_code(web3: Web3, contract: ContractName, address: str) -> None:
    """Raises ``ChainError`` unless ``address`` holds this version of ``contract``."""
    code = bytes(web3.eth.get_code(web3.to_checksum_address(address)))
    if bytes(Web3.keccak(code)) != artefact(contract).runtime_code_hash:
        raise binding.ChainError(
            f"is no {contract} of this version", subject=address, advice="check the address and the chain"
        )


def _state(web3: Web3, contract: ContractName, address: str, block: int) -> dict[str, Any]:
    if contract is ContractName.REGISTRY:
        words = binding.read_words(web3, address, layout.registry_state_slots(), block=block)
        return asdict(layout.decode_registry_state(words))
    words = binding.read_words(web3, address, layout.app_state_slots(), block=block)
    state = asdict(layout.decode_app_state(words))
    rule = layout.decode_tcb_rule(binding.read_words(web3, address, layout.tcb_rule_slots(), block=block))
    return {
        **state,
        "upgrade_mode": state["upgrade_mode"].name.lower(),
        "tcb_rule": None if rule is None else rule.hex(),
    }


def _entry(contract: ContractName, number: int, identifier: str, entry: Entry, now: int) -> dict[str, str]:
    lists: type[RegistryList | AppList] = RegistryList if contract is ContractName.REGISTRY else AppList
    return {
        "list": lists(number).name.lower().replace("_", "-"),
        "id": identifier,
        "not_before": _time(entry.not_before),
        "not_after": _time(entry.not_after),
        "state": _word(entry, now),
    }


def _word(entry: Entry, now: int) -> str:
    if entry.revoked:
        return "revoked"
    if now < entry.not_before:
        return "not yet"
    return "holds" if entry.holds_at(now) else "ended"


def _time(seconds: int) -> str:
    if seconds == 0:
        return "always"
    if seconds == NEVER:
        return "never"
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return str(seconds)
