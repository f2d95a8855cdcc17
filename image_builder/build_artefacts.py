"""Makes the artefacts and documents of an image from unpacked packages: the steps of a build, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_builder.build_boot import BootFiles, KernelFiles, boot_files, kernel_files
from image_builder.build_root import Inputs, check_root_size, root_tree
from image_builder.bytecode import Runner, compile_bytecode
from image_builder.disk import ROOT_NAME, DiskLayout, write_disk
from image_builder.erofs import write_erofs
from image_builder.gpt import partition_guid
from image_builder.image import Artefact
from image_builder.kept import KeptFacts
from image_builder.lockfile import LOCK_NAME, PackageRole, lock_sha256
from image_builder.manifest import MANIFEST_NAME, SCHEMA, image_id, manifest_bytes
from image_builder.modules import KernelPackages
from image_builder.progress import Progress
from image_builder.provenance import PROVENANCE_NAME, provenance_bytes
from image_builder.recipe import RECIPE_NAME, Recipe
from image_builder.sbom import SBOM_NAME, finish_sbom
from image_builder.store import Store
from image_builder.stream_hash import PieceBuffer, StreamHash
from image_builder.tree import BytesContent, Tree
from image_builder.unpack import Unpacked
from image_builder.verity import BLOCK_SIZE, VerityHasher, VerityStream, VerityTree, write_verity
from measurements.events import Bank
from measurements.pe import authenticode_digest, parse_pe, section_data, stub_version
from measurements.version import VERSION

if TYPE_CHECKING:
    from image_builder.build import BuildRequest

BOOT_PATH = "EFI/BOOT/BOOTX64.EFI"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kernel:
    """The kernel's files, and what is known of the kernel itself."""

    files: KernelFiles
    sha256: str
    digests: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenRoot:
    """The root file system's hash tree, and the SHA-256 of the whole file."""

    verity: VerityTree
    sha256: str


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
    recipe = request.recipe
    root, kernel, stubs = (
        tuple(package for package in unpacked if package.role is role)
        for role in (PackageRole.ROOT, PackageRole.KERNEL, PackageRole.STUB)
    )
    kept = KeptFacts(store)
    packages = KernelPackages(kernel, facts=kept)
    reading = pool.submit(_read_kernel, packages, recipe, folder)
    tree = root_tree(Inputs(recipe=recipe, lock=request.lock, store=store, packages=root))
    runner = _qemu_runner(packages) if request.in_qemu else None
    tree |= compile_bytecode(tree, store=store, jobs=request.jobs, progress=progress, runner=runner)
    written = write_root(tree, folder / Artefact.ROOT, limit=recipe.image.root_size_limit)
    read = reading.result()
    boot = boot_files(
        recipe=recipe,
        tree=tree,
        release=packages.release,
        kernel=read.files,
        stubs=stubs,
        verity=written.verity,
        partition=partition_guid(recipe.image.name, ROOT_NAME),
        facts=kept,
    )
    # The disk takes longest: its writing and its hash get a thread each, everything else goes one by one.
    disk = pool.submit(_write_disk, recipe.image.name, boot, folder)
    sha256 = {
        Artefact.ROOT: written.sha256,
        Artefact.KERNEL: read.sha256,
        Artefact.INITRD: _write(folder / Artefact.INITRD, boot.initrd),
        Artefact.CMDLINE: _write(folder / Artefact.CMDLINE, boot.command_line),
        Artefact.UKI: _write(folder / Artefact.UKI, boot.uki),
    }
    known = [(boot.initrd, sha256[Artefact.INITRD]), (boot.kernel, read.sha256)]
    uki = _uki_facts(boot.uki, known)
    layout, sha256[Artefact.DISK] = disk.result()
    return Facts(
        release=packages.release,
        config=packages.config,
        kernel_digests=read.digests,
        command_line=boot.command_line.decode("ascii"),
        verity=written.verity,
        uki=uki,
        layout=layout,
        artefacts={
            name.value: {"size": (folder / name).stat().st_size, "sha256": sha256[name]} for name in Artefact
        },
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
    (folder / SBOM_NAME).write_bytes(finish_sbom(sbom, lock=request.lock, image=image))
    (folder / MANIFEST_NAME).write_bytes(manifest)


def _qemu_runner(kernel: KernelPackages) -> Runner:
    from image_builder.bytecode_qemu import qemu_runner

    return qemu_runner(kernel)


def write_root(tree: Tree, path: Path, *, limit: int) -> WrittenRoot:
    """Write the root file system with its hash tree behind it, in one pass; at most ``limit`` bytes."""
    check_root_size(tree, limit=limit)
    hasher = VerityHasher()
    with path.open("xb") as stream, StreamHash(stream) as digest:
        pieces = PieceBuffer(VerityStream(digest, hasher))
        summary = write_erofs(tree, pieces)
        pieces.flush()
        verity = hasher.finish()
        write_verity(verity, digest)
        sha256 = digest.hexdigest()
    check_root_size(tree, limit=limit, size=summary.bytes + verity.hash_bytes)
    return WrittenRoot(verity=verity, sha256=sha256)


def _read_kernel(packages: KernelPackages, recipe: Recipe, folder: Path) -> _Kernel:
    files = kernel_files(packages, modules=recipe.kernel.modules)
    return _Kernel(
        files=files,
        sha256=_write(folder / Artefact.KERNEL, files.image),
        digests={bank.value: _authenticode(files.image, bank, "kernel") for bank in Bank},
    )


def _write_disk(name: str, boot: BootFiles, folder: Path) -> tuple[DiskLayout, str]:
    """Write the disk; its layout and SHA-256."""
    with StreamHash() as digest:
        layout = write_disk(
            folder / Artefact.DISK,
            name=name,
            esp_files={BOOT_PATH: BytesContent(boot.uki)},
            root=folder / Artefact.ROOT,
            follower=digest,
        )
        return layout, digest.hexdigest()


def _write(path: Path, data: bytes) -> str:
    """Write a file; its SHA-256."""
    path.write_bytes(data)
    return _sha256(data)


def _verity_facts(verity: VerityTree) -> dict[str, int | str]:
    return {
        "data_blocks": verity.data_blocks,
        "hash_offset": verity.data_bytes,
        "block_size": BLOCK_SIZE,
        "algorithm": "sha256",
        "salt": verity.salt.hex(),
        "root_hash": verity.root_hash.hex(),
    }


def _uki_facts(uki: bytes, known: Sequence[tuple[bytes, str]]) -> dict[str, Any]:
    """What the manifest says of the UKI; ``known`` are bytes whose SHA-256 need not be computed again."""
    pe = parse_pe(uki, subject="uki.efi")
    sections = []
    for section in pe.sections:
        data = section_data(pe, uki, section.name, subject="uki.efi")
        sha256 = next((digest for same, digest in known if same == data), None) or _sha256(data)
        sections.append({"name": section.name, "size": len(data), "sha256": sha256})
    return {
        "stub_version": stub_version(uki, subject="uki.efi").text,
        "sections": sections,
        "authenticode": {bank.value: _authenticode(uki, bank, "uki.efi") for bank in Bank},
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _authenticode(data: bytes, bank: Bank, subject: str) -> str:
    return authenticode_digest(data, bank, subject=subject).hex()


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
