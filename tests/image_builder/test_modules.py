"""Kernel modules in an order in which they load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from image_builder.modules import KernelError, KernelPackages, read_module_info
from image_builder.tree import read_content
from tests.image_builder.elf_files import module
from tests.image_builder.package_files import COMPRESSORS, deb_bytes, regular, unpacked

RELEASE = "7.1.0-test"
FOLDER = f"./usr/lib/modules/{RELEASE}"
CONFIG = b'CONFIG_EFI_STUB=y\n# CONFIG_IMA is not set\nCONFIG_OTHER=y\nCONFIG_MODULE_SIG_HASH="sha256"\n'
MODULES = {
    "fs/erofs.ko": module(depends="libcrc32c", name="erofs"),
    "lib/libcrc32c.ko": module(depends="", softdep="pre: crc32c-x86 post: never"),
    "lib/crc32c-x86.ko": module(name="crc32c_x86"),
    "md/dm-verity.ko": module(depends="dm-mod,dm-bufio"),
    "md/dm-bufio.ko": module(depends="dm-mod"),
    "md/dm-mod.ko": module(depends=""),
    "a/circle-a.ko": module(depends="circle-b"),
    "a/circle-b.ko": module(depends="circle-a"),
    "a/broken.ko": module(depends="missing"),
}


def kernel(tmp_path: Path, *, suffix: str = "", extra: Sequence[str] = ()) -> KernelPackages:
    compress = COMPRESSORS[suffix]
    base = [
        regular(f"{FOLDER}/config", CONFIG),
        regular(f"{FOLDER}/modules.builtin", b"kernel/drivers/virtio/virtio_pci.ko\n"),
        *(regular(path) for path in extra),
    ]
    modules = [regular(f"{FOLDER}/kernel/{path}{suffix}", compress(data)) for path, data in MODULES.items()]
    image = [regular(f"{FOLDER}/vmlinuz", b"MZ")]
    debs = {"linux-base": base, "linux-modules": modules, "linux-binary": image}
    return KernelPackages(unpacked(tmp_path, {name: deb_bytes(name, files) for name, files in debs.items()}))


def order(packages: KernelPackages, *names: str) -> list[str]:
    return [module.file_name for module in packages.load_order(names)]


@pytest.mark.parametrize("suffix", ["", ".xz", ".zst"])
def test_dependencies_come_first_and_plain(tmp_path: Path, suffix: str) -> None:
    packages = kernel(tmp_path, suffix=suffix)
    assert order(packages, "dm-verity") == ["dm_mod.ko", "dm_bufio.ko", "dm_verity.ko"]
    assert order(packages, "erofs") == ["crc32c_x86.ko", "libcrc32c.ko", "erofs.ko"]
    assert order(packages, "dm_bufio", "dm_verity") == ["dm_mod.ko", "dm_bufio.ko", "dm_verity.ko"]
    (first, *_) = packages.load_order(["dm_mod"])
    assert read_content(first.content) == MODULES["md/dm-mod.ko"]


def test_built_in_modules_need_no_file(tmp_path: Path) -> None:
    assert order(kernel(tmp_path), "virtio-pci") == []


def test_facts(tmp_path: Path) -> None:
    packages = kernel(tmp_path)
    assert packages.release == RELEASE
    assert packages.config == {"CONFIG_EFI_STUB": "y", "CONFIG_MODULE_SIG_HASH": "sha256"}
    assert read_content(packages.image) == b"MZ"


def test_an_unknown_module_brings_near_names(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="has no such module") as caught:
        order(kernel(tmp_path), "dm-veriti")
    assert "dm_verity" in caught.value.advice


def test_other_faults(tmp_path: Path) -> None:
    packages = kernel(tmp_path)
    with pytest.raises(KernelError, match="circle_a → circle_b → circle_a"):
        order(packages, "circle-a")
    with pytest.raises(KernelError, match="which broken depends on"):
        order(packages, "broken")
    with pytest.raises(KernelError, match=r"no section \.modinfo"):
        read_module_info(MODULES["md/dm-mod.ko"].replace(b".modinfo", b".notinfo"), subject="x")
    with pytest.raises(KernelError, match="not a kernel module"):
        read_module_info(b"text", subject="x")
    with pytest.raises(KernelError, match="2 kernel releases"):
        kernel(tmp_path, extra=["./usr/lib/modules/6.12/kernel/x.ko"])
