"""Measurement sets of a policy: registers with their values, or taken from a file of reference values.

In TOML, ``measurements`` is ``"any"``, ``[]`` for none, or tables of one of two forms::

    [[tdx.measurements]]                           [[tdx.measurements]]
    name = "web 1.0"                               name = "web 1.0"
    registers = {mrtd = "…", rtmr0 = "…"}          reference = "reference/tdx.json"
                                                   registers = ["mrtd", "rtmr0"]

The second takes the named registers out of each prediction in the file (``measurements.reference``), which
is looked for beside the policy. JSON has the first form only. The names are those of
``PlatformFacts.registers``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NoReturn

from attestation.container import EvidencePlatform
from attestation.policy import Measurements, MeasurementSet
from attestation.policy_kinds import (
    ANY,
    NAME,
    Form,
    Hex,
    Kind,
    Listed,
    Sequence,
    Table,
    Text,
    WrongValueError,
    nearest,
    read_below,
    shown,
    wrong,
)
from measurements.canonical import Json
from measurements.errors import KeyturnError
from measurements.platforms import Platform, PlatformPrediction
from measurements.reference import parse_predictions

_TDX = {
    **dict.fromkeys(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), 48),
    **dict.fromkeys(("mrconfigid", "mrowner", "mrownerconfig"), 48),
    **dict.fromkeys(("mrseam", "mrsignerseam", "mrservicetd"), 48),
    "td_attributes": 8,
    "xfam": 8,
    "tee_tcb_svn": 16,
}
_SGX = {
    "mrenclave": 32,
    "mrsigner": 32,
    "isv_prod_id": 2,
    "isv_svn": 2,
    "attributes": 16,
    "miscselect": 4,
}
_SNP = {
    **dict.fromkeys(("measurement", "id_key_digest", "author_key_digest"), 48),
    "host_data": 32,
    "family_id": 16,
    "image_id": 16,
    "guest_policy": 8,
}
REGISTERS: Mapping[EvidencePlatform, Mapping[str, int]] = {
    EvidencePlatform.TDX: _TDX,
    EvidencePlatform.SIM: _TDX,
    EvidencePlatform.SGX: _SGX,
    EvidencePlatform.SNP: _SNP,
    EvidencePlatform.TPM: {
        f"{bank}:{pcr}": size for bank, size in (("sha256", 32), ("sha384", 48)) for pcr in range(24)
    },
    EvidencePlatform.NITRO: {f"{prefix}{pcr}": 48 for prefix in ("pcr", "nitrotpm_pcr") for pcr in range(32)},
}
"""Registers that a set may name, and their sizes in bytes."""

_PREDICTED = {
    EvidencePlatform.TDX: Platform.TDX,
    EvidencePlatform.SIM: Platform.TDX,
    EvidencePlatform.SNP: Platform.SNP,
    EvidencePlatform.TPM: Platform.TPM,
    EvidencePlatform.NITRO: Platform.NITRO,
}
_PATH = Text(re.compile(r"[^\x00-\x1f\x7f\\]{1,1024}"), "a path below the policy's folder")


@dataclass(frozen=True, slots=True)
class Names(Kind):
    """One word of a closed set."""

    known: Collection[str]

    def read(self, value: object, form: Form) -> str:
        if not isinstance(value, str) or value not in self.known:
            known = ", ".join(self.known) if len(self.known) <= 16 else "the known ones"
            wrong(f"{shown(value)} is not known", f"write one of {known}{nearest(value, self.known)}")
        return value

    def write(self, value: Any) -> Json:
        return str(value)


@dataclass(frozen=True, slots=True)
class _Registers(Kind):
    """Values of at least one register."""

    sizes: Mapping[str, int]

    def read(self, value: object, form: Form) -> Mapping[str, bytes]:
        if not isinstance(value, dict) or not value:
            wrong(f"{shown(value)} is not a table of registers", 'write at least one register = "value"')
        found = {}
        for name, text in value.items():
            if name not in self.sizes:
                raise WrongValueError(
                    "the register is not known", f"write a known one{nearest(name, self.sizes)}", (name,)
                )
            size = self.sizes[name]
            found[name] = bytes.fromhex(read_below(Hex(size, size), text, form, name))
        return found

    def write(self, value: Any) -> Json:
        return {name: content.hex() for name, content in value.items()}


@dataclass(frozen=True, slots=True)
class MeasurementsOf(Kind):
    """The measurement sets of one platform."""

    platform: EvidencePlatform
    sizes: Mapping[str, int]

    def read(self, value: object, form: Form) -> Measurements:
        if value == ANY:
            return Measurements(sets=(), any=True)
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            wrong(
                f'{shown(value)} is neither tables nor "{ANY}"', f'write [[tables]], [] for none, or "{ANY}"'
            )
        sets: list[MeasurementSet] = []
        for index, one in enumerate(value):
            try:
                sets += (
                    self._from_file(one, form)
                    if form.toml and "reference" in one
                    else [self._given(one, form)]
                )
            except WrongValueError as error:
                raise error.below(str(index)) from None
        names = [one.name for one in sets]
        if len(set(names)) != len(names):
            wrong("two sets have the same name", "give each set a name of its own")
        return Measurements(sets=tuple(sets))

    def write(self, value: Any) -> Json:
        return ANY if value.any else Sequence(self._table()).write(value.sets)

    def _table(self) -> Table:
        return Table(model=MeasurementSet, keys={"name": NAME, "registers": _Registers(self.sizes)})

    def _given(self, value: Mapping[str, object], form: Form) -> MeasurementSet:
        found: MeasurementSet = self._table().read(value, form)
        return found

    def _from_file(self, value: Mapping[str, object], form: Form) -> list[MeasurementSet]:
        keys = {"name": NAME, "reference": _PATH, "registers": Listed(Names(self.sizes))}
        read = Table(model=dict, keys=keys).read(value, form)
        if not read["registers"]:
            raise WrongValueError("it names no register", "name those that have to match", ("registers",))
        try:
            predictions = self._predictions(read["reference"], form)
            several = len(predictions) > 1
            return [
                MeasurementSet(
                    name=f"{read['name']}, {index + 1}" if several else read["name"],
                    registers=_pick(_flat(prediction), read["registers"]),
                )
                for index, prediction in enumerate(predictions)
            ]
        except WrongValueError as error:
            raise error.below("reference") from None

    def _predictions(self, path: str, form: Form) -> tuple[PlatformPrediction, ...]:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts:
            wrong(f"{path} is not below the policy's folder", "name a file beside the policy")
        if form.read_file is None:
            wrong("files cannot be read here", "write the registers with their values")
        try:
            data = form.read_file(path)
            predictions = parse_predictions(data, subject=path)
        except OSError as error:
            wrong(
                f"{path} cannot be read: {error.strerror}", "name a file of keyturn predict --json --output"
            )
        except KeyturnError as error:
            wrong(str(error), error.advice)
        for one in predictions:
            if one.platform is not _PREDICTED.get(self.platform):
                wrong(
                    f"{path} predicts {one.platform} machines", f"name reference values for {self.platform}"
                )
        return predictions


def _flat(prediction: PlatformPrediction) -> dict[str, bytes]:
    """The registers of a prediction under the names of policies."""
    if prediction.platform is Platform.TPM:
        return {
            f"{bank}:{register}": value
            for register, banks in prediction.registers.items()
            for bank, value in banks.items()
        }
    prefix = "pcr" if prediction.platform is Platform.NITRO else ""
    return {
        f"{prefix}{register}": value
        for register, banks in prediction.registers.items()
        for value in banks.values()
    }


def _pick(registers: Mapping[str, bytes], names: Collection[str]) -> dict[str, bytes]:
    for name in sorted(set(names) - set(registers)):
        _absent(name, registers)
    return {name: registers[name] for name in sorted(names)}


def _absent(name: str, registers: Collection[str]) -> NoReturn:
    wrong(f"it has no register {name}", f"name some of {', '.join(sorted(registers))}")
