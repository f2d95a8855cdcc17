"""``keyturn verify``: a running service, evidence, a receipt or a bundle, as one tree of checks."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyturn.dstack_options import (
    AggregatedOption,
    AppEventOption,
    ComposeOption,
    ImageHashOption,
    PhysBitsOption,
    ReleaseOption,
    ReportOption,
    SystemOption,
    TablesOption,
    TablesQemuOption,
    UnboundOption,
)
from keyturn.output import JsonOption, Output
from keyturn.policy_verify_options import (
    ActivationOption,
    CacheOption,
    CollateralOption,
    HtmlOption,
    KdsOption,
    NowOption,
    OfflineOption,
    PccsOption,
    PolicyOption,
)
from keyturn.verdict_output import require_tree, show_tree

if TYPE_CHECKING:
    from attestation.verdict_tree import Tree
    from keyturn.verify_inputs import AnchorOptions, NodeFiles, ReceiptFiles, ServiceInputs
    from kms.bundle import Bundle
    from kms.verification import VerifierAnchors


class Taken(StrEnum):
    """When a piece of evidence was taken: before keys were released, or with the app running."""

    RELEASE = "release"
    FULL = "full"


_FileArgument = Annotated[
    str | None,
    typer.Argument(help="URL of a service, evidence, or a receipt as the KMS shows it; none with --bundle."),
]
_BundleInOption = Annotated[Path | None, typer.Option("--bundle", help="A bundle; nothing else is asked.")]
_RootOption = Annotated[
    list[Path] | None, typer.Option("--root", help="Trusted root certificate of TPMs (DER or PEM).")
]
_IntermediateOption = Annotated[
    list[Path] | None, typer.Option("--intermediate", help="Certificate between root and TPM (DER or PEM).")
]
_ReferenceOption = Annotated[
    Path | None, typer.Option("--reference", help="Reference values, from keyturn predict --output.")
]
_ManifestOption = Annotated[
    Path | None, typer.Option("--manifest", help="For evidence: the app manifest that must run.")
]
_ReportDataOption = Annotated[
    str | None, typer.Option("--report-data", help="For evidence: 64 bytes in hex that it must bind.")
]
_PartOption = Annotated[
    Taken,
    typer.Option("--log-part", help="For evidence: when it was taken, before keys or with the app running."),
]
_EvidenceOption = Annotated[
    Path | None, typer.Option("--evidence", help="For a receipt: the evidence that the KMS saw.")
]
_KmsKeysOption = Annotated[
    Path | None, typer.Option("--public-key", help="For a receipt: the KMS's answer to /v1/public-key.")
]
_BatchOption = Annotated[
    Path | None, typer.Option("--anchors", help="For a receipt: the KMS's answer to /v1/anchors.")
]
_RpcOption = Annotated[
    str | None, typer.Option("--rpc", help="For a service or receipt: a node of the chain, for live proofs.")
]
_ChainIdOption = Annotated[int | None, typer.Option("--chain-id", min=1, help="Trusted chain.")]
_ContractOption = Annotated[str | None, typer.Option("--contract", help="Trusted registry (0x…).")]
_RegistryCodeOption = Annotated[
    str | None,
    typer.Option("--registry-code-hash", help="Its code's Keccak-256; by default this version's."),
]
_AppCodeOption = Annotated[
    str | None,
    typer.Option("--app-code-hash", help="The app contract's Keccak-256; by default this version's."),
]
_KmsIdOption = Annotated[str | None, typer.Option("--kms-id", help="Trusted KMS, 32 bytes in hex.")]
_AppIdOption = Annotated[str | None, typer.Option("--app-id", help="The app that is meant (0x…).")]
_DevelopmentOption = Annotated[
    bool, typer.Option("--allow-development", help="Accept development images and a development KMS.")
]
_BundleOption = Annotated[
    Path | None, typer.Option("--write-bundle", help="For a service or receipt: keep all of it in a bundle.")
]
_KmsOption = Annotated[
    str | None, typer.Option("--kms", help="For a service: URL of the KMS of its receipt.")
]
_NodeOption = Annotated[
    Path | None,
    typer.Option("--kms-node", help="Also verify the KMS: file of keyturn kms check it was admitted with."),
]
_NodeReferenceOption = Annotated[
    Path | None, typer.Option("--kms-reference", help="Its machine's reference values, if not the app's.")
]
_NonceOption = Annotated[
    str | None, typer.Option("--nonce", help="For a bundle: the nonce that its service must have answered.")
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("verify")(verify)


def verify(
    file: _FileArgument = None,
    bundle: _BundleInOption = None,
    policy: PolicyOption = None,
    collateral: CollateralOption = None,
    now: NowOption = None,
    offline: OfflineOption = False,
    activation: ActivationOption = None,
    html: HtmlOption = None,
    pccs: PccsOption = None,
    kds: KdsOption = None,
    cache: CacheOption = None,
    root: _RootOption = None,
    intermediate: _IntermediateOption = None,
    reference: _ReferenceOption = None,
    manifest: _ManifestOption = None,
    report_data: _ReportDataOption = None,
    log_part: _PartOption = Taken.FULL,
    evidence: _EvidenceOption = None,
    public_key: _KmsKeysOption = None,
    anchors: _BatchOption = None,
    rpc: _RpcOption = None,
    chain_id: _ChainIdOption = None,
    contract: _ContractOption = None,
    registry_code_hash: _RegistryCodeOption = None,
    app_code_hash: _AppCodeOption = None,
    kms_id: _KmsIdOption = None,
    app_id: _AppIdOption = None,
    allow_development: _DevelopmentOption = False,
    write_bundle: _BundleOption = None,
    kms: _KmsOption = None,
    kms_node: _NodeOption = None,
    kms_reference: _NodeReferenceOption = None,
    nonce: _NonceOption = None,
    dstack: ReportOption = None,
    release: ReleaseOption = None,
    image_hash: ImageHashOption = None,
    app_compose: ComposeOption = None,
    acpi: TablesOption = None,
    qemu: TablesQemuOption = None,
    phys_bits: PhysBitsOption = None,
    mr_aggregated: AggregatedOption = None,
    mr_system: SystemOption = None,
    app_event: AppEventOption = None,
    unbound: UnboundOption = False,
    json: JsonOption = False,
) -> None:
    """Check everything from the hardware's root to the policy on chain; exit 0 only if all of it holds."""
    from keyturn.policy_verification import (
        PolicyInputs,
        is_judged_file,
        read_own_document,
        verify_with_policy,
    )
    from keyturn.service_client import is_url
    from keyturn.verify_inputs import AnchorOptions, NodeFiles, ReceiptFiles, ServiceInputs, VerifyUsageError

    out = Output(json=json)
    if [file, bundle, dstack].count(None) != 2:
        raise VerifyUsageError(
            "exactly one of them is needed", subject="FILE, --bundle, --dstack", advice="name what to verify"
        )
    inputs = PolicyInputs(
        policy=policy,
        collateral=tuple(collateral or ()),
        now=now,
        offline=offline,
        html=html,
        pccs=pccs,
        kds=kds,
        cache=cache,
        report_data=report_data,
        activation=activation,
    )
    if policy is not None and file is not None and is_judged_file(file):
        verify_with_policy(out, Path(file), inputs)
        return
    inputs.refuse_unused(rule=dstack is None)
    if dstack is not None:
        from keyturn.dstack_inputs import Known, TablesSource, verify_report

        known = Known(
            release=release,
            image_hash=image_hash,
            app_compose=app_compose,
            tables=TablesSource(tables=acpi, qemu=qemu, phys_bits=phys_bits),
            mr_aggregated=mr_aggregated,
            mr_system=mr_system,
            app_events=tuple(app_event or ()),
            unbound=unbound,
        )
        verify_report(out, dstack, known)
        return
    if nonce is not None and bundle is None:
        raise VerifyUsageError(
            "belongs to --bundle", subject="--nonce", advice="leave it out: a new one is made for a service"
        )
    options = AnchorOptions(
        roots=root or [],
        intermediates=intermediate or [],
        chain_id=chain_id,
        contract=contract,
        registry_code_hash=registry_code_hash,
        app_code_hash=app_code_hash,
        kms_id=kms_id,
        app_id=app_id,
        development=allow_development,
        nonce=nonce,
        rule=policy,
    )
    node = NodeFiles(node=kms_node, reference=kms_reference)
    if bundle is not None:
        tree = _verify_bundle(bundle, options, node)
    elif is_url(given := _given(file)):
        service = ServiceInputs(url=given, kms=kms, reference=reference)
        tree = _verify_service(service, options, node, rpc, write_bundle)
    elif _is_evidence(document := read_own_document(Path(given))):
        tree = _verify_evidence(document, options, reference, manifest, report_data, log_part)
    else:
        files = ReceiptFiles(
            receipt=document,
            evidence=evidence,
            reference=reference,
            public_key=public_key,
            anchors=anchors,
        )
        tree = _verify_receipt(files, options, node, rpc, write_bundle)
    show_tree(out, tree, title="verification")
    out.result(tree.as_json())
    require_tree(tree)


