"""Attestation documents of the Nitro Security Module and of NitroTPMs: their fields, without any judgement of
their signature.

**Neither the signature nor the certificate chain is checked here**: the fields are what somebody claims.

Layout (AWS Nitro Enclaves User Guide, "Verifying the root of trust"): a COSE_Sign1 message whose payload is a
CBOR map of ``module_id`` (text: id of the parent instance, ``-enc`` and a number), ``digest`` (``SHA384``),
``timestamp`` (milliseconds since 1970), ``pcrs`` (map of register number to 48 bytes), ``certificate`` (DER,
1 to 1024 bytes), ``cabundle`` (array of such), and ``public_key``, ``user_data``, ``nonce`` (bytes or null).

A NitroTPM's document (Amazon EC2 User Guide, "Validate a NitroTPM Attestation Document") has
``nitrotpm_pcrs`` in place of ``pcrs``, ``-tpm`` in place of ``-enc``, and may lack the last three fields.
The guides allow registers of 32, 48 and 64 bytes; with the only ``digest`` that they allow it is 48.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from measurements.errors import FormatError, RefusedError
from measurements.nitro.cose import CoseSign1, parse_cose_sign1
from measurements.nitro.pcrs import SIZE, ZERO
from measurements.nitro.predict import BANK, IMAGE_REGISTERS
from measurements.platforms import PlatformPrediction
from measurements.strict_cbor import parse_cbor

MAX_PAYLOAD = 32768
MAX_CERTIFICATE = 1024
MAX_OPTIONAL = 1024
"""Bytes of ``public_key``; the others may have less."""

_SUBJECT = "Nitro attestation document"
_MODULE = re.compile(r"(i-[0-9a-f]{8}(?:[0-9a-f]{9})?)-(enc|tpm)[0-9a-f]{1,32}")
_REGISTERS = 32
_CHAIN = 16
_OPTIONAL = ("public_key", "user_data", "nonce")
_KEYS = {"module_id", "digest", "timestamp", "certificate", "cabundle"}


class NitroModule(Enum):
    """What made a document; the value is the middle of its module id."""

    ENCLAVE = "enc"
    TPM = "tpm"

    @property
    def registers(self) -> str:
        """The field with the registers."""
        return "pcrs" if self is NitroModule.ENCLAVE else "nitrotpm_pcrs"

    @property
    def measured(self) -> tuple[int, ...]:
        """Registers that a boot without debugging never leaves at zero: those of the image, and firmware,
        boot loader and Secure Boot policy of an instance.
        """
        return IMAGE_REGISTERS if self is NitroModule.ENCLAVE else (0, 4, 7)


class DebugEnclaveError(RefusedError):
    """A document of an enclave in debug mode, which measures nothing."""

    code = "nitro-debug"


class NitroRegisterError(RefusedError):
    """A register that is not the predicted one."""

    code = "nitro-register"


@dataclass(frozen=True, kw_only=True, slots=True)
class NitroDocument:
    """The fields of one document; ``timestamp`` in milliseconds since 1970, certificates as DER."""

    message: CoseSign1
    kind: NitroModule
    module: str
    instance: str
    timestamp: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @property
    def debug(self) -> bool:
        """Whether the enclave runs in debug mode: then the registers of the image are zero."""
        return all(self.pcrs[register] == ZERO for register in self.kind.measured)

    @property
    def unmeasured(self) -> tuple[int, ...]:
        """Registers at zero that a boot without debugging extends."""
        return tuple(register for register in self.kind.measured if self.pcrs[register] == ZERO)


def parse_document(data: bytes) -> NitroDocument:
    """Read a document; raises ``FormatError`` for any field that is not as above."""
    message = parse_cose_sign1(data, subject=_SUBJECT)
    fields = parse_cbor(message.payload, limit=MAX_PAYLOAD, subject=f"{_SUBJECT}, payload")
    if not isinstance(fields, dict):
        _refuse("has other fields than the User Guide names")
    kind = NitroModule.TPM if "nitrotpm_pcrs" in fields else NitroModule.ENCLAVE
    named = _KEYS | {kind.registers}
    required = named if kind is NitroModule.TPM else named.union(_OPTIONAL)
    if not required <= set(fields) <= named.union(_OPTIONAL):
        _refuse("has other fields than the User Guide names")
    if fields["digest"] != "SHA384":
        _refuse(f"digest is {fields['digest']!r}, not SHA384")
    module = fields["module_id"]
    parts = _MODULE.fullmatch(module) if isinstance(module, str) else None
    if parts is None or parts[2] != kind.value:
        _refuse(f"module_id {module!r} is not an instance id, -{kind.value} and a number")
    timestamp = fields["timestamp"]
    if type(timestamp) is not int or not 0 < timestamp < 1 << 63:
        _refuse(f"timestamp {timestamp!r} is no time")
    chain = fields["cabundle"]
    if not isinstance(chain, list) or not 0 < len(chain) <= _CHAIN:
        _refuse("cabundle is not a list of certificates")
    public_key, user_data, nonce = (_optional(fields.get(name), name) for name in _OPTIONAL)
    return NitroDocument(
        message=message,
        kind=kind,
        module=parts[0],
        instance=parts[1],
        timestamp=timestamp,
        pcrs=_registers(fields[kind.registers], kind),
        certificate=_bytes(fields["certificate"], "certificate", 1, MAX_CERTIFICATE),
        cabundle=tuple(_bytes(item, "cabundle", 1, MAX_CERTIFICATE) for item in chain),
        public_key=public_key,
        user_data=user_data,
        nonce=nonce,
    )


def require_registers(document: NitroDocument, prediction: PlatformPrediction) -> None:
    """Refuse a document of a debug enclave (``DebugEnclaveError``), whatever was predicted, and one whose
    registers are not all the predicted ones (``NitroRegisterError``).
    """
    if document.debug:
        raise DebugEnclaveError(
            "comes from an enclave in debug mode: its registers 0 to 2 are zero",
            subject=_SUBJECT,
            advice="start the enclave without --debug-mode",
        )
    for register, banks in prediction.registers.items():
        found = document.pcrs.get(int(register))
        if found != banks[BANK]:
            shown = found.hex() if found else "absent"
            raise NitroRegisterError(
                f"PCR {register} is {shown}, and {banks[BANK].hex()} was predicted",
                subject=_SUBJECT,
                advice="compare the image that runs with the one that the prediction is for",
            )


def _registers(value: object, kind: NitroModule) -> dict[int, bytes]:
    if not isinstance(value, dict) or not set(kind.measured) <= set(value):
        first, second, third = kind.measured
        _refuse(f"{kind.registers} is not a map with the registers {first}, {second} and {third}")
    registers = {}
    for number, content in value.items():
        if type(number) is not int or not 0 <= number < _REGISTERS:
            _refuse(f"pcrs has a register {number!r}")
        registers[number] = _bytes(content, f"PCR {number}", SIZE, SIZE)
    return registers


def _optional(value: object, name: str) -> bytes | None:
    return None if value is None else _bytes(value, name, 0, MAX_OPTIONAL)


def _bytes(value: object, name: str, lowest: int, highest: int) -> bytes:
    if not isinstance(value, bytes) or not lowest <= len(value) <= highest:
        _refuse(f"{name} is not {lowest} to {highest} bytes")
    return value


def _refuse(reason: str) -> NoReturn:
    raise FormatError(reason, subject=_SUBJECT, advice="give the document as the module returned it")
