"""The one TPM command that the agent sends: TPM2_PCR_Extend (TPM 2.0 Library, part 3, section 22.2). All
integers are big-endian.

Command::

    u16 tag = 0x8002 (sessions)   u32 size   u32 command code = 0x00000182   u32 handle = PCR number
    u32 size of the authorisation area = 9:
        u32 session = 0x40000009 (TPM_RS_PW)   u16 nonce size = 0   u8 attributes = 0   u16 password size = 0
    u32 count, then per digest: u16 algorithm (0x000B SHA-256, 0x000C SHA-384) and the raw digest

Response: ``u16 tag, u32 size, u32 response code``; code 0 means success.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from measurements.errors import RefusedError

DEVICE = "/dev/tpm0"
_ALGORITHMS = {"sha256": 0x000B, "sha384": 0x000C}
_AUTHORISATION = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
_HEADER = struct.Struct(">HII")
_MAX_RESPONSE = 4096


class TpmError(RefusedError):
    """The TPM refused a command."""

    code = "tpm"


def extend_command(pcr: int, digests: Mapping[str, bytes]) -> bytes:
    """The command that extends ``pcr`` with one digest for each bank named."""
    values = b"".join(struct.pack(">H", _ALGORITHMS[bank]) + digest for bank, digest in digests.items())
    body = struct.pack(">I", pcr) + _AUTHORISATION + struct.pack(">I", len(digests)) + values
    return _HEADER.pack(0x8002, _HEADER.size + len(body), 0x00000182) + body


def check_response(response: bytes) -> None:
    """Raise ``TpmError`` unless the response is whole and says success."""
    if len(response) < _HEADER.size:
        raise _error("the response is cut off")
    _, size, code = _HEADER.unpack_from(response)
    if size != len(response):
        raise _error("the response has another size than it says")
    if code != 0:
        raise _error(f"the TPM answered with code {code:#x}")


def extend(pcr: int, digests: Mapping[str, bytes], *, device: str = DEVICE) -> None:
    """Extend ``pcr``. Raises ``TpmError``."""
    command = extend_command(pcr, digests)
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.write(descriptor, command) != len(command):
            raise _error("the command was not taken whole")
        check_response(os.read(descriptor, _MAX_RESPONSE))
    finally:
        os.close(descriptor)


def _error(reason: str) -> TpmError:
    return TpmError(
        reason, subject="TPM2_PCR_Extend", advice="check that the machine's TPM is a working TPM 2.0"
    )
