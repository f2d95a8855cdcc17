"""Save areas: Google's published bytes, and the registers that QEMU itself shows after a reset."""

from __future__ import annotations

import re
import struct
import subprocess

import pytest

from measurements.sev.cpu_models import CPU_MODELS
from measurements.sev.vmsa import BOOT_EIP, Vmm, reset_vmsa, svsm_vmsa
from tests.support.tools import require_tool

GCE = {
    0x000: "0000 9300 ffff0000 0000000000000000",
    0x010: "00f0 9b00 ffff0000 0000ffff00000000",
    0x020: "0000 9300 ffff0000 0000000000000000",
    0x030: "0000 9300 ffff0000 0000000000000000",
    0x040: "0000 9300 ffff0000 0000000000000000",
    0x050: "0000 9300 ffff0000 0000000000000000",
    0x060: "0000 0000 ffff0000 0000000000000000",
    0x070: "0000 8200 ffff0000 0000000000000000",
    0x080: "0000 0000 ffff0000 0000000000000000",
    0x090: "0000 8b00 ffff0000 0000000000000000",
    0x0D0: "0010000000000000",
    0x148: "4000000000000000",
    0x158: "1000000000000000",
    0x160: "0004000000000000 f00fffff00000000",
    0x170: "0200000000000000 f0ff000000000000",
    0x268: "0601070000000000",
    0x310: "0006000000000000",
    0x3B0: "0100000000000000",
    0x3E8: "0100000000000000",
}
"""google/gce-tcb-verifier, sev/sev_test.go @ 6d623b8c, ``vmsaBytes``: all else is zero."""


def test_save_area_of_gce() -> None:
    expected = bytearray(4096)
    for offset, text in GCE.items():
        data = bytes.fromhex(text)
        expected[offset : offset + len(data)] = data
    assert reset_vmsa(eip=BOOT_EIP, signature=0, features=1, vmm=Vmm.GCE) == bytes(expected)


def test_further_processors_start_at_the_reset_address() -> None:
    page = reset_vmsa(eip=0x80B004, signature=1, features=1, vmm=Vmm.EC2)
    assert struct.unpack_from("<HHIQ", page, 0x10) == (0xF000, 0x9B, 0xFFFF, 0x800000)
    assert struct.unpack_from("<Q", page, 0x178) == (0xB004,)
    first = reset_vmsa(eip=BOOT_EIP, signature=1, features=1, vmm=Vmm.EC2)
    assert struct.unpack_from("<HHIQ", first, 0x10) == (0xF000, 0x9A, 0xFFFF, 0xFFFF0000)


def test_an_svsm_starts_in_protected_mode() -> None:
    page = svsm_vmsa(entry=0xFFA00010, signature=0x800F12, features=1)
    assert len(page) == 4096
    assert struct.unpack_from("<HHIQ", page, 0x10) == (8, 0xC9B, 0xFFFFFFFF, 0)
    assert struct.unpack_from("<QQ", page, 0x170) == (2, 0xFFA00010)
    assert struct.unpack_from("<I4xH", page, 0x408) == (0x1F80, 0)


def registers_after_reset(model: str) -> str:
    qemu = require_tool("qemu-system-x86_64", package="qemu-system-x86")
    machine = ("-S", "-machine", "q35", "-accel", "tcg", "-cpu", model, "-nodefaults", "-display", "none")
    done = subprocess.run(
        [qemu, *machine, "-monitor", "stdio"],
        input="info registers\nquit\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("model", ["EPYC-v3", "EPYC-Rome", "EPYC-Milan"])
def test_registers_of_qemu_after_a_reset(model: str) -> None:
    """A machine that never runs: what QEMU hands to KVM, which puts it into the save area."""
    shown = registers_after_reset(model)
    page = reset_vmsa(eip=BOOT_EIP, signature=CPU_MODELS[model].signature, features=1, vmm=Vmm.QEMU)

    def shows(name: str) -> int:
        found = re.search(rf"\b{name} ?= ?([0-9a-f]+)", shown)
        assert found is not None, f"{name} not in {shown}"
        return int(found[1], 16)

    words = (("EDX", 0x310), ("EIP", 0x178), ("EFL", 0x170), ("DR6", 0x168), ("DR7", 0x160))
    for name, offset in words:
        assert shows(name) == int.from_bytes(page[offset : offset + 8], "little"), name
    assert (shows("MXCSR"), shows("FCW")) == struct.unpack_from("<I4xH", page, 0x408)
    for number, name in enumerate(("ES", "CS", "SS", "DS", "FS", "GS", "", "LDT", "", "TR")):
        if name:
            line = re.search(rf"^{name} ?= ?([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)", shown, re.M)
            assert line is not None, name
            selector, base, limit, flags = (int(text, 16) for text in line.groups())
            assert struct.unpack_from("<HHIQ", page, number * 16) == (selector, flags >> 8, limit, base), name
