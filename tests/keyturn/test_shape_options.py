"""The machine shape on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyturn.shape_options import OptionError, make_shape
from measurements.shape import BootSource, MachineShape, TpmInterface
from measurements.shape_devices import ExtraDevice, SmbiosStrings


def _options(**given: Any) -> MachineShape:
    parts: dict[str, Any] = dict.fromkeys(("shape", "memory", "cpus", "machine", "disks", "nics", "tpm"))
    return make_shape(**(parts | given))


def test_options_of_the_command_line(tmp_path: Path) -> None:
    shape = _options(
        tpm="none",
        boot="direct",
        devices=["virtio-rng-pci"],
        smbios=["type=2,product=p"],
        hpet=False,
        pic=False,
    )
    assert shape == MachineShape(
        tpm=TpmInterface.NONE,
        boot=BootSource.DIRECT,
        disks=(),
        hpet=False,
        pic=False,
        devices=(ExtraDevice(model="virtio-rng-pci"),),
        smbios=(SmbiosStrings(type=2, fields=(("product", "p"),)),),
    )
    assert _options() == MachineShape()
    path = tmp_path / "shape.toml"
    path.write_text("")
    for part in ({"devices": ["virtio-rng-pci"]}, {"smbios": ["type=2,product=p"]}, {"pic": True}):
        with pytest.raises(OptionError, match="together with options"):
            _options(shape=path, **part)
