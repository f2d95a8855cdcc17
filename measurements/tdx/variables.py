"""The Secure Boot policy that firmware runs with in a trust domain.

A trust domain has no flash memory: its variables live in RAM. Firmware with Secure Boot fills them from the
variable store in its file; firmware without starts with none, whatever the store holds (edk2
``OvmfPkg/PlatformPei/Platform.c``, ``ReserveEmuVariableNvStore``). Of the optional databases ``dbt`` is
measured, ``dbr`` is not (``OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c``, ``MeasureAllSecureVariables``).
"""

from __future__ import annotations

from dataclasses import replace

from measurements.boot_entries import check_fresh
from measurements.secure_boot import SecureBootPolicy, secure_boot_policy
from measurements.varstore import VariableStore, parse_variable_store

_NOT_MEASURED = "dbr"


def trust_domain_policy(store: bytes, *, name: str, supported: bool) -> SecureBootPolicy:
    """The policy from the bytes of the store ``name``; ``supported`` tells if the build has Secure Boot.

    Raises ``FormatError`` for what is no store, and ``FirmwareError`` for one with boot entries.
    """
    stored = parse_variable_store(store, subject=name)
    found = stored if supported else VariableStore(variables=())
    check_fresh(found)
    policy = secure_boot_policy(found, supported=supported)
    measured = tuple(variable for variable in policy.variables if variable.name != _NOT_MEASURED)
    return replace(policy, variables=measured)
