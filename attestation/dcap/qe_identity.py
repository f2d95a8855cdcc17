"""Enclave identity of Intel's PCS API, version 4: which quoting enclaves are Intel's, and their standing.

JSON of ``/sgx|tdx/certification/v4/qe/identity``, inner object ``enclaveIdentity`` (Intel PCS API
documentation, "Get Quoting Enclave Identity V4"): id ``QE`` of version 2, or ``TD_QE`` of version 2 or 3;
issueDate, nextUpdate, tcbEvaluationDataNumber, miscselect and attributes with their masks, mrsigner,
isvprodid, tcbLevels. Values and masks are compared with a report's bytes in the order in which they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

from attestation.dcap.signed_json import refuse, signed_object
from attestation.dcap.tcb_info import IsvLevel, isv_levels
from attestation.policy import TcbStatus

VERSIONS = {"QE": (2,), "TD_QE": (2, 3)}
QE_STATUSES = frozenset(
    {
        TcbStatus.UP_TO_DATE,
        TcbStatus.OUT_OF_DATE,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        TcbStatus.REVOKED,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QeIdentity:
    """One identity; ``levels`` stand from the highest SVN down."""

    id: str
    issue_date: int
    next_update: int
    evaluation_number: int
    misc_select: bytes
    misc_select_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    product_id: int
    levels: tuple[IsvLevel, ...]


def parse_qe_identity(text: str) -> QeIdentity:
    """Read the exact text that was signed; raises ``SignedJsonError``."""
    whole = signed_object(text, "QE identity")
    kind = whole.text("id")
    if whole.integer("version", 1 << 16) not in VERSIONS.get(kind, ()):
        refuse("QE identity", f"is of id {kind[:32]!r} or in a version that is not known")
    return QeIdentity(
        id=kind,
        issue_date=whole.time("issueDate"),
        next_update=whole.time("nextUpdate"),
        evaluation_number=whole.integer("tcbEvaluationDataNumber", 1 << 31),
        misc_select=whole.octets("miscselect", 4),
        misc_select_mask=whole.octets("miscselectMask", 4),
        attributes=whole.octets("attributes", 16),
        attributes_mask=whole.octets("attributesMask", 16),
        mrsigner=whole.octets("mrsigner", 32),
        product_id=whole.integer("isvprodid", 0xFFFF),
        levels=isv_levels(whole, QE_STATUSES),
    )
