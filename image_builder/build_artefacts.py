"""Makes the artefacts and documents of an image from unpacked packages: the steps of a build, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_builder.build_boot import BootFiles, boot_files
from image_builder.build_root import Inputs, check_root_size, root_tree
from image_builder.bytecode import Runner, compile_bytecode
from image_builder.disk import ROOT_NAME, DiskLayout, write_disk
from image_builder.erofs import write_erofs
from image_builder.gpt import partition_guid
from image_builder.image import Artefact
from image_builder.lockfile import LOCK_NAME, PackageRole, lock_sha256
from image_builder.manifest import MANIFEST_NAME, SCHEMA, image_id, manifest_bytes
from image_builder.modules import KernelPackages
from image_builder.progress import Progress
from image_builder.provenance import PROVENANCE_NAME, provenance_bytes
from image_builder.recipe import RECIPE_NAME, Recipe
from image_builder.sbom import SBOM_NAME, finish_sbom
from image_builder.store import Store, file_sha256
from image_builder.tree import FileSlice, Tree
from image_builder.unpack import Unpacked
from image_builder.verity import BLOCK_SIZE, VerityHasher, VerityStream, VerityTree, write_verity
from measurements.events import Bank
from measurements.pe import authenticode_digest, parse_pe, section_data, stub_version
from measurements.version import VERSION

if TYPE_CHECKING:
    from image_builder.build import BuildRequest

BOOT_PATH = "EFI/BOOT/BOOTX64.EFI"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """What a build works on: the root's tree, the kernel packages, the packages with the stub."""

    tree: Tree
    kernel: KernelPackages
    stubs: tuple[Unpacked, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was made, for the documents. ``artefacts`` holds size and SHA-256 by name."""

    release: str
    config: Mapping[str, str]
    kernel_digests: Mapping[str, str]
    command_line: str
    verity: VerityTree
    uki: Mapping[str, Any]
    layout: DiskLayout
    artefacts: Mapping[str, Mapping[str, int | str]]


def make_artefacts(
    request: BuildRequest,
    unpacked: Sequence[Unpacked],
    *,
    store: Store,
    folder: Path,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> Facts:
    """Write the artefacts into ``folder``; hashing and writing go on in ``pool`` meanwhile."""
    parts = _parts(request, unpacked, store, progress)
    verity = write_root(parts.tree, folder / Artefact.ROOT, limit=request.recipe.image.root_size_limit)
    return _finish(request.recipe, parts, verity, folder, pool)


def _parts(request: BuildRequest, unpacked: Sequence[Unpacked], store: Store, progress: Progress) -> _Parts:
    root, kernel, stubs = (
        tuple(package for package in unpacked if package.role is role)
        for role in (PackageRole.ROOT, PackageRole.KERNEL, PackageRole.STUB)
    )
    kernel_packages = KernelPackages(kernel)
    tree = root_tree(Inputs(recipe=request.recipe, lock=request.lock, store=store, packages=root))
    runner = _qemu_runner(kernel_packages) if request.in_qemu else None
    tree |= compile_bytecode(tree, store=store, jobs=request.jobs, progress=progress, runner=runner)
    return _Parts(tree=tree, kernel=kernel_packages, stubs=stubs)


def _finish(
    recipe: Recipe, parts: _Parts, verity: VerityTree, folder: Path, pool: ThreadPoolExecutor
) -> Facts:
    kernel = parts.kernel
    hashes = {Artefact.ROOT: pool.submit(file_sha256, folder / Artefact.ROOT)}
    boot = boot_files(
        recipe=recipe,
        tree=parts.tree,
        kernel=kernel,
        stubs=parts.stubs,
        verity=verity,
        partition=partition_guid(recipe.image.name, ROOT_NAME),
    )
    disk = pool.submit(_write_artefacts, recipe, boot, folder)
    kernel_digests = pool.submit(_authenticode, boot.kernel, "kernel")
    uki = _uki_facts(boot.uki)
    hashes |= {
        artefact: pool.submit(_sha256, data)
        for artefact, data in (
            (Artefact.KERNEL, boot.kernel),
            (Artefact.INITRD, boot.initrd),
            (Artefact.CMDLINE, boot.command_line),
            (Artefact.UKI, boot.uki),
        )
    }
    layout = disk.result()
    hashes[Artefact.DISK] = pool.submit(file_sha256, folder / Artefact.DISK)
    sizes = {name: (folder / name).stat().st_size for name in Artefact}
    return Facts(
        release=kernel.release,
        config=kernel.config,
        kernel_digests=kernel_digests.result(),
        command_line=boot.command_line.decode("ascii"),
        verity=verity,
        uki=uki,
        layout=layout,
        artefacts={name.value: {"size": sizes[name], "sha256": hashes[name].result()} for name in Artefact},
    )


def _manifest(request: BuildRequest, facts: Facts) -> bytes:
    image = request.recipe.image
    return manifest_bytes(
        {
            "schema": SCHEMA,
            "name": image.name,
            "version": image.version,
            "architecture": request.lock.architecture,
            "dev": image.dev,
            "lock_sha256": lock_sha256(request.lock_data),
            "recipe_sha256": request.recipe.sha256,
            "artefacts": facts.artefacts,
            "verity": _verity_facts(facts.verity),
            "uki": facts.uki,
            "kernel": {
                "release": facts.release,
                "authenticode": facts.kernel_digests,
                "config": dict(facts.config),
            },
            "disk": _disk_facts(facts.layout),
            "cmdline": facts.command_line,
        }
    )


def write_documents(request: BuildRequest, facts: Facts, sbom: Mapping[str, Any], folder: Path) -> None:
    """Write manifest, bill of materials, provenance, and copies of recipe and lock."""
    manifest = _manifest(request, facts)
    image = image_id(manifest)
    provenance = provenance_bytes(
        lock=request.lock,
        lock_sha256=lock_sha256(request.lock_data),
        artefacts={name: str(entry["sha256"]) for name, entry in facts.artefacts.items()},
        image=image,
        builder_version=VERSION,
    )
    (folder / RECIPE_NAME).write_bytes(request.recipe_data)
    (folder / LOCK_NAME).write_bytes(request.lock_data)
    (folder / PROVENANCE_NAME).write_bytes(provenance)
    (folder / SBOM_NAME).write_bytes(finish_sbom(sbom, image=image))
    (folder / MANIFEST_NAME).write_bytes(manifest)


def _qemu_runner(kernel: KernelPackages) -> Runner:
    from image_builder.bytecode_qemu import qemu_runner

    return qemu_runner(kernel)


def write_root(tree: Tree, path: Path, *, limit: int) -> VerityTree:
    """Write the root file system with its hash tree behind it, in one pass; at most ``limit`` bytes."""
    check_root_size(tree, limit=limit)
    hasher = VerityHasher()
    with path.open("xb", buffering=1 << 20) as stream:
        summary = write_erofs(tree, VerityStream(stream, hasher))
        verity = hasher.finish()
        write_verity(verity, stream)
    check_root_size(tree, limit=limit, size=summary.bytes + verity.hash_bytes)
    return verity


def _write_artefacts(recipe: Recipe, boot: BootFiles, folder: Path) -> DiskLayout:
    for artefact, data in (
        (Artefact.KERNEL, boot.kernel),
        (Artefact.INITRD, boot.initrd),
        (Artefact.CMDLINE, boot.command_line),
        (Artefact.UKI, boot.uki),
    ):
        (folder / artefact).write_bytes(data)
    uki = FileSlice(path=folder / Artefact.UKI, offset=0, size=len(boot.uki))
    return write_disk(
        folder / Artefact.DISK,
        name=recipe.image.name,
        esp_files={BOOT_PATH: uki},
        root=folder / Artefact.ROOT,
    )


def _verity_facts(verity: VerityTree) -> dict[str, int | str]:
    return {
        "data_blocks": verity.data_blocks,
        "hash_offset": verity.data_bytes,
        "block_size": BLOCK_SIZE,
        "algorithm": "sha256",
        "salt": verity.salt.hex(),
        "root_hash": verity.root_hash.hex(),
    }


def _uki_facts(uki: bytes) -> dict[str, Any]:
    pe = parse_pe(uki, subject="uki.efi")
    sections = []
    for section in pe.sections:
        data = section_data(pe, uki, section.name, subject="uki.efi")
        sections.append({"name": section.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return {
        "stub_version": stub_version(uki, subject="uki.efi").text,
        "sections": sections,
        "authenticode": _authenticode(uki, "uki.efi"),
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _authenticode(data: bytes, subject: str) -> dict[str, str]:
    return {bank.value: authenticode_digest(data, bank, subject=subject).hex() for bank in Bank}


def _disk_facts(layout: DiskLayout) -> dict[str, Any]:
    return {
        "disk_guid": str(layout.disk_guid),
        "partitions": [
            {
                "name": partition.name,
                "type_guid": str(partition.type_guid),
                "guid": str(partition.guid),
                "first_lba": partition.first_lba,
                "last_lba": partition.last_lba,
            }
            for partition in layout.partitions
        ],
    }
