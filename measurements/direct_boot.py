"""Direct boot: the host gives kernel, initrd and command line to QEMU, and OVMF starts the kernel.

The order is confirmed by logs of real boots (edk2 2022.11, 2025.02 and 2026.08 with QEMU 7.2). OVMF loads the
kernel before its boot manager looks for disks (``OvmfPkg/Library/PlatformBootManagerLib``,
``QemuLoadImageLib``):

1. the firmware's own code (PCR 0), the Secure Boot policy (PCR 7), ACPI and option ROMs (PCR 1, 2);
2. the kernel (PCR 4), with Secure Boot its authority (PCR 7);
3. SMBIOS and the boot entries, which are the boot manager's own (PCR 1);
4. the boot manager's action and the separators, then what the kernel measures (PCR 9), the end of boot
   services (PCR 5).

The firmware adds ``initrd=initrd`` to the command line if there is an initrd: up to 2025.05 at its end, later
at its start. It hashes the kernel as QEMU offers it: with QEMU's changes to the setup header
(``measurements.tdx.kernel_patch``), unless both know the file ``etc/boot/kernel``, which has the kernel as it
is (QEMU from 10.0 on, edk2 from 2025.02 on). Which of these a firmware does is read from its strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from measurements.boot_applications import exit_events, program_event, ready_to_boot_events
from measurements.boot_sequence import PREDICTED_PCRS, PlatformEvents, Prediction, later_events
from measurements.events import replay
from measurements.firmware_volume import FirmwareError
from measurements.ima import LoadedModule
from measurements.linux_stub import check_kernel_release, command_line_event, initrd_event
from measurements.ovmf import Firmware
from measurements.secure_boot import StartedImage, authority_events, policy_events, secure_boot_policy
from measurements.shape import MachineShape, ShapeError
from measurements.tdx.kernel_patch import UNTOUCHED_FROM, kernel_release, patched_kernel

INITRD_ARGUMENT = "initrd=initrd"
_PREFIX, _SUFFIX = b"initrd=initrd \0", b" initrd=initrd\0"
_NAMED_FILES = b"etc/boot/\0"
_VERSION = re.compile(r"(\d+)\.(\d+)\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectInputs:
    """What the host gives to QEMU, and what IMA goes by (``boot_sequence.ImageInputs``). An empty ``initrd``
    means none.
    """

    kernel: bytes
    initrd: bytes
    command_line: str
    kernel_config: Mapping[str, str]
    load_modules: Callable[[], Sequence[LoadedModule]] = tuple
    dev: bool = False


def predict_direct(
    image: DirectInputs, platform: PlatformEvents, firmware: Firmware, shape: MachineShape, *, qemu: str
) -> Prediction:
    """Every event and register of a direct boot; ``qemu`` is the version of QEMU, such as ``10.0.13``.

    Raises ``KeyturnError`` for a kernel, version or firmware whose measurements are not known.
    """
    check_kernel_release(kernel_release(image.kernel))
    policy = secure_boot_policy(platform.variables, supported=platform.secure_boot_supported)
    kernel = offered_kernel(image, firmware, shape, qemu=qemu)
    authority = authority_events(
        policy, [StartedImage(name="kernel", data=kernel)], origin=platform.variables_name
    )
    line = final_command_line(image, firmware)
    events = [
        *platform.code,
        *policy_events(policy, origin=platform.variables_name),
        *platform.configuration,
        *authority,
        program_event(kernel, description="kernel (Authenticode)", origin="kernel"),
        *platform.boot_choice,
        *ready_to_boot_events(),
        *platform.after_separators,
        *command_line_event(line, origin="command line from the host, and what the firmware adds"),
        *initrd_event(image.initrd, origin="initrd"),
        *exit_events(),
    ]
    events += later_events(
        events,
        kernel_config=image.kernel_config,
        load_modules=image.load_modules,
        dev=image.dev,
        tpm=shape.tpm,
        secure_boot=policy.enforced,
        command_line=line,
    )
    return Prediction(events=tuple(events), registers=replay(events, pcrs=PREDICTED_PCRS))


def offered_kernel(image: DirectInputs, firmware: Firmware, shape: MachineShape, *, qemu: str) -> bytes:
    """The kernel as this firmware gets it from this QEMU."""
    match = _VERSION.match(qemu)
    if match is None:
        raise ShapeError(
            f"{qemu!r} is not a version", subject="QEMU", advice="give it as major and minor, such as 10.0"
        )
    if (int(match[1]), int(match[2])) >= UNTOUCHED_FROM and takes_named_files(firmware):
        return image.kernel
    return patched_kernel(
        image.kernel,
        memory=shape.memory_mib << 20,
        initrd_size=len(image.initrd),
        command_line=image.command_line,
    )


def takes_named_files(firmware: Firmware) -> bool:
    """Whether the firmware prefers ``etc/boot/kernel`` to the patched kernel."""
    return _NAMED_FILES in firmware.dxe.data


def final_command_line(image: DirectInputs, firmware: Firmware) -> str:
    """The command line that the kernel receives; raises FirmwareError for an unknown boot manager."""
    prefix, suffix = (mark in firmware.dxe.data for mark in (_PREFIX, _SUFFIX))
    if prefix == suffix:
        raise FirmwareError(
            "does not tell where it adds initrd=initrd to the command line",
            subject=firmware.name,
            advice="report this firmware build, or boot from a disk",
        )
    if not image.initrd:
        return image.command_line
    parts = [INITRD_ARGUMENT, image.command_line] if prefix else [image.command_line, INITRD_ARGUMENT]
    return " ".join(parts)
