"""Evidence of Confidential Containers' attesters (confidential-containers/guest-components,
attestation-agent/attester/src/{tdx,snp,sgx_dcap}).

- TDX ``{"quote": b64, "cc_eventlog": b64 | null}`` (older: absent), SGX the same with only ``quote``;
- SEV-SNP ``{"attestation_report": {...}, "cert_chain": [{"cert_type", "data"}] | null}``. The report is the
  JSON of the virtee/sev crate's structure (src/firmware/guest/types/snp.rs), of which the 1184 bytes are made
  again here (``snp_json``). A wrong byte cannot pass: the signature covers all of them.
"""

from __future__ import annotations

from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform, Log, LogFormat
from attestation.importers.dcap_quotes import exact_quote, import_quote
from attestation.importers.snp_json import report_bytes
from attestation.importers.source import JsonObject, base64_octets, closed, items, octet_list, refuse

MAX_TABLE = 16
_CERTIFICATES = {"ARK", "ASK", "VCEK", "VLEK"}
_WHAT = "CoCo evidence"


def import_coco_quote(value: JsonObject) -> EvidenceContainer:
    """Evidence of a trust domain or an enclave."""
    fields = closed(value, "quote", "cc_eventlog", what=_WHAT)
    quote = exact_quote(base64_octets(fields["quote"], what=f"{_WHAT}, quote"))
    container = import_quote(quote, origin="coco-quote")
    log = fields.get("cc_eventlog")
    if log is None:
        return container
    if container.platform is not EvidencePlatform.TDX:
        refuse("has an event log, and the quote is of an enclave", what=_WHAT)
    data = base64_octets(log, what=f"{_WHAT}, cc_eventlog")
    return EvidenceContainer(
        platform=container.platform,
        report=quote,
        logs=(Log(format=LogFormat.CCEL, data=data),),
        origin=container.origin,
    )


def import_coco_snp(value: JsonObject) -> EvidenceContainer:
    """Evidence of an SEV-SNP guest."""
    fields = closed(value, "attestation_report", "cert_chain", what=_WHAT)
    chain = fields.get("cert_chain")
    entries = () if chain is None else items(chain, MAX_TABLE, _entry, what=f"{_WHAT}, cert_chain")
    return EvidenceContainer(
        platform=EvidencePlatform.SNP,
        report=report_bytes(fields["attestation_report"]),
        certificates=tuple(dict.fromkeys(data for kind, data in entries if kind in _CERTIFICATES)),
        collateral=Collateral(crls=tuple(dict.fromkeys(data for kind, data in entries if kind == "CRL"))),
        origin="coco-snp",
    )


def refuse_sample(_value: JsonObject) -> EvidenceContainer:
    """Evidence of the ``sample`` attester, which no hardware made."""
    refuse("is of the sample attester: no hardware made it, and nothing in it can be verified", what=_WHAT)


def _entry(value: object, path: str) -> tuple[str, bytes]:
    """One certificate and its kind; kinds that are not known are objects."""
    fields = closed(value, "cert_type data", what=path)
    kind = fields["cert_type"]
    return kind if isinstance(kind, str) else "", octet_list(fields["data"], what=f"{path}, data")
