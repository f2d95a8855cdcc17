"""Direct boots of the TPM oracle: the host gives kernel, initrd and command line (``oracle_boots``)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from measurements.direct_boot import DirectInputs
from measurements.predict_tpm import predict_direct_boot
from measurements.qemu import MachineSpec, QemuProgram
from measurements.qemu_args import DirectBoot
from measurements.shape import BootSource, MachineShape
from measurements.tdx.predict import DirectBoot as TdxDirectBoot
from tests.support.oracle_boots import (
    Booted,
    assert_equal,
    emulated,
    firmware_files,
    firmware_inputs,
    spare_disks,
)
from tests.support.oracle_cc import check_cc_sequences
from tests.support.oracle_guest import COMMAND_LINE, oracle_boot, oracle_guest


def check_direct(
    firmware: str, shape: MachineShape, folder: Path, *, program: QemuProgram | None = None
) -> None:
    """Predict and boot the guest directly on ``shape`` with OVMF of the suite ``firmware``, and compare with
    what a trust domain would measure (firmware of bookworm does not do that right).
    """
    guest = oracle_guest("bookworm" if firmware == "bookworm" else "trixie")
    kernel, initrd, disk = (folder / name for name in ("kernel", "initrd", "disk.raw"))
    kernel.write_bytes(guest.kernel)
    initrd.write_bytes(guest.initrd)
    disk.write_bytes(bytes(1 << 20))
    shape = replace(shape, boot=BootSource.DIRECT)
    files = firmware_files(firmware)
    inputs = DirectInputs(
        kernel=guest.kernel, initrd=guest.initrd, command_line=COMMAND_LINE, kernel_config=guest.config
    )
    spec = MachineSpec(
        shape=shape,
        firmware=files,
        disks=spare_disks(shape, folder, first=disk)[: len(shape.disks)],
        program=program,
        accelerator=emulated(program),
        direct=DirectBoot(kernel=kernel, initrd=initrd, command_line=COMMAND_LINE),
    )
    predicted = predict_direct_boot(inputs, firmware_inputs(files, shape), shape, program=program)
    booted = Booted(prediction=predicted, report=oracle_boot(spec))
    assert_equal(booted)
    if firmware != "bookworm":
        boot = TdxDirectBoot(kernel=guest.kernel, initrd=guest.initrd, command_line=COMMAND_LINE)
        check_cc_sequences(booted, suite=firmware, shape=shape, boot=boot, program=program)
