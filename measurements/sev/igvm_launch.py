"""The launch digest of an IGVM file: its directives, given to the secure processor one after the other.

Rules (microsoft/igvm, igvm_defs; QEMU, backends/igvm.c and target/i386/sev.c):

- A page counts with its type, contents and address, a page at file offset 0 as a normal page of zeros;
  secrets and CPUID pages, unmeasured pages and inserted parameter areas count without contents; shared pages,
  required memory and error ranges do not count.
- Loader ``file`` follows the file: save areas count where the directives are, at the addresses that they
  name. That is what the file's own ID block is made for, and how Hyper-V loads it.
- Loader ``qemu`` starts the guest with KVM: save areas come last, one for each processor that the machine
  has, at KVM's own address; QEMU refuses a file that says otherwise, and features other than SNP itself.
  Processors for which the file has no state start from the reset vector. KVM sets and clears bits of control
  registers (Linux, arch/x86/kvm/svm/svm.c: ``svm_set_cr0``, ``svm_set_cr4``, ``svm_set_efer``), so a state
  that has them otherwise is measured otherwise; it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from measurements.platforms import Platform, PlatformPrediction
from measurements.sev.chains import REGISTER, SnpChain, chain_event
from measurements.sev.cpu_models import CpuModel
from measurements.sev.guest_features import SNP_ONLY
from measurements.sev.igvm import (
    DataType,
    Header,
    HeaderType,
    IgvmFile,
    PageData,
    PageFlag,
    ParameterArea,
    ParameterInsert,
    PlatformType,
    Policy,
    VpContext,
    igvm_error,
    parse_igvm,
)
from measurements.sev.launch_digest import PageType, Region, vmsa_region
from measurements.sev.ovmf_metadata import PAGE
from measurements.sev.predict import ANY, MAX_VCPUS, SevChoices
from measurements.sev.vmsa import BOOT_EIP, SEV_FEATURES_OFFSET, VMSA_GPA, Vmm, reset_vmsa

MAX_PARAMETER_AREA = 1 << 28
MAX_MEASURED = 1 << 32
"""Most bytes of a guest that are measured page by page."""

_MOVABLE = (HeaderType.RELOCATABLE_REGION, HeaderType.PAGE_TABLE_RELOCATION)
_WITHOUT_CONTENTS = {
    DataType.SECRETS: PageType.SECRETS,
    DataType.CPUID: PageType.CPUID,
    DataType.CPUID_EXTENDED: PageType.CPUID,
}


_KVM_BITS = (
    ("efer", 0x0D0, 0x1000, 0),
    ("cr4", 0x148, 0x40, 0),
    ("cr0", 0x158, 0x10, 0x60000000),
    ("rflags", 0x170, 0x2, 0),
)
"""Register, its place in a save area, bits that KVM sets, bits that it clears."""


class Loader(StrEnum):
    """Who loads the file."""

    FILE = "file"
    QEMU = "qemu"


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpPart:
    """What a file has for SNP: the directives that apply, and the policy of the guest."""

    directives: tuple[Header, ...]
    policy: int


def snp_part(file: IgvmFile) -> SnpPart:
    """The part of ``file`` for SNP; raises IgvmError unless there is exactly one, with one policy."""
    masks = [
        platform.mask
        for platform in file.platforms
        if platform.platform == PlatformType.SEV_SNP and platform.version == 1
    ]
    if len(masks) != 1:
        raise igvm_error(file.name, f"is for {len(masks)} platforms of type SEV-SNP version 1, not for one")
    applying = [header for header in file.headers if getattr(header.body, "mask", masks[0]) & masks[0]]
    movable = [header for header in applying if header.kind in _MOVABLE]
    if movable:
        raise igvm_error(file.name, f"has memory that a loader may move, at byte {movable[0].offset}")
    policies = [header.body.policy for header in applying if isinstance(header.body, Policy)]
    if len(policies) != 1:
        raise igvm_error(file.name, f"has {len(policies)} guest policies for SEV-SNP, not one")
    return SnpPart(
        directives=tuple(header for header in applying if header.kind.stage == 2), policy=policies[0]
    )


def igvm_predictions(
    data: bytes, *, name: str, platform: Platform, choices: SevChoices
) -> tuple[PlatformPrediction, ...]:
    """The predictions of an IGVM file for SNP guests that QEMU starts, one per CPU model and vCPU count where
    these count; raises ``IgvmError``, also for another platform or VMM.
    """
    if platform is not Platform.SNP or choices.vmm is not Vmm.QEMU:
        raise igvm_error(name, "is measured here for SNP guests of QEMU only")
    file = parse_igvm(data, name=name)
    found = {
        tuple(prediction.label.items()): prediction
        for model in choices.cpu_models
        for vcpus in choices.vcpus
        for prediction in [predict_igvm(file, loader=Loader.QEMU, vcpus=vcpus, cpu_model=model)]
    }
    return tuple(found.values())


def predict_igvm(
    file: IgvmFile, *, loader: Loader, vcpus: int = 1, cpu_model: CpuModel | None = None
) -> PlatformPrediction:
    """The prediction for ``file``, register ``measurement``, bank ``sha384``.

    ``vcpus`` and ``cpu_model`` count with loader ``qemu`` only, the latter where processors have no state in
    the file. Raises IgvmError for a file that the loader refuses or whose measurement is not known.
    """
    directives = snp_part(file).directives
    chain = SnpChain()
    events = []
    left = MAX_MEASURED
    for region in _runs(_regions(file, directives, loader)):
        left -= region.size
        if left < 0:
            raise igvm_error(file.name, f"has more than {MAX_MEASURED} bytes of pages to measure")
        chain.add(region)
        events.append(
            chain_event(chain, f"{region.description}: {region.size:#x} bytes at {region.gpa:#x}", file.name)
        )
    label = {"cpu-model": ANY, "guest-features": ANY, "vcpus": ANY, "vmm": loader.value}
    shape: dict[str, object] = {}
    if loader is Loader.QEMU:
        states = _states(file, directives, vcpus)
        for number in range(vcpus):
            page, origin = states.get(number), file.name
            if page is None:
                page, origin = _reset_state(file, number, cpu_model), "CPU model and reset vector"
            chain.add(vmsa_region(page, description="save area", origin=origin))
            events.append(chain_event(chain, f"save area of processor {number}", origin))
        named = cpu_model.name if cpu_model and len(states) < vcpus else ANY
        label |= {"cpu-model": named, "guest-features": f"{SNP_ONLY.value:#x}", "vcpus": str(vcpus)}
        shape = {"cpus": vcpus}
    if not events:
        raise igvm_error(file.name, "has no directive for SEV-SNP that is measured")
    return PlatformPrediction(
        platform=Platform.SNP,
        shape=shape,
        registers={REGISTER: events[-1].digests},
        events=tuple(events),
        label=label,
    )


def _regions(file: IgvmFile, directives: Sequence[Header], loader: Loader) -> Iterator[Region]:
    """The steps of the launch, a page or a parameter area each."""
    areas: dict[int, int] = {}
    placed: set[int] = set()
    for header in directives:
        body = header.body
        if isinstance(body, ParameterArea):
            _declare(file, header, body, areas)
        elif isinstance(body, ParameterInsert):
            yield _inserted(file, header, body, areas)
        elif isinstance(body, PageData):
            if body.gpa in placed:
                raise igvm_error(file.name, f"has a second page at {body.gpa:#x}, at byte {header.offset}")
            placed.add(body.gpa)
            page = _page(file, header, body, loader)
            if page is not None:
                yield page
        elif isinstance(body, VpContext) and loader is Loader.FILE:
            state = _state(file, header, body)
            yield vmsa_region(
                state, description=f"save area of processor {body.vp_index}", origin=file.name, gpa=body.gpa
            )


def _declare(file: IgvmFile, header: Header, area: ParameterArea, areas: dict[int, int]) -> None:
    if area.area in areas or not 0 < area.size <= MAX_PARAMETER_AREA or area.size % PAGE:
        what = f"parameter area {area.area} of {area.size} bytes"
        raise igvm_error(file.name, f"has {what} at byte {header.offset}, twice or not in whole pages")
    areas[area.area] = area.size


def _inserted(file: IgvmFile, header: Header, insert: ParameterInsert, areas: dict[int, int]) -> Region:
    size = areas.get(insert.area, 0)
    if size == 0 or insert.gpa % PAGE:
        raise igvm_error(
            file.name,
            f"inserts parameter area {insert.area} at {insert.gpa:#x} (byte {header.offset}), which is not "
            "there, already inserted or not at a page",
        )
    # An area is inserted once, and its index is not free afterwards.
    areas[insert.area] = 0
    return Region(
        page_type=PageType.UNMEASURED,
        gpa=insert.gpa,
        size=size,
        contents=None,
        description="parameter area",
        origin=file.name,
    )


def _page(file: IgvmFile, header: Header, page: PageData, loader: Loader) -> Region | None:
    """The page as a step of the launch, None where it does not count."""
    where = f"page at {page.gpa:#x} (byte {header.offset})"
    if page.flags & ~sum(PageFlag) or page.gpa % PAGE:
        raise igvm_error(
            file.name, f"has a {where} with flags {page.flags:#x} that are not known, or out of line"
        )
    if page.flags & PageFlag.LARGE:
        raise igvm_error(file.name, f"has a {where} of 2 MiB, whose measurement is not known")
    try:
        data_type = DataType(page.data_type)
    except ValueError:
        raise igvm_error(file.name, f"has a {where} of unknown type {page.data_type:#x}") from None
    if page.flags & PageFlag.SHARED:
        if loader is Loader.QEMU:
            raise igvm_error(file.name, f"has a shared {where}, which QEMU does not know")
        return None
    contents = None
    page_type = _WITHOUT_CONTENTS.get(data_type)
    if page_type is None and page.flags & PageFlag.UNMEASURED:
        page_type = PageType.UNMEASURED
    if page_type is None:
        page_type = PageType.NORMAL
        contents = _data(file, page.file_offset, where) if page.file_offset else bytes(PAGE)
    return Region(
        page_type=page_type,
        gpa=page.gpa,
        size=PAGE,
        contents=contents,
        description=f"{page_type.name.lower()} pages",
        origin=file.name,
    )


def _data(file: IgvmFile, offset: int, what: str) -> bytes:
    data = file.data[offset : offset + PAGE]
    if offset == 0 or len(data) != PAGE:
        raise igvm_error(file.name, f"has the data of its {what} at byte {offset}, past its end")
    return data


def _state(file: IgvmFile, header: Header, context: VpContext) -> bytes:
    """The save area of a processor."""
    if context.gpa % PAGE:
        raise igvm_error(file.name, f"has a processor state at byte {header.offset} that is not in line")
    return _data(file, context.file_offset, f"processor {context.vp_index} (byte {header.offset})")


def _states(file: IgvmFile, directives: Sequence[Header], vcpus: int) -> dict[int, bytes]:
    """Save areas by number of the processor, as QEMU takes them."""
    if not 1 <= vcpus <= MAX_VCPUS:
        raise igvm_error(file.name, f"cannot be loaded with {vcpus} processors")
    states: dict[int, bytes] = {}
    for header in directives:
        context = header.body
        if not isinstance(context, VpContext):
            continue
        where = f"processor {context.vp_index} at byte {header.offset}"
        if context.vp_index in states or context.vp_index >= vcpus:
            raise igvm_error(file.name, f"has a state for {where}, twice or for more than {vcpus} processors")
        if context.gpa != VMSA_GPA:
            raise igvm_error(
                file.name, f"has the state of {where} for {context.gpa:#x}; QEMU takes {VMSA_GPA:#x}"
            )
        page = _state(file, header, context)
        features = _register(page, SEV_FEATURES_OFFSET)
        for name, offset, ones, zeros in _KVM_BITS:
            value = _register(page, offset)
            if value & ones != ones or value & zeros:
                raise igvm_error(
                    file.name, f"has {name} {value:#x} in the state of {where}, which KVM changes"
                )
        if features != SNP_ONLY:
            raise igvm_error(file.name, f"has features {features:#x} in the state of {where}; QEMU takes 0x1")
        states[context.vp_index] = page
    return states


def _register(page: bytes, offset: int) -> int:
    return int.from_bytes(page[offset : offset + 8], "little")


def _reset_state(file: IgvmFile, number: int, cpu_model: CpuModel | None) -> bytes:
    if cpu_model is None:
        raise igvm_error(file.name, f"has no state for processor {number}, so its CPU model must be given")
    return reset_vmsa(eip=BOOT_EIP, signature=cpu_model.signature, features=SNP_ONLY, vmm=Vmm.QEMU)


def _runs(regions: Iterator[Region]) -> Iterator[Region]:
    """Regions that follow each other in memory and are of one kind, joined."""
    run: list[Region] = []
    for region in regions:
        if run and not _continues(run[-1], region):
            yield _joined(run)
            run = []
        run.append(region)
    if run:
        yield _joined(run)


def _continues(before: Region, after: Region) -> bool:
    same = before.page_type is after.page_type and before.description == after.description
    return same and before.gpa + before.size == after.gpa and before.page_type is not PageType.VMSA


def _joined(run: list[Region]) -> Region:
    first = run[0]
    contents = None if first.contents is None else b"".join(region.contents or b"" for region in run)
    return Region(
        page_type=first.page_type,
        gpa=first.gpa,
        size=sum(region.size for region in run),
        contents=contents,
        description=first.description,
        origin=first.origin,
    )