def _given(file: str | None) -> str:
    assert file is not None
    return file


def _is_evidence(document: Any) -> bool:
    from attestation.evidence import TYPE

    return isinstance(document, dict) and document.get("type") == TYPE


def _verify_bundle(path: Path, options: AnchorOptions, node: NodeFiles) -> Tree:
    from keyturn.input_files import read_limited
    from keyturn.verify_inputs import make_anchors, with_node
    from kms.bundle import parse_bundle
    from kms.verification import verify_bundle

    bundle = with_node(parse_bundle(read_limited(path)), node)
    return verify_bundle(bundle, make_anchors(options), now=_now())


def _verify_service(
    service: ServiceInputs,
    options: AnchorOptions,
    node: NodeFiles,
    rpc: str | None,
    write_bundle: Path | None,
) -> Tree:
    """What the service shows for a nonce made here, with what KMS and chain say about it."""
    import dataclasses
    import secrets

    from keyturn.input_files import read_document
    from keyturn.service_client import fetch_service_proof
    from keyturn.verify_inputs import make_anchors, needed
    from kms.bundle import Bundle
    from kms.client import fetch_release_parts

    nonce = secrets.token_bytes(32)
    anchors = dataclasses.replace(make_anchors(options), nonce=nonce)
    reference = read_document(needed(service.reference, "--reference"))
    kms, rpc = needed(service.kms, "--kms"), needed(rpc, "--rpc")
    proof = fetch_service_proof(service.url, nonce=nonce)
    bundle = Bundle(
        receipt=proof.receipt,
        evidence=proof.evidence,
        service=proof.fresh,
        reference=reference,
        chain=None,
        anchoring=None,
        **fetch_release_parts(kms, envelope=proof.receipt),
    )
    return _verify_live(bundle, anchors, node, rpc, write_bundle)


