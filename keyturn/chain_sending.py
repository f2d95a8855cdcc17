"""Sends the calls of ``keyturn chain``: at once, or through the timelock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyturn.chain_options import parse_address
from keyturn.output import Output

if TYPE_CHECKING:
    from contracts.binding import Batch, Call
    from contracts.signers import Signer
    from keyturn.chain_options import Session


def chosen_timelock(session: Session, option: str | None) -> str:
    """The timelock of ``--timelock``, or the deployment's."""
    return session.deployment.timelock if option is None else parse_address(option, option="--timelock")


def send_call(session: Session, signer: Signer, call: Call, out: Output) -> None:
    """What takes effect at once."""
    from contracts.binding import send

    receipt = send(session.web3, signer, call)
    out.line(f"{call}: done in block {receipt['blockNumber']}")
    out.result({"call": str(call), "state": "done", "block": receipt["blockNumber"]})


def govern_call(
    session: Session, signer: Signer, timelock: str, call: Call | Batch, wait: int, out: Output
) -> None:
    """Propose; execute once the delay is over, for which ``wait`` seconds are waited."""
    from contracts.binding import ProposalState, govern, propose

    state = propose(session.web3, signer, timelock=timelock, call=call)
    if state is not ProposalState.READY and not wait:
        out.line(f"{call}: proposed; repeat the command after the delay")
        out.result({"call": str(call), "state": "proposed", "block": None})
        return
    receipt = govern(session.web3, signer, timelock=timelock, call=call, patience_seconds=wait)
    out.line(f"{call}: done in block {receipt['blockNumber']}")
    out.result({"call": str(call), "state": "done", "block": receipt["blockNumber"]})
