"""A dstack release: the folder that its image build publishes, checked file by file.

Files (``os/image/assemble.sh`` of dstack): ``metadata.json``, ``sha256sum.txt``, ``digest.txt`` (hex of
SHA-256 of ``sha256sum.txt``: the OS image's hash), the files that the metadata names (``bios``, ``kernel``,
``initrd``, optionally ``bios-sev`` and ``rootfs``), and ``measurement.*.cbor``. Every file that
``sha256sum.txt`` lists must be there with its digest, and every file that is used must be listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from measurements.dstack.aggregates import os_image_hash
from measurements.dstack.boot_log import OvmfVariant
from measurements.dstack.checksums import FILE_NAME, parse_checksums
from measurements.dstack.errors import DstackInputError
from measurements.dstack.json_documents import as_object, boolean, octets, parse_document, refuse, text
from measurements.dstack.lite import SNP_FILE, TDX_FILE
from measurements.dstack.vm_config import MeasurementDocument

METADATA_FILE = "metadata.json"
DIGEST_FILE = "digest.txt"
MAX_METADATA = 1 << 20
MAX_USED = 512 << 20
"""Bytes of one file that is read whole: firmware, kernel, initrd."""

_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """The keys of ``metadata.json`` that measurements depend on; files by name."""

    bios: str
    bios_sev: str | None
    kernel: str
    initrd: str
    command_line: str
    version: str
    is_dev: bool
    variant: OvmfVariant
    kernel_header_normalized: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A release whose files are all as ``sha256sum.txt`` says; ``files`` holds the measured ones."""

    metadata: Metadata
    os_image_hash: bytes
    checksum_file: bytes
    files: Mapping[str, bytes]

    def document(self, name: str) -> MeasurementDocument | None:
        """One of its measurement documents, with the file that binds it to the image's hash."""
        if name not in self.files:
            return None
        return MeasurementDocument(measurement=self.files[name], checksum_file=self.checksum_file)


def read_release(folder: Path) -> Release:
    """Read and check a release's folder; raises ``DstackFormatError`` and ``DstackInputError``."""
    checksum_file = _read(folder, FILE_NAME, most=MAX_METADATA)
    checksums = parse_checksums(checksum_file)
    image_hash = os_image_hash(checksum_file)
    _check_digest_file(folder, image_hash)
    metadata = parse_metadata(_listed(folder, METADATA_FILE, checksums, most=MAX_METADATA))
    used = {metadata.bios, metadata.kernel, metadata.initrd, metadata.bios_sev, TDX_FILE, SNP_FILE}
    required = {metadata.bios, metadata.kernel, metadata.initrd, metadata.bios_sev} - {None}
    files = {}
    for name in sorted(required - set(checksums), key=str):
        refuse(FILE_NAME, f"does not list {name}, which {METADATA_FILE} names")
    for name in checksums:
        if name in used:
            files[name] = _listed(folder, name, checksums, most=MAX_USED)
        else:
            _check_file(folder, name, checksums[name])
    return Release(metadata=metadata, os_image_hash=image_hash, checksum_file=checksum_file, files=files)


def parse_metadata(data: bytes) -> Metadata:
    """Read ``metadata.json``; keys that no measurement depends on are ignored, as dstack does."""
    fields = as_object(parse_document(data, subject=METADATA_FILE, limit=MAX_METADATA), subject=METADATA_FILE)
    variant = fields.get("ovmf_variant", OvmfVariant.PRE202505.value)
    if variant != OvmfVariant.PRE202505.value:
        refuse(METADATA_FILE, f"has the firmware layout {variant!r}, not {OvmfVariant.PRE202505.value}")
    command_line = _text(fields, "cmdline")
    if not command_line.strip() or "\0" in command_line:
        refuse(METADATA_FILE, "has no command line")
    return Metadata(
        bios=_text(fields, "bios"),
        bios_sev=_text(fields, "bios-sev") if fields.get("bios-sev") is not None else None,
        kernel=_text(fields, "kernel"),
        initrd=_text(fields, "initrd"),
        command_line=command_line,
        version=_text(fields, "version"),
        is_dev=_switch(fields, "is_dev"),
        variant=OvmfVariant.PRE202505,
        kernel_header_normalized=_switch(fields, "kernel_header_normalized"),
    )


def _text(fields: Mapping[str, object], key: str) -> str:
    if key not in fields:
        refuse(METADATA_FILE, f"has no {key}")
    return text(fields[key], subject=f"{METADATA_FILE}, {key}")


def _switch(fields: Mapping[str, object], key: str) -> bool:
    return boolean(fields.get(key, False), subject=f"{METADATA_FILE}, {key}")


def _check_digest_file(folder: Path, image_hash: bytes) -> None:
    data = _read(folder, DIGEST_FILE, most=256)
    if not data.isascii():
        refuse(DIGEST_FILE, "is not hex")
    stated = octets(data.decode("ascii").strip(), subject=DIGEST_FILE, sizes=(len(image_hash),))
    if stated != image_hash:
        refuse(DIGEST_FILE, f"says {stated.hex()}, and SHA-256 of {FILE_NAME} is {image_hash.hex()}")


def _listed(folder: Path, name: str, checksums: Mapping[str, bytes], *, most: int) -> bytes:
    """The bytes of a file, which must be those that are listed."""
    if name not in checksums:
        refuse(FILE_NAME, f"does not list {name}")
    data = _read(folder, name, most=most)
    _check(name, hashlib.sha256(data).digest(), checksums[name])
    return data


def _check_file(folder: Path, name: str, expected: bytes) -> None:
    digest = hashlib.sha256()
    try:
        with (folder / name).open("rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise _unreadable(name, error) from error
    _check(name, digest.digest(), expected)


def _check(name: str, found: bytes, expected: bytes) -> None:
    if found != expected:
        refuse(name, f"has SHA-256 {found.hex()}, and {FILE_NAME} says {expected.hex()}")


def _read(folder: Path, name: str, *, most: int) -> bytes:
    """At most ``most`` bytes: a file that is longer is refused before it is read whole."""
    try:
        with (folder / name).open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise _unreadable(name, error) from error
    if len(data) > most:
        refuse(name, f"has more than {most} bytes")
    return data


def _unreadable(name: str, error: OSError) -> DstackInputError:
    return DstackInputError(
        f"cannot be read: {error.strerror or error}",
        subject=f"release, {name}",
        advice="unpack the whole release archive into one folder",
    )
