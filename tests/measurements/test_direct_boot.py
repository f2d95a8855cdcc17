"""Direct boots: order, kernel and command line by firmware and QEMU. Real ones are in ``tests/boot``."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import Any

import pytest

from measurements.boot_sequence import PlatformEvents, assemble, measure_image
from measurements.direct_boot import (
    DirectInputs,
    final_command_line,
    offered_kernel,
    predict_direct,
    takes_named_files,
)
from measurements.errors import FormatError
from measurements.events import Bank, EventType, MeasuredEvent, event_over
from measurements.firmware_volume import FirmwareError, FirmwareVolume
from measurements.ovmf import Firmware
from measurements.pe import authenticode_digest
from measurements.shape import MachineShape, ShapeError, TpmInterface
from measurements.varstore import VariableStore
from tests.support.boot_model import ModelImage
from tests.support.pe_images import synthetic_pe

SHAPE = MachineShape()
OLD = b"\0 initrd=initrd\0etc/tpm"
NAMED = b"\0 initrd=initrd\0etc/boot/\0"
NEW = b"\0initrd=initrd \0etc/boot/\0"


def firmware(dxe: bytes) -> Firmware:
    volume = FirmwareVolume(data=dxe, name=None, files_at=0)
    return Firmware(name="test.fd", sha256="0" * 64, pei=volume, dxe=volume, pei_modules=(), dxe_files={})


def kernel(release: bytes = b"6.12.1 (builder)") -> bytes:
    """A PE image that is a bzImage, too, as kernels are."""
    image = bytearray(synthetic_pe([(".text", b"code")]))
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x20F)
    struct.pack_into("<H", image, 0x20E, 0x100)
    image[0x211] = 1
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)
    image[0x300 : 0x300 + len(release)] = release
    return bytes(image)


def inputs(**changes: Any) -> DirectInputs:
    values: dict[str, Any] = {
        "kernel": kernel(),
        "initrd": b"rd",
        "command_line": "quiet",
        "kernel_config": {},
        **changes,
    }
    return DirectInputs(**values)


def platform() -> PlatformEvents:
    def event(name: str) -> MeasuredEvent:
        return event_over(
            name.encode(), pcr=1, event_type=EventType.EV_ACTION, description=name, origin="test"
        )

    return PlatformEvents(
        code=[event("code")],
        configuration=[event("acpi")],
        boot_choice=[event("entries")],
        after_separators=[event("late")],
        variables=VariableStore(variables=()),
        variables_name="vars.fd",
        secure_boot_supported=False,
    )


def test_the_kernel_is_loaded_before_the_boot_manager_is_ready() -> None:
    given = inputs(kernel_config={"CONFIG_IMA": "n"})
    prediction = predict_direct(given, platform(), firmware(NEW), SHAPE, qemu="7.2.22")
    names = [event.description.split(":")[0].split(",")[0] for event in prediction.events]
    assert names[7:] == [
        *("acpi", "kernel (Authenticode)", "entries", "Calling EFI Application from Boot Option"),
        *["separator"] * 7,
        *("late", "LOADED_IMAGE", "initrd as the kernel receives it (Linux initrd)"),
        *("Exit Boot Services Invocation", "Exit Boot Services Returned with Success"),
    ]
    digest = authenticode_digest(offered_kernel(given, firmware(NEW), SHAPE, qemu="7.2"), Bank.SHA256)
    assert prediction.events[8].digests[Bank.SHA256] == digest
    line = "initrd=initrd quiet".encode("utf-16-le") + b"\0\0"
    (measured,) = [event for event in prediction.events if event.description.startswith("LOADED_IMAGE")]
    assert measured.digests[Bank.SHA256] == hashlib.sha256(line).digest()


@pytest.mark.parametrize(
    ("dxe", "line"),
    [(OLD, "quiet initrd=initrd"), (NAMED, "quiet initrd=initrd"), (NEW, "initrd=initrd quiet")],
)
def test_the_initrd_argument_has_its_place_by_release(dxe: bytes, line: str) -> None:
    assert final_command_line(inputs(), firmware(dxe)) == line
    assert final_command_line(inputs(initrd=b""), firmware(dxe)) == "quiet"


@pytest.mark.parametrize("dxe", [b"", OLD + NEW])
def test_a_firmware_that_does_not_tell_is_refused(dxe: bytes) -> None:
    with pytest.raises(FirmwareError, match="initrd=initrd"):
        final_command_line(inputs(), firmware(dxe))


@pytest.mark.parametrize(
    ("qemu", "dxe", "patched"),
    [("7.2.22", NEW, True), ("9.2.1", NEW, True), ("10.0.0", NEW, False), ("10.0.13", OLD, True)],
)
def test_the_kernel_is_untouched_only_if_qemu_and_firmware_know_named_files(
    qemu: str, dxe: bytes, patched: bool
) -> None:
    given = inputs()
    assert (offered_kernel(given, firmware(dxe), SHAPE, qemu=qemu) != given.kernel) is patched
    assert takes_named_files(firmware(NEW)) is not takes_named_files(firmware(OLD))


def test_the_patched_kernel_depends_on_the_size_of_the_initrd_only() -> None:
    def digest(initrd: bytes) -> bytes:
        return offered_kernel(inputs(initrd=initrd), firmware(OLD), SHAPE, qemu="7.2")

    assert digest(b"ab") == digest(b"cd")
    assert digest(b"ab") != digest(b"abc")


@pytest.mark.parametrize("release", [b"5.10.0 (x)", b"six (x)"])
def test_old_kernels_are_refused(release: bytes) -> None:
    with pytest.raises(FormatError):
        predict_direct(inputs(kernel=kernel(release)), platform(), firmware(NEW), SHAPE, qemu="7.2")


def test_no_version_and_no_tpm_are_refused() -> None:
    with pytest.raises(ShapeError, match="version"):
        offered_kernel(inputs(), firmware(NEW), SHAPE, qemu="unknown")
    with pytest.raises(ShapeError, match="no TPM"):
        predict_direct(inputs(), platform(), firmware(NEW), MachineShape(tpm=TpmInterface.NONE), qemu="7.2")


def test_a_direct_boot_is_not_predicted_from_a_disk() -> None:
    image = measure_image(ModelImage().inputs())
    with pytest.raises(ShapeError, match="from the host"):
        assemble(image, replace(platform(), direct=True), tpm=TpmInterface.CRB)
    assert assemble(image, platform(), tpm=TpmInterface.CRB).events
