"""What of an image folder is measured at boot: the bridge from a built image to the predictions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NoReturn

from image_builder.cpio import read_cpio
from image_builder.image import Artefact, Image, load_image
from measurements.boot_sequence import ImageInputs
from measurements.errors import FormatError
from measurements.gpt import PRIMARY_SIZE
from measurements.ima import KERNEL_OPTIONS, LoadedModule
from measurements.systemd_stub import parse_uki

_MODULE_LIST = "etc/keyturn/modules"
_MODULE_FOLDER = "modules"
_ALWAYS_ON = "CONFIG_CRYPTO_SHA256"
"""On in every kernel that verifies its modules: a manifest without it does not record such options."""


def read_measured_image(folder: Path) -> ImageInputs:
    """The measured inputs of the image in ``folder``.

    Raises ``FormatError`` or ``ImageError`` if the folder's files are not those of an image, or the UKI is
    not the one that the manifest names. The root is not read: the UKI's hash covers its root hash.
    """
    image = load_image(folder, verify=False)
    uki = image.path(Artefact.UKI).read_bytes()
    _check_uki(image, uki)
    with image.path(Artefact.DISK).open("rb") as disk:
        partition_table = disk.read(PRIMARY_SIZE)
    kernel = image.manifest["kernel"]
    config = kernel["config"]
    if _ALWAYS_ON not in config:
        _refuse(image, f"does not record {_ALWAYS_ON} of the kernel")
    return ImageInputs(
        uki=uki,
        partition_table=partition_table,
        kernel_release=kernel["release"],
        kernel_config={name: config.get(name, "n") for name in KERNEL_OPTIONS},
        load_modules=lambda: initrd_modules(parse_uki(uki, subject="uki.efi").sections[".initrd"]),
        dev=image.manifest["dev"] is True,
    )


def initrd_modules(initrd: bytes) -> tuple[LoadedModule, ...]:
    """The kernel modules of an image's initrd, in the order in which its script loads them."""
    members = {entry.name: entry for entry in read_cpio(initrd, subject="initrd")}

    def content(name: str) -> bytes:
        entry = members.get(name.encode())
        if entry is None:
            raise FormatError(f"has no /{name}", subject="initrd", advice="build the image again")
        return initrd[entry.offset : entry.offset + entry.size]

    names = content(_MODULE_LIST).decode("ascii").split()
    return tuple(
        LoadedModule(path=f"/{_MODULE_FOLDER}/{name}", data=content(f"{_MODULE_FOLDER}/{name}"))
        for name in names
    )


def differing_initrd_files(first: Path, second: Path) -> tuple[str, ...]:
    """Paths in the initrds of two image folders that are not in both with the same mode and bytes."""
    left, right = (
        _initrd_members((folder / Artefact.INITRD.value).read_bytes()) for folder in (first, second)
    )
    return tuple(sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name)))


def _initrd_members(initrd: bytes) -> dict[str, tuple[int, bytes]]:
    return {
        entry.name.decode("utf-8", "replace"): (entry.mode, initrd[entry.offset : entry.offset + entry.size])
        for entry in read_cpio(initrd, subject="initrd")
    }


def _check_uki(image: Image, uki: bytes) -> None:
    expected = image.manifest["artefacts"][Artefact.UKI.value]["sha256"]
    found = hashlib.sha256(uki).hexdigest()
    if found != expected:
        _refuse(image, f"names another uki.efi: expected SHA-256 {expected}, found {found}")


def _refuse(image: Image, reason: str) -> NoReturn:
    raise FormatError(
        f"its manifest {reason}", subject=str(image.folder), advice="build the image again with this keyturn"
    )