def _verify_evidence(
    document: Any,
    options: AnchorOptions,
    reference: Path | None,
    manifest: Path | None,
    report_data: str | None,
    taken: Taken,
) -> Tree:
    from attestation.evidence import parse_evidence
    from attestation.evidence_tree import EvidenceAnchors, ExpectedManifest, verify_evidence_tree
    from attestation.tpm_evidence import LogPart
    from attestation.verdict_tree import Tree
    from keyturn.input_files import read_certificates, read_limited
    from keyturn.verify_inputs import needed, parse_report_data
    from measurements.reference import read_reference

    anchors = EvidenceAnchors(
        roots=read_certificates(needed(list(options.roots), "--root")),
        intermediates=read_certificates(options.intermediates),
        report_data=parse_report_data(needed(report_data, "--report-data")),
        now=_now(),
        part=LogPart(taken.value),
        app=ExpectedManifest(manifest=read_limited(needed(manifest, "--manifest"))),
        development=options.development,
    )
    expected = read_reference(needed(reference, "--reference"))
    return Tree(groups=verify_evidence_tree(parse_evidence(document), expected, anchors).groups)


def _verify_receipt(
    files: ReceiptFiles, options: AnchorOptions, node: NodeFiles, rpc: str | None, write_bundle: Path | None
) -> Tree:
    from keyturn.verify_inputs import make_anchors, needed, read_receipt_parts

    bundle = read_receipt_parts(files)
    return _verify_live(bundle, make_anchors(options), node, needed(rpc, "--rpc"), write_bundle)


def _verify_live(
    bundle: Bundle, anchors: VerifierAnchors, node: NodeFiles, rpc: str, write_bundle: Path | None
) -> Tree:
    from keyturn.verify_inputs import with_node
    from kms.bundle import encode_bundle
    from kms.verification import verify_bundle

    bundle = with_node(_with_chain(bundle, anchors, rpc), node)
    if write_bundle is not None:
        write_bundle.write_bytes(encode_bundle(bundle))
    return verify_bundle(bundle, anchors, now=_now())


def _with_chain(bundle: Bundle, anchors: VerifierAnchors, rpc: str) -> Bundle:
    """The bundle with proofs at the block that its receipt names and at that of its anchor; everything is
    verified afterwards.
    """
    import contextlib
    import dataclasses

    from keyturn.proving_node import ProvingNode, fetch_anchoring, fetch_chain
    from kms.receipt import parse_envelope, parse_receipt
    from measurements.errors import FormatError

    receipt, node = parse_receipt(parse_envelope(bundle.receipt).payload), ProvingNode(rpc)
    chain, anchoring = fetch_chain(node, receipt, anchors.pins), None
    position = receipt.outcome.chain
    assert position is not None  # or there were no proofs
    with contextlib.suppress(FormatError):  # a batch that is none fails its own check
        anchoring = bundle.batch and fetch_anchoring(
            node, bundle.batch, anchors.pins.pin.contract, first=position.block_number
        )
    return dataclasses.replace(bundle, chain=chain, anchoring=anchoring)


def _now() -> int:
    return int(time.time())
