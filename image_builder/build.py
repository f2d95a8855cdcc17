"""Builds an image from a recipe, its lock and the store: no network, no root, no program of the host.

The one program that runs is the image's own locked Python interpreter, which compiles byte code. The output
folder is complete or absent, and depends on nothing but recipe and lock.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from image_builder.image import Image
from image_builder.lockfile import Lock, check_lock
from image_builder.manifest import MANIFEST_NAME, image_id, parse_manifest
from image_builder.output_folder import new_folder
from image_builder.progress import Progress
from image_builder.recipe import Recipe
from image_builder.sbom import draft_sbom
from image_builder.store import Store, clear_disk_errors
from image_builder.unpack import unpack_all


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What to build: the files' exact bytes go into the output folder, the parsed forms say what they mean.

    ``jobs`` is the number of threads; with ``in_qemu`` the guest's interpreter runs in a virtual machine.
    """

    recipe: Recipe
    recipe_data: bytes
    lock: Lock
    lock_data: bytes
    jobs: int
    in_qemu: bool = False


def build_image(request: BuildRequest, *, store: Store, output: Path, progress: Progress) -> Image:
    """Build the image into the folder ``output``.

    Raises ``LockError`` for a lock that is older than the recipe, ``StoreError`` for an input that is absent
    or altered, ``DiskFullError``, and the errors of each part; then nothing of the output is left.
    """
    check_lock(recipe_sha256=request.recipe.sha256, lock=request.lock)
    with clear_disk_errors(str(output)), new_folder(output) as folder, ThreadPoolExecutor() as pool:
        table = request.recipe.image
        unpacked = pool.submit(unpack_all, request.lock.packages, store, jobs=request.jobs, progress=progress)
        # Hashing leaves the interpreter's lock alone, so the modules of the next steps are loaded meanwhile.
        from image_builder.build_artefacts import make_artefacts, write_documents

        packages = unpacked.result()
        sbom = pool.submit(
            draft_sbom,
            lock=request.lock,
            lock_data=request.lock_data,
            name=table.name,
            version=table.version,
            store=store,
        )
        facts = make_artefacts(request, packages, store=store, folder=folder, pool=pool, progress=progress)
        write_documents(request, facts, sbom.result(), folder)
    manifest = (output / MANIFEST_NAME).read_bytes()
    return Image(folder=output, manifest=parse_manifest(manifest), id=image_id(manifest))
