"""What comes in files beside evidence: certificates, logs, evidence of GPUs, collateral, documents, a TPM's
EK certificate, and the secret that it opened.
"""

from __future__ import annotations

from dataclasses import replace

from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, GpuPart, Log, LogFormat, TpmPart
from attestation.credential import SECRET_SIZE
from attestation.importers.snp_reports import with_tsm_files
from attestation.importers.source import SideFile, SideFiles, refuse
from attestation.x509_chain import load_certificate, load_pem_certificates

_PEM = b"-----BEGIN"
_LOGS = {
    SideFile.TCG2_LOG: LogFormat.TCG2,
    SideFile.CCEL_LOG: LogFormat.CCEL,
    SideFile.DSTACK_LOG: LogFormat.DSTACK,
}


def with_side_files(container: EvidenceContainer, files: SideFiles) -> EvidenceContainer:
    """The container with what the files add; nothing that is already in it is replaced."""
    found = with_tsm_files(container, files)
    added = tuple(
        Log(format=kind, data=_log(files[name], kind)) for name, kind in _LOGS.items() if name in files
    )
    for log in added:
        if any(other.format is log.format for other in container.logs):
            refuse(f"has a {log.format.value} log already")
    return replace(
        found,
        certificates=tuple(dict.fromkeys(found.certificates + _certificates(files))),
        logs=found.logs + added,
        gpus=found.gpus + _gpus(files),
        tpm=_tpm(found.tpm, files),
        collateral=found.collateral.joined(_collateral(files)),
        app_manifest=_document(found.app_manifest, files, SideFile.APP_MANIFEST),
        shape=_document(found.shape, files, SideFile.SHAPE),
        reference=_document(found.reference, files, SideFile.REFERENCE),
    )


def read_certificates(data: bytes) -> tuple[bytes, ...]:
    """DER of certificates in PEM, or of one in DER; raises ``KeyturnError``."""
    if data.lstrip().startswith(_PEM):
        return load_pem_certificates(data, what="certificates")
    load_certificate(data, what="the certificate beside the evidence")
    return (data,)


def _certificates(files: SideFiles) -> tuple[bytes, ...]:
    data = files.get(SideFile.CERTIFICATES)
    return () if data is None else read_certificates(data)


def _gpus(files: SideFiles) -> tuple[GpuPart, ...]:
    data = files.get(SideFile.GPU)
    if data is None:
        return ()
    from attestation.nvidia.evidence_files import read_gpu_evidence

    return read_gpu_evidence(data, certificates=files.get(SideFile.GPU_CERTIFICATES))


def _tpm(part: TpmPart | None, files: SideFiles) -> TpmPart | None:
    return _with_secret(_with_ek_certificate(part, files), files)


def _with_ek_certificate(part: TpmPart | None, files: SideFiles) -> TpmPart | None:
    data = files.get(SideFile.EK_CERTIFICATE)
    if data is None:
        return part
    if part is None:
        refuse("has no TPM part whose endorsement key a certificate could be of")
    if part.ek_certificate is not None:
        refuse("has an EK certificate already")
    found = read_certificates(data)
    if len(found) != 1:
        refuse(f"holds {len(found)} certificates, not one", what="EK certificate")
    return replace(part, ek_certificate=found[0])


def _with_secret(part: TpmPart | None, files: SideFiles) -> TpmPart | None:
    secret = files.get(SideFile.ACTIVATED)
    if secret is None:
        return part
    if part is None:
        refuse("has no TPM part whose keys a credential could be for")
    if part.activated_secret is not None:
        refuse("has an activated secret already: add the new one to evidence that has none")
    if len(secret) != SECRET_SIZE:
        refuse(f"has {len(secret)} bytes, not {SECRET_SIZE}", what="activated secret")
    return replace(part, activated_secret=secret)


def _collateral(files: SideFiles) -> Collateral:
    data = files.get(SideFile.COLLATERAL)
    if data is None:
        return Collateral()
    from attestation.collateral_import import import_collateral

    return import_collateral(data)


def _log(data: bytes, kind: LogFormat) -> bytes:
    if not data:
        refuse(f"is empty, and should be a {kind.value} log", what="event log")
    return data


def _document(present: bytes | None, files: SideFiles, name: SideFile) -> bytes | None:
    if name not in files:
        return present
    if present is not None:
        refuse(f"has a {name.value} already")
    return files[name]
