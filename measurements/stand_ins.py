"""Equivalents for devices that cannot be made where tables are only read: in the same slot, with the same
windows, so that QEMU writes the same tables.

What ACPI tables say of a device is its slot, whether it can be hot-plugged, and through the root bus where
its windows are; so any device of the same form will do. vhost-vsock, 9p and virtio-fs are virtio devices of
the common form. A passed-through device is one ``pci-testdev`` function for each of its 64-bit windows.
"""

from __future__ import annotations

from measurements.shape import MachineShape
from measurements.shape_devices import ExtraDevice, PassedDevice

_VIRTIO = "virtio-rng-pci"
_MODERN, _EITHER = (("disable-legacy", "on"),), ()
_REPLACED: dict[str, tuple[tuple[str, str], ...]] = {
    "vhost-vsock-pci": _MODERN,
    "vhost-user-fs-pci": _MODERN,
    "virtio-9p-pci": _EITHER,
}
"""Models that need something of the host, with the form of virtio device that they are."""

_TRANSPORT = frozenset(["disable-legacy", "disable-modern", "iommu_platform", "ats", "packed"])


def stand_in(device: ExtraDevice) -> ExtraDevice:
    """The device that is made instead of ``device``; itself where it can be made."""
    form = _REPLACED.get(device.model)
    if form is None:
        return device
    kept = {name: value for name, value in device.options if name in _TRANSPORT}
    return ExtraDevice(
        model=_VIRTIO,
        slot=device.slot,
        root_port=device.root_port,
        options=tuple((dict(form) | kept).items()),
    )


def window_functions(device: PassedDevice) -> list[str]:
    """Model and options of the functions that have the windows of a passed-through device."""
    several = ",multifunction=on" if len(device.bars_mib) > 1 else ""
    return [
        f"pci-testdev,addr=0x0.{function:#x}{several},membar={size}M"
        for function, size in enumerate(device.bars_mib)
    ]


def replaced_devices(shape: MachineShape) -> tuple[str, ...]:
    """In words, which devices of ``shape`` are replaced where its tables are read; empty for none."""
    words = [
        f"{device.model} in slot {device.slot} is replaced by {_VIRTIO} in the same slot"
        for device in shape.devices
        if device.model in _REPLACED
    ]
    for passed in shape.passed:
        bus = "" if passed.pxb is None else f" of root bus {passed.pxb}"
        sizes = ", ".join(f"{size} MiB" for size in passed.bars_mib)
        words.append(
            f"the {passed.kind.value} behind the port in slot {passed.slot}{bus} is replaced by pci-testdev "
            f"with windows of {sizes}"
        )
    return tuple(words)
