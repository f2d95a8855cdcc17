"""What each component of a platform's TCB is, and what it would have to be: that of the newest level that is
UpToDate, or, where none is, of the newest of all.
"""

from __future__ import annotations

from collections.abc import Sequence

from attestation.dcap.tcb_evaluation import PlatformSvns, compared
from attestation.dcap.tcb_info import IsvLevel, TcbInfo, TcbLevel
from attestation.platform_verification import Component
from attestation.policy import TcbStatus


def components_of(info: TcbInfo, qe_levels: Sequence[IsvLevel], svns: PlatformSvns) -> tuple[Component, ...]:
    """16 SGX components, PCE SVN, the TDX components that count, the module's SVN, the quoting enclave's SVN.

    For a domain of TDX 1.5, TDX components are those of its launch. A module that TCB info does not know has
    no need that could be said.
    """
    goal = _goal(info.levels)
    found = [
        Component(name=_name("SGX component", place, info.sgx_labels), have=svns.sgx[place], need=need)
        for place, need in enumerate(goal.sgx)
    ]
    found.append(Component(name="PCE SVN", have=svns.pce_svn, need=goal.pce_svn))
    if svns.tdx is not None:
        found += _tdx_components(info, goal, svns.tdx)
    if qe_levels:
        found.append(Component(name="QE SVN", have=svns.qe_isv_svn, need=_isv_goal(qe_levels)))
    return tuple(found)


def _tdx_components(info: TcbInfo, goal: TcbLevel, tdx: bytes) -> list[Component]:
    found = [
        Component(name=_name("TDX component", place, info.tdx_labels), have=tdx[place], need=goal.tdx[place])
        for place in compared(tdx)
    ]
    module = info.module_of(tdx[1])
    if tdx[1] > 0 and module is not None:
        name = f"TDX module SVN (TDX_{tdx[1]:02X})"
        found.append(Component(name=name, have=tdx[0], need=_isv_goal(module.levels)))
    return found


def _goal(levels: Sequence[TcbLevel]) -> TcbLevel:
    current = (one for one in levels if one.standing.status is TcbStatus.UP_TO_DATE)
    return next(current, levels[0])


def _isv_goal(levels: Sequence[IsvLevel]) -> int:
    current = (one for one in levels if one.standing.status is TcbStatus.UP_TO_DATE)
    return next(current, levels[0]).isv_svn


def _name(kind: str, place: int, labels: Sequence[str]) -> str:
    label = labels[place] if place < len(labels) else ""
    return f"{kind} {place + 1}" + (f" ({label})" if label else "")
