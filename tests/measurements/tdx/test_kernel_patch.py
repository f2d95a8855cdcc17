"""QEMU's changes to a kernel's header: what the installed QEMU hands to firmware, and when it matters."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import FormatError
from measurements.firmware_catalogue import edk2_release, hypervisor
from measurements.qemu import QemuProgram
from measurements.tdx.kernel_patch import kernel_release, measured_kernel, patched_kernel
from tests.measurements.tdx.kernel_files import bzimage
from tests.measurements.tdx.qemu_halted import halted
from tests.support.foreign_qemu import foreign_qemu
from tests.support.tools import require_tool

SETUP_SIZE, SETUP_DATA = 0x17, 0x18
GIB = 1 << 30


def direct_arguments(folder: Path, kernel: bytes, initrd: bytes) -> list[str]:
    """QEMU's arguments for a direct boot with files in ``folder``."""
    (folder / "kernel").write_bytes(kernel)
    (folder / "initrd").write_bytes(initrd)
    more = ["-initrd", str(folder / "initrd")] if initrd else []
    return ["-kernel", str(folder / "kernel"), "-append", "quiet", *more]


@pytest.mark.parametrize(
    ("memory_mib", "xload_flags", "limit", "initrd"),
    [
        (512, 0x02, 0x7FFFFFFF, 0),
        (512, 0x02, 0x7FFFFFFF, 100_001),
        (2815, 0x02, 0x7FFFFFFF, 4096),
        (2815, 0x7D, 0x7FFFFFFF, 4097),
        (2816, 0x7D, 0x37FFFFFF, 100_000),
        (3072, 0x02, 0x37FFFFFF, 1),
    ],
)
def test_the_header_is_that_of_the_installed_qemu(
    tmp_path: Path, memory_mib: int, xload_flags: int, limit: int, initrd: int
) -> None:
    # pc-q35-7.1: later types of this QEMU also append a random seed to the kernel, which TDX hosts never do.
    program = QemuProgram(command=(require_tool("qemu-system-x86_64", package="qemu-system-x86"),))
    kernel = bzimage(xload_flags=xload_flags, limit=limit)
    arguments = direct_arguments(tmp_path, kernel, b"i" * initrd)
    with halted(program, *arguments, memory_mib=memory_mib, machine="pc-q35-7.1") as config:
        size = int.from_bytes(config._read(SETUP_SIZE, 4), "little")
        header = config._read(SETUP_DATA, size)
        assert "etc/boot/kernel" not in config.files
    ours = patched_kernel(kernel, memory=memory_mib << 20, initrd_size=initrd, command_line="quiet")
    assert header == ours[:size]
    assert header != kernel[:size]


@pytest.mark.network
@pytest.mark.parametrize("suite", ["trixie", "sid"])
def test_newer_qemu_changes_the_same_and_offers_the_untouched_kernel_besides(
    tmp_path: Path, suite: str
) -> None:
    # Not a confidential machine, so QEMU 10.2 and later change the header, too.
    kernel = bzimage()
    for memory_mib in (512, 2816):
        with halted(
            foreign_qemu(suite), *direct_arguments(tmp_path, kernel, b"initrd"), memory_mib=memory_mib
        ) as config:
            size = int.from_bytes(config._read(SETUP_SIZE, 4), "little")
            header = config._read(SETUP_DATA, size)
            assert config.read("etc/boot/kernel") == kernel
        ours = patched_kernel(kernel, memory=memory_mib << 20, initrd_size=6, command_line="quiet")
        assert header == ours[:size]
        assert header != kernel[:size]


def measured(qemu: tuple[int, int] | None, release: str, *, host: str = "qemu", memory: int = GIB) -> bytes:
    return measured_kernel(
        bzimage(),
        hypervisor=hypervisor(host),
        release=edk2_release(release),
        qemu_version=qemu,
        memory=memory,
        initrd_size=5000,
        command_line="quiet",
    )


@pytest.mark.parametrize(
    ("qemu", "release", "untouched"),
    [
        ((8, 2), "2024.02", False),
        ((9, 2), "2025.02", False),
        ((10, 0), "2024.11", False),
        ((10, 0), "2025.02", True),
        ((10, 1), "2024.02", False),
        ((10, 2), "2024.02", True),
        ((10, 2), "2025.11", True),
        ((11, 1), "2024.02", True),
    ],
)
def test_whether_the_header_counts_depends_on_qemu_and_firmware(
    qemu: tuple[int, int], release: str, untouched: bool
) -> None:
    assert (measured(qemu, release) == bzimage()) is untouched


def test_hypervisors_with_a_fixed_rule_need_no_version() -> None:
    assert measured(None, "2025.02", host="canonical-8.2") != bzimage()
    with pytest.raises(FormatError, match="decides whether the kernel is measured"):
        measured(None, "2024.02")


def test_memory_matters_only_below_2_75_gib() -> None:
    values = {
        memory: patched_kernel(bzimage(), memory=memory, initrd_size=5000, command_line="")
        for memory in (GIB, 2 * GIB, 3 * GIB, 0xB0000000, 64 * GIB)
    }
    # Exactly 2 GiB has the low memory of every machine from 2.75 GiB on (Dstack-TEE/dstack, dstack-mr).
    assert values[2 * GIB] == values[3 * GIB] == values[64 * GIB] == values[0xB0000000]
    assert values[GIB] != values[2 * GIB]


@given(st.integers(1, 1 << 24), st.integers(0x2000000 >> 12, 1 << 26).map(lambda pages: pages << 12))
def test_the_initrd_lies_in_low_memory(size: int, memory: int) -> None:
    patched = patched_kernel(bzimage(), memory=memory, initrd_size=size, command_line="")
    address = int.from_bytes(patched[0x218:0x21C], "little")
    assert address % 4096 == 0
    assert address + size < min(memory, 0xB0000000) - 0x28000
    assert int.from_bytes(patched[0x21C:0x220], "little") == size


def test_without_initrd_nothing_depends_on_memory() -> None:
    values = {
        patched_kernel(bzimage(), memory=memory, initrd_size=0, command_line="") for memory in (GIB, 8 * GIB)
    }
    assert len(values) == 1


@pytest.mark.parametrize(
    ("kernel", "line", "initrd", "reason"),
    [
        (b"", "", 0, "has no setup header"),
        (bytes(0x1000), "", 0, "has no setup header"),
        (bzimage(protocol=0x201), "", 0, "those of old kernels"),
        (bzimage(), "quiet vga=791", 0, "video mode"),
        (bzimage(), "", GIB, "does not fit"),
    ],
)
def test_kernels_that_qemu_treats_otherwise_are_refused(
    kernel: bytes, line: str, initrd: int, reason: str
) -> None:
    with pytest.raises(FormatError, match=reason):
        patched_kernel(kernel, memory=GIB, initrd_size=initrd, command_line=line)


def test_a_kernel_tells_its_release() -> None:
    assert kernel_release(bzimage(release="6.8.0-45-generic")) == "6.8.0-45-generic"
    silent = bytearray(bzimage())
    silent[0x20E:0x210] = bytes(2)
    with pytest.raises(FormatError, match="does not tell its release"):
        kernel_release(bytes(silent))
