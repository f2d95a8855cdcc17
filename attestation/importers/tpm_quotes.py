"""TPM quotes in the JSON of Confidential Containers and of Azure's tools.

A quote is ``message`` (TPMS_ATTEST), ``signature`` and ``pcrs``: 24 registers of bank SHA-256. Bytes are hex
in version 1 and 2 of Azure's evidence, lists of numbers before (serde of az-cvm-vtpm's ``Quote``), and base64
in CoCo's TPM evidence, whose registers are hex. A signature of az-cvm-vtpm is bare (RSASSA with SHA-256, as
its AK signs); elsewhere it is a TPMT_SIGNATURE. Registers that the quote does not select are left out: they
are not signed. Source: confidential-containers/trustee, deps/verifier/src/{az_snp_vtpm,az_tdx_vtpm,tpm}.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestation.container import EvidenceContainer, EvidencePlatform, TpmPart
from attestation.importers.source import base64_octets, closed, hex_octets, items, octet_list, refuse
from attestation.tpm.ak_public import standard_ak_public
from attestation.tpm_structures import HashAlgorithm, Scheme, parse_quote
from attestation.x509_chain import MALFORMED

REGISTERS = 24
MAX_SIGNATURE = 512
_BANK = "sha256"
_DER = 0x30
_WHAT = "TPM quote"

Read = Callable[..., bytes]


class JsonQuote:
    """A quote as it was read: TPMS_ATTEST, TPMT_SIGNATURE, and the registers that it selects."""

    def __init__(self, message: bytes, signature: bytes, pcrs: tuple[bytes, ...]) -> None:
        self.message = message
        self.signature = signature
        self.pcrs = _selected(message, pcrs)


def azure_quote(value: object) -> JsonQuote:
    """A quote in either form of az-cvm-vtpm; raises ``KeyturnError``."""
    fields = closed(value, "message signature pcrs", what=_WHAT)
    read: Read = hex_octets if isinstance(fields["message"], str) else octet_list
    signature = read(fields["signature"], what=f"{_WHAT}, signature")
    return JsonQuote(
        read(fields["message"], what=f"{_WHAT}, message"),
        _tpmt_signature(signature),
        _pcrs(fields["pcrs"], read),
    )


def import_coco_tpm(value: Mapping[str, object]) -> EvidenceContainer:
    """CoCo's TPM evidence: ``ak_public`` (TPMT_PUBLIC, or DER of older guests), ``tpm_quote``; a
    ``report_data`` beside it is passed over, since the quote has it.
    """
    fields = closed(value, "ak_public tpm_quote", "report_data", what="CoCo TPM evidence")
    quote = closed(fields["tpm_quote"], "message signature pcrs", what=_WHAT)
    found = JsonQuote(
        base64_octets(quote["message"], what=f"{_WHAT}, message"),
        base64_octets(quote["signature"], what=f"{_WHAT}, signature"),
        _pcrs(quote["pcrs"], hex_octets),
    )
    return EvidenceContainer(
        platform=EvidencePlatform.TPM,
        report=b"",
        tpm=TpmPart(
            quote=found.message,
            signature=found.signature,
            ak_public=public_area(base64_octets(fields["ak_public"], what="CoCo TPM evidence, ak_public")),
            pcrs=found.pcrs,
        ),
        origin="coco-tpm",
    )


def public_area(data: bytes) -> bytes:
    """TPMT_PUBLIC, as it is or of the key in a SubjectPublicKeyInfo (DER)."""
    if data[:1] != bytes([_DER]):
        return data
    try:
        key = load_der_public_key(data)
    except MALFORMED:
        refuse("is neither a TPMT_PUBLIC nor a public key in DER", what="attestation key")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        refuse("is neither RSA nor ECC", what="attestation key")
    return standard_ak_public(key.public_numbers())


def _pcrs(value: object, read: Read) -> tuple[bytes, ...]:
    found = items(value, REGISTERS, lambda item, path: read(item, what=path), what=f"{_WHAT}, pcrs")
    if len(found) != REGISTERS or any(len(register) != 32 for register in found):
        refuse(f"does not have {REGISTERS} registers of 32 bytes", what=_WHAT)
    return found


def _selected(message: bytes, pcrs: tuple[bytes, ...]) -> Mapping[str, Mapping[int, bytes]]:
    quote = parse_quote(message)
    chosen: dict[int, bytes] = {}
    for selection in quote.selections:
        if selection.algorithm is not HashAlgorithm.SHA256 or any(
            number >= REGISTERS for number in selection.pcrs
        ):
            refuse("selects registers that are not beside it", what=_WHAT)
        chosen.update({number: pcrs[number] for number in selection.pcrs})
    if not chosen:
        refuse("selects no registers", what=_WHAT)
    return {_BANK: chosen}


def _tpmt_signature(signature: bytes) -> bytes:
    """A bare RSASSA signature as a TPMT_SIGNATURE."""
    if len(signature) > MAX_SIGNATURE:
        refuse(f"has a signature of {len(signature)} bytes, more than {MAX_SIGNATURE}", what=_WHAT)
    return struct.pack(">HHH", Scheme.RSASSA, HashAlgorithm.SHA256, len(signature)) + signature
