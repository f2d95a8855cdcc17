"""The launch digests of one image as a labelled set: one for each CPU model, feature word and vCPU count.

A host chooses these, and a report does not say which; so there is no one value, but a small set whose labels
say what each holds for. Everything up to the save areas is measured once; each member forks from there. Where
a platform or VMM does not measure a choice, the set has one member for all of its values, labelled ``any``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from measurements.errors import KeyturnError
from measurements.platforms import Platform, PlatformPrediction, RegisterEvent
from measurements.sev.chains import REGISTER, Chain, PlainChain, SnpChain, chain_event
from measurements.sev.cpu_models import ONE_OF_EACH, CpuModel
from measurements.sev.guest_features import USUAL, snp_features
from measurements.sev.kernel_hashes import KernelHashes
from measurements.sev.launch_digest import (
    DIGEST_SIZE,
    Region,
    firmware_region,
    metadata_regions,
    vmsa_region,
)
from measurements.sev.launch_legacy import SEV_ES_FEATURES, legacy_regions
from measurements.sev.ovmf_metadata import SevFirmwareError, SevImage
from measurements.sev.svsm import svsm_entry, svsm_regions
from measurements.sev.vmsa import BOOT_EIP, Vmm, depends_on_cpu_model, reset_vmsa, svsm_vmsa

ANY = "any"
MAX_VCPUS = 512
"""Most processors of a guest that is predicted."""

_NO_MODEL = CpuModel(name=ANY, family=0, model=0, stepping=0)


class SevChoiceError(KeyturnError):
    """Choices of a host for which there is no launch digest."""

    code = "sev-choice"


@dataclass(frozen=True, kw_only=True, slots=True)
class SevChoices:
    """What a host may choose: a value is predicted for each combination."""

    cpu_models: Sequence[CpuModel] = ONE_OF_EACH
    guest_features: Sequence[int] = USUAL
    vcpus: Sequence[int] = (1,)
    vmm: Vmm = Vmm.QEMU

    def __post_init__(self) -> None:
        if not (self.cpu_models and self.guest_features and self.vcpus):
            raise _refused("no CPU model, no features or no vCPU count is given", "give at least one of each")
        if not all(1 <= count <= MAX_VCPUS for count in self.vcpus):
            raise _refused(f"vCPU counts {list(self.vcpus)} are given", f"give counts from 1 to {MAX_VCPUS}")


def predict_sev(
    platform: Platform,
    firmware: SevImage,
    *,
    kernel: KernelHashes | None = None,
    choices: SevChoices | None = None,
    svsm: SevImage | None = None,
    firmware_digest: bytes | None = None,
) -> tuple[PlatformPrediction, ...]:
    """The predictions of an SNP, SEV-ES or SEV guest, in the order of the choices, models outermost.

    ``kernel`` holds the hashes of a direct boot. ``svsm`` (SNP only, from ``parse_svsm``) runs below the
    firmware. ``firmware_digest`` (SNP only, 48 bytes) stands for the firmware's pages where only their digest
    is known; the rest of ``firmware`` still counts. Register ``measurement``, bank ``sha384`` for SNP, else
    ``sha256``. Raises SevFirmwareError, SevChoiceError or GuestFeaturesError.
    """
    choices = choices or SevChoices()
    _check(platform, kernel, choices, svsm, firmware_digest)
    start: Chain
    if platform is Platform.SNP:
        choices = replace(
            choices, guest_features=[int(snp_features(word)) for word in choices.guest_features]
        )
        start, events = _start_snp(firmware, kernel, choices.vmm, svsm, firmware_digest)
    else:
        choices = replace(choices, guest_features=(SEV_ES_FEATURES,))
        start = PlainChain()
        events = _measure(start, legacy_regions(firmware, kernel))
    if platform is Platform.SEV:
        label = {"cpu-model": ANY, "guest-features": ANY, "vcpus": ANY, "vmm": choices.vmm.value}
        return (_prediction(platform, events, label),)
    return tuple(_members(platform, firmware, start, events, choices, svsm))


def _check(
    platform: Platform,
    kernel: KernelHashes | None,
    choices: SevChoices,
    svsm: SevImage | None,
    firmware_digest: bytes | None,
) -> None:
    if platform not in (Platform.SNP, Platform.SEV_ES, Platform.SEV):
        raise _refused(f"{platform.value} is no platform of AMD", "give snp, sev-es or sev")
    if platform is not Platform.SNP and (svsm or firmware_digest):
        raise _refused(f"{platform.value} has neither SVSM nor firmware digest", "predict platform snp")
    if svsm and (kernel or choices.vmm is not Vmm.QEMU):
        raise _refused("an SVSM runs on QEMU only, without kernel hashes", "leave out the kernel or the SVSM")
    if firmware_digest is not None and len(firmware_digest) != DIGEST_SIZE:
        raise _refused(
            f"the firmware digest has {len(firmware_digest)} bytes", f"give one of {DIGEST_SIZE} bytes"
        )


def _start_snp(
    firmware: SevImage,
    kernel: KernelHashes | None,
    vmm: Vmm,
    svsm: SevImage | None,
    firmware_digest: bytes | None,
) -> tuple[SnpChain, list[RegisterEvent]]:
    """The chain up to the save areas, and its events."""
    later = svsm_regions(svsm) if svsm else metadata_regions(firmware, kernel, vmm)
    if firmware_digest is None:
        chain = SnpChain()
        return chain, _measure(chain, (firmware_region(firmware), *later))
    chain = SnpChain(firmware_digest)
    known = chain_event(chain, "firmware, known by its digest only", f"firmware digest for {firmware.name}")
    return chain, [known, *_measure(chain, later)]


def _measure(chain: Chain, regions: Iterable[Region]) -> list[RegisterEvent]:
    events = []
    for region in regions:
        chain.add(region)
        where = f"{region.description}: {region.size:#x} bytes at {region.gpa:#x}"
        events.append(chain_event(chain, where, region.origin))
    return events


def _members(
    platform: Platform,
    firmware: SevImage,
    start: Chain,
    events: list[RegisterEvent],
    choices: SevChoices,
    svsm: SevImage | None,
) -> Iterator[PlatformPrediction]:
    """One prediction for each combination, forked where the save areas begin."""
    models = choices.cpu_models if svsm or depends_on_cpu_model(choices.vmm) else (_NO_MODEL,)
    for model in models:
        for word in choices.guest_features:
            first = _vmsa(firmware, svsm, BOOT_EIP, model=model, features=word, vmm=choices.vmm)
            further = first if svsm else None
            if further is None and max(choices.vcpus) > 1:
                eip = _reset_eip(firmware)
                further = _vmsa(firmware, None, eip, model=model, features=word, vmm=choices.vmm)
            by_count = _save_areas(start.fork(), first, further, choices, origin=_origin(model, word))
            for count in choices.vcpus:
                label = {
                    "cpu-model": model.name,
                    "guest-features": f"{word:#x}",
                    "vcpus": str(count),
                    "vmm": choices.vmm.value,
                }
                yield _prediction(platform, [*events, *by_count[count]], label, shape={"cpus": count})


def _save_areas(
    chain: Chain, first: bytes, further: bytes | None, choices: SevChoices, *, origin: str
) -> dict[int, list[RegisterEvent]]:
    """The events of the save areas by number of processors."""
    wanted, gpa = set(choices.vcpus), choices.vmm.vmsa_gpa
    chain.add(vmsa_region(first, description="save area", origin=origin, gpa=gpa))
    boot = [chain_event(chain, "save area of processor 0", origin)]
    found = {1: boot}
    for count in range(2, max(wanted) + 1):
        assert further is not None
        chain.add(vmsa_region(further, description="save area", origin=origin, gpa=gpa))
        if count in wanted:
            which = "processor 1" if count == 2 else f"processors 1 to {count - 1}"
            found[count] = [*boot, chain_event(chain, f"save areas of {which}", origin)]
    return found


def _vmsa(
    firmware: SevImage, svsm: SevImage | None, eip: int, *, model: CpuModel, features: int, vmm: Vmm
) -> bytes:
    if svsm:
        return svsm_vmsa(entry=svsm_entry(svsm), signature=model.signature, features=features)
    return reset_vmsa(eip=eip, signature=model.signature, features=features, vmm=vmm)


def _reset_eip(firmware: SevImage) -> int:
    if firmware.reset_eip is None:
        raise SevFirmwareError(
            "does not say where further processors start (no SEV-ES reset block)",
            subject=firmware.name,
            advice="predict 1 vCPU, or give an OVMF image with SEV-ES support",
        )
    return firmware.reset_eip


def _origin(model: CpuModel, features: int) -> str:
    cpu = "" if model is _NO_MODEL else f"CPU model {model.name}, "
    return f"{cpu}guest features {features:#x}"


def _prediction(
    platform: Platform,
    events: Sequence[RegisterEvent],
    label: dict[str, str],
    *,
    shape: dict[str, object] | None = None,
) -> PlatformPrediction:
    return PlatformPrediction(
        platform=platform,
        shape=shape or {},
        registers={REGISTER: events[-1].digests},
        events=tuple(events),
        label=label,
    )


def _refused(reason: str, advice: str) -> SevChoiceError:
    return SevChoiceError(reason, subject="choices of the host", advice=advice)
