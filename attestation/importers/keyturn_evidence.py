"""keyturn's own evidence of version 1 (``attestation.evidence``), which its guests show to a KMS: the TPM's
part, the firmware's log and the guest's runtime events, app manifest and declared reference values.
"""

from __future__ import annotations

from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat, TpmPart
from attestation.evidence import Evidence, decode_evidence
from measurements.canonical import encode_canonical
from measurements.reference_digest import reference_values_document


def import_evidence_1(data: bytes) -> EvidenceContainer:
    """Evidence in its canonical bytes; raises ``FormatError``."""
    return evidence_container(decode_evidence(data))


def evidence_container(evidence: Evidence) -> EvidenceContainer:
    """The container with the same content."""
    return EvidenceContainer(
        platform=EvidencePlatform.TPM,
        report=b"",
        tpm=TpmPart(
            quote=evidence.quote,
            signature=evidence.signature,
            ak_public=evidence.ak_public,
            pcrs={
                bank: {int(number): value for number, value in registers.items()}
                for bank, registers in evidence.pcrs.items()
            },
            ek_certificate=evidence.ek_certificate,
        ),
        logs=(
            Log(format=LogFormat.TCG2, data=evidence.event_log),
            Log(format=LogFormat.KEYTURN, data=_runtime_log(evidence)),
        ),
        app_manifest=evidence.app_manifest,
        reference=encode_canonical(reference_values_document(evidence.reference)),
        origin="keyturn-evidence/1",
    )


def _runtime_log(evidence: Evidence) -> bytes:
    return encode_canonical(
        [{"name": event.name, "payload": event.payload.hex()} for event in evidence.runtime_events]
    )
