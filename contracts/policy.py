"""Changes of policy as calls, and the events that changes leave behind.

Who may carry out what: ``allow_*``, ``set_*``, ``tighten`` and ``resume`` the timelock only
(``binding.govern``); ``revoke``, ``pause``, ``bump_epoch`` and ``require_listed_device`` the guardian, at
once (``binding.send``); ``anchor`` anybody, as the key service has signed it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from web3 import Web3

from contracts.artefacts import ContractName, artefact
from contracts.binding import Call
from contracts.layout import NEVER, WORD_BYTES, Entry, UpgradeMode, ZeroKeyError
from measurements.errors import FormatError

COMPRESSED_BYTES = 33


class RegistryList(IntEnum):
    """KeyturnRegistry.List."""

    IMAGE = 0
    REFERENCE = 1
    PLATFORM_ROOT = 2
    KMS_NODE = 3
    APP = 4


class AppList(IntEnum):
    """KeyturnApp.List."""

    APP_HASH = 0
    IMAGE = 1
    DEVICE = 2


class KmsKeyError(FormatError):
    """Root keys of a key service that are no keys."""

    code = "kms-key"


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """From ``not_before`` (inclusive) to ``not_after`` (exclusive), seconds since 1970."""

    not_before: int = 0
    not_after: int = NEVER


ALWAYS = Period()


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """A batch of receipts; ``signature`` is EIP-712, r ‖ s ‖ v (65 bytes)."""

    kms_id: bytes
    from_seq: int
    to_seq: int
    root: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event of a contract; bytes are hex without prefix."""

    block: int
    index: int
    contract: ContractName
    address: str
    name: str
    arguments: dict[str, int | str | bool]


def allow(registry: str, which: RegistryList, identifier: bytes, period: Period = ALWAYS) -> Call:
    """An image, a platform root, or an app (20 bytes) that was revoked."""
    key = _list_key(which, identifier)
    return _registry_call(registry, "allow", int(which), key, period.not_before, period.not_after)


def allow_reference(registry: str, digest: bytes, image_id: bytes, period: Period = ALWAYS) -> Call:
    """Reference values of an image that is in the list."""
    return _registry_call(registry, "allowReference", digest, image_id, period.not_before, period.not_after)


def allow_kms_node(
    registry: str,
    *,
    ed25519: bytes,
    secp256k1: bytes,
    app_hash: bytes,
    evidence_hash: bytes,
    period: Period = ALWAYS,
) -> Call:
    """A key service by its public root keys: Ed25519 (32) and secp256k1, compressed (33)."""
    point = _decompress(secp256k1)
    keys = (ed25519, point[:32], point[32:])
    return _registry_call(
        registry, "allowKmsNode", keys, app_hash, evidence_hash, period.not_before, period.not_after
    )


def revoke(registry: str, which: RegistryList, identifier: bytes) -> Call:
    """Remove an entry of the registry; an app is named by its address (20 bytes)."""
    return _registry_call(registry, "revoke", int(which), _list_key(which, identifier))


def allow_in_app(app: str, which: AppList, identifier: bytes, period: Period = ALWAYS) -> Call:
    """An app hash, an image or a device."""
    return _app_call(app, "allow", int(which), identifier, period.not_before, period.not_after)


def revoke_in_app(app: str, which: AppList, identifier: bytes) -> Call:
    """Remove an entry of an app."""
    return _app_call(app, "revoke", int(which), identifier)


def bump_epoch(app: str) -> Call:
    """New keys for an app."""
    return _app_call(app, "bumpEpoch")


def tighten(app: str, mode: UpgradeMode, notice_seconds: int) -> Call:
    """A stricter upgrade mode."""
    return _app_call(app, "tighten", int(mode), notice_seconds)


def set_expiry(app: str, expiry: int) -> Call:
    """Another end of an app: from ``expiry`` on, in seconds since 1970, it gets no keys."""
    return _app_call(app, "setExpiry", expiry)


def allow_any_device(app: str) -> Call:
    """Accept every device below an allowed platform root."""
    return _app_call(app, "allowAnyDevice")


def require_listed_device(app: str) -> Call:
    """Accept listed devices only."""
    return _app_call(app, "requireListedDevice")


def set_tcb_rule(app: str, rule: bytes) -> Call:
    """A rule that verifiers must know; it can be replaced, never removed."""
    return _app_call(app, "setTcbRule", rule)


