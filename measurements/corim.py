"""Reference values as a CoRIM (draft-ietf-rats-corim-10; deterministic CBOR).

Layout, unsigned (CDDL names of the draft)::

    501({0: id, 1: [506(bytes of CBOR), ...]})                   tagged-unsigned-corim-map, concise-mid-tag
    concise-mid-tag  = {1: {0: tag id}, 4: {0: [[environment, [measurement]], ...]}}
    environment      = {0: {1: vendor, 2: model}}                class-map
    measurement      = {0: name, 1: {14: {register: [[algorithm, digest], ...]}}}

One tag per prediction. A register is an unsigned integer where it is a number (PCRs), else text (``rtmr0``).
Algorithms are those of the IANA registry "Named Information Hash Algorithm": 1 SHA-256, 7 SHA-384. The name
of the measurement tells the choices of the host that the values hold for. Events are not part of the format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cbor2

from measurements.errors import KeyturnError
from measurements.platforms import Platform, PlatformPrediction

UNSIGNED_CORIM = 501
CONCISE_MID_TAG = 506
ALGORITHMS = {"sha256": 1, "sha384": 7}
VENDORS = {
    Platform.TPM: "Trusted Computing Group",
    Platform.TDX: "Intel",
    Platform.SNP: "AMD",
    Platform.SEV_ES: "AMD",
    Platform.SEV: "AMD",
    Platform.NITRO: "Amazon",
}
_INTEGRITY_REGISTERS = 14


class CorimError(KeyturnError):
    """Values that the format has no place for."""

    code = "corim"


def encode_corim(predictions: Sequence[PlatformPrediction], *, identifier: str) -> bytes:
    """The CoRIM of ``predictions``; raises ``CorimError`` without any, or for an unknown bank."""
    if not predictions:
        raise CorimError("there are no values", subject="corim", advice="predict at least one platform")
    tags = [
        cbor2.CBORTag(
            CONCISE_MID_TAG, cbor2.dumps(_module(prediction, f"{identifier}/{index}"), canonical=True)
        )
        for index, prediction in enumerate(predictions)
    ]
    return cbor2.dumps(cbor2.CBORTag(UNSIGNED_CORIM, {0: identifier, 1: tags}), canonical=True)


def _module(prediction: PlatformPrediction, identifier: str) -> dict[int, Any]:
    environment = {0: {1: VENDORS[prediction.platform], 2: prediction.platform.value}}
    values = {_register(name): _digests(name, banks) for name, banks in prediction.registers.items()}
    measurement = {0: conditions(prediction), 1: {_INTEGRITY_REGISTERS: values}}
    return {1: {0: identifier}, 4: {0: [[environment, [measurement]]]}}


def conditions(prediction: PlatformPrediction) -> str:
    """The choices of the host in one line: ``cpus=2 machine=q35 memory=2048MiB``, the label first."""
    facts = [*prediction.label.items(), *((key, _plain(value)) for key, value in prediction.shape.items())]
    return " ".join(f"{key}={value}" for key, value in facts)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "+".join(f"{key}:{_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ",".join(_plain(part) for part in value) or "none"
    return str(value)


def _register(name: str) -> int | str:
    return int(name) if name.isascii() and name.isdigit() else name


def _digests(register: str, banks: Mapping[str, bytes]) -> list[list[int | bytes]]:
    unknown = [bank for bank in banks if bank not in ALGORITHMS]
    if unknown:
        raise CorimError(
            f"its bank {unknown[0]} has no identifier", subject=register, advice="use --format keyturn"
        )
    return [[ALGORITHMS[bank], value] for bank, value in sorted(banks.items())]
