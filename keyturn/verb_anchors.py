"""``keyturn anchors``: the root certificates that verifications trust, and who says so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyturn.output import JsonOption, Output, escape


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("anchors")(anchors)


def anchors(
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Also list the roots of this policy.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the pinned root certificates: what each is trusted for, its SHA-256, and where it is from."""
    from attestation.anchors import anchors_for, vendor_anchors
    from attestation.policy import RootPurpose
    from keyturn.policy_inputs import read_policy

    out = Output(json=json)
    vendors = vendor_anchors()
    found = vendors if policy is None else anchors_for(read_policy(policy)).anchors
    rows, documents = [], []
    for one in sorted(found, key=lambda anchor: (list(RootPurpose).index(anchor.purpose), anchor.subject)):
        own, development = one not in vendors, one.purpose is RootPurpose.SIM
        marks = ["[cyan]own[/cyan]"] * own + ["[yellow]development[/yellow]"] * development
        texts = (one.purpose.value, one.subject, one.fingerprint.hex(), one.source, one.date)
        rows.append((*map(escape, texts), ", ".join(marks) or "vendor"))
        documents.append(
            {
                "purpose": one.purpose.value,
                "subject": one.subject,
                "fingerprint": one.fingerprint.hex(),
                "source": one.source,
                "date": one.date,
                "own": own,
                "development": development,
            }
        )
    out.table("trusted roots", ("for", "subject", "SHA-256", "source", "pinned", "by"), rows)
    out.result({"anchors": documents})
