"""TCB info and QE identity of simulated platforms, as Intel's PCS gives them.

JSON of the Intel PCS API, version 4: TCB info version 3 (``/sgx|tdx/certification/v4/tcb``) and enclave
identity version 2 (``.../qe/identity``). What is signed is the exact text of the inner object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from attestation.platform_verification import Window
from attestation.policy import TcbStatus

DAY = 24 * 60 * 60
TDX_QE_MRSIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
SGX_QE_MRSIGNER = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")


class Tee(StrEnum):
    """What a quote is of; the values are the ids of TCB info."""

    TDX = "TDX"
    SGX = "SGX"


@dataclass(frozen=True, kw_only=True, slots=True)
class TcbLevel:
    """One level of a platform: it fits where every SVN is reached. ``date`` is in seconds since 1970."""

    components: tuple[int, ...]
    pce_svn: int
    tdx_components: tuple[int, ...]
    date: int
    status: TcbStatus
    advisories: tuple[str, ...] = ()

    def document(self, tee: Tee) -> dict[str, Any]:
        """The level as it stands in TCB info."""
        tcb: dict[str, Any] = {"sgxtcbcomponents": _components(self.components), "pcesvn": self.pce_svn}
        if tee is Tee.TDX:
            tcb["tdxtcbcomponents"] = _components(self.tdx_components)
        return {"tcb": tcb, **_standing(self.date, self.status, self.advisories)}


@dataclass(frozen=True, kw_only=True, slots=True)
class IsvLevel:
    """One level of a TDX module or of a quoting enclave."""

    isv_svn: int
    date: int
    status: TcbStatus
    advisories: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The level as it stands in TCB info or enclave identity."""
        return {"tcb": {"isvsvn": self.isv_svn}, **_standing(self.date, self.status, self.advisories)}


@dataclass(frozen=True, kw_only=True, slots=True)
class SimModule:
    """The identity of the TDX module of one major version."""

    version: int
    levels: tuple[IsvLevel, ...]
    mrsigner: bytes = bytes(48)
    attributes: bytes = bytes(8)

    def document(self) -> dict[str, Any]:
        """The identity as it stands in TCB info."""
        return {
            "id": f"TDX_{self.version:02X}",
            "mrsigner": _hex(self.mrsigner),
            "attributes": _hex(self.attributes),
            "attributesMask": "F" * 16,
            "tcbLevels": [level.document() for level in self.levels],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SimTcbInfo:
    """TCB info without its window. ``pce_id`` and ``fmspc`` are those of the platform unless given."""

    levels: tuple[TcbLevel, ...]
    modules: tuple[SimModule, ...]
    evaluation_number: int = 20
    pce_id: bytes | None = None
    fmspc: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SimQeIdentity:
    """Identity of the quoting enclaves without its window; ``mrsigner`` and product id follow the TEE unless
    given.
    """

    levels: tuple[IsvLevel, ...]
    evaluation_number: int = 20
    mrsigner: bytes | None = None
    product_id: int | None = None


def tcb_info_text(info: SimTcbInfo, *, tee: Tee, fmspc: bytes, pce_id: bytes, window: Window) -> str:
    """The text that is signed; ``fmspc`` and ``pce_id`` are the platform's."""
    document: dict[str, Any] = {
        "id": tee.value,
        "version": 3,
        "issueDate": iso_time(window.start),
        "nextUpdate": iso_time(window.end),
        "fmspc": _hex(info.fmspc or fmspc),
        "pceId": _hex(info.pce_id or pce_id),
        "tcbType": 0,
        "tcbEvaluationDataNumber": info.evaluation_number,
    }
    if tee is Tee.TDX:
        document["tdxModule"] = {
            "mrsigner": "0" * 96,
            "attributes": "0" * 16,
            "attributesMask": "F" * 16,
        }
        document["tdxModuleIdentities"] = [module.document() for module in info.modules]
    document["tcbLevels"] = [level.document(tee) for level in info.levels]
    return _text(document)


def qe_identity_text(identity: SimQeIdentity, *, tee: Tee, window: Window) -> str:
    """The text that is signed."""
    tdx = tee is Tee.TDX
    return _text(
        {
            "id": "TD_QE" if tdx else "QE",
            "version": 2,
            "issueDate": iso_time(window.start),
            "nextUpdate": iso_time(window.end),
            "tcbEvaluationDataNumber": identity.evaluation_number,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": _hex(identity.mrsigner or qe_mrsigner(tee)),
            "isvprodid": qe_product_id(tee) if identity.product_id is None else identity.product_id,
            "tcbLevels": [level.document() for level in identity.levels],
        }
    )


def qe_mrsigner(tee: Tee) -> bytes:
    """Signer of Intel's quoting enclave, which the simulated one claims too."""
    return TDX_QE_MRSIGNER if tee is Tee.TDX else SGX_QE_MRSIGNER


def qe_product_id(tee: Tee) -> int:
    """Product id of Intel's quoting enclave."""
    return 2 if tee is Tee.TDX else 1


def iso_time(seconds: int) -> str:
    """A moment as Intel writes it: ``2026-10-08T00:09:46Z``."""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _standing(date: int, status: TcbStatus, advisories: Sequence[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"tcbDate": iso_time(date), "tcbStatus": status.value}
    return {**fields, "advisoryIDs": list(advisories)} if advisories else fields


def _components(svns: Sequence[int]) -> list[dict[str, int]]:
    return [{"svn": svn} for svn in svns]


def _hex(value: bytes) -> str:
    return value.hex().upper()


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
