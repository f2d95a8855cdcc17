"""``keyturn chain set``: settings of an app, through its timelock or, for listed devices, by its guardian."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.chain_options import (
    DEFAULT_DEPLOYMENT,
    DEFAULT_URL,
    DeploymentOption,
    KeystoreOption,
    PasswordOption,
    SignerOption,
    TimelockOption,
    UrlOption,
    WaitOption,
    open_session,
    open_signer,
    parse_address,
)
from keyturn.chain_sending import chosen_timelock, govern_call, send_call
from keyturn.output import JsonOption, Output

if TYPE_CHECKING:
    from keyturn.chain_options import Session

LAST_TIME = 2**64 - 1


class StricterMode(StrEnum):
    """Upgrade modes that an app can be moved to; there is no way back."""

    MUTABLE = "mutable"
    DELAYED = "delayed"
    FROZEN = "frozen"


def set_app(
    app: Annotated[str, typer.Option("--app", help="Address of the app.")],
    expiry: Annotated[
        int | None, typer.Option("--expiry", min=1, max=LAST_TIME, help="No keys from this time on (Unix).")
    ] = None,
    mode: Annotated[
        StricterMode | None, typer.Option("--mode", help="How it takes new code; only ever stricter.")
    ] = None,
    notice: Annotated[
        int | None, typer.Option("--notice", min=0, help="Seconds before new code starts; only ever longer.")
    ] = None,
    any_device: Annotated[
        bool, typer.Option("--any-device", help="Accept every device below an allowed platform root.")
    ] = False,
    require_listed_device: Annotated[
        bool, typer.Option("--require-listed-device", help="Accept listed devices only, at once (guardian).")
    ] = False,
    tcb_rule: Annotated[
        str | None,
        typer.Option("--tcb-rule", help="Digest of a rule; a KMS that knows no rule gives no keys."),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    signer: SignerOption = None,
    timelock: TimelockOption = None,
    wait: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Change settings of an app: several at a time are one proposal, all or none."""
    from contracts.binding import Call
    from contracts.layout import UpgradeMode
    from keyturn.chain_settings import Settings, settings_call

    out = Output(json=json)
    target = parse_address(app, option="--app")
    wanted = Settings(
        expiry=expiry,
        mode=None if mode is None else UpgradeMode[mode.name],
        notice=notice,
        any_device=any_device,
        require_listed_device=require_listed_device,
        tcb_rule=tcb_rule,
    )
    session = open_session(url, deployment)
    call = settings_call(target, wanted, current_notice=_notice(session, target))
    who = open_signer(keystore, password_file, signer)
    if tcb_rule is not None:
        out.warn("a KMS of this version knows no TCB rule: the app gets no keys, and no rule can be removed")
    if isinstance(call, Call) and require_listed_device:
        send_call(session, who, call, out)
    else:
        govern_call(session, who, chosen_timelock(session, timelock), call, wait, out)


def _notice(session: Session, app: str) -> int:
    """The app's notice now; the contract itself refuses a shorter one."""
    from contracts.artefacts import ContractName
    from contracts.binding import read_words
    from contracts.layout import app_state_slots, decode_app_state
    from keyturn.chain_status import check_code

    check_code(session.web3, ContractName.APP, app)
    words = read_words(session.web3, app, app_state_slots(), block="latest")
    return decode_app_state(words).notice_seconds
