"""What of evidence's needs is met by collateral at hand, so that nothing is asked for which a person gave.

Windows do not count: whoever gives old collateral wants to see what a verifier says to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.x509 import ocsp

from attestation.collateral import Collateral
from attestation.collateral_summary import SummaryError, crl_item, read_published
from attestation.fetch.needs import DcapNeed, Need, OcspNeed, SnpNeed
from attestation.x509_chain import MALFORMED, CertificateError, common_name, load_certificate


def missing(wanted: Sequence[Need], given: Collateral) -> tuple[Need, ...]:
    """Those of ``wanted`` that ``given`` has nothing for. Manifests count together: what they are for stands
    only in them.
    """
    return tuple(need for need in wanted if not _covers(given, need))


def _covers(given: Collateral, need: Need) -> bool:
    if isinstance(need, DcapNeed):
        return any(_is_for(one.tcb_info, need) for one in given.dcap)
    if isinstance(need, SnpNeed):
        return _covers_snp(given, need)
    if isinstance(need, OcspNeed):
        serial = load_certificate(need.certificate).serial_number
        return any(serial in _serials(answer) for answer in given.ocsp)
    return bool(given.rims)


def _is_for(tcb_info: str, need: DcapNeed) -> bool:
    try:
        head = read_published(tcb_info, what="TCB info")
    except SummaryError:
        return False
    return (head.id, head.fmspc) == (need.tee.name, need.fmspc)


def _covers_snp(given: Collateral, need: SnpNeed) -> bool:
    names = {_name(der) for der in given.certificates}
    lists = {crl_item(der).subject for der in given.crls}
    chip = need.chip_id is None or "SEV-VCEK" in names
    return chip and any(one.root_name in names & lists for one in need.products)


def _serials(answer: bytes) -> frozenset[int]:
    """Numbers of the certificates that an OCSP answer speaks of."""
    try:
        return frozenset(one.serial_number for one in ocsp.load_der_ocsp_response(answer).responses)
    except MALFORMED:
        return frozenset()


def _name(der: bytes) -> str:
    try:
        return common_name(load_certificate(der))
    except CertificateError:
        return ""
