"""Options that the commands of ``keyturn chain`` share: node, deployment, who signs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from web3 import Web3

    from contracts.deployment import Deployment
    from contracts.signers import Signer

DEFAULT_URL = "http://127.0.0.1:8545"

UrlOption = Annotated[str, typer.Option("--url", help="JSON-RPC URL of a node.")]
DeploymentOption = Annotated[
    Path, typer.Option("--deployment", help="The deployment file, from keyturn chain deploy registry.")
]
KeystoreOption = Annotated[Path | None, typer.Option("--keystore", help="Keystore file of who signs.")]
PasswordOption = Annotated[
    Path | None, typer.Option("--password-file", help="Its password; asked for when not given.")
]
SignerOption = Annotated[
    str | None, typer.Option("--signer", help="Instead of a keystore: a command that signs.")
]
AppOption = Annotated[str | None, typer.Option("--app", help="Address of an app: its policy is meant.")]
TimelockOption = Annotated[
    str | None, typer.Option("--timelock", help="The app's timelock, if not the deployment's.")
]
WaitOption = Annotated[
    int,
    typer.Option("--wait", min=0, help="Seconds to wait for the timelock's delay; 0 proposes and returns."),
]


class PolicyList(StrEnum):
    """Lists of the policy; the last three belong to an app."""

    IMAGE = "image"
    REFERENCE = "reference"
    PLATFORM_ROOT = "platform-root"
    KMS_NODE = "kms-node"
    APP = "app"
    APP_HASH = "app-hash"
    APP_IMAGE = "app-image"
    DEVICE = "device"


DEFAULT_DEPLOYMENT = Path("deployment.json")


class ChainUsageError(KeyturnError):
    """Arguments that say too little, too much or nothing sensible."""

    code = "chain-usage"


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A node and the registry on it."""

    web3: Web3
    deployment: Deployment


def open_session(url: str, deployment: Path) -> Session:
    """Connect to a node of the deployment's chain."""
    from contracts.binding import connect
    from contracts.deployment import read_deployment

    found = read_deployment(deployment)
    return Session(web3=connect(url, chain_id=found.chain_id), deployment=found)


def open_signer(keystore: Path | None, password_file: Path | None, signer: str | None) -> Signer:
    """Who signs; raises ``ChainUsageError`` unless exactly one way is named."""
    from contracts.signers import CommandSigner, KeySigner

    if (keystore is None) == (signer is None):
        raise ChainUsageError(
            "exactly one of them is needed", subject="--keystore, --signer", advice="name who signs"
        )
    if signer is not None:
        return CommandSigner(shlex.split(signer))
    assert keystore is not None
    if password_file is not None:
        password = password_file.read_text(encoding="utf-8").rstrip("\n")
    else:
        password = typer.prompt(f"Password of {keystore.name}", hide_input=True, err=True)
    return KeySigner.from_keystore(keystore, password)


def parse_address(text: str, *, option: str) -> str:
    """An address in lower case."""
    value = text.lower()
    if len(value) != 42 or not value.startswith("0x") or not _is_hex(value[2:]) or not int(value, 16):
        raise ChainUsageError(
            "is no address", subject=option, advice="pass 0x and 40 hexadecimal digits, not zero"
        )
    return value


def parse_identifier(text: str, *, option: str) -> bytes:
    """32 bytes in hex, or an address (20 bytes)."""
    value = text.lower().removeprefix("0x")
    if len(value) not in (40, 64) or not _is_hex(value) or not int(value, 16):
        raise ChainUsageError(
            "is no digest", subject=option, advice="pass 64 hexadecimal digits (40 for an app), not zero"
        )
    return bytes.fromhex(value)


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)
