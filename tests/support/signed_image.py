"""Images whose UKI is signed with an own Secure Boot key, on a copy of the disk."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from image_builder.image import Artefact, Image
from measurements.gpt import BLOCK, PRIMARY_SIZE, parse_gpt
from tests.support.secure_boot_keys import SigningKey, sign_image
from tests.support.tools import require_tool

UKI_ON_ESP = "::/EFI/BOOT/BOOTX64.EFI"


@dataclass(frozen=True, kw_only=True)
class SignedImage:
    """A signed UKI, and a disk that starts it."""

    uki: Path
    disk: Path


def signed_copy(image: Image, key: SigningKey, folder: Path) -> SignedImage:
    """Sign the image's UKI with ``key`` and put it in the place of the unsigned one."""
    folder.mkdir(parents=True, exist_ok=True)
    signed = SignedImage(uki=folder / "uki.efi", disk=folder / "disk.raw")
    sign_image(key, image.path(Artefact.UKI), signed.uki)
    shutil.copyfile(image.path(Artefact.DISK), signed.disk)
    put_on_esp(signed.disk, signed.uki, UKI_ON_ESP)
    return signed


def put_on_esp(disk: Path, file: Path, target: str) -> None:
    """Copy ``file`` to ``target`` (``::/path``) of the ESP on ``disk``, over what is there."""
    tool = require_tool("mcopy", package="mtools")
    with disk.open("rb") as stream:
        table = parse_gpt(stream.read(PRIMARY_SIZE))
    esp = next(partition for partition in table.partitions if partition.name == "esp")
    place = f"{disk}@@{esp.first_lba * BLOCK}"
    subprocess.run([tool, "-o", "-i", place, file, target], check=True, capture_output=True)
