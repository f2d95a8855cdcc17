"""What a generated PKI is to be: the machine, its TCB, windows, revocations and who signs what.

A plan as it comes from ``sim_plan`` is good in every respect at its moment; tests change single parts of it
with ``dataclasses.replace``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from attestation.platform_verification import Window
from attestation.policy import TcbStatus
from attestation.sim.platform import SimPlatform
from attestation.sim.tcb import DAY, IsvLevel, SimModule, SimQeIdentity, SimTcbInfo, TcbLevel

YEAR = 365 * DAY
ADVISORY = "INTEL-SA-00000"
"""Advisory of the older levels of a plan; Intel has none with this number."""
MODULE_VERSION = 1
MODULE_SVN = 5
OLD_MODULE_SVN = 3
QE_SVN = 8
OLD_QE_SVN = 6
TEE_TCB_SVN = bytes([MODULE_SVN, MODULE_VERSION, 4]).ljust(16, b"\0")
"""TDX SVNs of an up-to-date domain: module SVN, module version, late microcode."""
_OLD_TCB = DAY * 180
_NEW_TCB = DAY * 60


class Part(StrEnum):
    """Everything in the PKI that is signed and has a window."""

    ROOT = "root"
    CA = "ca"
    PCK = "pck"
    TCB_SIGNING = "tcb-signing"
    ROOT_CRL = "root-crl"
    PCK_CRL = "pck-crl"
    TCB_INFO = "tcb-info"
    QE_IDENTITY = "qe-identity"


CERTIFICATES = (Part.ROOT, Part.CA, Part.PCK, Part.TCB_SIGNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimPlan:
    """The whole plan. ``windows`` holds an entry for each part.

    ``revoked`` names certificates: the PCK is revoked in the list of its CA, the others in the root's.
    ``names`` gives certificates another common name. ``tcb_info_signer``, ``qe_identity_signer`` and
    ``pck_issuer`` can be any certificate but the root, so that wrong roles can be played.
    """

    platform: SimPlatform
    tcb_info: SimTcbInfo
    qe_identity: SimQeIdentity
    windows: Mapping[Part, Window]
    processor_ca: bool = False
    revoked: frozenset[Part] = frozenset()
    names: Mapping[Part, str] = field(default_factory=dict)
    tcb_info_signer: Part = Part.TCB_SIGNING
    qe_identity_signer: Part = Part.TCB_SIGNING
    pck_issuer: Part = Part.CA

    def common_name(self, part: Part) -> str:
        """Common name of a certificate; Intel's unless the plan says otherwise."""
        ca = "Processor" if self.processor_ca else "Platform"
        intel = {
            Part.ROOT: "Intel SGX Root CA",
            Part.CA: f"Intel SGX PCK {ca} CA",
            Part.PCK: "Intel SGX PCK Certificate",
            Part.TCB_SIGNING: "Intel SGX TCB Signing",
        }
        return self.names.get(part, intel[part])


def sim_plan(
    now: int,
    *,
    status: TcbStatus = TcbStatus.UP_TO_DATE,
    advisories: tuple[str, ...] = (),
    collateral_days: int = 30,
    platform: SimPlatform | None = None,
) -> SimPlan:
    """A plan that is good at ``now`` (seconds since 1970): the machine is at the newest level, which has
    ``status``, and collateral was issued a day before and lasts ``collateral_days``.
    """
    machine = platform or SimPlatform()
    return SimPlan(
        platform=machine,
        tcb_info=_tcb_info(machine, now, status, advisories),
        qe_identity=SimQeIdentity(levels=_isv_levels(now, QE_SVN, OLD_QE_SVN)),
        windows=_windows(now, collateral_days),
    )


def _tcb_info(machine: SimPlatform, now: int, status: TcbStatus, advisories: tuple[str, ...]) -> SimTcbInfo:
    newest = TcbLevel(
        components=machine.components,
        pce_svn=machine.pce_svn,
        tdx_components=tuple(TEE_TCB_SVN[:1] + b"\0" + TEE_TCB_SVN[2:]),
        date=_midnight(now - _NEW_TCB),
        status=status,
        advisories=advisories,
    )
    older = TcbLevel(
        components=(max(0, machine.components[0] - 1), *machine.components[1:]),
        pce_svn=machine.pce_svn,
        tdx_components=newest.tdx_components[:2] + (newest.tdx_components[2] - 1,) + (0,) * 13,
        date=_midnight(now - _OLD_TCB),
        status=TcbStatus.OUT_OF_DATE,
        advisories=(ADVISORY,),
    )
    module = SimModule(version=MODULE_VERSION, levels=_isv_levels(now, MODULE_SVN, OLD_MODULE_SVN))
    return SimTcbInfo(levels=(newest, older), modules=(module,))


def _isv_levels(now: int, newest: int, older: int) -> tuple[IsvLevel, ...]:
    return (
        IsvLevel(isv_svn=newest, date=_midnight(now - _NEW_TCB), status=TcbStatus.UP_TO_DATE),
        IsvLevel(
            isv_svn=older,
            date=_midnight(now - _OLD_TCB),
            status=TcbStatus.OUT_OF_DATE,
            advisories=(ADVISORY,),
        ),
    )


def _windows(now: int, collateral_days: int) -> dict[Part, Window]:
    """Windows as Intel has them: years for certificates, a year for the root's list, a month for the rest."""
    spans = {
        Part.ROOT: (YEAR, 20 * YEAR),
        Part.CA: (YEAR, 15 * YEAR),
        Part.PCK: (YEAR, 7 * YEAR),
        Part.TCB_SIGNING: (YEAR, 7 * YEAR),
        Part.ROOT_CRL: (30 * DAY, max(YEAR, collateral_days * DAY)),
        Part.PCK_CRL: (DAY, collateral_days * DAY),
        Part.TCB_INFO: (DAY, collateral_days * DAY),
        Part.QE_IDENTITY: (DAY, collateral_days * DAY),
    }
    return {
        part: Window(name=part.value, start=now - before, end=now - before + length)
        for part, (before, length) in spans.items()
    }


def _midnight(seconds: int) -> int:
    return seconds - seconds % DAY
