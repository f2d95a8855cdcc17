"""Builds an image from a recipe, its lock and the store: no network, no root, no program of the host.

The one program that runs is the image's own locked Python interpreter, which compiles byte code. The output
folder is complete or absent, and depends on nothing but recipe and lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_builder.build_boot import BootFiles, boot_files
from image_builder.build_root import Inputs, check_root_size, root_tree
from image_builder.bytecode import compile_bytecode
from image_builder.disk import ROOT_NAME, DiskLayout, write_disk
from image_builder.erofs import write_erofs
from image_builder.gpt import partition_guid
from image_builder.image import Artefact, Image
from image_builder.lockfile import LOCK_NAME, Lock, PackageRole, check_lock, lock_sha256
from image_builder.manifest import MANIFEST_NAME, SCHEMA, image_id, manifest_bytes
from image_builder.modules import KernelPackages
from image_builder.output_folder import new_folder
from image_builder.progress import Progress
from image_builder.provenance import PROVENANCE_NAME, provenance_bytes
from image_builder.recipe import RECIPE_NAME, Recipe
from image_builder.sbom import SBOM_NAME, sbom_bytes
from image_builder.store import Store, clear_disk_errors, file_sha256
from image_builder.tree import FileSlice, Tree
from image_builder.unpack import Unpacked, unpack_all
from image_builder.verity import BLOCK_SIZE, VerityHasher, VerityStream, VerityTree, write_verity
from measurements.events import Bank
from measurements.pe import authenticode_digest, parse_pe, section_data, stub_version

if TYPE_CHECKING:
    from image_builder.bytecode import Runner

BOOT_PATH = "EFI/BOOT/BOOTX64.EFI"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What to build: the files' exact bytes go into the output folder, the parsed forms say what they mean.

    ``jobs`` is the number of threads; ``runner`` replaces running the guest's interpreter on this machine.
    """

    recipe: Recipe
    recipe_data: bytes
    lock: Lock
    lock_data: bytes
    jobs: int
    runner: Runner | None = None


def build_image(request: BuildRequest, *, store: Store, output: Path, progress: Progress) -> Image:
    """Build the image into the folder ``output``.

    Raises ``LockError`` for a lock that is older than the recipe, ``StoreError`` for an input that is absent
    or altered, ``DiskFullError``, and the errors of each part; then nothing of the output is left.
    """
    check_lock(recipe_sha256=request.recipe.sha256, lock=request.lock)
    with clear_disk_errors(str(output)), new_folder(output) as folder:
        _build(request, store, folder, progress)
    manifest = (output / MANIFEST_NAME).read_bytes()
    return Image(folder=output, manifest=_parsed(manifest), id=image_id(manifest))


def _parsed(data: bytes) -> Mapping[str, Any]:
    from image_builder.manifest import parse_manifest

    return parse_manifest(data)


def _build(request: BuildRequest, store: Store, folder: Path, progress: Progress) -> None:
    recipe, lock = request.recipe, request.lock
    unpacked = unpack_all(lock.packages, store, jobs=request.jobs, progress=progress)
    by_role = {role: _of_role(unpacked, role) for role in PackageRole}
    inputs = Inputs(recipe=recipe, lock=lock, store=store, packages=by_role[PackageRole.ROOT])
    tree = root_tree(inputs)
    tree |= compile_bytecode(tree, store=store, jobs=request.jobs, progress=progress, runner=request.runner)
    verity = write_root(tree, folder / Artefact.ROOT, limit=recipe.image.root_size_limit)
    kernel = KernelPackages(by_role[PackageRole.KERNEL])
    boot = boot_files(
        recipe=recipe,
        tree=tree,
        kernel=kernel,
        stubs=by_role[PackageRole.STUB],
        verity=verity,
        partition=partition_guid(recipe.image.name, ROOT_NAME),
    )
    layout = _write_artefacts(recipe, boot, folder)
    sizes = _artefacts(folder)
    manifest = manifest_bytes(
        {
            "schema": SCHEMA,
            "name": recipe.image.name,
            "version": recipe.image.version,
            "architecture": lock.architecture,
            "dev": recipe.image.dev,
            "lock_sha256": lock_sha256(request.lock_data),
            "recipe_sha256": recipe.sha256,
            "artefacts": sizes,
            "verity": _verity_facts(verity),
            "uki": _uki_facts(boot.uki),
            "kernel": {
                "release": kernel.release,
                "authenticode": _authenticode(boot.kernel, "kernel"),
                "config": dict(kernel.config),
            },
            "disk": _disk_facts(layout),
            "cmdline": boot.command_line.decode("ascii"),
        }
    )
    _write_documents(request, folder, manifest, {name: str(entry["sha256"]) for name, entry in sizes.items()})


def _of_role(packages: Sequence[Unpacked], role: PackageRole) -> tuple[Unpacked, ...]:
    return tuple(package for package in packages if package.role is role)


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


def _artefacts(folder: Path) -> dict[str, dict[str, int | str]]:
    paths = [folder / artefact for artefact in Artefact]
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(file_sha256, paths))
    return {
        path.name: {"size": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, hashes, strict=True)
    }


def _write_documents(
    request: BuildRequest, folder: Path, manifest: bytes, artefacts: Mapping[str, str]
) -> None:
    image = image_id(manifest)
    table = request.recipe.image
    provenance = provenance_bytes(
        lock=request.lock,
        lock_sha256=lock_sha256(request.lock_data),
        artefacts=artefacts,
        image=image,
        builder_version=distribution_version("keyturn"),
    )
    sbom = sbom_bytes(lock=request.lock, name=table.name, version=table.version, image=image)
    (folder / RECIPE_NAME).write_bytes(request.recipe_data)
    (folder / LOCK_NAME).write_bytes(request.lock_data)
    (folder / PROVENANCE_NAME).write_bytes(provenance)
    (folder / SBOM_NAME).write_bytes(sbom)
    (folder / MANIFEST_NAME).write_bytes(manifest)


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
