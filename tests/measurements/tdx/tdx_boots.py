"""Trust domains for tests: the quoted firmware, small direct boots and images, and machines for them."""

from __future__ import annotations

import functools
import lzma
from dataclasses import replace

from measurements.acpi_blob import AcpiFiles
from measurements.boot_sequence import ImageEvents, measure_image
from measurements.firmware_catalogue import edk2_release, hypervisor
from measurements.shape import BootSource, MachineShape, TpmInterface
from measurements.tdx.predict import DirectBoot, TdxFirmware, TdxMachine
from tests.measurements.tdx.kernel_files import bzimage
from tests.support.boot_model import ModelImage
from tests.support.vectors import vector

UBUNTU = "firmware/OVMF-2025.02-3ubuntu2.fd.xz"
DIRECT = DirectBoot(kernel=bzimage(), initrd=b"initrd", command_line="console=ttyS0")
ACPI = AcpiFiles(loader=b"loader", files=(("etc/acpi/rsdp", b"rsdp"), ("etc/acpi/tables", b"tables")))


@functools.cache
def ubuntu_bytes() -> bytes:
    """The firmware of the quote: Ubuntu's ovmf 2025.02-3ubuntu2."""
    return lzma.decompress(vector(UBUNTU).read_bytes())


@functools.cache
def ubuntu_firmware(release: str | None = None) -> TdxFirmware:
    """The same, read; with the rules of another ``release`` where one is given."""
    return TdxFirmware.parse(ubuntu_bytes(), name="OVMF.fd", release=release)


def as_release(firmware: TdxFirmware, release: str) -> TdxFirmware:
    """``firmware`` with the rules of another release."""
    return replace(firmware, build=replace(firmware.build, release=edk2_release(release)))


def machine(*, direct: bool, host: str = "qemu", memory_mib: int = 2048) -> TdxMachine:
    """A machine whose ACPI tables are a few bytes."""
    shape = MachineShape(
        memory_mib=memory_mib,
        cpus=2,
        tpm=TpmInterface.NONE,
        boot=BootSource.DIRECT if direct else BootSource.DISK,
    )
    return TdxMachine(
        shape=shape,
        hypervisor=hypervisor(host),
        acpi=ACPI,
        acpi_origin="tables of the test",
        fw_cfg={"BootMenu": bytes(2)},
        qemu_version=(10, 2),
    )


@functools.cache
def image(model: ModelImage | None = None) -> ImageEvents:
    """A UKI on a disk, on the installed stub, taken for one that measures in trust domains."""
    measured = measure_image((model or ModelImage()).inputs())
    return replace(measured, uki=replace(measured.uki, trust_domains=True))
