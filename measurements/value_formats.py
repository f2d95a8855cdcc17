"""Reference values in the forms of other tools: comma-separated values, and the JSON of ``dstack-mr``.

CSV (RFC 4180, header first): platform, label, shape, register, bank, value, inputs. Label and shape are JSON
with sorted keys, inputs are joined with ``; ``.

``dstack-mr measure --json`` (Dstack-TEE/dstack, ``dstack/dstack-mr``): one object with ``mrtd``, ``rtmr0``,
``rtmr1`` and ``rtmr2`` in lower-case hexadecimal.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from measurements.errors import KeyturnError
from measurements.platforms import Platform, PlatformPrediction

COLUMNS = ("platform", "label", "shape", "register", "bank", "value", "inputs")
DSTACK_REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2")
_BANK = "sha384"


class ValueFormatError(KeyturnError):
    """Values that a format has no place for."""

    code = "value-format"


def encode_csv(predictions: Sequence[PlatformPrediction]) -> str:
    """One line per register and bank."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for prediction in predictions:
        head = (prediction.platform.value, _json(dict(prediction.label)), _json(dict(prediction.shape)))
        for register, banks in prediction.registers.items():
            for bank, value in banks.items():
                writer.writerow((*head, register, bank, value.hex(), "; ".join(prediction.inputs(register))))
    return stream.getvalue()


def encode_dstack(predictions: Sequence[PlatformPrediction]) -> str:
    """The object of the one TDX prediction; raises ``ValueFormatError`` for anything else."""
    if len(predictions) != 1 or predictions[0].platform is not Platform.TDX:
        raise ValueFormatError(
            f"holds exactly one TDX machine, and {len(predictions)} predictions of "
            f"{', '.join(sorted({each.platform.value for each in predictions})) or 'no platform'} are given",
            subject="dstack format",
            advice="predict --platform tdx with one shape and one hypervisor",
        )
    registers = predictions[0].registers
    values = {register: registers[register][_BANK].hex() for register in DSTACK_REGISTERS}
    return json.dumps(values, indent=2) + "\n"


def _json(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
