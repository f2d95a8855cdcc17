"""From the arguments of ``keyturn chain allow`` and ``revoke`` to a call of a contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from contracts import policy
from contracts.binding import Call
from contracts.deployment import Deployment
from contracts.policy import AppList, Period, RegistryList
from keyturn.chain_options import ChainUsageError, PolicyList, parse_address, parse_identifier
from keyturn.input_files import platform_root
from measurements.json_text import json_text

REGISTRY_LISTS = {
    PolicyList.IMAGE: RegistryList.IMAGE,
    PolicyList.REFERENCE: RegistryList.REFERENCE,
    PolicyList.PLATFORM_ROOT: RegistryList.PLATFORM_ROOT,
    PolicyList.KMS_NODE: RegistryList.KMS_NODE,
    PolicyList.APP: RegistryList.APP,
}
APP_LISTS = {
    PolicyList.APP_HASH: AppList.APP_HASH,
    PolicyList.APP_IMAGE: AppList.IMAGE,
    PolicyList.DEVICE: AppList.DEVICE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """The arguments of ``allow`` that depend on the list; an argument that does not belong is refused."""

    identifier: str | None
    certificate: Path | None
    app: str | None
    image: str | None
    kms: Path | None
    app_hash: str | None
    evidence_hash: str | None
    period: Period


class _Use(Enum):
    """How a list takes an argument."""

    NEEDED = "needed"
    OPTIONAL = "optional"
    FOREIGN = "foreign"


def allow_call(deployment: Deployment, which: PolicyList, addition: Addition) -> Call:
    """The call that adds; raises ``ChainUsageError`` for a missing or needless argument."""
    _check_arguments(which, addition)
    registry = deployment.registry
    if which is PolicyList.KMS_NODE:
        return _kms_node_call(deployment, addition)
    if which is PolicyList.PLATFORM_ROOT:
        return policy.allow(registry, REGISTRY_LISTS[which], _platform_root(addition), addition.period)
    identifier = parse_identifier(addition.identifier or "", option="identifier")
    if which in APP_LISTS:
        app = parse_address(addition.app or "", option="--app")
        return policy.allow_in_app(app, APP_LISTS[which], identifier, addition.period)
    if which is PolicyList.REFERENCE:
        image = parse_identifier(addition.image or "", option="--image")
        return policy.allow_reference(registry, identifier, image, addition.period)
    return policy.allow(registry, REGISTRY_LISTS[which], identifier, addition.period)


def revoke_call(registry: str, which: PolicyList, identifier: bytes, app: str | None) -> Call:
    """The call that removes; raises ``ChainUsageError``."""
    if (app is not None) != (which in APP_LISTS):
        raise _usage("--app", which, wanted=which in APP_LISTS)
    if app is not None:
        return policy.revoke_in_app(parse_address(app, option="--app"), APP_LISTS[which], identifier)
    return policy.revoke(registry, REGISTRY_LISTS[which], identifier)


def _check_arguments(which: PolicyList, addition: Addition) -> None:
    node, root = which is PolicyList.KMS_NODE, which is PolicyList.PLATFORM_ROOT
    takes = {
        "identifier": (addition.identifier, _use(not node, optional=root)),
        "--certificate": (addition.certificate, _use(root, optional=True)),
        "--app": (addition.app, _use(which in APP_LISTS)),
        "--image": (addition.image, _use(which is PolicyList.REFERENCE)),
        "--kms": (addition.kms, _use(node)),
        "--app-hash": (addition.app_hash, _use(node, optional=True)),
        "--evidence-hash": (addition.evidence_hash, _use(node, optional=True)),
    }
    for name, (value, use) in takes.items():
        if use is not _Use.OPTIONAL and (value is not None) != (use is _Use.NEEDED):
            raise _usage(name, which, wanted=use is _Use.NEEDED)


def _use(taken: bool, *, optional: bool = False) -> _Use:
    if not taken:
        return _Use.FOREIGN
    return _Use.OPTIONAL if optional else _Use.NEEDED


def _platform_root(addition: Addition) -> bytes:
    if (addition.identifier is None) == (addition.certificate is None):
        raise ChainUsageError(
            "exactly one of them is needed",
            subject="identifier, --certificate",
            advice="name the root by its certificate, or by the certificate's SHA-256",
        )
    if addition.certificate is not None:
        return platform_root(addition.certificate)
    return parse_identifier(addition.identifier or "", option="identifier")


def _kms_node_call(deployment: Deployment, addition: Addition) -> Call:
    assert addition.kms is not None
    try:
        document = json.loads(json_text(addition.kms.read_bytes()))
        ed25519, secp256k1 = (bytes.fromhex(document[key]) for key in ("ed25519", "secp256k1"))
    except (ValueError, KeyError, TypeError) as error:
        raise ChainUsageError(
            "holds no ed25519 and secp256k1 keys in hex",
            subject=str(addition.kms),
            advice="save what keyturn kms check writes, or the answer of the KMS's /v1/public-key",
        ) from error
    stated = _stated_hashes(document, deployment)
    return policy.allow_kms_node(
        deployment.registry,
        ed25519=ed25519,
        secp256k1=secp256k1,
        app_hash=_agreed(addition.app_hash, stated.get("app_hash"), "--app-hash"),
        evidence_hash=_agreed(addition.evidence_hash, stated.get("evidence_hash"), "--evidence-hash"),
        period=addition.period,
    )


def _stated_hashes(document: dict[str, Any], deployment: Deployment) -> dict[str, bytes]:
    """App hash and evidence hash in a file of ``keyturn kms check``, which must be of this registry."""
    if "type" not in document:
        return {}
    from kms.node import parse_node

    node = parse_node(document)
    found = (node.pin.chain_id, f"0x{node.pin.contract.hex()}")
    if found != (deployment.chain_id, deployment.registry):
        raise ChainUsageError(
            f"is a KMS of registry {found[1]} on chain {found[0]}",
            subject="--kms",
            advice="admit a KMS to its own registry only",
        )
    return {"app_hash": node.app_hash, "evidence_hash": node.evidence_hash}


def _agreed(option: str | None, stated: bytes | None, name: str) -> bytes:
    """The hash that option and file name, at least one of them."""
    if option is None and stated is not None:
        return stated
    given = parse_identifier(option or "", option=name)
    if stated not in (None, given):
        raise ChainUsageError(
            "contradicts the file of --kms",
            subject=name,
            advice="leave the option out, or check the KMS again",
        )
    return given


def _usage(name: str, which: PolicyList, *, wanted: bool) -> ChainUsageError:
    reason = "is missing" if wanted else "does not belong here"
    return ChainUsageError(
        f"{reason} for list {which}", subject=name, advice="see keyturn chain allow --help and revoke --help"
    )
