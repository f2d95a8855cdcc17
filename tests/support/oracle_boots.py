"""The TPM oracle: machines that are predicted from files and then booted, every event and register compared.

A ``Machine`` names firmware, stub and what is unusual about it; ``check`` predicts it, boots it and compares.
Each boot costs about 25 seconds of processor time, so a machine varies several things at once.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from image_builder.uki import SectionName, UkiSection, build_uki
from measurements.boot_sequence import ImageInputs, Prediction
from measurements.esp_files import EspFiles
from measurements.eventlog import Algorithm, EventLog
from measurements.events import Bank
from measurements.firmware_profile import record_profile
from measurements.gpt import PRIMARY_SIZE
from measurements.pcr0 import needs_dry_boot
from measurements.predict_tpm import FirmwareInputs, predict_tpm
from measurements.qemu import MachineSpec, QemuProgram
from measurements.qemu_args import Accelerator, DiskFile, FirmwareFiles
from measurements.shape import MachineShape
from measurements.shape_devices import SmbiosStrings
from tests.support.debian_packages import debian_package
from tests.support.foreign_qemu import foreign_qemu
from tests.support.oracle_guest import (
    COMMAND_LINE,
    UKI_ON_ESP,
    OracleGuest,
    OracleReport,
    oracle_boot,
    oracle_disk,
    oracle_guest,
)
from tests.support.secure_boot_keys import SigningKey, enrol, make_key, sign_image

BASE = MachineShape(memory_mib=512)
BANKS = {Bank.SHA256: Algorithm.SHA256, Bank.SHA384: Algorithm.SHA384}
SPARE_DISK = 1 << 20
ADDON_STUB = "addonx64.efi.stub"
OWN_FOLDER = f"{UKI_ON_ESP}.extra.d"
SMBIOS = (
    SmbiosStrings(
        type=11,
        fields=(("value", "io.systemd.stub.kernel-cmdline-extra=from.smbios=3"), ("value", "hello")),
    ),
    SmbiosStrings(
        type=1,
        fields=(
            ("manufacturer", "oracle"),
            ("serial", "12345"),
            ("uuid", "11111111-2222-3333-4444-555555555555"),
        ),
    ),
    SmbiosStrings(type=2, fields=(("manufacturer", "board"), ("serial", "67890"))),
)
"""Strings of a host: one that the stub takes for command line, others that only firmware and stub measure."""

_FIRMWARE_PACKAGES = {"bookworm": "ovmf", "trixie": "ovmf", "sid": "ovmf-generic"}
_STUB_SUITES = {252: "bookworm", 254: "bookworm-backports", 257: "trixie", 262: "sid"}
_STUBS = "usr/lib/systemd/boot/efi"


@dataclass(frozen=True, kw_only=True)
class OracleMachine:
    """``firmware`` is a Debian suite; ``extras`` puts files next to the UKI; ``secure_boot`` enforces own
    keys; with ``profiles`` ukify builds the UKI, with two profiles and all that the stub hands on; ``qemu``
    is the Debian suite of another QEMU than the installed one.
    """

    firmware: str
    stub: int
    shape: MachineShape = BASE
    extras: bool = False
    secure_boot: bool = False
    profiles: bool = False
    qemu: str = ""


@dataclass(frozen=True, kw_only=True)
class DiskBoot:
    """What was booted from a disk, and on what."""

    image: ImageInputs
    shape: MachineShape
    program: QemuProgram | None


@dataclass(frozen=True, kw_only=True)
class Booted:
    """Prediction and report of one boot."""

    prediction: Prediction
    report: OracleReport
    disk_boot: DiskBoot | None = None


def check(machine: OracleMachine, folder: Path) -> Booted:
    """Predict ``machine``, boot it, and assert that all events and registers are the predicted ones."""
    setup = _Setup.of(machine, folder)
    booted = Booted(
        prediction=setup.prediction(),
        report=oracle_boot(setup.spec()),
        disk_boot=DiskBoot(
            image=setup.inputs,
            shape=setup.shape,
            program=setup.program,
        ),
    )
    assert_equal(booted)
    return booted


def assert_equal(booted: Booted) -> None:
    """Every event of the log in order, and every register, in both banks."""
    predicted, report = booted.prediction, booted.report
    for bank, algorithm in BANKS.items():
        expected = [
            (event.pcr, int(event.event_type), event.digests[bank].hex()) for event in predicted.logged()
        ]
        names = [event.description for event in predicted.logged()]
        found = logged(report.log, algorithm)
        wrong = [
            f"predicted {mine} ({name}), booted {theirs}"
            for mine, name, theirs in zip_longest(expected, names, found)
            if mine != theirs
        ]
        assert not wrong, "\n".join(wrong)
        registers = {**predicted.registers[bank], 15: bytes(bank.size)}
        different = [pcr for pcr, value in registers.items() if report.registers[bank][pcr] != value]
        assert not different, f"registers {different} of {bank}"


def logged(log: EventLog, algorithm: Algorithm) -> list[tuple[int, int, str]]:
    """Register, type and digest of every event that extends."""
    return [
        (event.pcr, event.event_type, event.digests[algorithm].hex()) for event in log.events if event.extends
    ]


def firmware_folder(suite: str) -> Path:
    """Where the firmware package of a Debian suite has its files."""
    return debian_package(_FIRMWARE_PACKAGES[suite], suite=suite) / "usr/share"


def firmware_files(suite: str, *, secure: bool = False) -> FirmwareFiles:
    """OVMF of a Debian suite."""
    folder = firmware_folder(suite) / "OVMF"
    code = "OVMF_CODE_4M.secboot.fd" if secure else "OVMF_CODE_4M.fd"
    return FirmwareFiles(code=folder / code, variables=folder / "OVMF_VARS_4M.fd")


def stub_file(version: int, name: str = "linuxx64.efi.stub") -> Path:
    """A stub of the systemd with this major version."""
    return debian_package("systemd-boot-efi", suite=_STUB_SUITES[version]) / _STUBS / name


def firmware_inputs(files: FirmwareFiles, shape: MachineShape) -> FirmwareInputs:
    """What prediction needs of a firmware; with a dry boot only where there is no other way."""
    inputs = FirmwareInputs.read(code=files.code, variables=files.variables)
    if needs_dry_boot(inputs.firmware, shape):
        return replace(inputs, profile=record_profile(files, shape))
    return inputs


def emulated(program: QemuProgram | None) -> Accelerator | None:
    """Emulation for a QEMU of another suite: what it finds of virtualisation may not be made for it."""
    return None if program is None else Accelerator.TCG


def spare_disks(shape: MachineShape, folder: Path, *, first: Path) -> list[DiskFile]:
    """Files for the disks of ``shape``: ``first``, then empty ones."""
    disks = [DiskFile(path=first)]
    for number in range(1, len(shape.disks)):
        path = folder / f"disk{number}"
        path.write_bytes(bytes(SPARE_DISK))
        disks.append(DiskFile(path=path))
    return disks


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """The files of a machine."""

    folder: Path
    files: FirmwareFiles
    shape: MachineShape
    inputs: ImageInputs
    disk: Path
    program: QemuProgram | None

    @classmethod
    def of(cls, machine: OracleMachine, folder: Path) -> _Setup:
        guest = oracle_guest("bookworm" if machine.firmware == "bookworm" else "trixie")
        uki = (profiled_uki if machine.profiles else plain_uki)(machine.stub, guest, folder)
        extras = extra_files(machine.stub, folder) if machine.extras else {}
        files = firmware_files(machine.firmware, secure=machine.secure_boot)
        shape = machine.shape
        if machine.secure_boot:
            keys = [make_key(folder / "keys", name) for name in ("platform", "exchange", "image")]
            store = enrol(
                files.variables, folder / "vars.fd", platform=keys[0], exchange=keys[1], db=keys[2:]
            )
            files, shape = replace(files, variables=store), replace(shape, smm=True)
            uki = _signed(keys[2], uki, folder)
            extras = {
                name: _signed(keys[2], data, folder) if name.endswith(".efi") else data
                for name, data in extras.items()
            }
        disk = oracle_disk(folder / "disk.raw", {UKI_ON_ESP: uki, **extras})
        inputs = ImageInputs(
            uki=uki,
            partition_table=disk.read_bytes()[:PRIMARY_SIZE],
            kernel_release=guest.release,
            kernel_config=guest.config,
            load_modules=tuple,
            dev=False,
            esp=EspFiles(files=extras),
        )
        program = foreign_qemu(machine.qemu) if machine.qemu else None
        return cls(folder=folder, files=files, shape=shape, inputs=inputs, disk=disk, program=program)

    def prediction(self) -> Prediction:
        firmware = firmware_inputs(self.files, self.shape)
        return predict_tpm(self.inputs, firmware, self.shape, program=self.program)

    def spec(self) -> MachineSpec:
        disks = spare_disks(self.shape, self.folder, first=self.disk)
        return MachineSpec(
            shape=self.shape,
            firmware=self.files,
            disks=disks,
            program=self.program,
            accelerator=emulated(self.program),
        )


def plain_uki(stub: int, guest: OracleGuest, _: Path) -> bytes:
    """A UKI as keyturn builds it."""
    sections = {
        SectionName.OSREL: b"ID=oracle\n",
        SectionName.CMDLINE: COMMAND_LINE.encode(),
        SectionName.INITRD: guest.initrd,
        SectionName.LINUX: guest.kernel,
    }
    parts = [UkiSection(name=name, data=data) for name, data in sections.items()]
    return build_uki(stub_file(stub).read_bytes(), parts)


def profiled_uki(stub: int, guest: OracleGuest, folder: Path) -> bytes:
    """A UKI of the ukify that comes with the stub: two profiles, microcode, a key, a signature."""
    suite = _STUB_SUITES[stub]
    files = {"linux": guest.kernel, "initrd": guest.initrd, "microcode": bytes(10), "pcrpkey": b"key\n"}
    files["pcrsig"] = b"{}\n"
    for name, data in files.items():
        (folder / name).write_bytes(data)
    profiles = []
    for name, line in (("first", f"{COMMAND_LINE} profile=first"), ("second", "profile=second")):
        base = f"--stub={stub_file(stub, ADDON_STUB)}"
        ukify([f"--profile=ID={name}", f"--cmdline={line}", base], folder / f"{name}.efi", suite=suite)
        profiles.append(f"--join-profile={folder / name}.efi")
    arguments = [
        f"--stub={stub_file(stub)}",
        "--os-release=ID=oracle\n",
        f"--cmdline={COMMAND_LINE} base",
        "--uname=1",
    ]
    arguments += [f"--{name}={folder / name}" for name in ("linux", "initrd", "microcode", "pcrpkey")]
    arguments += [f"--section=.pcrsig:@{folder / 'pcrsig'}", *profiles]
    return ukify(arguments, folder / "uki.efi", suite=suite)


def extra_files(stub: int, folder: Path) -> dict[str, bytes]:
    """Files of every kind that a stub takes up, also of those kinds that this version does not know."""
    files = {
        "loader/credentials/g.cred": b"global credential",
        f"{OWN_FOLDER}/y.cred": b"why",
        f"{OWN_FOLDER}/X.cred": b"an X",
        f"{OWN_FOLDER}/e.raw": b"extension",
        f"{OWN_FOLDER}/c.confext.raw": b"config extension",
        "loader/extensions/s.raw": b"global extension",
        "loader/extensions/t.confext.raw": b"global config extension",
    }
    if stub < 254:
        return files
    initrd, microcode = folder / "addon.initrd", folder / "addon.microcode"
    initrd.write_bytes(b"\0" * 6)
    microcode.write_bytes(b"\0" * 10)
    late = stub >= 257
    wanted = {
        "loader/addons/z.addon.efi": ["--cmdline=  from.global=1 "],
        f"{OWN_FOLDER}/a.addon.efi": [
            "--cmdline=from.local=2",
            *([f"--initrd={initrd}", f"--microcode={microcode}"] if late else []),
        ],
        f"{OWN_FOLDER}/b.addon.efi": [
            "--cmdline= and=3  ",
            *([f"--microcode={initrd}"] if late else []),
        ],
    }
    return files | {name: ukify_addon(stub, folder, arguments) for name, arguments in wanted.items()}


def ukify_addon(stub: int, folder: Path, arguments: Sequence[str]) -> bytes:
    """An add-on made by trixie's ukify."""
    return ukify([f"--stub={stub_file(stub, ADDON_STUB)}", *arguments], folder / "addon.efi", suite="trixie")


def ukify(arguments: Sequence[str], output: Path, *, suite: str) -> bytes:
    """What ukify of a Debian suite builds."""
    program = debian_package("systemd-ukify", suite=suite) / "usr/bin/ukify"
    command = [sys.executable, str(program), "build", f"--output={output}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


def _signed(key: SigningKey, image: bytes, folder: Path) -> bytes:
    plain, signed = folder / "plain.efi", folder / "signed.efi"
    plain.write_bytes(image)
    signed.unlink(missing_ok=True)
    return sign_image(key, plain, signed).read_bytes()
