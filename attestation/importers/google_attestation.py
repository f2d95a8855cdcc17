"""Attestations of go-tpm-tools (``gotpm attest``, Google's Confidential Space): Protocol Buffers.

Message ``attest.Attestation`` (google/go-tpm-tools, proto/attest.proto, proto/tpm.proto)::

    1  bytes TPMT_PUBLIC of the AK            5  bytes canonical event log
    2  repeated Quote, one for each bank      6  bytes AK certificate, DER
    3  bytes event log of the firmware        7  repeated bytes intermediates, DER
    4  GCEInstanceInfo                        8, 9  attestation of SEV-SNP or TDX

    Quote  1 bytes TPMS_ATTEST | 2 bytes TPMT_SIGNATURE | 3 PCRs
    PCRs   1 hash algorithm (TCG number) | 2 map of uint32 to bytes

The quote of the strongest bank is taken, never SHA-1. The instance's name is passed over (the AK's
certificate says it), and so is the canonical event log, which is Confidential Space's own. An attestation of
the TEE inside is refused: it holds the fields of a report, not the bytes that were signed; import the report
itself.
"""

from __future__ import annotations

from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat, TpmPart
from attestation.importers.protobuf_reader import Message
from attestation.importers.source import refuse

_WHAT = "go-tpm-tools attestation"
_AK_PUBLIC = b"\x0a"
_KEY_TYPES = (b"\x00\x01\x00\x0b", b"\x00\x23\x00\x0b", b"\x00\x01\x00\x0c", b"\x00\x23\x00\x0c")
_BANKS = {0x000D: "sha512", 0x000C: "sha384", 0x000B: "sha256"}
_SHA1 = 0x0004


def looks_like_attestation(data: bytes) -> bool:
    """Whether it starts with a public area as field 1: tag, a length of one or two bytes, RSA or ECC."""
    return data.startswith(_AK_PUBLIC) and (data[2:6] in _KEY_TYPES or data[3:7] in _KEY_TYPES)


def import_attestation(data: bytes) -> EvidenceContainer:
    """The TPM's evidence; raises ``EvidenceImportError``."""
    message = Message(data, what=_WHAT)
    message.require_known(*range(1, 10))
    if message.has(8) or message.has(9):
        refuse("holds the fields of a TEE's report, not its bytes: import the report itself", what=_WHAT)
    quotes = [_quote(one) for one in message.all_octets(2)]
    banks = {bank: (quote, signature, pcrs) for bank, quote, signature, pcrs in quotes}
    if len(banks) != len(quotes):
        refuse("has two quotes of one bank", what=_WHAT)
    best = next((bank for bank in _BANKS if bank in banks), None)
    if best is None:
        refuse("has no quote of a bank other than SHA-1", what=_WHAT)
    quote, signature, pcrs = banks[best]
    log = message.octets(3)
    return EvidenceContainer(
        platform=EvidencePlatform.TPM,
        report=b"",
        certificates=tuple(dict.fromkeys(message.all_octets(7))),
        tpm=TpmPart(
            quote=quote,
            signature=signature,
            ak_public=message.octets(1),
            pcrs={_BANKS[best]: pcrs},
            ak_certificate=message.octets(6) or None,
        ),
        logs=(Log(format=LogFormat.TCG2, data=log),) if log else (),
        origin="go-tpm-tools",
    )


def _quote(data: bytes) -> tuple[int, bytes, bytes, dict[int, bytes]]:
    message = Message(data, what=f"{_WHAT}, quote")
    message.require_known(1, 2, 3)
    pcrs = Message(message.octets(3), what=f"{_WHAT}, registers")
    pcrs.require_known(1, 2)
    bank = pcrs.number(1)
    if bank not in _BANKS and bank != _SHA1:
        refuse(f"has registers of hash algorithm {bank:#06x}", what=_WHAT)
    registers: dict[int, bytes] = {}
    for entry in pcrs.all_octets(2):
        one = Message(entry, what=f"{_WHAT}, register")
        one.require_known(1, 2)
        if one.number(1) in registers:
            refuse(f"has PCR {one.number(1)} twice", what=_WHAT)
        registers[one.number(1)] = one.octets(2)
    return bank, message.octets(1), message.octets(2), registers
