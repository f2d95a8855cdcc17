"""What a verified quote says, in the terms of policies and of people."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from attestation.container import EvidencePlatform
from attestation.dcap.collateral_set import VerifiedSet
from attestation.dcap.enclave_report import EnclaveReport
from attestation.dcap.identity_checks import flag_word
from attestation.dcap.pck import Pck
from attestation.dcap.quote import DcapQuote
from attestation.dcap.tcb_checks import iso_date
from attestation.dcap.tcb_evaluation import Evaluation
from attestation.platform_verification import PlatformFacts
from measurements.tdx.quote import TdBody

_SGX_TYPES = ("standard", "scalable", "scalable with integrity")


def registers_of(body: TdBody | EnclaveReport) -> Mapping[str, bytes]:
    """Registers by the names of policies. Those of TDX 1.5 alone are absent from bodies of TDX 1.0."""
    if isinstance(body, EnclaveReport):
        return body.registers()
    found = {
        **body.registers(),
        "mrseam": body.mrseam,
        "mrsignerseam": body.mrsignerseam,
        "td_attributes": body.td_attributes,
        "xfam": body.xfam,
        "tee_tcb_svn": body.tee_tcb_svn,
    }
    if body.mrservicetd is not None:
        found["mrservicetd"] = body.mrservicetd
    return found


def facts_of(
    platform: EvidencePlatform,
    quote: DcapQuote,
    registers: Mapping[str, bytes],
    pck: Pck,
    found: VerifiedSet,
    outcome: Evaluation,
) -> PlatformFacts:
    """Facts of a quote for which every check passed."""
    return PlatformFacts(
        platform=platform,
        development=platform is EvidencePlatform.SIM,
        report_data=quote.report_data,
        registers=registers,
        identity=dict(_identity(pck)),
        details=dict(_details(quote.header.version, pck, found, outcome)),
    )


@lru_cache(maxsize=256)
def _identity(pck: Pck) -> Mapping[str, str]:
    machine = pck.machine
    instance = machine.platform_instance
    return MappingProxyType(
        {
            "ppid": machine.ppid.hex(),
            **({} if instance is None else {"platform_instance": instance.hex()}),
            "fmspc": machine.fmspc.hex(),
            "pce_id": machine.pce_id.hex(),
        }
    )


@lru_cache(maxsize=256)
def _details(version: int, pck: Pck, found: VerifiedSet, outcome: Evaluation) -> Mapping[str, str]:
    machine = pck.machine
    number = found.pck_crl.number
    later = {} if outcome.current is None else {"tcb_status_now": outcome.current.value}
    details = {
        "tee": found.tcb_info.tee,
        "quote_version": str(version),
        "tcb_status": outcome.standing.status.value,
        **later,
        "tcb_date": iso_date(outcome.standing.date),
        "qe_status": outcome.qe_level.standing.status.value,
        "qe_date": iso_date(outcome.qe_level.standing.date),
        "advisories": ", ".join(outcome.standing.advisories) or "none",
        "evaluation_number": str(found.evaluation_number),
        "sgx_type": _SGX_TYPES[machine.sgx_type],
        "dynamic_platform": flag_word(machine.dynamic_platform),
        "cached_keys": flag_word(machine.cached_keys),
        "smt": flag_word(machine.smt),
        "pck_crl_number": "none" if number is None else str(number),
    }
    return MappingProxyType(details)
