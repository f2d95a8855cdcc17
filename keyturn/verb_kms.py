"""``keyturn kms``: a KMS for development on this host, and what any KMS shows: its identity, its receipts.

Receipts reach the chain with ``keyturn chain anchor``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.chain_options import DEFAULT_DEPLOYMENT, DEFAULT_URL, DeploymentOption, UrlOption
from keyturn.output import JsonOption, Output, escape

if TYPE_CHECKING:
    from kms.main import Settings

KmsUrlArgument = Annotated[str, typer.Argument(help="URL of the KMS.")]


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    kms = typer.Typer(no_args_is_help=True, help="Run a KMS for development, ask any KMS.")
    kms.command("dev")(dev)
    kms.command("public-key")(public_key)
    kms.command("receipts")(receipts)
    app.add_typer(kms, name="kms")


def dev(
    ek_certificates: Annotated[
        list[Path], typer.Option("--ek-certificate", help="DER of a TPM authority; may be given repeatedly.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of root key and journal.")],
    listen: Annotated[str, typer.Option("--listen", help="Address and port.")] = "127.0.0.1:8090",
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
) -> None:
    """Run a development KMS until interrupted: marked as such, and never the KMS of a release."""
    from kms.main import MARKER, development_root, serve

    settings = _settings(ek_certificates, data=data, listen=listen, url=url, deployment=deployment)
    Output(json=False).warn(MARKER)
    serve(settings, root=development_root(settings.data), development=True, proof=None)


def public_key(url: KmsUrlArgument, json: JsonOption = False) -> None:
    """Show the identity of a KMS, checked against itself: the id that apps pin, and its keys."""
    from kms.client import fetch_identity

    out = Output(json=json)
    shown = fetch_identity(url)
    out.table("KMS", ("what", "value"), [(key, escape(str(value))) for key, value in shown.items()])
    out.result(shown)


def receipts(
    url: KmsUrlArgument,
    hashes: Annotated[list[str], typer.Argument(help="Hashes of receipts, as the KMS names them.")],
    kms_id: Annotated[str, typer.Option("--kms-id", help="The KMS id that the app pins.")],
    json: JsonOption = False,
) -> None:
    """Fetch receipts, verify their signatures and their places in batches."""
    from kms.client import fetch_receipt

    out = Output(json=json)
    found = [fetch_receipt(url, receipt_hash=wanted, kms_id=kms_id) for wanted in hashes]
    out.table(
        "receipts",
        ("seq", "decision", "reason", "app", "instance", "batch"),
        [_row(document) for document in found],
    )
    out.result({"receipts": found})


def _row(document: dict[str, Any]) -> tuple[str, ...]:
    receipt, inclusion = document["receipt"], document["inclusion"]
    reason = receipt["reason"]
    return (
        str(receipt["seq"]),
        escape(receipt["decision"]),
        "-" if reason is None else escape(f"{reason['code']}: {reason['text']}"),
        escape(receipt["app_id"]),
        escape(receipt["instance_id"]),
        "none yet" if inclusion is None else f"{inclusion['from_seq']} to {inclusion['to_seq']}",
    )


def _settings(
    ek_certificates: list[Path], *, data: Path, listen: str, url: str, deployment: Path
) -> Settings:
    import base64

    from contracts.artefacts import ContractName, artefact
    from contracts.deployment import read_deployment
    from kms.main import read_settings

    found = read_deployment(deployment)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificates = [base64.b64encode(path.read_bytes()).decode("ascii") for path in ek_certificates]
    return read_settings(
        {
            "KEYTURN_CHAIN_ID": str(found.chain_id),
            "KEYTURN_REGISTRY": found.registry.lower(),
            "KEYTURN_REGISTRY_CODE_HASH": artefact(ContractName.REGISTRY).runtime_code_hash.hex(),
            "KEYTURN_APP_CODE_HASH": artefact(ContractName.APP).runtime_code_hash.hex(),
            "KEYTURN_RPC_URL": url,
            "KEYTURN_EK_CERTIFICATES": ",".join(certificates),
            "KEYTURN_LISTEN": listen,
            "KEYTURN_DATA": os.fspath(data),
        }
    )
