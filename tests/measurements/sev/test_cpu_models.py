"""CPU signatures against what QEMU itself says of its models, and words of guest features."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.qemu import QemuProgram
from measurements.sev.cpu_models import (
    CPU_MODELS,
    ONE_OF_EACH,
    CpuModelError,
    find_cpu_model,
    model_of_signature,
)
from measurements.sev.guest_features import (
    SNP_AND_DEBUG_SWAP,
    GuestFeatures,
    GuestFeaturesError,
    names,
    snp_features,
)
from tests.support.foreign_qemu import foreign_qemu
from tests.support.tools import require_tool


def signatures_of(program: QemuProgram) -> dict[str, tuple[int, int, int]]:
    """Family, model and stepping of every EPYC that a QEMU has; nothing is booted."""
    first = _ask(program, [{"execute": "query-cpu-definitions"}])[0]
    found = [str(entry["name"]) for entry in first if str(entry["name"]).startswith("EPYC")]
    questions = [
        {"execute": "query-cpu-model-expansion", "arguments": {"type": "full", "model": {"name": name}}}
        for name in found
    ]
    answers = [answer["model"]["props"] for answer in _ask(program, questions)]
    return {
        name: (props["family"], props["model"], props["stepping"])
        for name, props in zip(found, answers, strict=True)
    }


def _ask(program: QemuProgram, questions: Sequence[Mapping[str, object]]) -> list[Any]:
    commands = [{"execute": "qmp_capabilities"}, *questions, {"execute": "quit"}]
    machine = ("-machine", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-qmp", "stdio")
    done = subprocess.run(
        [*program.command, *machine],
        input="".join(json.dumps(command) + "\n" for command in commands),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    return [reply["return"] for reply in replies if "return" in reply][1 : len(questions) + 1]


def ours() -> dict[str, tuple[int, int, int]]:
    return {name: (model.family, model.model, model.stepping) for name, model in CPU_MODELS.items()}


def test_models_of_the_installed_qemu() -> None:
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    found = signatures_of(QemuProgram.installed())
    assert len(found) >= 10
    assert found.items() <= ours().items()


@pytest.mark.network
def test_models_of_a_stable_qemu() -> None:
    found = signatures_of(foreign_qemu("trixie"))
    assert "EPYC-Genoa" in found
    assert found.items() <= ours().items()


@pytest.mark.network
def test_models_of_the_newest_qemu() -> None:
    """The newest may have models that are not known yet; it has all that are known."""
    assert ours().items() <= signatures_of(foreign_qemu("sid")).items()


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("EPYC-v4", 0x00800F12),
        ("EPYC-Rome", 0x00830F10),
        ("EPYC-Milan", 0x00A00F11),
        ("EPYC-Genoa", 0x00A10F10),
        ("EPYC-Turin", 0x00B00F00),
    ],
)
def test_signatures(name: str, signature: int) -> None:
    """EAX of CPUID function 1, as virtee/sev-snp-measure (vcpu_types.py) has it."""
    assert CPU_MODELS[name].signature == signature
    found = model_of_signature(signature)
    assert found is not None
    assert found.signature == signature
    assert found in ONE_OF_EACH


def test_models_by_their_numbers() -> None:
    assert find_cpu_model("25/17/1").signature == 0x00A10F11
    assert find_cpu_model("6/143/8").signature == 0x000806F8
    assert model_of_signature(0x000806F8) is None


@pytest.mark.parametrize(
    "text", ["", "host", "epyc-milan", "EPYC-Milan-v9", "25/1", "271/0/0", "0/1/1", "25/256/0"]
)
def test_models_that_are_not_known(text: str) -> None:
    with pytest.raises(CpuModelError, match="is no CPU model whose signature is known") as caught:
        find_cpu_model(text)
    assert "family/model/stepping" in caught.value.advice


def test_a_misspelt_model_gets_a_hint() -> None:
    with pytest.raises(CpuModelError) as caught:
        find_cpu_model("EPYC-Milan-v22")
    assert "did you mean EPYC-Milan-v2" in caught.value.advice


def test_features_have_names() -> None:
    assert names(snp_features(0x21)) == ("SNP_ACTIVE", "DEBUG_SWAP")
    assert snp_features(0x21) == SNP_AND_DEBUG_SWAP


@pytest.mark.parametrize(
    ("word", "why"),
    [
        (0, "lacks bit 0"),
        (0x20, "lacks bit 0"),
        (-1, "not defined"),
        (1 << 13 | 1, "bits 0x2000"),
        (1 << 63 | 1, "not defined"),
    ],
)
def test_features_that_no_guest_has(word: int, why: str) -> None:
    with pytest.raises(GuestFeaturesError, match=why):
        snp_features(word)


@given(st.sets(st.sampled_from(list(GuestFeatures))))
def test_every_defined_bit_is_accepted(bits: set[GuestFeatures]) -> None:
    word = sum(bits | {GuestFeatures.SNP_ACTIVE})
    assert set(names(snp_features(word))) == {bit.name for bit in bits} | {"SNP_ACTIVE"}
