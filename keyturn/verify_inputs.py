"""What ``keyturn verify`` reads: files and trust anchors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyturn.input_files import read_certificates, read_document
from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from kms.bundle import Bundle
    from kms.verification import VerifierAnchors

_NONCE = re.compile(r"[0-9a-f]{64}")
_REPORT_DATA = re.compile(r"[0-9a-f]{128}")


class VerifyUsageError(KeyturnError):
    """Options that say too little or nothing sensible."""

    code = "verify-usage"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorOptions:
    """Trust anchors as they are given; None is not given."""

    roots: Sequence[Path]
    intermediates: Sequence[Path]
    chain_id: int | None
    contract: str | None
    registry_code_hash: str | None
    app_code_hash: str | None
    kms_id: str | None
    app_id: str | None
    development: bool
    nonce: str | None
    rule: Path | None = None
    """Policy that the app has to name as its TCB rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptFiles:
    """The parts of a receipt's verification; None is absent, which fails its check."""

    receipt: Any
    evidence: Path | None
    reference: Path | None
    public_key: Path | None
    anchors: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFiles:
    """The identity of the KMS, and the reference values of its machine, by default those of the app's; None
    is not given.
    """

    node: Path | None
    reference: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceInputs:
    """What is asked about a service: its URL, that of the KMS, and what was predicted of its machine."""

    url: str
    kms: str | None
    reference: Path | None


def needed(value: Any, option: str) -> Any:
    """``value``, which must be given."""
    if value is None or value == []:
        raise _usage("is not given", option)
    return value


def parse_report_data(text: str) -> bytes:
    """64 bytes in hex."""
    if not _REPORT_DATA.fullmatch(text.lower()):
        raise _usage("is not 64 bytes in hex", "--report-data")
    return bytes.fromhex(text)


def parse_nonce(text: str) -> bytes:
    """32 bytes in hex."""
    if not _NONCE.fullmatch(text.lower()):
        raise _usage("is not 32 bytes in hex", "--nonce")
    return bytes.fromhex(text)


def with_node(bundle: Bundle, files: NodeFiles) -> Bundle:
    """The bundle with the identity of its KMS, where it is given."""
    if files.node is None:
        if files.reference is not None:
            raise _usage("needs --kms-node", "--kms-reference")
        return bundle
    predicted = bundle.reference if files.reference is None else read_document(files.reference)
    return replace(bundle, kms_node=read_document(files.node), kms_reference=predicted)


def make_anchors(options: AnchorOptions) -> VerifierAnchors:
    """The trust anchors; raises ``VerifyUsageError`` where one is missing."""
    from contracts.artefacts import ContractName, artefact
    from keyturn.chain_options import parse_address, parse_identifier
    from keyturn.policy_inputs import read_policy
    from kms.chain_view import ChainPins
    from kms.root_key import ChainPin
    from kms.verification import VerifierAnchors

    def address(text: str | None, option: str) -> bytes:
        return bytes.fromhex(parse_address(needed(text, option), option=option)[2:])

    def digest(text: str, option: str) -> bytes:
        value = parse_identifier(text, option=option)
        if len(value) != 32:
            raise _usage("is not 32 bytes in hex", option)
        return value

    def code_hash(text: str | None, option: str, name: ContractName) -> bytes:
        return artefact(name).runtime_code_hash if text is None else digest(text, option)

    return VerifierAnchors(
        roots=read_certificates(needed(list(options.roots), "--root")),
        intermediates=read_certificates(options.intermediates),
        pins=ChainPins(
            pin=ChainPin(
                chain_id=needed(options.chain_id, "--chain-id"),
                contract=address(options.contract, "--contract"),
            ),
            registry_code_hash=code_hash(
                options.registry_code_hash, "--registry-code-hash", ContractName.REGISTRY
            ),
            app_code_hash=code_hash(options.app_code_hash, "--app-code-hash", ContractName.APP),
        ),
        kms_id=digest(needed(options.kms_id, "--kms-id"), "--kms-id"),
        app_id=address(options.app_id, "--app-id"),
        development=options.development,
        rule=None if options.rule is None else read_policy(options.rule),
        nonce=None if options.nonce is None else parse_nonce(options.nonce),
    )


def read_receipt_parts(files: ReceiptFiles) -> Bundle:
    """A bundle of the files, still without the chain."""
    from kms.bundle import Bundle

    document = files.receipt
    shown = isinstance(document, dict) and "receipt" in document
    inclusion = document.get("inclusion") if shown else None
    keys = _optional(files.public_key)
    return Bundle(
        receipt=document["receipt"] if shown else document,
        inclusion=inclusion,
        batch=_batch(_optional(files.anchors), inclusion),
        kms=None if keys is None else _members(keys, ("ed25519", "secp256k1")),
        evidence=_optional(files.evidence),
        reference=_optional(files.reference),
        chain=None,
        anchoring=None,
    )


def _optional(path: Path | None) -> Any:
    return None if path is None else read_document(path)


def _members(document: Any, names: Sequence[str]) -> Any:
    if not isinstance(document, dict):
        return document
    return {name: document[name] for name in names if name in document}


def _batch(answer: Any, inclusion: Any) -> Any:
    """The batch that the inclusion proof is of, among all that the KMS shows."""
    if not isinstance(answer, dict) or not isinstance(inclusion, dict):
        return None
    batches = answer.get("batches")
    wanted = inclusion.get("root")
    found = [one for one in batches if isinstance(one, dict)] if isinstance(batches, list) else []
    return next((one for one in found if one.get("root") == wanted), None)


def _usage(reason: str, subject: str) -> VerifyUsageError:
    return VerifyUsageError(reason, subject=subject, advice="see keyturn verify --help")
