"""Near misses: what else a host, a firmware build or an image could have been, one choice at a time.

If a machine's registers are not the predicted ones, but those of a prediction with one or two other choices,
the choices are the cause and can be named exactly, also where only final values are known. A ``Change`` is
one such choice. It changes the inputs of a prediction, which is then computed anew, or the list of predicted
events (``edit``), which needs no inputs; the search combines both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from measurements.booted import BootedEvent, Registers
from measurements.platforms import Platform, PlatformPrediction

Inputs = TypeVar("Inputs")

_IMA_REGISTER = "10"
_HASHED_BY_IMA = frozenset(str(pcr) for pcr in range(10))

Edit = Callable[[PlatformPrediction], PlatformPrediction | None]
"""A change of the predicted events; None where it does not apply."""


class NearMissKind(StrEnum):
    """Kinds of choices that are tried, in words."""

    PREDICTION = "another of the given predictions"
    SEPARATOR = "place of a separator (edk2 release)"
    STUB_RULE = "inner kernel measured or not (systemd-stub version, Secure Boot)"
    COMMAND_LINE_PLACE = "place of initrd=initrd on the command line (edk2 release)"
    SECURE_BOOT = "Secure Boot state"
    BOOT_ORDER = "boot order"
    DEV_IMAGE = "development image"
    DEBUG_MODE = "debug mode"
    MEMORY = "memory size"
    CPUS = "number of vCPUs"
    MACHINE_SWITCH = "switch of the machine (HPET, PIC, serial port, sleep states, hot plug)"
    ADDRESS_BITS = "width of physical addresses"
    CPU_VENDOR = "vendor of the CPU"
    CPU_MODEL = "CPU model"
    GUEST_FEATURES = "guest feature word"
    VMM = "virtual machine monitor"
    KERNEL_HASHES = "kernel hashes"
    QEMU_VERSION = "QEMU version"
    TPM_INTERFACE = "interface of the TPM"
    NIC = "network card"
    DISK = "disk"
    PAGE_ORDER = "page order of MRTD"
    KERNEL_PATCH = "QEMU's changes to the kernel's header"
    FIRMWARE = "other firmware"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change(Generic[Inputs]):
    """One other choice.

    ``words`` say what the machine would be like, ``registers`` which ones the choice can change. Exactly one
    of ``inputs`` and ``edit`` is given. ``costly`` changes start a virtual machine.
    """

    kind: NearMissKind
    words: str
    registers: frozenset[str]
    inputs: Callable[[Inputs], Inputs] | None = None
    edit: Edit | None = None
    costly: bool = False

    def __post_init__(self) -> None:
        assert (self.inputs is None) != (self.edit is None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem(Generic[Inputs]):
    """What is to be explained: ``found`` values of a machine whose prediction is ``expected``.

    ``log`` are the machine's events, where they are known: then a choice may also explain single ones.
    ``predict`` computes a prediction from inputs; it raises ``KeyturnError`` for inputs that cannot be.
    Without inputs only edits are tried.
    """

    expected: PlatformPrediction
    found: Registers
    inputs: Inputs | None = None
    predict: Callable[[Inputs], PlatformPrediction] | None = None
    log: Sequence[BootedEvent] = ()

    @property
    def wrong(self) -> frozenset[str]:
        """The registers that are not as predicted."""
        return differing_registers(self.expected, self.found)


@dataclass(frozen=True, kw_only=True, slots=True)
class NearMiss:
    """Choices under which ``explains`` are predicted as found, and no register is wrong that was right.

    ``left`` are the registers that they leave unexplained. ``events`` are events in these that are predicted
    as the log has them, and were not before. ``steps`` names, for registers without a log, the first step of
    the launch that these choices change.
    """

    kinds: tuple[NearMissKind, ...]
    words: tuple[str, ...]
    explains: tuple[str, ...]
    left: tuple[str, ...]
    events: tuple[str, ...]
    machine: str
    steps: tuple[str, ...]
    prediction: PlatformPrediction


@dataclass(frozen=True, kw_only=True, slots=True)
class NearMisses:
    """The result of a search: ``tried`` predictions were compared, ``impossible`` ones do not exist.

    ``untried`` counts combinations beyond the limit, ``costly`` the changes that were left out because they
    start a virtual machine.
    """

    found: tuple[NearMiss, ...]
    wrong: tuple[str, ...]
    tried: int
    impossible: int
    untried: int
    costly: int

    @property
    def complete(self) -> bool:
        """Whether one of them explains every wrong register."""
        return bool(self.found) and not self.found[0].left


def differing_registers(prediction: PlatformPrediction, found: Registers) -> frozenset[str]:
    """The predicted registers that were found with another value in a common bank."""
    return frozenset(
        name
        for name, banks in prediction.registers.items()
        if any(found.get(name, {}).get(bank, value) != value for bank, value in banks.items())
    )


def values_to_explain(expected: PlatformPrediction, registers: Registers) -> Registers:
    """The values that a search has to explain. PCR 10 is left out where PCR 0 to 9 are not as predicted: IMA
    hashes them, so it must differ, too.
    """
    wrong = differing_registers(expected, registers)
    if expected.platform is not Platform.TPM or not wrong & _HASHED_BY_IMA:
        return registers
    return {name: banks for name, banks in registers.items() if name != _IMA_REGISTER}


def machine_words(prediction: PlatformPrediction) -> str:
    """The machine that a prediction holds for, in words: ``4 vCPU machine with 8 GiB on QEMU 9.1``."""
    shape, label = dict(prediction.shape), dict(prediction.label)
    cpus = label.pop("vcpus", None) or shape.get("cpus")
    memory = _memory_words(str(shape.get("memory", "")))
    machine = str(label.pop("qemu", "") or _qemu_words(str(shape.get("machine", ""))))
    article = "an" if str(cpus).startswith("8") or str(cpus) in ("11", "18") else "a"
    words = f"{article} {cpus} vCPU machine" if cpus else "a machine"
    words += f" with {memory}" if memory else ""
    words += f" on {machine}" if machine else ""
    others = ", ".join(f"{name} {value}" for name, value in label.items())
    return words + (f" ({others})" if others else "")


def _memory_words(memory: str) -> str:
    mib = memory.removesuffix("MiB")
    if not mib.isdigit():
        return memory
    return f"{int(mib) // 1024} GiB" if int(mib) % 1024 == 0 else f"{mib} MiB"


def _qemu_words(machine: str) -> str:
    _, mark, version = machine.rpartition("q35-")
    return f"QEMU {version}" if mark else ""
