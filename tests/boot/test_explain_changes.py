"""Explanations of real boots that differ from the prediction in one deliberate change each."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from image_builder.image import Artefact, Image
from image_builder.measured_image import differing_initrd_files, read_measured_image
from keyturn.verb_explain import read_machine
from measurements.boot_report import encode_report
from measurements.cause_inputs import Input
from measurements.explain import Explanation, explain
from measurements.near_miss import NearMiss, NearMissKind, Problem, values_to_explain
from measurements.near_miss_search import search
from measurements.near_miss_tpm import TpmInputs, tpm_changes, tpm_predictor
from measurements.platforms import PlatformPrediction
from measurements.predict_tpm import FirmwareInputs, predict_tpm
from measurements.qemu import MachineSpec
from measurements.qemu_args import DiskFile, FirmwareFiles
from measurements.reference import tpm_prediction
from measurements.shape import BootOrder, MachineShape, Nic
from tests.boot.conftest import ImageMaker
from tests.support.real_boot import finished_boot
from tests.support.signed_image import put_on_esp
from tests.support.tools import require_tool

pytestmark = pytest.mark.boot

BASE = MachineShape(memory_mib=1024, boot_order=BootOrder.FIRMWARE)
USER = '[[user]]\nname = "guest"\nuid = 1000\ngid = 1000\nhome = "/var/guest"\n\n[boot]'

DiskChange = Callable[[Path, Path], None]


def add_credential(disk: Path, folder: Path) -> None:
    """A credential next to the UKI, as a host could put it there."""
    credential = folder / "x.cred"
    credential.write_bytes(b"from the host")
    tool = require_tool("mmd", package="mtools")
    subprocess.run([tool, "-i", f"{disk}@@1M", "::/loader", "::/loader/credentials"], check=True)
    put_on_esp(disk, credential, "::/loader/credentials/x.cred")


def change_disk_guid(disk: Path, folder: Path) -> None:
    """Another disk GUID in both copies of the partition table."""
    tool = require_tool("sgdisk", package="gdisk")
    subprocess.run(
        [tool, "-U", "11111111-2222-3333-4444-555555555555", disk], check=True, capture_output=True
    )


@dataclass(frozen=True, kw_only=True)
class Change:
    """What boots instead of the predicted image on the predicted machine, and what must be named; nothing if
    no register of this firmware shows it.
    """

    shape: MachineShape = BASE
    image: str = "default"
    line: str = ""
    replacement: str = ""
    disk: DiskChange | None = None
    named: Input | None
    near_miss: NearMissKind | None = None


CHANGES = {
    "memory": Change(shape=replace(BASE, memory_mib=2048), named=None),
    "network card": Change(shape=replace(BASE, nics=(Nic(),)), named=Input.NIC, near_miss=NearMissKind.NIC),
    "command line": Change(
        image="command-line",
        line='command-line = []               # additions, each "key" or "key=value"',
        replacement='command-line = ["mitigations=off"]',
        named=Input.COMMAND_LINE,
    ),
    "verity root": Change(image="user", line="[boot]", replacement=USER, named=Input.VERITY_ROOT),
    "file on the ESP": Change(disk=add_credential, named=Input.ESP_EXTRA),
    "disk GUID": Change(disk=change_disk_guid, named=Input.PARTITIONS),
}


@pytest.fixture(scope="session")
def reference(built_image: Image, firmware: FirmwareFiles) -> PlatformPrediction:
    """The reference values of the default image on the default machine."""
    inputs = FirmwareInputs.read(code=firmware.code, variables=firmware.variables)
    prediction = predict_tpm(read_measured_image(built_image.folder), inputs, BASE)
    return tpm_prediction(prediction, shape=BASE.as_json())


def boot(image: Image, change: Change, firmware: FirmwareFiles, folder: Path) -> Path:
    """Boot with the change; the boot report as a file."""
    disk = image.path(Artefact.DISK)
    if change.disk is not None:
        disk = Path(shutil.copyfile(disk, folder / "disk.raw"))
        change.disk(disk, folder)
    spec = MachineSpec(shape=change.shape, firmware=firmware, disks=[DiskFile(path=disk)])
    report = folder / "report.json"
    report.write_bytes(encode_report(finished_boot(spec).report))
    return report


def explained(reference: PlatformPrediction, report: Path, predicted: Image, booted: Image) -> Explanation:
    files = differing_initrd_files(predicted.folder, booted.folder)
    return explain(reference, read_machine(report).booted, initrd_files=files)


def near_misses(reference: PlatformPrediction, report: Path, firmware: FirmwareFiles) -> Sequence[NearMiss]:
    """What the machine's registers alone say about its devices."""
    inputs = TpmInputs(
        firmware=FirmwareInputs.read(code=firmware.code, variables=firmware.variables), shape=BASE
    )
    problem = Problem(
        expected=reference,
        found=values_to_explain(reference, read_machine(report).booted.registers),
        inputs=inputs,
        predict=tpm_predictor(reference),
    )
    kinds = (NearMissKind.CPUS, NearMissKind.NIC, NearMissKind.DISK)
    changes = [change for change in tpm_changes(inputs) if change.kind in kinds]
    return search(problem, changes, costly=True).found


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_a_real_boot_is_named(
    name: str,
    make_image: ImageMaker,
    built_image: Image,
    firmware: FirmwareFiles,
    reference: PlatformPrediction,
    tmp_path: Path,
) -> None:
    change = CHANGES[name]
    image = make_image(change.image, {change.line: change.replacement} if change.line else {})
    report = boot(image, change, firmware, tmp_path)
    explanation = explained(reference, report, built_image, image)
    assert explanation.faults == ()
    if change.named is None:
        assert explanation.equal
        assert "below 2048 MiB" in explanation.hints[0]
        return
    assert not explanation.equal
    assert explanation.findings[0].cause.input is change.named
    if change.near_miss is not None:
        assert [miss.kinds for miss in near_misses(reference, report, firmware)] == [(change.near_miss,)]
