"""What an enclave image will measure on Nitro: PCR 0, 1, 2 and 8, and 3 and 4 where their inputs are given.

No choice of the host enters these registers, so the prediction holds for every shape. Registers 5 to 15 stay
zero unless the enclave extends them. A debug enclave reports zeros in all of them.
"""

from __future__ import annotations

from measurements.nitro.eif import Eif, EifSection, EifSectionType, read_eif
from measurements.nitro.pcrs import (
    certificate_register,
    image_register,
    instance_register,
    measured_sections,
    role_register,
    running_values,
)
from measurements.nitro.signature import EifSignature, parse_signature, verify_signature
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent

BANK = "sha384"
IMAGE_REGISTERS = (0, 1, 2)
_ABSENT = "image without further RAM disks"


def predict_nitro(
    image: bytes | memoryview,
    *,
    role: str | None = None,
    instance: str | None = None,
    subject: str = "enclave image file",
) -> PlatformPrediction:
    """Registers of an enclave image.

    ``role`` (ARN of the parent's IAM role) gives PCR 3, ``instance`` (id of the parent) PCR 4; without them
    these registers are not predicted. Raises ``FormatError`` for an image that is not intact and
    ``EifSignatureError`` for a signature that is not over it.
    """
    eif = read_eif(image, subject=subject)
    events = _image_events(image, eif)
    values = {event.register: event.digests[BANK] for event in events}
    signature = read_signature(image, eif)
    if signature is not None:
        verify_signature(signature, pcr0=values["0"])
        events.append(_signed_event(signature))
    values["8"] = certificate_register(signature.certificate if signature else None)
    for register, name, text, value in (
        ("3", "role of the parent instance", role, role_register),
        ("4", "id of the parent instance", instance, instance_register),
    ):
        if text is not None:
            values[register] = value(text)
            events.append(_event(register, name, values[register], origin=text))
    return PlatformPrediction(
        platform=Platform.NITRO,
        shape={},
        registers={register: {BANK: value} for register, value in values.items()},
        events=tuple(events),
        label={"architecture": "aarch64" if eif.arm64 else "x86_64"},
    )


def read_signature(image: bytes | memoryview, eif: Eif) -> EifSignature | None:
    """The signature of a signed image, not yet checked against its PCR 0."""
    section = eif.only(EifSectionType.SIGNATURE)
    if section is None:
        return None
    return parse_signature(bytes(memoryview(image)[section.offset : section.offset + section.size]))


def _image_events(image: bytes | memoryview, eif: Eif) -> list[RegisterEvent]:
    """The steps of PCR 0, 1 and 2. With one RAM disk, PCR 0 and 1 are the same, and hashed once."""
    hashed: dict[tuple[EifSection, ...], list[bytes]] = {}
    events = []
    for register in IMAGE_REGISTERS:
        sections = measured_sections(eif, register)
        if not sections:
            value = image_register(image, eif, register)
            events.append(
                _event(str(register), "hash of nothing: there is no such section", value, origin=_ABSENT)
            )
            continue
        if sections not in hashed:
            hashed[sections] = list(running_values(image, sections))
        events += [
            _event(str(register), _name(eif, section), value, origin=_name(eif, section))
            for section, value in zip(sections, hashed[sections], strict=True)
        ]
    return events


def _name(eif: Eif, section: EifSection) -> str:
    """``KERNEL section``, or ``RAMDISK section 0`` where there can be several."""
    same = [other for other in eif.sections if other.kind is section.kind]
    number = f" {same.index(section)}" if section.kind is EifSectionType.RAMDISK else ""
    return f"{section.kind.name} section{number}"


def _signed_event(signature: EifSignature) -> RegisterEvent:
    value = certificate_register(signature.certificate)
    return _event("8", "signing certificate", value, origin="SIGNATURE section")


def _event(register: str, description: str, value: bytes, *, origin: str) -> RegisterEvent:
    return RegisterEvent(
        register=register,
        event_type="Nitro measurement",
        digests={BANK: value},
        description=description,
        origin=origin,
        running=True,
    )
