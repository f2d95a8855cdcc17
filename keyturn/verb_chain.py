"""``keyturn chain``: the contracts, from a development chain to the history of every change.

What adds or resumes goes through the timelock: the first call proposes, the same call repeated after the
delay executes (or ``--wait`` does both). What removes or stops takes effect at once.
"""

from __future__ import annotations

import signal
import sys
import threading
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.chain_options import (
    DEFAULT_DEPLOYMENT,
    DEFAULT_URL,
    AppOption,
    ChainUsageError,
    DeploymentOption,
    KeystoreOption,
    PasswordOption,
    PolicyList,
    SignerOption,
    TimelockOption,
    UrlOption,
    WaitOption,
    open_session,
    open_signer,
    parse_address,
    parse_identifier,
)
from keyturn.chain_sending import chosen_timelock, govern_call, send_call
from keyturn.output import JsonOption, Output, escape
from keyturn.verb_chain_set import set_app

if TYPE_CHECKING:
    from contracts.artefacts import ContractName
    from contracts.policy import Event
    from keyturn.chain_options import Session

NEVER = 2**64 - 1


class What(StrEnum):
    """What is deployed."""

    REGISTRY = "registry"
    APP = "app"


class Mode(StrEnum):
    """Upgrade modes of an app."""

    MUTABLE = "mutable"
    DELAYED = "delayed"
    FROZEN = "frozen"


ListArgument = Annotated[PolicyList, typer.Argument(help="Which list.")]


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    chain = typer.Typer(no_args_is_help=True, help="Govern on chain what gets keys.")
    for command in (dev, deploy, allow, revoke, pause, epoch, anchor, status, history):
        chain.command(command.__name__)(command)
    chain.command("set")(set_app)
    app.add_typer(chain, name="chain")


def dev(
    port: Annotated[int, typer.Option("--port", help="Port on loopback; 0 is any free one.")] = 8545,
    block_seconds: Annotated[int, typer.Option("--block-seconds", min=1, help="Time between blocks.")] = 1,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="Folder for keystores of proposer, guardian and payer.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run a development chain until interrupted."""
    from contracts.dev_chain import dev_chain
    from contracts.dev_keys import write_dev_keys

    out = Output(json=json)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with dev_chain(block_seconds=block_seconds, port=port) as running:
        addresses = write_dev_keys(running, keys) if keys is not None else {}
        out.line(f"chain {running.chain_id} at {running.url}; Ctrl-C ends it")
        for name, address in addresses.items():
            out.line(f"{name}: {address}")
        out.result({"url": running.url, "chain_id": running.chain_id, "addresses": addresses})
        sys.stdout.flush()
        while not ended.wait(0.2) and running.process.poll() is None:
            pass


def deploy(
    what: Annotated[What, typer.Argument(help="A registry, or an app of the deployment's registry.")],
    guardian: Annotated[str, typer.Option("--guardian", help="Who may revoke, pause and bump the epoch.")],
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    signer: SignerOption = None,
    proposer: Annotated[str | None, typer.Option("--proposer", help="Registry: who proposes.")] = None,
    delay: Annotated[int, typer.Option("--delay", min=1, help="Registry: the timelock's seconds.")] = 172800,
    timelock: TimelockOption = None,
    mode: Annotated[Mode, typer.Option("--mode", help="App: how it takes new code.")] = Mode.MUTABLE,
    notice: Annotated[int, typer.Option("--notice", min=0, help="App: notice in seconds.")] = 0,
    expiry: Annotated[int, typer.Option("--expiry", help="App: no keys from this time on.")] = NEVER,
    any_device: Annotated[bool, typer.Option("--any-device", help="App: do not list devices.")] = False,
    json: JsonOption = False,
) -> None:
    """Deploy a registry with its timelock, or make an app."""
    from contracts import binding
    from contracts.layout import UpgradeMode

    out = Output(json=json)
    guard = parse_address(guardian, option="--guardian")
    if what is What.REGISTRY:
        if proposer is None:
            raise ChainUsageError("is missing", subject="--proposer", advice="name who may propose additions")
        if deployment.exists():
            raise ChainUsageError(
                "is there already",
                subject=str(deployment),
                advice="choose another --deployment or move it away",
            )
        made = binding.deploy(
            binding.connect(url),
            open_signer(keystore, password_file, signer),
            proposer=parse_address(proposer, option="--proposer"),
            guardian=guard,
            delay_seconds=delay,
        )
        made.write(deployment)
        out.line(f"registry {made.registry}, timelock {made.timelock}; written to {escape(str(deployment))}")
        out.result(made.as_json())
        return
    session = open_session(url, deployment)
    address = binding.create_app(
        session.web3,
        open_signer(keystore, password_file, signer),
        registry=session.deployment.registry,
        timelock=chosen_timelock(session, timelock),
        guardian=guard,
        settings=binding.AppSettings(
            mode=UpgradeMode[mode.name], notice_seconds=notice, expiry=expiry, any_device=any_device
        ),
    )
    out.line(f"app {address}")
    out.result({"app": address, "registry": session.deployment.registry})


def allow(
    which: ListArgument,
    identifier: Annotated[
        str | None,
        typer.Argument(help="The digest; a KMS node is named by --kms, a root by --certificate, too."),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    signer: SignerOption = None,
    app: AppOption = None,
    timelock: TimelockOption = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Platform root: its certificate (DER or PEM).")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", help="Reference: the image it is of.")] = None,
    kms: Annotated[
        Path | None,
        typer.Option("--kms", help="KMS node: file of keyturn kms check, or answer of /v1/public-key."),
    ] = None,
    app_hash: Annotated[
        str | None, typer.Option("--app-hash", help="KMS node: its app hash, unless the file has it.")
    ] = None,
    evidence_hash: Annotated[
        str | None,
        typer.Option(
            "--evidence-hash", help="KMS node: hash of its checked evidence, unless the file has it."
        ),
    ] = None,
    not_before: Annotated[int, typer.Option("--not-before", min=0, help="Seconds since 1970.")] = 0,
    not_after: Annotated[int, typer.Option("--not-after", min=1, help="Seconds since 1970.")] = NEVER,
    wait: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Add or renew an entry, through the timelock."""
    from contracts.policy import Period
    from keyturn.chain_calls import Addition, allow_call

    session = open_session(url, deployment)
    addition = Addition(
        identifier=identifier,
        certificate=certificate,
        app=app,
        image=image,
        kms=kms,
        app_hash=app_hash,
        evidence_hash=evidence_hash,
        period=Period(not_before=not_before, not_after=not_after),
    )
    call = allow_call(session.deployment, which, addition)
    who = open_signer(keystore, password_file, signer)
    govern_call(session, who, chosen_timelock(session, timelock), call, wait, Output(json=json))


def revoke(
    which: ListArgument,
    identifier: Annotated[str, typer.Argument(help="The digest; for an app its address.")],
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    signer: SignerOption = None,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Remove an entry, at once."""
    from keyturn.chain_calls import revoke_call

    session = open_session(url, deployment)
    call = revoke_call(
        session.deployment.registry, which, parse_identifier(identifier, option="identifier"), app
    )
    send_call(session, open_signer(keystore, password_file, signer), call, Output(json=json))


def pause(
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    signer: SignerOption = None,
    app: AppOption = None,
    timelock: TimelockOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="End the pause, through the timelock.")] = False,
    wait: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Stop every release of keys, at once: of one app, or of all."""
    from contracts import policy

    session = open_session(url, deployment)
    contract, target = _target(session, app)
    who = open_signer(keystore, password_file, signer)
    if resume:
        call = policy.resume(contract, target)
        govern_call(session, who, chosen_timelock(session, timelock), call, wait, Output(json=json))
    else:
        send_call(session, who, policy.pause(contract, target), Output(json=json))


def epoch(
    app: Annotated[str, typer.Option("--app", help="Address of the app.")],
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    signer: SignerOption = None,
    json: JsonOption = False,
) -> None:
    """Give an app new keys, at once."""
    from contracts import policy

    session = open_session(url, deployment)
    call = policy.bump_epoch(parse_address(app, option="--app"))
    send_call(session, open_signer(keystore, password_file, signer), call, Output(json=json))


def anchor(
    kms_url: Annotated[str, typer.Argument(help="URL of the KMS whose receipts are anchored.")],
    kms_id: Annotated[str, typer.Option("--kms-id", help="Its id, as apps pin it.")],
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    signer: SignerOption = None,
    json: JsonOption = False,
) -> None:
    """Put a KMS's new receipts on chain; anybody may pay for it."""
    from keyturn.chain_anchor import anchor_receipts

    session = open_session(url, deployment)
    identifier = parse_identifier(kms_id, option="--kms-id")
    who = open_signer(keystore, password_file, signer)
    sent = anchor_receipts(session, who, kms_url=kms_url, kms_id=identifier)
    out = Output(json=json)
    for batch in sent:
        out.line(f"receipts {batch['from_seq']} to {batch['to_seq']} anchored in block {batch['block']}")
    if not sent:
        out.line("nothing new to anchor")
    out.result({"kms_id": identifier.hex(), "batches": sent})


