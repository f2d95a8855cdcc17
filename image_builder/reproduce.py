"""Builds an image again from the recipe and lock in its own folder, and compares.

Nothing of the old image but its ``keyturn.toml`` and ``keyturn.lock`` goes into the new one; every input
comes from the store by hash.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from image_builder.build import BuildRequest, build_image
from image_builder.comparison import Comparison
from image_builder.diff import compare_images, open_image
from image_builder.diff_origin import StoreFiles
from image_builder.lockfile import LOCK_NAME, parse_lock
from image_builder.progress import Progress
from image_builder.recipe import RECIPE_NAME, parse_recipe
from image_builder.store import Store

REBUILT = "rebuilt"
"""What the second side is called in the result."""


def reproduce(
    image: Path,
    *,
    store: Store,
    jobs: int,
    progress: Progress,
    work: Path | None = None,
    further: Sequence[Store] = (),
    in_qemu: bool = False,
) -> Comparison:
    """Rebuild the image folder ``image`` in a temporary folder (below ``work`` if given) and compare both.

    Inputs that ``store`` lacks are taken from ``further`` stores; with ``in_qemu`` the guest's interpreter
    runs in a virtual machine. Raises ``ImageFolderError`` if it is not an image, and everything that a build
    raises: an input may be gone.
    """
    artefacts = open_image(image, str(image))
    recipe_data, lock_data = bytes(artefacts[RECIPE_NAME]), bytes(artefacts[LOCK_NAME])
    request = BuildRequest(
        recipe=parse_recipe(recipe_data, name=f"{image}/{RECIPE_NAME}"),
        recipe_data=recipe_data,
        lock=parse_lock(lock_data, name=f"{image}/{LOCK_NAME}"),
        lock_data=lock_data,
        jobs=jobs,
        in_qemu=in_qemu,
    )
    files = StoreFiles(store, further=further)
    files.take_all(request.lock)
    with tempfile.TemporaryDirectory(prefix="keyturn-reproduce-", dir=work) as folder:
        output = Path(folder) / "image"
        build_image(request, store=store, output=output, progress=progress)
        return compare_images(image, output, files=files, names=(str(image), REBUILT))
