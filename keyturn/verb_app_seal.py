"""``keyturn app seal``: the owner of an app seals its secrets into an envelope for the config disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keyturn.output import JsonOption, Output, escape

DEFAULT_ENVELOPE = "envelope.json"
STDIN = "-"


def seal(
    app: Annotated[Path, typer.Argument(help="An app folder; its manifest names owner and KMS.")],
    kms: Annotated[str, typer.Option("--kms", help="URL of the KMS that the app pins.")],
    owner_key: Annotated[
        Path,
        typer.Option("--owner-key", help="Ed25519 private key in PEM; its public half is app.owner-key."),
    ],
    epoch: Annotated[int, typer.Option("--epoch", min=0, help="Key epoch, as the app's contract has it.")],
    counter: Annotated[
        int, typer.Option("--counter", min=1, help="Above that of every envelope before; older ones lapse.")
    ],
    secrets: Annotated[
        str, typer.Option("--secrets", help="File of NAME=value lines; - is standard input.")
    ] = STDIN,
    output: Annotated[Path, typer.Option("--output", help="Envelope to write.")] = Path(DEFAULT_ENVELOPE),
    allow_development: Annotated[
        bool, typer.Option("--allow-development", help="Seal to a key of a development KMS.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Seal secrets to the app's key and sign them: the host can neither read nor replace them."""
    from guest_agent.owner_envelope import container_env, target_of
    from image_builder.app_build import MANIFEST_NAME
    from keyturn.envelope_seal import read_owner_key, read_secrets, seal_envelope
    from keyturn.input_files import read_limited
    from kms.client import fetch_public_half
    from kms.public_half import PublicKeyOf
    from measurements.app_manifest import KeyKind, parse_manifest
    from measurements.envelope import ENVELOPE_PATH

    out = Output(json=json)
    manifest = parse_manifest(read_limited(app / MANIFEST_NAME))
    target = target_of(manifest, epoch=epoch)
    owner = read_owner_key(read_limited(owner_key))
    env = read_secrets(_input(secrets))
    container_env(env, {}, manifest.containers)
    wanted = PublicKeyOf(
        kms_id=target.kms_id,
        chain_id=target.chain_id,
        contract=target.contract,
        app_id=target.app_id,
        path=ENVELOPE_PATH,
        kind=KeyKind.X25519,
        epoch=epoch,
    )
    public = fetch_public_half(kms, wanted, allow_development=allow_development)
    output.write_bytes(seal_envelope(env, target, counter=counter, public=public, owner=owner))
    out.line(f"wrote {escape(str(output))}: {', '.join(sorted(env)) or 'no values'}")
    out.line(f"for key epoch {epoch}, counter {counter}; next: keyturn app config --envelope")
    out.result({"envelope": str(output), "names": sorted(env), "epoch": epoch, "counter": counter})


def _input(name: str) -> bytes:
    """The secrets' bytes; one more than may be sealed is enough to refuse them."""
    from keyturn.envelope_seal import LARGEST_INPUT

    if name == STDIN:
        return sys.stdin.buffer.read(LARGEST_INPUT + 1)
    with Path(name).open("rb") as file:
        return file.read(LARGEST_INPUT + 1)
