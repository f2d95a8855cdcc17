"""CPU models of QEMU that SEV guests use, and the signature of each, which is in EDX when a processor starts.

The signature is EAX of CPUID function 1 (AMD64 Architecture Programmer's Manual volume 3, E.3.2)::

    bits 0-3 stepping | 4-7 model, low | 8-11 family, at most 15 | 16-19 model, high | 20-27 family above 15

Families, models and steppings are those of ``builtin_x86_defs`` in QEMU 11.1, target/i386/cpu.c, and what it
answers to ``query-cpu-model-expansion``; all versions of a model have the same.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from measurements.errors import KeyturnError


class CpuModelError(KeyturnError):
    """A CPU model whose signature is not known."""

    code = "cpu-model"


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuModel:
    """A processor as a guest sees it."""

    name: str
    family: int
    model: int
    stepping: int

    @property
    def signature(self) -> int:
        """EAX of CPUID function 1, a u32."""
        low, high = min(self.family, 15), max(self.family - 15, 0)
        return (
            self.stepping
            | (self.model & 15) << 4
            | low << 8
            | (self.model >> 4) << 16
            | high << 20
        )  # fmt: skip


_FAMILIES = (
    ("EPYC", (23, 1, 2), ("", "-v1", "-v2", "-v3", "-v4", "-v5", "-IBPB")),
    ("EPYC-Rome", (23, 49, 0), ("", "-v1", "-v2", "-v3", "-v4", "-v5")),
    ("EPYC-Milan", (25, 1, 1), ("", "-v1", "-v2", "-v3", "-v4")),
    ("EPYC-Genoa", (25, 17, 0), ("", "-v1", "-v2", "-v3")),
    ("EPYC-Turin", (26, 0, 0), ("", "-v1", "-v2")),
)

CPU_MODELS: Mapping[str, CpuModel] = {
    base + version: CpuModel(name=base + version, family=family, model=model, stepping=stepping)
    for base, (family, model, stepping), versions in _FAMILIES
    for version in versions
}
"""Every model by its name in QEMU."""

ONE_OF_EACH: tuple[CpuModel, ...] = tuple(CPU_MODELS[base] for base, _numbers, _versions in _FAMILIES)
"""One model for each signature that there is, the oldest first."""

_NUMBERS = re.compile(r"([0-9]{1,3})/([0-9]{1,3})/([0-9]{1,2})")


def find_cpu_model(text: str) -> CpuModel:
    """The model of a name in QEMU, or of ``family/model/stepping`` in decimal (for QEMU's ``host``)."""
    if text in CPU_MODELS:
        return CPU_MODELS[text]
    numbers = _NUMBERS.fullmatch(text)
    if numbers is None:
        raise _unknown(text)
    family, model, stepping = (int(number) for number in numbers.groups())
    if not (0 < family <= 15 + 255 and model <= 255 and stepping <= 15):
        raise _unknown(text)
    return CpuModel(name=text, family=family, model=model, stepping=stepping)


def model_of_signature(signature: int) -> CpuModel | None:
    """A model that has this signature."""
    return next((model for model in ONE_OF_EACH if model.signature == signature), None)


def _unknown(text: str) -> CpuModelError:
    near = difflib.get_close_matches(text, CPU_MODELS, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return CpuModelError(
        "is no CPU model whose signature is known",
        subject=text,
        advice=f"{hint}give one of {', '.join(model.name for model in ONE_OF_EACH)}, one of their versions, "
        "or family/model/stepping as /proc/cpuinfo of the guest shows them",
    )
