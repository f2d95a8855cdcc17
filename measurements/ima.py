"""PCR 10: what Linux IMA measures in a boot without a custom policy.

Rules (Linux ``security/integrity/ima``; confirmed by boots of 6.1, 6.12 and 7.3): IMA extends PCR 10 only if
its TPM driver is built into the kernel, since it looks for the TPM before any module can be loaded. The first
entry is ``boot_aggregate``: the SHA-256 over PCR 0 to 9 of the SHA-256 bank at that time. With Secure Boot on
and the kernel's architecture policy built in, every kernel module file that is loaded follows, each once.

An entry's template data is, for each field, ``u32 length | bytes`` (little endian): ``d-ng`` (``sha256:``,
NUL, digest), ``n-ng`` (name with NUL) and, in template ``ima-sig``, ``sig`` (empty). Each bank is extended
with its own hash of the template data; a bank whose hash is not built into the kernel takes the SHA-1
digest, padded with zeros.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from measurements.errors import FormatError
from measurements.events import Bank, EventType, MeasuredEvent, Provenance, replay

PCR = 10
_TEMPLATES = {"ima-ng": 0, "ima-sig": 1}
"""Known templates, with the number of empty fields after digest and name."""

KERNEL_OPTIONS = (
    "CONFIG_IMA",
    "CONFIG_IMA_ARCH_POLICY",
    "CONFIG_IMA_DEFAULT_HASH",
    "CONFIG_IMA_DEFAULT_TEMPLATE",
    "CONFIG_TCG_CRB",
    "CONFIG_TCG_TIS",
    "CONFIG_CRYPTO_SHA256",
    "CONFIG_CRYPTO_SHA512",
)
"""Options of the kernel's configuration that decide what PCR 10 becomes; an image's manifest records them."""

_BANK_CONFIG = {Bank.SHA256: "CONFIG_CRYPTO_SHA256", Bank.SHA384: "CONFIG_CRYPTO_SHA512"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModule:
    """A kernel module file: its path in the guest at the time of loading, and its bytes."""

    path: str
    data: bytes


def ima_events(
    config: Mapping[str, str],
    *,
    earlier: Iterable[MeasuredEvent],
    tpm_driver: str,
    secure_boot: bool,
    command_line: str,
    load_modules: Callable[[], Sequence[LoadedModule]],
) -> list[MeasuredEvent]:
    """The extends of PCR 10 after the ``earlier`` events of the boot.

    ``config`` holds the kernel's ``CONFIG_*`` values (``y``, ``m``, text without quotes; ``n`` or absent is
    off), ``tpm_driver`` is the option of the TPM's driver, ``load_modules`` gives the modules in
    the order of loading, and is called only if they are measured. Raises ``FormatError`` where a command line
    parameter or an option makes IMA do something that is not derived here.
    """
    if config.get("CONFIG_IMA", "n") != "y" or config.get(tpm_driver, "n") != "y":
        return []
    _check_defaults(config, command_line)
    covered = [event for event in earlier if event.pcr < PCR]
    dry = any(event.provenance is Provenance.DRY_BOOT for event in covered)
    registers = replay(covered, pcrs=range(PCR))[Bank.SHA256]
    aggregate = hashlib.sha256(b"".join(registers[pcr] for pcr in range(PCR))).digest()
    first = _event(config, "boot_aggregate", aggregate, "PCR 0 to 9")
    events = [replace(first, provenance=Provenance.DRY_BOOT) if dry else first]
    if secure_boot and config.get("CONFIG_IMA_ARCH_POLICY", "n") == "y":
        events += [_event(config, *entry) for entry in _module_entries(load_modules())]
    return events


def _module_entries(modules: Sequence[LoadedModule]) -> list[tuple[str, bytes, str]]:
    unique: dict[tuple[str, bytes], None] = {}
    for module in modules:
        unique.setdefault((module.path, hashlib.sha256(module.data).digest()))
    return [(path, digest, f"kernel module {path} of the initrd") for path, digest in unique]


def _event(config: Mapping[str, str], name: str, digest: bytes, origin: str) -> MeasuredEvent:
    fields = [b"sha256:\0" + digest, name.encode() + b"\0"]
    fields += [b""] * _TEMPLATES[config["CONFIG_IMA_DEFAULT_TEMPLATE"]]
    data = b"".join(struct.pack("<I", len(field)) + field for field in fields)
    return MeasuredEvent(
        pcr=PCR,
        event_type=EventType.EV_IPL,
        digests={bank: _digest(config, bank, data) for bank in Bank},
        description=f"IMA entry {name}",
        origin=origin,
    )


def _digest(config: Mapping[str, str], bank: Bank, data: bytes) -> bytes:
    if config.get(_BANK_CONFIG[bank], "n") == "y":
        return hashlib.new(bank.value, data).digest()
    return hashlib.sha1(data, usedforsecurity=False).digest().ljust(bank.size, b"\0")


def _check_defaults(config: Mapping[str, str], command_line: str) -> None:
    template = config.get("CONFIG_IMA_DEFAULT_TEMPLATE", "absent")
    hash_name = config.get("CONFIG_IMA_DEFAULT_HASH", "absent")
    if template not in _TEMPLATES or hash_name != "sha256":
        raise _unknown(f"has the IMA template {template} with {hash_name}")
    for word in command_line.split():
        if word.startswith(("ima_", "ima=")):
            raise _unknown(f"is started with {word}")


def _unknown(reason: str) -> FormatError:
    return FormatError(
        f"{reason}, whose measurements in PCR 10 are not derived",
        subject="kernel",
        advice="use a kernel and a command line with the defaults of Debian's cloud kernel",
    )
