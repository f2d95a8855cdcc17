"""Which key of a shape QEMU means when it refuses a machine, from its own words.

QEMU names the option at fault (``-device virtio-rng-pci,id=device0,…: reason``) or the property; the ids are
those of ``qemu_args``.
"""

from __future__ import annotations

import re

_IDS = re.compile(r"\bid=(disk|net|device|passed|pxb|memory)([0-9]+)?\b")
_ID_KEYS = {"disk": "disk", "net": "nic", "device": "device", "pxb": "pxb", "memory": "numa"}
_WORDS = (
    (re.compile(r"unsupported machine type|use -machine help", re.IGNORECASE), "machine"),
    (re.compile(r"phys-bits"), "phys-bits"),
    (re.compile(r"pci-hole64"), "pci-hole64"),
    (re.compile(r"acpi-pci-hotplug"), "acpi-hotplug"),
    (re.compile(r"\bhpet\b"), "hpet"),
    (re.compile(r"\bpic\b"), "pic"),
    (re.compile(r"\bsmm\b", re.IGNORECASE), "smm"),
    (re.compile(r"smbios", re.IGNORECASE), "smbios"),
    (re.compile(r"\bSMP\b|\bCPUs\b|maxcpus", re.IGNORECASE), "cpus"),
    (re.compile(r"\btpm", re.IGNORECASE), "tpm"),
    (re.compile(r"\bnuma\b", re.IGNORECASE), "numa"),
    (re.compile(r"\bmemory\b|\bram\b", re.IGNORECASE), "memory"),
)


def refused_key(words: str) -> str | None:
    """The key of ``shape.toml`` that QEMU's ``words`` are about, with the number of the device from 0; None
    where they tell none.
    """
    found = _IDS.search(words)
    if found is not None:
        number = "" if found[2] is None else f" {found[2]}"
        return ("gpu or nvswitch" if found[1] == "passed" else _ID_KEYS[found[1]]) + number
    return next((key for pattern, key in _WORDS if pattern.search(words)), None)


def refused_subject(words: str, *, program: str) -> str:
    """What an error about QEMU's ``words`` is about: a key of the shape, or else the program."""
    key = refused_key(words)
    return program if key is None else f"shape key {key!r}"
