"""Firmware profiles: what early modules write into the measured PEI volume, recorded once from a dry boot.

Only for machines where it cannot be computed (SMM with edk2 from 2024.11 on). The machine is booted with
empty disks under stock QEMU and swtpm until its boot manager runs; then the volume is read from its memory,
compared with the file, and accepted only if its digests stand in the event log that the firmware wrote in
the same boot.

A profile is one JSON object: ``schema``, ``source`` (``dry-boot``), ``firmware_sha256``, ``machine`` (the
parts of the shape that it holds for), ``qemu``, and ``patches``: a list of ``offset`` (in the volume) and
``data`` (hexadecimal).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from measurements.events import Provenance, digests_of
from measurements.firmware_volume import FirmwareError
from measurements.ovmf import Firmware, read_firmware
from measurements.pcr0 import Patch
from measurements.qemu import Machine, MachineSpec, QemuProgram
from measurements.qemu_args import Accelerator, DiskFile, FirmwareFiles
from measurements.shape import MachineShape, TpmInterface

SCHEMA = "keyturn-firmware-profile/1"
BOOT_SECONDS = 180
_LOG_MARK = b"Spec ID Event03\0"
_LOG_REACH = 8192
_CHUNK = 64 << 20
_LOW_MEMORY = 0xB0000000
_GAP = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareProfile:
    """Patches of one firmware on one kind of machine."""

    firmware_sha256: str
    machine: dict[str, object]
    qemu: str
    patches: tuple[Patch, ...]

    def as_json(self) -> dict[str, object]:
        """The profile's document."""
        return {
            "schema": SCHEMA,
            "source": Provenance.DRY_BOOT.value,
            "firmware_sha256": self.firmware_sha256,
            "machine": self.machine,
            "qemu": self.qemu,
            "patches": [{"offset": patch.offset, "data": patch.data.hex()} for patch in self.patches],
        }

    def patches_for(self, firmware: Firmware, shape: MachineShape) -> tuple[Patch, ...]:
        """The patches, if the profile is of this firmware and machine; raises FirmwareError otherwise."""
        if self.firmware_sha256 != firmware.sha256 or self.machine != machine_key(shape):
            raise FirmwareError(
                f"the profile is of another machine or firmware: {self.machine}, {self.firmware_sha256}",
                subject=firmware.name,
                advice="record one with `keyturn firmware profile` for this firmware and shape",
            )
        return self.patches


def machine_key(shape: MachineShape) -> dict[str, object]:
    """The parts of a shape that move early allocations; the rarer ones only where they are unusual."""
    default = MachineShape()
    rare = {"phys_bits": (shape.phys_bits, default.phys_bits), "sleep": (shape.sleep, default.sleep)}
    return {
        "machine": shape.machine,
        "memory_mib": shape.memory_mib,
        "cpus": shape.cpus,
        "cpu_vendor": shape.cpu_vendor.value,
        "smm": shape.smm,
        **{key: value for key, (value, usual) in rare.items() if value != usual},
    }


def record_profile(
    files: FirmwareFiles, shape: MachineShape, *, program: QemuProgram | None = None
) -> FirmwareProfile:
    """Boots the firmware once and records its writes; raises FirmwareError if its log does not confirm."""
    firmware = read_firmware(files.code)
    bare = MachineShape(
        memory_mib=shape.memory_mib,
        cpus=shape.cpus,
        machine=shape.machine,
        tpm=TpmInterface.CRB if shape.tpm is TpmInterface.NONE else shape.tpm,
        cpu_vendor=shape.cpu_vendor,
        smm=shape.smm,
        phys_bits=shape.phys_bits,
        sleep=shape.sleep,
    )
    with tempfile.TemporaryDirectory(prefix="keyturn-") as name:
        folder = Path(name)
        disk = folder / "empty.raw"
        disk.write_bytes(bytes(1 << 20))
        spec = MachineSpec(
            shape=bare,
            firmware=files,
            disks=[DiskFile(path=disk)],
            program=program,
            accelerator=Accelerator.TCG,
        )
        with Machine.start(spec) as machine:
            machine.wait_for("BdsDxe", seconds=BOOT_SECONDS)
            version = machine.qemu_version
            machine.stop()
            volume = machine.read_memory(_volume_address(firmware), len(firmware.pei.data), folder / "memory")
            confirmed = _confirmed(machine, bare, volume, folder / "memory")
    if not confirmed:
        raise FirmwareError(
            "the volume in memory is not what the firmware's event log says",
            subject=firmware.name,
            advice="try again; if it stays, report this firmware build",
        )
    patches = tuple(differences(firmware.pei.data, volume))
    return FirmwareProfile(
        firmware_sha256=firmware.sha256, machine=machine_key(shape), qemu=version, patches=patches
    )


def differences(before: bytes, after: bytes) -> Iterator[Patch]:
    """What turns ``before`` into ``after``, near bytes in one patch."""
    places = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    starts = [place for last, place in pairwise([-_GAP - 1, *places]) if place - last > _GAP]
    ends = [last + 1 for last, place in pairwise([*places, len(before) + _GAP + 1]) if place - last > _GAP]
    for start, end in zip(starts, ends, strict=True):
        yield Patch(offset=start, data=after[start:end], reason="dry boot")


def read_profile(path: Path) -> FirmwareProfile:
    """The profile in a file; raises FirmwareError if it is not one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA or document["source"] != Provenance.DRY_BOOT.value:
            raise ValueError("unknown schema")
        return FirmwareProfile(
            firmware_sha256=str(document["firmware_sha256"]),
            machine=dict(document["machine"]),
            qemu=str(document["qemu"]),
            patches=tuple(_patch(entry) for entry in document["patches"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise FirmwareError(
            f"is not a firmware profile: {problem}",
            subject=str(path),
            advice="record one with `keyturn firmware profile`",
        ) from problem


def _patch(entry: dict[str, object]) -> Patch:
    offset, data = entry["offset"], bytes.fromhex(str(entry["data"]))
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0 or not data:
        raise ValueError("a patch has no offset or no data")
    return Patch(offset=offset, data=data, reason="dry boot")


def _volume_address(firmware: Firmware) -> int:
    bases = {module.image_base - module.start for module in firmware.pei_modules}
    if len(bases) != 1:
        raise FirmwareError(
            "its modules are not linked to one place", subject=firmware.name, advice="report this build"
        )
    return bases.pop()


def _confirmed(machine: Machine, shape: MachineShape, volume: bytes, scratch: Path) -> bool:
    wanted: Sequence[bytes] = list(digests_of(volume).values())
    memory = shape.memory_mib << 20
    top = memory if memory < _LOW_MEMORY else 0x80000000
    for start in range(top - _CHUNK, -1, -_CHUNK):
        chunk = machine.read_memory(start, _CHUNK, scratch)
        place = chunk.find(_LOG_MARK)
        while place >= 0:
            log = chunk[place : place + _LOG_REACH]
            if all(digest in log for digest in wanted):
                return True
            place = chunk.find(_LOG_MARK, place + 1)
    return False
