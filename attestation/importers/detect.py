"""Finds the format of evidence by its content, and adds what comes in files beside it.

A file is taken for what it is in exactly one known format: as bytes, or written as hex or base64. What fits
none or several is refused with the list of formats; ``hint`` names one of several. JSON is told apart by its
keys alone, and each reader refuses keys that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attestation.container import EvidenceContainer
from attestation.container_codec import TYPE, decode_container, encode_container
from attestation.container_json import MAX_JSON, parse_container_json
from attestation.evidence import TYPE as TYPE_1
from attestation.importers import azure_evidence, dcap_quotes, dstack_reports, google_attestation
from attestation.importers import nitro_documents as nitro
from attestation.importers import snp_reports as snp
from attestation.importers.coco_evidence import import_coco_quote, import_coco_snp, refuse_sample
from attestation.importers.keyturn_evidence import import_evidence_1
from attestation.importers.side_files import with_side_files
from attestation.importers.source import JsonObject, SideFile, SideFiles, decodings, parse_json, refuse
from attestation.importers.tpm_quotes import import_coco_tpm
from measurements.sev.report import REPORT_SIZE

MAX_INPUT = MAX_JSON
_CONTAINER_START = b"\xac"
_GPU_START = b"\x11\xe0\x01\xff"
_PEM, _DER = b"-----BEGIN", b"\x30\x82"
_ATTEST_START = b"\xff\x54\x43\x47"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceFormat:
    """One format: ``name`` for hints, what it is, how it is recognised and read. JSON formats are recognised
    by the keys of the object and read from it, the others by their bytes.
    """

    name: str
    what: str
    fits: Callable[[bytes], bool] | None = None
    read: Callable[[bytes], EvidenceContainer] | None = None
    fits_keys: Callable[[JsonObject], bool] | None = None
    read_json: Callable[[JsonObject, bytes, SideFiles], EvidenceContainer] | None = None


def _json(
    name: str, what: str, keys: Callable[[set[str]], bool], read: Callable[[JsonObject], EvidenceContainer]
) -> EvidenceFormat:
    return EvidenceFormat(
        name=name,
        what=what,
        fits_keys=lambda value: "type" not in value and keys(set(value)),
        read_json=lambda value, _data, _files: read(value),
    )


def _typed(name: str, what: str, kind: str, read: Callable[[bytes], EvidenceContainer]) -> EvidenceFormat:
    return EvidenceFormat(
        name=name,
        what=what,
        fits_keys=lambda value: value.get("type") == kind,
        read_json=lambda _value, data, _files: read(data),
    )


def _binary(
    name: str, what: str, fits: Callable[[bytes], bool], read: Callable[[bytes], EvidenceContainer]
) -> EvidenceFormat:
    return EvidenceFormat(name=name, what=what, fits=fits, read=read)


FORMATS: tuple[EvidenceFormat, ...] = (
    _binary(
        TYPE,
        "keyturn's container, CBOR",
        lambda data: data.startswith(_CONTAINER_START) and TYPE.encode() in data,
        decode_container,
    ),
    _typed(f"{TYPE}-json", "keyturn's container, JSON", TYPE, parse_container_json),
    _typed(TYPE_1, "evidence of keyturn's guests, JSON", TYPE_1, import_evidence_1),
    _binary(
        "dcap-quote",
        "SGX or TDX quote, configfs-tsm outblob",
        dcap_quotes.looks_like_quote,
        dcap_quotes.import_quote,
    ),
    _binary(
        "snp-report",
        "SEV-SNP report, configfs-tsm outblob",
        lambda data: snp.looks_like_report(data) and len(data) == REPORT_SIZE,
        snp.import_report,
    ),
    _binary(
        "snp-extended-report",
        "SEV-SNP report and certificate table (go-sev-guest)",
        lambda data: snp.looks_like_report(data) and len(data) > REPORT_SIZE,
        snp.import_extended_report,
    ),
    _binary(
        "nitro-document",
        "attestation document of a Nitro enclave or NitroTPM",
        nitro.looks_like_document,
        nitro.import_document,
    ),
    _binary(
        "dstack-attestation",
        "dstack's versioned attestation",
        dstack_reports.looks_like_attestation,
        dstack_reports.import_attestation,
    ),
    _binary(
        "azure-hcl-report",
        "Azure's HCL report of an SEV-SNP machine",
        azure_evidence.looks_like_hcl_report,
        azure_evidence.import_hcl_report,
    ),
    _binary(
        "go-tpm-tools",
        "attestation of go-tpm-tools (Google), Protocol Buffers",
        google_attestation.looks_like_attestation,
        google_attestation.import_attestation,
    ),
    _json(
        "dstack-quote",
        "answer of dstack's GetQuote",
        lambda keys: {"quote", "event_log"} <= keys,
        dstack_reports.import_quote_report,
    ),
    _json(
        "dstack-attest",
        "answer of dstack's Attest",
        lambda keys: "attestation" in keys and "quote" not in keys,
        dstack_reports.import_attest,
    ),
    _json(
        "azure-snp-vtpm",
        "evidence of SEV-SNP at Azure (CoCo)",
        azure_evidence.is_azure_snp,
        azure_evidence.import_azure_snp,
    ),
    _json(
        "azure-tdx-vtpm",
        "evidence of TDX at Azure (CoCo)",
        lambda keys: "td_quote" in keys,
        azure_evidence.import_azure_tdx,
    ),
    EvidenceFormat(
        name="azure-tpm-quote",
        what="TPM quote at Azure, JSON, with the HCL report beside it",
        fits_keys=lambda value: set(value) == {"message", "signature", "pcrs"},
        read_json=lambda value, _data, files: azure_evidence.import_azure_quote(value, files),
    ),
    _json(
        "coco-quote",
        "evidence of TDX or SGX (CoCo)",
        lambda keys: "quote" in keys and not keys & {"event_log", "report", "vcek", "attestation"},
        import_coco_quote,
    ),
    _json(
        "coco-snp", "evidence of SEV-SNP (CoCo)", lambda keys: "attestation_report" in keys, import_coco_snp
    ),
    _json("coco-tpm", "evidence of a TPM (CoCo)", lambda keys: "ak_public" in keys, import_coco_tpm),
    _json("coco-sample", "sample evidence (CoCo), refused", lambda keys: "svn" in keys, refuse_sample),
)


def import_evidence(
    data: bytes, *, files: Mapping[SideFile, bytes] | None = None, hint: str | None = None
) -> EvidenceContainer:
    """The container of evidence in any known format, with what ``files`` add.

    ``hint`` is the name of a format. Raises ``KeyturnError``, mostly ``EvidenceImportError``, also for a
    container beyond the limits of ``attestation.container_codec``.
    """
    beside = {} if files is None else files
    if len(data) > MAX_INPUT:
        refuse(f"has {len(data)} bytes, more than {MAX_INPUT}")
    container = with_side_files(_read(data, beside, hint), beside)
    encode_container(container)
    return container


def _read(data: bytes, files: SideFiles, hint: str | None) -> EvidenceContainer:
    if data.lstrip()[:1] in (b"{", b"["):
        return _read_json(data, files, hint)
    found = [
        (one, decoded)
        for decoded in decodings(data)
        for one in FORMATS
        if one.fits is not None and one.fits(decoded)
    ]
    chosen, decoded = _one([pair for pair in found if hint in (None, pair[0].name)], data)
    if chosen.read is None:
        refuse(f"{chosen.name} is JSON")
    return chosen.read(decoded)


def _read_json(data: bytes, files: SideFiles, hint: str | None) -> EvidenceContainer:
    value = parse_json(data)
    if not isinstance(value, dict):
        refuse(f"is a JSON list: evidence of GPUs goes beside that of the CPU. {_known()}")
    found = [(one, data) for one in FORMATS if one.fits_keys is not None and one.fits_keys(value)]
    chosen, _ = _one([pair for pair in found if hint in (None, pair[0].name)], data)
    if chosen.read_json is None:
        refuse(f"{chosen.name} is no JSON")
    return chosen.read_json(value, data, files)


def _one(found: list[tuple[EvidenceFormat, bytes]], data: bytes) -> tuple[EvidenceFormat, bytes]:
    if len(found) != 1:
        refuse(_ambiguous(found) if found else _unknown(data))
    return found[0]


def _ambiguous(found: list[tuple[EvidenceFormat, bytes]]) -> str:
    names = ", ".join(dict.fromkeys(one.name for one, _ in found))
    return f"could be of several formats: {names}; name one of them"


def _unknown(data: bytes) -> str:
    """Why a file is no evidence, where it is something else that is known."""
    starts = {one[:4] for one in decodings(data)}
    if _GPU_START in starts:
        return "is a report of a GPU: it goes beside the evidence of the CPU"
    if _ATTEST_START in starts:
        return "is a bare TPM quote: it needs its signature, key and registers beside it"
    if data.lstrip().startswith(_PEM) or data.startswith(_DER):
        return "holds certificates or the like: they go beside the evidence"
    return f"is of no known format. {_known()}"


def _known() -> str:
    return "Known are: " + "; ".join(f"{one.name} ({one.what})" for one in FORMATS)
