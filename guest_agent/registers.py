"""The TPM's registers and the firmware's event log, as the kernel shows them.

``/sys/class/tpm/tpm0/pcr-<bank>/<n>`` holds upper-case hex and a line end;
``/sys/kernel/security/tpm0/binary_bios_measurements`` holds the raw TCG event log (TCG PC Client Platform
Firmware Profile 1.06, section 10).
"""

from __future__ import annotations

from pathlib import Path

from measurements.errors import RefusedError

TPM = "sys/class/tpm/tpm0"
EVENT_LOG = "sys/kernel/security/tpm0/binary_bios_measurements"
PCRS = range(24)
BANKS = {"sha256": 32, "sha384": 48}
"""Banks that must be there, with their digest sizes in bytes."""
MAX_EVENT_LOG = 4 << 20


class RegisterError(RefusedError):
    """The TPM does not show what it must show."""

    code = "registers"


def parse_register(text: str, *, bank: str, pcr: int) -> bytes:
    """The value of one register from the kernel's text."""
    try:
        value = bytes.fromhex(text.strip())
    except ValueError as error:
        raise _error(f"PCR {pcr} of bank {bank} is not hex") from error
    if len(value) != BANKS[bank]:
        raise _error(f"PCR {pcr} of bank {bank} has {len(value)} bytes")
    return value


def read_banks(root: Path = Path("/")) -> dict[str, dict[int, bytes]]:
    """All registers of all required banks. Raises ``RegisterError`` without a TPM or a bank."""
    if not (root / TPM).is_dir():
        raise _error("there is no TPM")
    banks = {}
    for bank in BANKS:
        folder = root / TPM / f"pcr-{bank}"
        if not folder.is_dir():
            raise _error(f"bank {bank} is not active")
        banks[bank] = {
            pcr: parse_register((folder / str(pcr)).read_text(encoding="ascii"), bank=bank, pcr=pcr)
            for pcr in PCRS
        }
    return banks


def read_event_log(root: Path = Path("/")) -> bytes:
    """The raw event log. Raises ``RegisterError`` when the firmware gave none or an oversized one."""
    try:
        with (root / EVENT_LOG).open("rb") as stream:
            log = stream.read(MAX_EVENT_LOG + 1)
    except FileNotFoundError as error:
        raise _error("the firmware handed over no event log") from error
    if not log or len(log) > MAX_EVENT_LOG:
        raise _error(f"the event log is empty or larger than {MAX_EVENT_LOG} bytes")
    return log


def _error(reason: str) -> RegisterError:
    return RegisterError(
        reason, subject="TPM", advice="give the machine a TPM 2.0 with active SHA-256 and SHA-384 banks"
    )
