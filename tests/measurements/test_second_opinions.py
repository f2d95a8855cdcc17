"""Other programs' opinions on what is predicted for TPM boots; where they differ, who is right and why.

No boots here: that the predictions are right where the programs say something else is shown by the boots of
``tests/boot/test_oracle_*``, which run the same firmware and stubs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from measurements.events import Bank, digests_of, replay
from measurements.ovmf import read_firmware, version_text
from measurements.pcr0 import code_events
from measurements.shape import MachineShape
from measurements.systemd_stub import Uki, parse_uki, section_events
from tests.support.boot_model import ModelImage, ModelMachine, boot_log, predict
from tests.support.foreign_program import foreign_program
from tests.support.oracle_boots import firmware_files, stub_file, ukify
from tests.support.tools import require_tool

pytestmark = pytest.mark.apt

MEASURE_PACKAGES = {"trixie": "systemd", "sid": "systemd-tpm"}
STUBS = {"trixie": 257, "sid": 262}
SECTIONS = {
    "--os-release=": b"ID=second\n",
    "--cmdline=": b"console=ttyS0 quiet",
    "--uname=": b"6.12.1-test",
    "--initrd=": b"initrd of the test",
    "--microcode=": b"microcode",
    "--sbat=": b"sbat,1,SBAT Version,sbat,1,https://example.org\nsecond,1,second,second,1,x\n",
    "--splash=": b"BM",
    "--pcrpkey=": b"-----BEGIN PUBLIC KEY-----\n",
    "--profile=": b"ID=second\nTITLE=Second\n",
}


def build(suite: str, folder: Path) -> bytes:
    """A UKI with every section that ukify takes as a file, on the suite's own stub."""
    stub = stub_file(STUBS[suite])
    arguments = [f"--stub={stub}", f"--linux={stub}"]
    for option, data in SECTIONS.items():
        path = folder / option.strip("-=")
        path.write_bytes(data)
        plain = option in ("--cmdline=", "--uname=")
        arguments.append(option + (data.decode() if plain else f"@{path}" if _is_text(option) else str(path)))
    return ukify(arguments, folder / "uki.efi", suite=suite)


def _is_text(option: str) -> bool:
    return option in ("--os-release=", "--sbat=", "--profile=")


def measured(suite: str, uki: Uki, folder: Path) -> Mapping[Bank, str]:
    """PCR 11 by systemd-measure of a suite."""
    program = foreign_program(MEASURE_PACKAGES[suite], "usr/lib/systemd/systemd-measure", suite=suite)
    command = [*program, "calculate", "--json=short", "--phase="]
    for name, data in uki.sections.items():
        path = folder / f"section{name}"
        path.write_bytes(data)
        command.append(f"--{name[1:]}={path}")
    command += [f"--bank={bank.value}" for bank in Bank]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {
        bank: next(entry["hash"] for entry in json.loads(shown)[bank.value] if entry["pcr"] == 11)
        for bank in Bank
    }


@pytest.mark.parametrize("suite", STUBS)
def test_pcr_11_of_ukify_s_images_equals_systemd_measure_s(suite: str, tmp_path: Path) -> None:
    uki = parse_uki(build(suite, tmp_path))
    assert uki.version == STUBS[suite]
    assert uki.sections.keys() >= {".ucode", ".splash", ".pcrpkey", ".profile", ".uname", ".sbat"}
    registers = replay(section_events(uki), pcrs=[11])
    assert {bank: registers[bank][11].hex() for bank in Bank} == measured(suite, uki, tmp_path)


def test_systemd_measure_s_value_changes_with_any_section(tmp_path: Path) -> None:
    uki = parse_uki(build("trixie", tmp_path))
    values = set()
    for name, data in uki.sections.items():
        changed = Uki(version=uki.version, sections={**uki.sections, name: data[:-1] + b"\1"})
        registers = replay(section_events(changed), pcrs=[11])
        values.add(registers[Bank.SHA256][11])
    assert len(values) == len(uki.sections)


def firmware_records(suite: str) -> list[str]:
    """Digests of PCR 0 by virt-fw-measure."""
    files = firmware_files(suite)
    program = str(Path(sys.executable).with_name("virt-fw-measure"))
    command = [program, f"--image={files.code}", f"--vars={files.variables}", "--no-shim", "--bank=sha384"]
    command.append(f"--version={version_text(read_firmware(files.code))}")
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [record["digests"][0]["digest"] for record in json.loads(shown)["records"] if record["pcr"] == 0]


@pytest.mark.parametrize(("suite", "static"), [("bookworm", False), ("trixie", False), ("sid", True)])
def test_virt_fw_measure_takes_the_early_volume_as_the_file_has_it(suite: str, static: bool) -> None:
    """It agrees on version and drivers, but leaves out an empty version (2022.11), shown in boots as two zero
    bytes. The volume of early code is measured after modules have written into it, in 2022.11 what they found
    on the machine, in 2025.02 the port of a timer; the program hashes what the file holds, which no boot
    shows. Since 2026.08 (edk2 1506c6da7b) nothing is written, and all agree.
    """
    firmware = read_firmware(firmware_files(suite).code)
    ours = [event.digests[Bank.SHA384].hex() for event in code_events(firmware, MachineShape())]
    theirs = firmware_records(suite)
    if not version_text(firmware):
        theirs.insert(0, ours[0])
        assert ours[0] == digests_of(bytes(2))[Bank.SHA384].hex()
    assert (ours[0], ours[2]) == (theirs[0], theirs[2])
    assert theirs[1] == digests_of(firmware.pei.data)[Bank.SHA384].hex()
    assert (ours[1] == theirs[1]) is static


def test_tpm2_eventlog_replays_a_predicted_log_to_the_predicted_registers(tmp_path: Path) -> None:
    tool = require_tool("tpm2_eventlog", package="tpm2-tools")
    machine, image = ModelMachine().with_nic(), ModelImage()
    log = tmp_path / "log"
    log.write_bytes(boot_log(machine, image))
    shown = subprocess.run([tool, str(log)], check=True, capture_output=True, text=True).stdout
    theirs = yaml.safe_load(shown)["pcrs"]
    ours = predict(machine, image).registers
    for bank in Bank:
        found = {pcr: f"{value:#x}" for pcr, value in theirs[bank.value].items()}
        assert found
        assert found == {pcr: f"{int.from_bytes(ours[bank][pcr], 'big'):#x}" for pcr in found}
