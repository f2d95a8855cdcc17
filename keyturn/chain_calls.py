"""From the arguments of ``keyturn chain allow`` and ``revoke`` to a call of a contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from contracts import policy
from contracts.binding import Call
from contracts.policy import AppList, Period, RegistryList
from keyturn.chain_options import ChainUsageError, PolicyList, parse_address, parse_identifier
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
    app: str | None
    image: str | None
    kms: Path | None
    app_hash: str | None
    evidence_hash: str | None
    period: Period


def allow_call(registry: str, which: PolicyList, addition: Addition) -> Call:
    """The call that adds; raises ``ChainUsageError`` for a missing or needless argument."""
    _check_arguments(which, addition)
    if which is PolicyList.KMS_NODE:
        return _kms_node_call(registry, addition)
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
    node = which is PolicyList.KMS_NODE
    wanted = {
        "identifier": (addition.identifier, not node),
        "--app": (addition.app, which in APP_LISTS),
        "--image": (addition.image, which is PolicyList.REFERENCE),
        "--kms": (addition.kms, node),
        "--app-hash": (addition.app_hash, node),
        "--evidence-hash": (addition.evidence_hash, node),
    }
    for name, (value, needed) in wanted.items():
        if (value is not None) != needed:
            raise _usage(name, which, wanted=needed)


def _kms_node_call(registry: str, addition: Addition) -> Call:
    assert addition.kms is not None
    try:
        document = json.loads(json_text(addition.kms.read_bytes()))
        ed25519, secp256k1 = (bytes.fromhex(document[key]) for key in ("ed25519", "secp256k1"))
    except (ValueError, KeyError, TypeError) as error:
        raise ChainUsageError(
            "holds no ed25519 and secp256k1 keys in hex",
            subject=str(addition.kms),
            advice="save the answer of the KMS's /v1/public-key",
        ) from error
    return policy.allow_kms_node(
        registry,
        ed25519=ed25519,
        secp256k1=secp256k1,
        app_hash=parse_identifier(addition.app_hash or "", option="--app-hash"),
        evidence_hash=parse_identifier(addition.evidence_hash or "", option="--evidence-hash"),
        period=addition.period,
    )


def _usage(name: str, which: PolicyList, *, wanted: bool) -> ChainUsageError:
    reason = "is missing" if wanted else "does not belong here"
    return ChainUsageError(
        f"{reason} for list {which}", subject=name, advice="see keyturn chain allow --help and revoke --help"
    )
