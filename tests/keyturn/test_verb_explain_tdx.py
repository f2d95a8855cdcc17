"""``keyturn explain`` for trust domains whose firmware is at hand: near misses without and with QEMU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyturn.explain_inputs import SearchFiles, platform_inputs
from measurements.booted import Registers
from measurements.near_miss_tdx import TdxInputs, tdx_predictor
from measurements.platforms import PlatformPrediction
from measurements.tdx.mrtd import PageOrder
from measurements.tdx.predict import TdxMachine
from tests.keyturn.test_verb_explain_platforms import call, document, reference
from tests.measurements.tdx.tdx_boots import ubuntu_bytes
from tests.support.planted_tdx import base_inputs, predicted, read_machine
from tests.support.tools import require_tool
from tests.support.vectors import vector

QUOTE = "tdx-ccel-pairs/gcp-cos113/cos-113-tdx-quote.dat"
PLACES = {"mrtd": 136, "rtmr0": 328, "rtmr1": 376, "rtmr2": 424, "rtmr3": 472}
BODY = 48
WORDS = "memory is 8192 MiB, and the ACPI tables are the same"


def quote_file(folder: Path, registers: Registers) -> Path:
    """A real quote with other registers, whose signature no longer fits; none is checked."""
    data = bytearray(vector(QUOTE).read_bytes())
    for register, place in PLACES.items():
        value = registers.get(register, {}).get("sha384", bytes(48))
        data[BODY + place : BODY + place + 48] = value
    path = folder / "quote.bin"
    path.write_bytes(data)
    return path


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(ubuntu_bytes())
    return path


def with_memory(memory_mib: int) -> PlatformPrediction:
    """The base machine with more memory, whose ACPI tables stay the same."""
    base = base_inputs()
    shape = replace(base.shape, memory_mib=memory_mib)

    def same_tables(_: TdxInputs) -> TdxMachine:
        return replace(read_machine(base), shape=shape)

    return tdx_predictor(predicted(base), same_tables)(replace(base, shape=shape))


def test_memory_is_named_from_a_quote_alone(
    firmware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = reference(tmp_path, predicted(base_inputs()))
    quote = quote_file(tmp_path, with_memory(8192).registers)
    assert call("--expected", expected, "--quote", quote, "--firmware", firmware) == 1
    shown = capsys.readouterr().out
    assert f"RTMR0 would be as found if {WORDS}" in shown
    assert "this is what a 2 vCPU machine with 8 GiB (hypervisor qemu, page-order single-pass) would" in shown
    assert "more need QEMU (--neighbours)" not in shown


def test_what_needs_qemu_is_counted_and_not_tried(
    firmware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = reference(tmp_path, predicted(base_inputs()))
    quote = quote_file(tmp_path, {**predicted(base_inputs()).registers, "rtmr0": {"sha384": bytes(48)}})
    arguments = ("--expected", expected, "--quote", quote, "--firmware", firmware, "--json")
    assert call(*arguments) == 1
    near = document(capsys)["near_misses"]
    assert near["found"] == []
    assert near["costly_untried"] > 30
    assert near["wrong"] == ["rtmr0"]


def test_the_page_order_is_named_once(
    firmware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The catalogue knows the file's MRTD, and the firmware is at hand: both say the same."""
    base = base_inputs()
    expected = predicted(base)
    other = tdx_predictor(expected, read_machine)(replace(base, boot=None, order=PageOrder.TWO_PASS))
    quote = quote_file(tmp_path, other.registers)
    path = reference(tmp_path, expected)
    for options in ((), ("--firmware", firmware)):
        assert call("--expected", path, "--quote", quote, "--json", *options) == 1
        (miss,) = document(capsys)["near_misses"]["found"]
        assert miss["words"] == ["the hypervisor adds pages in the order two-pass"]
        assert miss["kinds"] == ["page order of MRTD"]


def test_firmware_that_is_not_known_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(bytes(4096))
    expected = reference(tmp_path, predicted(base_inputs()))
    quote = quote_file(tmp_path, {})
    assert call("--expected", expected, "--quote", quote, "--firmware", path) == 2
    assert "remedy" in capsys.readouterr().err


def test_a_qemu_that_is_none_is_refused(
    firmware: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = reference(tmp_path, predicted(base_inputs()))
    arguments = ("--quote", quote_file(tmp_path, {}), "--firmware", firmware, "--try-qemu", tmp_path / "none")
    assert call("--expected", expected, *arguments) == 2
    assert "is not a program" in capsys.readouterr().err


@pytest.mark.apt
def test_a_machine_is_named_by_tables_of_the_installed_qemu(
    firmware: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    monkeypatch.setenv("KEYTURN_CACHE", str(tmp_path / "cache"))
    frame = predicted(base_inputs())
    given = platform_inputs(frame, None, SearchFiles(firmware=firmware), neighbours=True)
    assert given.predict is not None
    inputs: TdxInputs = given.inputs
    expected = given.predict(inputs)
    found = given.predict(replace(inputs, shape=replace(inputs.shape, cpus=1)))
    assert expected.registers["rtmr0"] != found.registers["rtmr0"]
    quote = quote_file(tmp_path, found.registers)
    arguments: list[Any] = ["--expected", reference(tmp_path, expected), "--quote", quote]
    assert call(*arguments, "--firmware", firmware, "--neighbours", "--json") == 1
    (miss,) = document(capsys)["near_misses"]["found"]
    assert (miss["words"], miss["left"]) == (["there is 1 CPU"], [])
    assert miss["machine"].startswith("a 1 vCPU machine with 4 GiB")
