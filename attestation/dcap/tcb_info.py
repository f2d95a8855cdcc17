"""TCB info of Intel's PCS API, version 4: which security versions a platform needs for which status.

JSON of ``/sgx|tdx/certification/v4/tcb``, inner object ``tcbInfo`` of version 3 (Intel PCS API
documentation, "Get TCB Info V4"; schema as in the answers): id (``SGX`` or ``TDX``), issueDate, nextUpdate,
fmspc, pceId, tcbType 0, tcbEvaluationDataNumber, for TDX tdxModule and tdxModuleIdentities (id ``TDX_<major
version in two hex digits>``), tcbLevels. Only signature checks elsewhere make any of it true.

Levels are ordered as Intel's QVL orders them, by their security versions from the highest down, not as they
stand in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from attestation.dcap.signed_json import SignedObject, refuse, signed_object
from attestation.policy import TcbStatus

VERSION = 3
COMPONENTS = 16
PLATFORM_STATUSES = frozenset(TcbStatus) - {
    TcbStatus.TD_RELAUNCH_ADVISED,
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
}
MODULE_STATUSES = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED})

_MODULE_ID = re.compile(r"TDX_([0-9A-Fa-f]{2})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What a level says of a platform that reaches it; ``date`` is in seconds since 1970."""

    status: TcbStatus
    date: int
    advisories: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TcbLevel:
    """Security versions that all have to be reached; ``tdx`` is empty in TCB info of SGX."""

    sgx: tuple[int, ...]
    pce_svn: int
    tdx: tuple[int, ...]
    standing: Standing


@dataclass(frozen=True, kw_only=True, slots=True)
class IsvLevel:
    """A level of a TDX module or of a quoting enclave, from this SVN on."""

    isv_svn: int
    standing: Standing


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleIdentity:
    """The TDX module of one major version; ``version`` is None for the module of before that."""

    version: int | None
    mrsigner: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[IsvLevel, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TcbInfo:
    """One TCB info. ``levels`` stand from the newest to the oldest; ``labels`` says what the components are,
    where Intel does.
    """

    tee: str
    issue_date: int
    next_update: int
    fmspc: bytes
    pce_id: bytes
    evaluation_number: int
    levels: tuple[TcbLevel, ...]
    sgx_labels: tuple[str, ...]
    tdx_labels: tuple[str, ...]
    module: ModuleIdentity | None
    modules: tuple[ModuleIdentity, ...]

    def module_of(self, version: int) -> ModuleIdentity | None:
        """The identity for ``tee_tcb_svn[1]``; that of version 0 has no levels."""
        if version == 0:
            return self.module
        return next((one for one in self.modules if one.version == version), None)


def parse_tcb_info(text: str) -> TcbInfo:
    """Read the exact text that was signed; raises ``SignedJsonError``."""
    whole = signed_object(text, "TCB info")
    tee = whole.text("id")
    if tee not in ("SGX", "TDX") or whole.integer("version", 1 << 16) != VERSION:
        refuse("TCB info", f"is not of SGX or TDX in version {VERSION}: {tee[:32]!r}")
    if whole.integer("tcbType", 1 << 16) != 0:
        refuse("TCB info.tcbType", "is not 0, the only way of comparing that is known")
    tdx = tee == "TDX"
    levels = whole.objects("tcbLevels", lambda one: _level(one, tdx=tdx))
    ordered = tuple(sorted(levels, key=_versions, reverse=True))
    if not ordered or len({_versions(one) for one in ordered}) != len(ordered):
        refuse("TCB info.tcbLevels", "is empty or has two levels with the same versions")
    modules = whole.objects("tdxModuleIdentities", _module_identity) if tdx else ()
    if len({one.version for one in modules}) != len(modules):
        refuse("TCB info.tdxModuleIdentities", "has two identities of one version")
    return TcbInfo(
        tee=tee,
        issue_date=whole.time("issueDate"),
        next_update=whole.time("nextUpdate"),
        fmspc=whole.octets("fmspc", 6),
        pce_id=whole.octets("pceId", 2),
        evaluation_number=whole.integer("tcbEvaluationDataNumber", 1 << 31),
        levels=ordered,
        sgx_labels=_labels(whole, "sgxtcbcomponents"),
        tdx_labels=_labels(whole, "tdxtcbcomponents") if tdx else (),
        module=_module(whole.object("tdxModule"), None, ()) if tdx else None,
        modules=modules,
    )


def isv_levels(parent: SignedObject, statuses: frozenset[TcbStatus]) -> tuple[IsvLevel, ...]:
    """``tcbLevels`` of a module or an enclave, from the highest SVN down: at least one, each SVN once."""
    found = parent.objects("tcbLevels", lambda one: _isv_level(one, statuses))
    ordered = tuple(sorted(found, key=lambda one: one.isv_svn, reverse=True))
    if not ordered or len({one.isv_svn for one in ordered}) != len(ordered):
        refuse(f"{parent.path}.tcbLevels", "is empty or has two levels with the same SVN")
    return ordered


def _isv_level(level: SignedObject, statuses: frozenset[TcbStatus]) -> IsvLevel:
    return IsvLevel(
        isv_svn=level.object("tcb").integer("isvsvn", 0xFFFF), standing=_standing(level, statuses)
    )


def _level(level: SignedObject, *, tdx: bool) -> TcbLevel:
    tcb = level.object("tcb")
    return TcbLevel(
        sgx=_components(tcb, "sgxtcbcomponents"),
        pce_svn=tcb.integer("pcesvn", 0xFFFF),
        tdx=_components(tcb, "tdxtcbcomponents") if tdx else (),
        standing=_standing(level, PLATFORM_STATUSES),
    )


def _components(tcb: SignedObject, key: str) -> tuple[int, ...]:
    found = tcb.objects(key, lambda one: one.integer("svn", 0xFF))
    if len(found) != COMPONENTS:
        refuse(f"{tcb.path}.{key}", f"has {len(found)} components, {COMPONENTS} expected")
    return found


def _standing(level: SignedObject, statuses: frozenset[TcbStatus]) -> Standing:
    return Standing(
        status=level.status("tcbStatus", statuses), date=level.time("tcbDate"), advisories=level.advisories()
    )


def _versions(level: TcbLevel) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    return level.sgx, level.pce_svn, level.tdx


def _labels(whole: SignedObject, key: str) -> tuple[str, ...]:
    """What the components are called, of the first level; words for people, which decide nothing."""
    return whole.objects("tcbLevels", lambda level: level.object("tcb").objects(key, _label))[0]


def _label(component: SignedObject) -> str:
    parts = [component.text(key) for key in ("category", "type") if component.has(key)]
    return ", ".join(part for part in parts if part)


def _module_identity(module: SignedObject) -> ModuleIdentity:
    match = _MODULE_ID.fullmatch(module.text("id"))
    if match is None or int(match[1], 16) == 0:
        refuse(module.path, "is not of TDX_01 to TDX_FF")
    return _module(module, int(match[1], 16), isv_levels(module, MODULE_STATUSES))


def _module(module: SignedObject, version: int | None, levels: tuple[IsvLevel, ...]) -> ModuleIdentity:
    return ModuleIdentity(
        version=version,
        mrsigner=module.octets("mrsigner", 48),
        attributes=module.octets("attributes", 8),
        attributes_mask=module.octets("attributesMask", 8),
        levels=levels,
    )