def status(
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Show policy as it is now, and how much of it is finalized; unproven, from one node."""
    from keyturn.chain_status import read_status

    session = open_session(url, deployment)
    contract, target = _target(session, app)
    out = Output(json=json)
    found = read_status(session.web3, contract, target, first_block=session.deployment.block)
    out.line(f"{contract} {target} at block {found['block']} (finalized {found['finalized_block']})")
    for name, value in found["state"].items():
        ending = "" if found["finalized_state"][name] == value else " (not finalized)"
        out.line(f"  {name.replace('_', ' ')}: {value}{ending}")
    rows = [
        (item["list"], item["id"], item["not_before"], item["not_after"], item["state"])
        for item in found["entries"]
    ]
    out.table("entries", ("list", "id", "not before", "not after", "state"), rows)
    out.result(found)


def history(
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Show every event of the registry, or of one app."""
    from contracts import policy

    session = open_session(url, deployment)
    contract, target = _target(session, app)
    events = policy.history(session.web3, contract, target, first_block=session.deployment.block)
    times = {
        block: int(session.web3.eth.get_block(block)["timestamp"])
        for block in {item.block for item in events}
    }
    out = Output(json=json)
    rows = [
        (str(item.block), datetime.fromtimestamp(times[item.block], UTC).isoformat(), item.name, _shown(item))
        for item in events
    ]
    out.table(f"{contract} {target}", ("block", "time", "event", "arguments"), rows)
    out.result(
        {
            "contract": str(contract),
            "address": target,
            "events": [
                {
                    "block": item.block,
                    "time": times[item.block],
                    "name": item.name,
                    "arguments": item.arguments,
                }
                for item in events
            ],
        }
    )


def _target(session: Session, app: str | None) -> tuple[ContractName, str]:
    from contracts.artefacts import ContractName

    if app is None:
        return ContractName.REGISTRY, session.deployment.registry
    return ContractName.APP, parse_address(app, option="--app")


def _shown(event: Event) -> str:
    return escape(", ".join(f"{name} {value}" for name, value in event.arguments.items()))
