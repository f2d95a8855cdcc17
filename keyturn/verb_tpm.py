"""``keyturn tpm``: software TPMs for machines of ``keyturn run``, and the authority that certifies them; and
challenges, which show that an attestation key is in a TPM whose maker certified it.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from keyturn.output import JsonOption, Output, escape


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    tpm = typer.Typer(no_args_is_help=True, help="Make software TPMs, and challenge any TPM.")
    tpm.callback()(_tpm)
    tpm.command("make")(make)
    tpm.command("challenge")(challenge)
    app.add_typer(tpm, name="tpm")


def _tpm() -> None:
    """Make software TPMs, and challenge any TPM."""


def make(
    state: Annotated[Path, typer.Argument(help="Folder of the TPM; one that is there is left as it is.")],
    authority: Annotated[
        Path | None,
        typer.Option("--authority", help="Folder of the authority that certifies it; by default its own."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a TPM with an EK certificate; show its authority's certificates, which verifiers are to trust."""
    from keyturn.input_files import platform_root
    from measurements.swtpm import INTERMEDIATE_NAME, ROOT_NAME, manufacture

    manufacture(state, authority=authority)
    folder = state / "ca" if authority is None else authority
    root, intermediate = folder / ROOT_NAME, folder / INTERMEDIATE_NAME
    shown = {
        "state": str(state),
        "root": str(root),
        "intermediate": str(intermediate),
        "platform_root": platform_root(root).hex(),
    }
    out = Output(json=json)
    out.table("software TPM", ("what", "value"), [(key, escape(value)) for key, value in shown.items()])
    out.result(shown)


def challenge(
    evidence: Annotated[Path, typer.Argument(help="Evidence with an EK certificate and a quote.")],
    output: Annotated[
        Path, typer.Option("--output", help="Where the credential goes, as tpm2_activatecredential reads it.")
    ] = Path("credential.blob"),
    secret_file: Annotated[
        Path | None,
        typer.Option(
            "--secret-file", help="Take this secret, 32 bytes never used before; by default a fresh one."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Seal a secret for the EK and AK in evidence: only their TPM opens it. Nothing is verified yet."""
    from attestation.credential import new_secret
    from attestation.tpm.activation import make_challenge
    from attestation.tpm.credential_file import credential_file
    from keyturn.verb_evidence import read_evidence
    from measurements.kept import write_whole

    secret = new_secret() if secret_file is None else _secret(secret_file)
    made = make_challenge(read_evidence(evidence), secret=secret)
    write_whole(output, credential_file(made.credential))
    shown = {
        "output": str(output),
        "activation": made.activation.hex(),
        "ek_platform_id": made.ek_platform_id.hex(),
        "ak_name": made.ak_name.hex(),
    }
    out = Output(json=json)
    out.table("challenge", ("what", "value"), [(key, escape(value)) for key, value in shown.items()])
    for where, command in _next(evidence, output, made.activation.hex()):
        out.line(f"{where}: {escape(command)}")
    out.result(shown)


def _next(evidence: Path, blob: Path, activation: str) -> tuple[tuple[str, str], ...]:
    """What follows, and where."""
    opened, activated = "secret.bin", "activated.bin"
    activate = f"tpm2_activatecredential -c AK -C EK -P session:SESSION -i {quote(str(blob))} -o {opened}"
    add = f"keyturn evidence import {quote(str(evidence))} --activated-secret {opened} --output {activated}"
    verify = f"keyturn verify {activated} --policy POLICY --activation {activation}"
    return ("on the machine", activate), ("then here", add), ("and", verify)


def _secret(path: Path) -> bytes:
    from attestation.credential import SECRET_SIZE
    from attestation.tpm.activation import ChallengeError
    from keyturn.input_files import read_limited

    secret = read_limited(path)
    if len(secret) != SECRET_SIZE or len(set(secret)) == 1:
        raise ChallengeError(
            f"is no secret of {SECRET_SIZE} random bytes",
            subject=str(path),
            advice="leave the option out: a fresh secret is made",
        )
    return secret
