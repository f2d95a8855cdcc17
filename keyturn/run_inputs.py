"""What a machine is started with: firmware, ports, and a file behind each disk of its shape."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keyturn.shape_options import OptionError
from measurements.errors import MissingToolError

if TYPE_CHECKING:
    from image_builder.image import Image
    from measurements.qemu_args import DiskFile, FirmwareFiles, PortForward
    from measurements.shape import MachineShape

FIRMWARE_PAIRS = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
"""Where distributions put OVMF: code and empty variables."""

APP_DISK = "app.disk"
SPARE_DISK_BYTES = 64 << 20


def find_firmware(code: Path | None, variables: Path | None) -> FirmwareFiles:
    """The named firmware, or the distribution's. Raises ``OptionError`` or ``MissingToolError``."""
    from measurements.qemu_args import FirmwareFiles

    if (code is None) != (variables is None):
        raise OptionError(
            "needs the other one too",
            subject="--firmware-code" if variables is None else "--firmware-vars",
            advice="give both --firmware-code and --firmware-vars",
        )
    if code is not None and variables is not None:
        return FirmwareFiles(code=code, variables=variables)
    for pair in FIRMWARE_PAIRS:
        first, second = map(Path, pair)
        if first.is_file() and second.is_file():
            return FirmwareFiles(code=first, variables=second)
    raise MissingToolError(
        "is not installed",
        subject="OVMF firmware",
        advice="install it: apt install ovmf; or name --firmware-code and --firmware-vars",
    )


def parse_forward(text: str) -> PortForward:
    """``HOST:GUEST`` as a forwarded port; raises ``OptionError``."""
    from measurements.qemu_args import PortForward

    host, _, guest = text.partition(":")
    numbers = [int(part) for part in (host, guest) if part.isascii() and part.isdigit()]
    if len(numbers) != 2 or not all(1 <= number <= 65535 for number in numbers):
        raise OptionError(
            f"{text!r} is not HOST:GUEST", subject="--port", advice="write two port numbers, as in 8080:80"
        )
    return PortForward(host=numbers[0], guest=numbers[1])


def app_disks(app: Path | None, config: Path | None, data: Path | None) -> list[DiskFile]:
    """The disks of an app with the names by which the agent finds them; raises ``OptionError``."""
    from measurements.qemu_args import DiskFile

    if app is None and config is None and data is None:
        return []
    if app is None or config is None:
        raise OptionError(
            "an app needs both its disk and its config disk",
            subject="--app" if app is None else "--config",
            advice="give --app FOLDER and --config FILE (keyturn app config writes it)",
        )
    disks = [
        DiskFile(path=app / APP_DISK, serial="keyturn-app"),
        DiskFile(path=config, serial="keyturn-config"),
    ]
    if data is not None:
        disks.append(DiskFile(path=data, read_only=False, serial="keyturn-data"))
    return disks


@contextlib.contextmanager
def disk_files(image: Image, shape: MachineShape, attached: Sequence[DiskFile]) -> Iterator[list[DiskFile]]:
    """The boot disk, then one file for each further disk of the shape: an attached one or an empty one."""
    from image_builder.image import Artefact
    from measurements.qemu_args import DiskFile

    further = len(shape.disks) - 1
    if len(attached) > further:
        raise OptionError(
            f"the shape has {further} further disks and {len(attached)} files are attached",
            subject="--attach",
            advice="describe each disk with --disk, the boot disk first",
        )
    with tempfile.TemporaryDirectory(prefix="keyturn-disks-") as folder:
        disks = [DiskFile(path=image.path(Artefact.DISK))]
        disks += attached
        for index in range(len(attached), further):
            empty = Path(folder, f"empty-{index}.raw")
            with empty.open("wb") as stream:
                stream.truncate(SPARE_DISK_BYTES)
            disks.append(DiskFile(path=empty, read_only=False))
        yield disks
