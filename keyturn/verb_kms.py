"""``keyturn kms``: a KMS for development on this host, and what any KMS shows: its identity, its receipts.

Receipts reach the chain with ``keyturn chain anchor``.
"""

from __future__ import annotations

import json as json_module
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.chain_options import DEFAULT_DEPLOYMENT, DEFAULT_URL, DeploymentOption, UrlOption
from keyturn.output import JsonOption, Output, escape
from keyturn.verdict_output import require_tree, show_tree
from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from kms.main import Settings
    from kms.node import NodeAnchors

KmsUrlArgument = Annotated[str, typer.Argument(help="URL of the KMS.")]


class KmsUsageError(KeyturnError):
    """Options that say too little or too much."""

    code = "kms-usage"


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    kms = typer.Typer(no_args_is_help=True, help="Run a KMS for development, ask any KMS.")
    kms.command("dev")(dev)
    kms.command("public-key")(public_key)
    kms.command("receipts")(receipts)
    kms.command("check")(check)
    app.add_typer(kms, name="kms")


def dev(
    ek_certificates: Annotated[
        list[Path], typer.Option("--ek-certificate", help="DER of a TPM authority; may be given repeatedly.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of root key and journal.")],
    policies: Annotated[
        list[Path] | None,
        typer.Option("--policy", help="A policy that apps may name as TCB rule; may be given repeatedly."),
    ] = None,
    listen: Annotated[str, typer.Option("--listen", help="Address and port.")] = "127.0.0.1:8090",
    url: UrlOption = DEFAULT_URL,
    deployment: DeploymentOption = DEFAULT_DEPLOYMENT,
) -> None:
    """Run a development KMS until interrupted: marked as such, and never the KMS of a release."""
    from kms.main import MARKER, development_root, serve

    settings = _settings(
        ek_certificates, policies or [], data=data, listen=listen, url=url, deployment=deployment
    )
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


def check(
    url: KmsUrlArgument,
    reference: Annotated[Path, typer.Option("--reference", help="Reference values of the KMS's machine.")],
    root: Annotated[
        list[Path], typer.Option("--root", help="Trusted root certificate of TPMs (DER or PEM).")
    ],
    app: Annotated[Path | None, typer.Option("--app", help="The KMS's built app folder.")] = None,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Instead: the KMS's app manifest.")
    ] = None,
    intermediate: Annotated[
        list[Path] | None, typer.Option("--intermediate", help="Certificate between root and TPM.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Where the checked identity goes, for keyturn chain allow."),
    ] = None,
    allow_development: Annotated[
        bool, typer.Option("--allow-development", help="Accept a development image.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check that a KMS's keys live in the measured KMS app; exit 0 only if all of it holds."""
    import secrets

    from attestation.verdict_tree import Tree
    from kms.client import fetch_node
    from kms.node import verify_node

    out = Output(json=json)
    anchors = _node_anchors(
        reference,
        root,
        intermediate or [],
        manifest=_kms_manifest(app, manifest),
        development=allow_development,
    )
    node = fetch_node(url, nonce=secrets.token_bytes(32))
    tree = Tree(groups=verify_node(node, anchors))
    show_tree(out, tree, title=f"KMS {node['kms_id']}")
    out.line(f"app hash {node['app_hash']}")
    out.line(f"evidence hash {node['evidence_hash']}")
    out.result({**tree.as_json(), "node": node})
    require_tree(tree)
    if output is not None:
        output.write_text(json_module.dumps(node, indent=2) + "\n", encoding="utf-8")


def _kms_manifest(app: Path | None, manifest: Path | None) -> bytes:
    from image_builder.app_build import MANIFEST_NAME
    from keyturn.input_files import read_limited

    if app is not None and manifest is None:
        return read_limited(app / MANIFEST_NAME)
    if manifest is not None and app is None:
        return read_limited(manifest)
    raise KmsUsageError(
        "exactly one of them is needed", subject="--app, --manifest", advice="name the KMS app that must run"
    )


def _node_anchors(
    reference: Path, roots: list[Path], intermediates: list[Path], *, manifest: bytes, development: bool
) -> NodeAnchors:
    from attestation.evidence_tree import ExpectedManifest
    from keyturn.input_files import read_certificates
    from kms.node import NodeAnchors
    from measurements.reference import read_reference

    return NodeAnchors(
        roots=read_certificates(roots),
        intermediates=read_certificates(intermediates),
        reference=read_reference(reference),
        app=ExpectedManifest(manifest=manifest),
        now=int(time.time()),
        development=development,
    )


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
    ek_certificates: list[Path], policies: list[Path], *, data: Path, listen: str, url: str, deployment: Path
) -> Settings:
    import base64

    from attestation.policy_document import encode_policy
    from contracts.artefacts import ContractName, artefact
    from contracts.deployment import read_deployment
    from keyturn.policy_inputs import read_policy
    from kms.main import read_settings

    found = read_deployment(deployment)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificates = [base64.b64encode(path.read_bytes()).decode("ascii") for path in ek_certificates]
    rules = [base64.b64encode(encode_policy(read_policy(path))).decode("ascii") for path in policies]
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
            **({"KEYTURN_POLICIES": ",".join(rules)} if rules else {}),
        }
    )
