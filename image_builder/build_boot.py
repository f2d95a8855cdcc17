"""Makes what is booted: the initrd with its constants, and the unified kernel image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from image_builder.build_root import BuildError, is_privileged
from image_builder.command_line import kernel_command_line
from image_builder.cpio import cpio_bytes
from image_builder.elf_closure import library_closure
from image_builder.initrd import PROGRAMS, KernelModule, VerifiedRoot, initrd_tree
from image_builder.kept import NO_FACTS, KeptFacts
from image_builder.modules import KernelPackages, Module
from image_builder.recipe import Recipe
from image_builder.tar_format import TarType
from image_builder.tree import Tree, read_content
from image_builder.tree_paths import resolve
from image_builder.uki import SectionName, UkiSection, build_uki
from image_builder.unpack import Unpacked
from image_builder.verity import VerityTree

STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
OS_RELEASE = "usr/lib/os-release"


@dataclass(frozen=True, kw_only=True, slots=True)
class BootFiles:
    """The bytes of everything that is booted."""

    kernel: bytes
    initrd: bytes
    command_line: bytes
    uki: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFiles:
    """What is taken from the kernel packages: the kernel, and the modules in their order."""

    image: bytes
    modules: tuple[Module, ...]


def kernel_files(kernel: KernelPackages, *, modules: Iterable[str]) -> KernelFiles:
    """The kernel and the named ``modules`` with what they depend on."""
    return KernelFiles(image=read_content(kernel.image), modules=kernel.load_order(modules))


def boot_files(
    *,
    recipe: Recipe,
    tree: Tree,
    release: str,
    kernel: KernelFiles,
    stubs: tuple[Unpacked, ...],
    verity: VerityTree,
    partition: UUID,
    facts: KeptFacts = NO_FACTS,
) -> BootFiles:
    """The boot files of the image whose root is ``tree`` with the hash tree ``verity`` in ``partition``.

    ``release`` is the kernel's.
    """
    command_line = kernel_command_line(recipe.kernel.command_line)
    initrd = cpio_bytes(
        initrd_tree(
            tree,
            libraries=library_closure(tree, PROGRAMS, facts=facts),
            modules=[
                KernelModule(file_name=module.file_name, content=module.content) for module in kernel.modules
            ],
            command_line=command_line,
            root=VerifiedRoot(partition=partition, verity=verity, privileged=is_privileged(tree)),
        )
    )
    encoded = command_line.encode("ascii")
    uki = build_uki(
        _stub(stubs),
        [
            UkiSection(name=SectionName.OSREL, data=_os_release(tree, recipe)),
            UkiSection(name=SectionName.CMDLINE, data=encoded),
            UkiSection(name=SectionName.UNAME, data=release.encode("ascii")),
            UkiSection(name=SectionName.INITRD, data=initrd),
            UkiSection(name=SectionName.LINUX, data=kernel.image),
        ],
    )
    return BootFiles(kernel=kernel.image, initrd=initrd, command_line=encoded, uki=uki)


def _stub(packages: tuple[Unpacked, ...]) -> bytes:
    for package in packages:
        for member in package.members:
            if member.path == STUB and member.type is TarType.FILE:
                return read_content(package.content(member))
    raise BuildError(
        f"no locked package has /{STUB}",
        subject="boot.stub-package",
        advice="use systemd-boot-efi, and lock again",
    )


def _os_release(tree: Tree, recipe: Recipe) -> bytes:
    """The distribution's os-release with the image's name and version (os-release(5))."""
    found = resolve(tree, OS_RELEASE)
    if found is None or found.node.content is None:
        raise BuildError(
            "is in no package", subject=f"/{OS_RELEASE}", advice="add base-files to packages.install"
        )
    own = f'IMAGE_ID="{recipe.image.name}"\nIMAGE_VERSION="{recipe.image.version}"\n'
    return read_content(found.node.content) + own.encode()
