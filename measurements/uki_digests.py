"""The digests of a UKI and its parts: most of the work of a prediction, and from its bytes alone.

As JSON, to be kept: an object of what is measured (``uki``, ``kernel``, ``initrd``, ``section .linux``) to
bank to lower-case hexadecimal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from measurements.events import Bank, digests_of
from measurements.pe import authenticode_digest
from measurements.systemd_stub import Uki, final_initrd, measured_sections

KIND = "uki-digests/1"
"""Name and version of this work: a change of what is hashed or how must change it."""

Digests = Mapping[Bank, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class UkiDigests:
    """``program`` and ``kernel`` are Authenticode digests; ``initrd`` is what the kernel gets where nothing
    comes from the ESP; ``sections`` are the measured ones by name.
    """

    program: Digests
    kernel: Digests
    initrd: Digests
    sections: Mapping[str, Digests]


def hash_uki(image: bytes, uki: Uki) -> UkiDigests:
    """Hash a UKI; the parts are hashed beside each other. Raises ``FormatError`` if ``image`` is no PE."""
    sections = dict(measured_sections(uki))
    initrd = final_initrd(uki)
    with ThreadPoolExecutor() as pool:
        program = pool.submit(_authenticode, image, "uki.efi")
        kernel = pool.submit(_authenticode, uki.kernel, "section .linux of uki.efi")
        hashed = {name: pool.submit(digests_of, data) for name, data in sections.items()}
        # The stub of many versions hands on the section as it is.
        same = sections.get(".initrd") == initrd
        last = hashed[".initrd"] if same else pool.submit(digests_of, initrd)
    return UkiDigests(
        program=program.result(),
        kernel=kernel.result(),
        initrd=last.result(),
        sections={name: work.result() for name, work in hashed.items()},
    )


def encode_uki_digests(digests: UkiDigests) -> bytes:
    """The JSON of ``digests``."""
    document = {"uki": digests.program, "kernel": digests.kernel, "initrd": digests.initrd}
    document |= {f"section {name}": values for name, values in digests.sections.items()}
    return json.dumps({what: _hex(values) for what, values in document.items()}).encode()


def decode_uki_digests(data: bytes) -> UkiDigests:
    """The digests in the bytes that ``encode_uki_digests`` wrote; raises ``ValueError`` or ``KeyError``."""
    document = {what: _octets(values) for what, values in json.loads(data).items()}
    parts = {what.removeprefix("section "): found for what, found in document.items() if " " in what}
    return UkiDigests(
        program=document["uki"], kernel=document["kernel"], initrd=document["initrd"], sections=parts
    )


def _authenticode(image: bytes, subject: str) -> dict[Bank, bytes]:
    return {bank: authenticode_digest(image, bank, subject=subject) for bank in Bank}


def _hex(values: Digests) -> dict[str, str]:
    return {bank.value: value.hex() for bank, value in values.items()}


def _octets(values: Mapping[str, str]) -> dict[Bank, bytes]:
    return {bank: bytes.fromhex(values[bank.value]) for bank in Bank}


Hasher = Callable[[bytes, Uki], UkiDigests]
"""How a UKI is hashed: ``hash_uki``, or a kept result of it."""
