"""Evaluation of a platform's TCB, as Intel's QVL does it (as told in dcap-qvl 0.7.0, ``src/verify.rs`` and
``src/tcb_info.rs``). Pure: security versions and published levels in, standing out.

1. The platform's level is the newest whose 16 SGX components, PCE SVN and (TDX) 16 TDX components are all
   reached. Where the TDX module has a major version (``tee_tcb_svn[1]``) above 0, the first two TDX
   components are its own and are not compared.
2. The module's level is the newest of its identity whose SVN ``tee_tcb_svn[0]`` reaches; the quoting
   enclave's likewise.
3. They converge: Revoked makes all Revoked; OutOfDate makes UpToDate and SWHardeningNeeded OutOfDate, and
   ConfigurationNeeded and ConfigurationAndSWHardeningNeeded OutOfDateConfigurationNeeded. The date is the
   earliest of platform and module; advisories are those of all.
4. A domain of TDX 1.5 also says what is current (``tee_tcb_svn_2``). If it was launched out of date and the
   platform is not out of date any more, relaunch is advised. Revoked now is Revoked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from attestation.dcap.tcb_info import IsvLevel, ModuleIdentity, Standing, TcbInfo, TcbLevel
from attestation.policy import TcbStatus
from measurements.errors import RefusedError

_MODULE_COMPONENTS = 2

_HARDENED = {TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED}
_CONFIGURED = {TcbStatus.CONFIGURATION_NEEDED, TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED}
_OUT_OF_DATE = {TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED}
_NEEDS_CONFIGURATION = _CONFIGURED | {TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED}


class TcbError(RefusedError):
    """A platform that reaches no published level."""

    code = "tcb-level"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformSvns:
    """Security versions of one platform: of its PCK certificate and, for a trust domain, of its quote.

    ``current`` is ``tee_tcb_svn_2`` of TDX 1.5.
    """

    sgx: tuple[int, ...]
    pce_svn: int
    tdx: bytes | None
    current: bytes | None
    qe_isv_svn: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """The outcome. ``level`` is the platform's own, ``module_level`` the TDX module's, if it has versions."""

    standing: Standing
    level: TcbLevel
    module_level: IsvLevel | None
    qe_level: IsvLevel
    current: TcbStatus | None


def evaluate(info: TcbInfo, qe_levels: Sequence[IsvLevel], svns: PlatformSvns) -> Evaluation:
    """Evaluate; raises ``TcbError`` where no level matches, saying what is short."""
    qe_level = _isv_level(qe_levels, svns.qe_isv_svn, "quoting enclave's SVN")
    level, module_level, launch = _platform(info, svns, svns.tdx)
    status = converge(launch.status, qe_level.standing.status)
    current = None
    if svns.current is not None:
        current = converge(_platform(info, svns, svns.current)[2].status, qe_level.standing.status)
        status = TcbStatus.REVOKED if current is TcbStatus.REVOKED else relaunch(status, current)
    advisories = tuple(dict.fromkeys((*launch.advisories, *qe_level.standing.advisories)))
    return Evaluation(
        standing=Standing(status=status, date=launch.date, advisories=advisories),
        level=level,
        module_level=module_level,
        qe_level=qe_level,
        current=current,
    )


def converge(platform: TcbStatus, part: TcbStatus) -> TcbStatus:
    """The platform's status with that of a module or quoting enclave."""
    if TcbStatus.REVOKED in (platform, part):
        return TcbStatus.REVOKED
    if part is TcbStatus.OUT_OF_DATE and platform in _HARDENED:
        return TcbStatus.OUT_OF_DATE
    if part is TcbStatus.OUT_OF_DATE and platform in _CONFIGURED:
        return TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED
    return platform


def relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """The status of a domain whose platform has ``current`` now."""
    if launch not in _OUT_OF_DATE or current not in _HARDENED | _CONFIGURED:
        return launch
    if {launch, current} & _NEEDS_CONFIGURATION:
        return TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return TcbStatus.TD_RELAUNCH_ADVISED


def module_identity(info: TcbInfo, tdx: bytes) -> ModuleIdentity:
    """The identity that the domain's TDX module must have; raises ``TcbError``."""
    found = info.module_of(tdx[1])
    if found is None:
        _refuse(f"TCB info knows no TDX module of version TDX_{tdx[1]:02X}")
    return found


def _platform(
    info: TcbInfo, svns: PlatformSvns, tdx: bytes | None
) -> tuple[TcbLevel, IsvLevel | None, Standing]:
    """Level of the platform, of its module, and both converged."""
    level = next((one for one in info.levels if not shortfalls(one, svns, tdx)), None)
    if level is None:
        _refuse(_what_is_short(info, svns, tdx))
    if tdx is None or tdx[1] == 0:
        return level, None, level.standing
    module_level = _isv_level(module_identity(info, tdx).levels, tdx[0], f"TDX_{tdx[1]:02X} module's SVN")
    own, module = level.standing, module_level.standing
    joined = Standing(
        status=converge(own.status, module.status),
        date=min(own.date, module.date),
        advisories=tuple(dict.fromkeys((*own.advisories, *module.advisories))),
    )
    return level, module_level, joined


def compared(tdx: bytes) -> range:
    """Places of the TDX components that count for the platform's level."""
    return range(_MODULE_COMPONENTS if tdx[1] > 0 else 0, len(tdx))


def shortfalls(level: TcbLevel, svns: PlatformSvns, tdx: bytes | None) -> list[str]:
    """What of the platform is below ``level``, and by how much; names count from 1, as Intel's do."""
    pairs = [
        (f"SGX component {place}", have, need)
        for place, (have, need) in enumerate(zip(svns.sgx, level.sgx, strict=True), start=1)
    ]
    pairs.append(("PCE SVN", svns.pce_svn, level.pce_svn))
    if tdx is not None:
        pairs += [(f"TDX component {place + 1}", tdx[place], level.tdx[place]) for place in compared(tdx)]
    return [f"{name} is {have}, needs {need}" for name, have, need in pairs if have < need]


def _what_is_short(info: TcbInfo, svns: PlatformSvns, tdx: bytes | None) -> str:
    lowest, newest = info.levels[-1], info.levels[0]
    return (
        "no published level matches. For the lowest level: "
        f"{_listed(shortfalls(lowest, svns, tdx))}. For the newest: {_listed(shortfalls(newest, svns, tdx))}"
    )


def _listed(names: Iterable[str]) -> str:
    return "; ".join(names) or "nothing"


def _isv_level(levels: Sequence[IsvLevel], svn: int, what: str) -> IsvLevel:
    found = next((one for one in levels if svn >= one.isv_svn), None)
    if found is None:
        need = f"lowest level {levels[-1].isv_svn}, newest {levels[0].isv_svn}" if levels else "no level"
        _refuse(f"the {what} is {svn} and reaches no published level: {need}")
    return found


def _refuse(reason: str) -> NoReturn:
    raise TcbError(
        reason,
        subject="TCB",
        advice="ask the host's operator to update firmware, microcode and TDX module, and take a new quote",
    )