def pause(contract: ContractName, target: str) -> Call:
    """Stop every release of keys."""
    return Call(contract=contract, target=target, function="pause")


def resume(contract: ContractName, target: str) -> Call:
    """End a pause."""
    return Call(contract=contract, target=target, function="unpause")


def anchor(registry: str, batch: Anchor) -> Call:
    """Put the Merkle root of a batch of receipts on chain."""
    _check_hashes((batch.kms_id, batch.root))
    return Call(
        contract=ContractName.REGISTRY,
        target=registry,
        function="anchorReceipts",
        arguments=(batch.kms_id, batch.from_seq, batch.to_seq, batch.root, batch.signature),
    )


def history(
    web3: Web3,
    contract: ContractName,
    address: str,
    *,
    first_block: int = 0,
    last_block: int | str = "latest",
) -> list[Event]:
    """All events of one contract in order; logs of unknown events are left out."""
    target = web3.to_checksum_address(address)
    logs = web3.eth.get_logs({"address": target, "fromBlock": first_block, "toBlock": last_block})  # type: ignore[typeddict-item]
    readers = _event_readers(web3, contract)
    events = []
    for log in logs:
        reader = readers.get(bytes(log["topics"][0]))
        if reader is not None:
            found = reader(log)
            events.append(
                Event(
                    block=int(found["blockNumber"]),
                    index=int(found["logIndex"]),
                    contract=contract,
                    address=str(target),
                    name=str(found["event"]),
                    arguments={key: _plain(value) for key, value in found["args"].items()},
                )
            )
    return events


def listed(events: list[Event]) -> dict[tuple[int, str], Entry]:
    """Current entries by (list, id in hex), as the events of one contract tell."""
    entries: dict[tuple[int, str], Entry] = {}
    for event in events:
        if event.name not in {"Allowed", "Revoked"}:
            continue
        key = (int(event.arguments["list"]), str(event.arguments["id"]))
        if event.name == "Revoked":
            entries[key] = replace(entries[key], revoked=True)
        else:
            entries[key] = Entry(
                not_before=int(event.arguments["notBefore"]),
                not_after=int(event.arguments["notAfter"]),
                revoked=False,
                exists=True,
            )
    return entries


def _event_readers(web3: Web3, contract: ContractName) -> dict[bytes, Callable[[Any], Any]]:
    bound = web3.eth.contract(abi=artefact(contract).abi)
    readers: dict[bytes, Callable[[Any], Any]] = {}
    for item in artefact(contract).abi:
        if item["type"] == "event":
            signature = f"{item['name']}({','.join(part['type'] for part in item['inputs'])})"
            readers[bytes(Web3.keccak(text=signature))] = getattr(bound.events, item["name"])().process_log
    return readers


def _plain(value: Any) -> int | str | bool:
    return value.hex() if isinstance(value, bytes) else value


def _list_key(which: RegistryList, identifier: bytes) -> bytes:
    return (
        identifier.rjust(WORD_BYTES, b"\0")
        if which is RegistryList.APP and len(identifier) == 20
        else identifier
    )


def _registry_call(registry: str, function: str, *arguments: Any) -> Call:
    _check_hashes(arguments)
    return Call(contract=ContractName.REGISTRY, target=registry, function=function, arguments=arguments)


def _app_call(app: str, function: str, *arguments: Any) -> Call:
    _check_hashes(arguments)
    return Call(contract=ContractName.APP, target=app, function=function, arguments=arguments)


def _check_hashes(arguments: tuple[Any, ...]) -> None:
    """No hash that was cut, and no zero for a hash."""
    for value in arguments:
        if isinstance(value, bytes) and (len(value) != WORD_BYTES or not any(value)):
            raise ZeroKeyError(
                "must be 32 bytes and not zero", subject="identifier", advice="pass the whole digest"
            )


def _decompress(compressed: bytes) -> bytes:
    """x and y (32 bytes each) of a compressed point that is on the curve."""
    try:
        if len(compressed) != COMPRESSED_BYTES:
            raise ValueError(f"{len(compressed)} bytes, not {COMPRESSED_BYTES}")
        key = EllipticCurvePublicKey.from_encoded_point(SECP256K1(), compressed)
    except ValueError as error:
        raise KmsKeyError(
            f"is no point: {error}", subject="secp256k1 key", advice="take it from the KMS's /v1/public-key"
        ) from error
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
