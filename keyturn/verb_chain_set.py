"""``keyturn chain set``: settings of an app, through its timelock or, for listed devices, by its guardian."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
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
        typer.Option("--tcb-rule", help="A policy file, or its digest: what the app demands of a machine."),
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
    rule = None if tcb_rule is None else rule_of(tcb_rule)
    wanted = Settings(
        expiry=expiry,
        mode=None if mode is None else UpgradeMode[mode.name],
        notice=notice,
        any_device=any_device,
        require_listed_device=require_listed_device,
        tcb_rule=rule,
    )
    session = open_session(url, deployment)
    call = settings_call(target, wanted, current_notice=_notice(session, target))
    who = open_signer(keystore, password_file, signer)
    if rule is not None:
        out.warn(
            f"only a KMS that was given the policy {rule} will give keys; a rule can be replaced, not removed"
        )
    if isinstance(call, Call) and require_listed_device:
        send_call(session, who, call, out)
    else:
        govern_call(session, who, chosen_timelock(session, timelock), call, wait, out)


def rule_of(text: str) -> str:
    """The digest of the policy in a file; what is no file is left to be a digest. A policy that no guest of
    keyturn can meet is refused, since a rule cannot be removed.
    """
    from attestation.policy_document import policy_digest
    from attestation.tpm_policy import rule_defects
    from keyturn.chain_options import ChainUsageError
    from keyturn.policy_inputs import read_policy

    if not Path(text).is_file():
        return text
    policy = read_policy(Path(text))
    defects = rule_defects(policy)
    if defects:
        raise ChainUsageError(
            f"no guest can meet the policy {policy.name}: {'; '.join(defects)}",
            subject="--tcb-rule",
            advice="begin with keyturn policy init --platform tpm, and read keyturn policy explain",
        )
    return policy_digest(policy).hex()


def _notice(session: Session, app: str) -> int:
    """The app's notice now; the contract itself refuses a shorter one."""
    from contracts.artefacts import ContractName
    from contracts.binding import read_words
    from contracts.layout import app_state_slots, decode_app_state
    from keyturn.chain_status import check_code

    check_code(session.web3, ContractName.APP, app)
    words = read_words(session.web3, app, app_state_slots(), block="latest")
    return decode_app_state(words).notice_seconds
