"""PCR 7: the Secure Boot policy of the variable store, and the authorities that accepted what was started.

Rules (TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8; edk2 ``Tcg2Dxe.c``
``MeasureAllSecureVariables`` and ``DxeImageVerificationLib``): SecureBoot, PK, KEK, db and dbx in this order,
an absent variable with empty data, each as ``UEFI_VARIABLE_DATA``; dbt and dbr only if present; a separator;
then, while Secure Boot is on, for each image that is started the entry of ``db`` that accepted it, as
variable ``db`` with the entry's ``EFI_SIGNATURE_DATA``, each once.

``SecureBoot`` itself is not in the store. Firmware with Secure Boot support (edk2 ``AuthVariableLib``) makes
it: 1 if there is a platform key and ``SecureBootEnable`` is not 0, else 0. Firmware without support has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from measurements.efi_variable import (
    GLOBAL_VARIABLE,
    IMAGE_SECURITY_DATABASE,
    SECURE_BOOT_ENABLE,
    EfiVariable,
)
from measurements.events import EventType, MeasuredEvent, event_over
from measurements.signature_list import parse_signature_lists
from measurements.varstore import VariableStore

PCR = 7
_POLICY = (
    ("PK", GLOBAL_VARIABLE),
    ("KEK", GLOBAL_VARIABLE),
    ("db", IMAGE_SECURITY_DATABASE),
    ("dbx", IMAGE_SECURITY_DATABASE),
)
_OPTIONAL = (("dbt", IMAGE_SECURITY_DATABASE), ("dbr", IMAGE_SECURITY_DATABASE))


@dataclass(frozen=True, kw_only=True, slots=True)
class SecureBootPolicy:
    """The policy that a firmware runs with: whether it is enforced, and the variables in measured order."""

    enforced: bool
    variables: tuple[EfiVariable, ...]

    def database(self, name: str) -> bytes:
        """Data of ``db`` or ``dbx``; empty if absent."""
        return next(variable.data for variable in self.variables if variable.name == name)


@dataclass(frozen=True, kw_only=True, slots=True)
class StartedImage:
    """A PE image that firmware starts: ``name`` is how it is spoken of."""

    name: str
    data: bytes


def secure_boot_policy(store: VariableStore, *, supported: bool) -> SecureBootPolicy:
    """The policy of firmware with ``store``; ``supported`` tells if it is built with Secure Boot."""
    enforced = supported and bool(store.get("PK", GLOBAL_VARIABLE)) and _enabled(store)
    mode = bytes([enforced]) if supported else b""
    variables = [EfiVariable(name="SecureBoot", vendor=GLOBAL_VARIABLE, data=mode)]
    variables += [
        EfiVariable(name=name, vendor=vendor, data=store.get(name, vendor) or b"") for name, vendor in _POLICY
    ]
    for name, vendor in _OPTIONAL:
        data = store.get(name, vendor)
        if data:
            variables.append(EfiVariable(name=name, vendor=vendor, data=data))
    return SecureBootPolicy(enforced=enforced, variables=tuple(variables))


def policy_events(policy: SecureBootPolicy, *, origin: str) -> list[MeasuredEvent]:
    """The variables and the separator; ``origin`` is the variable store's name."""
    events = [
        event_over(
            variable.measured_bytes(),
            pcr=PCR,
            event_type=EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
            description=_describe(variable),
            origin=f"variable {variable.name} of {origin}",
        )
        for variable in policy.variables
    ]
    separator = event_over(
        bytes(4), pcr=PCR, event_type=EventType.EV_SEPARATOR, description="separator", origin="firmware"
    )
    return [*events, separator]


def authority_events(
    policy: SecureBootPolicy, images: Sequence[StartedImage], *, origin: str
) -> list[MeasuredEvent]:
    """The authorities of ``images`` in order of start; none while Secure Boot is off.

    Raises ``FormatError`` for an image that the firmware would refuse.
    """
    if not policy.enforced:
        return []
    from measurements.image_signature import authority_of

    db = parse_signature_lists(policy.database("db"), subject=f"db of {origin}")
    dbx = parse_signature_lists(policy.database("dbx"), subject=f"dbx of {origin}")
    seen: set[bytes] = set()
    events: list[MeasuredEvent] = []
    for image in images:
        entry = authority_of(image.data, db=db, dbx=dbx, subject=image.name).signature_data()
        if entry in seen:
            continue
        seen.add(entry)
        variable = EfiVariable(name="db", vendor=IMAGE_SECURITY_DATABASE, data=entry)
        events.append(
            event_over(
                variable.measured_bytes(),
                pcr=PCR,
                event_type=EventType.EV_EFI_VARIABLE_AUTHORITY,
                description=f"entry of db that accepts {image.name}",
                origin=f"signature of {image.name} and variable db of {origin}",
            )
        )
    return events


def _enabled(store: VariableStore) -> bool:
    enable = store.get("SecureBootEnable", SECURE_BOOT_ENABLE)
    return enable is None or enable == b"\x01"


def _describe(variable: EfiVariable) -> str:
    if variable.name == "SecureBoot":
        state = {b"": "absent", b"\0": "off", b"\x01": "on"}[variable.data]
        return f"variable SecureBoot: {state}"
    return f"variable {variable.name}: " + (f"{len(variable.data)} bytes" if variable.data else "absent")
