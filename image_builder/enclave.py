"""An enclave image file from the kernel, initrd and command line of an image folder.

A keyturn image has its root on a disk, which an enclave has not: what the enclave needs besides the initrd
goes into further RAM disks (newc archives that the kernel unpacks over the initrd).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from image_builder.eif import EifDescription, write_eif
from image_builder.image import Artefact, Image, load_image
from image_builder.tree import BytesContent
from measurements.nitro.eif import Eif


def write_enclave(
    folder: Path, stream: BinaryIO, *, ramdisks: Sequence[Path] = (), memory: int = 1 << 30, cpus: int = 2
) -> Eif:
    """Write the enclave image file of the image in ``folder`` to ``stream`` (seekable, at its start).

    ``memory`` (bytes) and ``cpus`` are the defaults that the header names; no register covers them. Raises
    ``ImageError`` and ``EifError``.
    """
    image = load_image(folder, verify=False)
    parts = [image.path(Artefact.INITRD), *ramdisks]
    return write_eif(
        stream,
        kernel=BytesContent(image.path(Artefact.KERNEL).read_bytes()),
        command_line=image.manifest["cmdline"],
        ramdisks=[BytesContent(path.read_bytes()) for path in parts],
        description=_description(image),
        memory=memory,
        cpus=cpus,
    )


def _description(image: Image) -> EifDescription:
    return EifDescription(
        name=image.manifest["name"],
        version=image.manifest["version"],
        operating_system="Debian",
        kernel_release=image.manifest["kernel"]["release"],
    )
