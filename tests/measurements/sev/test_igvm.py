"""IGVM files: replayed they give what the same launch step by step gives, and nothing unknown passes."""

from __future__ import annotations

import struct
import time
from hashlib import sha384

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from sevsnpmeasure.gctx import GCTX

from measurements.errors import KeyturnError
from measurements.platforms import Platform, PlatformPrediction
from measurements.sev.cpu_models import CPU_MODELS
from measurements.sev.id_block import IdBlock, IdSignatureError, check_id_block, sign_id_block
from measurements.sev.igvm import HeaderType, IgvmError, parse_igvm
from measurements.sev.igvm_id_block import igvm_id_block
from measurements.sev.igvm_launch import Loader, igvm_predictions, predict_igvm, snp_part
from measurements.sev.ovmf_metadata import parse_sev_image
from measurements.sev.predict import SevChoices, predict_sev
from measurements.sev.vmsa import BOOT_EIP, Vmm, reset_vmsa
from tests.support.igvm_files import OTHER_MASK, IgvmWriter, with_checksum
from tests.support.sev_images import SECTIONS, sev_image

MILAN = CPU_MODELS["EPYC-Milan"]
FIRMWARE = bytes(range(256)) * 32
BASE = (1 << 32) - len(FIRMWARE)


def state(eip: int = BOOT_EIP) -> bytes:
    return reset_vmsa(eip=eip, signature=MILAN.signature, features=1, vmm=Vmm.QEMU)


def predicted(writer: IgvmWriter, loader: Loader = Loader.FILE, *, vcpus: int = 1) -> PlatformPrediction:
    file = parse_igvm(writer.write(), name="guest.igvm")
    return predict_igvm(file, loader=loader, vcpus=vcpus, cpu_model=MILAN)


def digest(prediction: PlatformPrediction) -> bytes:
    return prediction.registers["measurement"]["sha384"]


def test_the_directives_are_the_steps_of_the_launch() -> None:
    """Against the chain of sev-snp-measure, driven step by step."""
    writer = (
        IgvmWriter()
        .start()
        .area(7, 0x2000)
        .pages(BASE, FIRMWARE)
        .page(0x800000, None)
        .page(0x801000, b"\x55" * 4096, flags=2)
        .page(0x802000, b"\x66" * 4096, flags=4)
        .page(0x803000, None, kind=1)
        .page(0x804000, None, kind=2)
        .page(0x805000, None, kind=3)
        .add(0x305, struct.pack("<QIIII", 0x100000, 1, 0x100000, 0, 0))
        .add(0x30D, struct.pack("<QII", 0x900000, 1, 0x1000))
        .add(0x30C, struct.pack("<II", 7, 0))
        .insert(7, 0x806000)
        .processor(0, state(), gpa=0x80A000)
        .page(0x808000, b"\x77" * 4096)
    )
    chain = GCTX()
    chain.update_normal_pages(BASE, FIRMWARE)
    chain.update_normal_pages(0x800000, bytes(4096))
    chain.update_unmeasured_pages(0x801000, 0x1000)
    chain.update_secrets_page(0x803000)
    chain.update_cpuid_page(0x804000)
    chain.update_cpuid_page(0x805000)
    chain.update_unmeasured_pages(0x806000, 0x2000)
    chain._update(2, 0x80A000, sha384(state()).digest())
    chain.update_normal_pages(0x808000, b"\x77" * 4096)
    found = predicted(writer)
    assert digest(found) == chain.ld()
    assert found.label == {"cpu-model": "any", "guest-features": "any", "vcpus": "any", "vmm": "file"}
    assert [event.description for event in found.events] == [
        "normal pages: 0x2000 bytes at 0xffffe000",
        "normal pages: 0x1000 bytes at 0x800000",
        "unmeasured pages: 0x1000 bytes at 0x801000",
        "secrets pages: 0x1000 bytes at 0x803000",
        "cpuid pages: 0x2000 bytes at 0x804000",
        "parameter area: 0x2000 bytes at 0x806000",
        "save area of processor 0: 0x1000 bytes at 0x80a000",
        "normal pages: 0x1000 bytes at 0x808000",
    ]


@pytest.mark.parametrize("vcpus", [1, 3])
def test_qemu_measures_what_it_measures_without_the_file(vcpus: int) -> None:
    """The same guest, once from OVMF's metadata and once from directives: secrets, CPUID, no zero pages."""
    image = sev_image(b"code", sections=SECTIONS[2:4], reset_eip=BOOT_EIP)
    (expected,) = predict_sev(
        Platform.SNP,
        parse_sev_image(image, name="ovmf.fd"),
        choices=SevChoices(cpu_models=[MILAN], guest_features=[1], vcpus=[vcpus]),
    )
    writer = IgvmWriter().start().processor(0, state()).pages((1 << 32) - len(image), image)
    writer.page(0x80D000, None, kind=1).page(0x80E000, None, kind=2)
    found = predicted(writer, Loader.QEMU, vcpus=vcpus)
    assert digest(found) == digest(expected)
    assert found.label["vcpus"] == str(vcpus)
    assert found.label["cpu-model"] == ("any" if vcpus == 1 else "EPYC-Milan")


def test_zero_pages_of_ovmf_are_of_another_type_than_pages_of_zeros() -> None:
    """So an IGVM file made from OVMF's metadata never gives the value that OVMF gives by itself."""
    image = sev_image(b"code", sections=[(0x800000, 0x1000, 1)])
    (plain,) = predict_sev(
        Platform.SNP,
        parse_sev_image(image, name="ovmf.fd"),
        choices=SevChoices(cpu_models=[MILAN], guest_features=[1]),
    )
    writer = (
        IgvmWriter().start().processor(0, state()).pages((1 << 32) - len(image), image).page(0x800000, None)
    )
    assert digest(predicted(writer, Loader.QEMU)) != digest(plain)


def test_directives_for_other_platforms_do_not_count() -> None:
    one = IgvmWriter().start().pages(BASE, FIRMWARE)
    two = IgvmWriter().platform().platform(mask=OTHER_MASK, kind=3).policy()
    two.policy(1, mask=OTHER_MASK).add(0x102, struct.pack("<I44x", OTHER_MASK)).page(0, None, mask=OTHER_MASK)
    two.pages(BASE, FIRMWARE).processor(0, state(), mask=OTHER_MASK).insert(9, 0, mask=OTHER_MASK)
    assert digest(predicted(one)) == digest(predicted(two))


def test_version_2_gives_the_same() -> None:
    one, two = IgvmWriter(), IgvmWriter(version=2)
    assert digest(predicted(one.start().pages(BASE, FIRMWARE))) == digest(
        predicted(two.start().pages(BASE, FIRMWARE))
    )


def test_any_byte_that_is_measured_changes_the_value() -> None:
    writer = IgvmWriter().start().pages(BASE, FIRMWARE).processor(0, state())
    data = writer.write()
    values = {digest(predict_igvm(parse_igvm(data, name="x"), loader=Loader.FILE))}
    positions = range(len(data) - 3 * 4096, len(data), 333)
    for position in positions:
        flipped = bytearray(data)
        flipped[position] ^= 1
        values.add(digest(predict_igvm(parse_igvm(bytes(flipped), name="x"), loader=Loader.FILE)))
    assert len(values) == len(positions) + 1


def test_a_flipped_bit_in_any_header_is_refused() -> None:
    data = IgvmWriter().start().pages(BASE, FIRMWARE).processor(0, state()).write()
    for position in range(len(data) - 3 * 4096):
        flipped = bytearray(data)
        flipped[position] ^= 1
        with pytest.raises(IgvmError):
            parse_igvm(bytes(flipped), name="guest.igvm")


def start() -> IgvmWriter:
    return IgvmWriter().start()


REFUSED = {
    "type": (start().add(0x399, bytes(8)), "unknown type 0x399"),
    "ignorable": (start().add(0x80000302, bytes(24)), "unknown type 0x80000302"),
    "reserved-type": (start().add(0x306, bytes(8)), "unknown type 0x306"),
    "length": (start().add(0x302, bytes(16)), "PAGE_DATA of 16 bytes at byte 72, not 24"),
    "order": (start().page(0, None).policy(), "after a later stage"),
    "no-platform": (IgvmWriter().page(0, None), "for no platform"),
    "two-bits": (IgvmWriter().platform(mask=3).policy(), "platform with mask 0x3"),
    "same-bit": (IgvmWriter().platform().platform(kind=3).policy(), "platform with mask 0x1"),
    "other-mask": (start().page(0, None, mask=4), "for no platform"),
    "no-snp": (IgvmWriter().platform(kind=3).policy().page(0, None), "is for 0 platforms of type SEV-SNP"),
    "snp-version": (IgvmWriter().platform(version=2).policy().page(0, None), "is for 0 platforms"),
    "two-snp": (IgvmWriter().platform().platform(mask=2).policy().page(0, None), "is for 2 platforms"),
    "no-policy": (IgvmWriter().platform().page(0, None), "has 0 guest policies"),
    "two-policies": (start().policy().page(0, None), "has 2 guest policies"),
    "movable": (start().add(0x102, struct.pack("<I44x", 1)).page(0, None), "may move"),
    "tables": (start().add(0x103, struct.pack("<I28x", 1)).page(0, None), "may move"),
    "flags": (start().page(0, None, flags=8), "flags 0x8 that are not known"),
    "large": (start().page(0, None, flags=1), "2 MiB"),
    "kind": (start().page(0, None, kind=4), "unknown type 0x4"),
    "address": (start().page(1, None), "out of line"),
    "far": (start().page(1 << 52, None), "not whole pages below"),
    "twice": (start().page(0x1000, None).page(0x1000, None), "second page at 0x1000"),
    "short": (start().page(0, b"short"), "past its end"),
    "no-area": (start().insert(1, 0), "inserts parameter area 1"),
    "area-twice": (start().area(1, 4096).area(1, 4096), "twice or not in whole pages"),
    "area-size": (start().area(1, 4095), "twice or not in whole pages"),
    "area-none": (start().area(1, 0), "twice or not in whole pages"),
    "area-bomb": (start().area(1, 1 << 60).insert(1, 0), "twice or not in whole pages"),
    "inserted-twice": (start().area(1, 4096).insert(1, 0).insert(1, 4096), "already inserted"),
    "insert-address": (start().area(1, 4096).insert(1, 5), "not at a page"),
    "state-address": (start().processor(0, state(), gpa=5), "not in line"),
    "state-short": (start().processor(0, b"state"), "past its end"),
    "state-none": (start().add(0x304, struct.pack("<QIIHH", 0, 1, 0, 0, 0)), "past its end"),
    "reserved": (start().add(0x302, struct.pack("<QIIIHH", 0, 1, 0, 0, 0, 1)), "reserved bytes"),
    "nothing": (start(), "no directive for SEV-SNP that is measured"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused(name: str) -> None:
    writer, why = REFUSED[name]
    with pytest.raises(KeyturnError, match=why) as caught:
        predicted(writer)
    assert caught.value.advice
    if name != "far":
        assert caught.value.subject == "guest.igvm"


QEMU_REFUSED = {
    "address": (start().processor(0, state(), gpa=0x80A000), "QEMU takes 0xfffffffff000"),
    "features": (
        start().processor(0, reset_vmsa(eip=BOOT_EIP, signature=0, features=0x21, vmm=Vmm.QEMU)),
        "features 0x21",
    ),
    "twice": (start().processor(0, state()).processor(0, state()), "twice"),
    "more": (start().processor(1, state()), "for more than 1 processors"),
    "shared": (start().page(0, None, flags=4), "which QEMU does not know"),
}


@pytest.mark.parametrize(
    ("offset", "value", "name"),
    [
        (0x0D0, 0, "efer"),
        (0x148, 0, "cr4"),
        (0x158, 0, "cr0"),
        (0x158, 0x60000010, "cr0"),
        (0x170, 0, "rflags"),
    ],
)
def test_a_state_that_kvm_changes_is_refused_for_qemu_only(offset: int, value: int, name: str) -> None:
    changed = bytearray(state())
    struct.pack_into("<Q", changed, offset, value)
    writer = start().processor(0, bytes(changed))
    with pytest.raises(IgvmError, match=f"has {name} {value:#x} in the state of processor 0"):
        predicted(writer, Loader.QEMU)
    assert predicted(start().processor(0, bytes(changed)))


@pytest.mark.parametrize("name", QEMU_REFUSED)
def test_files_that_qemu_refuses(name: str) -> None:
    writer, why = QEMU_REFUSED[name]
    with pytest.raises(IgvmError, match=why):
        predicted(writer, Loader.QEMU)


def test_more_pages_than_any_guest_has_are_refused_at_once() -> None:
    writer = start()
    for number in range(17):
        writer.area(number, 1 << 28).insert(number, number << 28)
    begun = time.process_time()
    with pytest.raises(IgvmError, match="bytes of pages to measure"):
        predicted(writer)
    assert time.process_time() - begun < 1


def test_a_processor_without_state_needs_a_cpu_model() -> None:
    file = parse_igvm(start().page(0, None).write(), name="guest.igvm")
    with pytest.raises(IgvmError, match="CPU model must be given"):
        predict_igvm(file, loader=Loader.QEMU)
    for vcpus in (0, 513):
        with pytest.raises(IgvmError, match=f"with {vcpus} processors"):
            predict_igvm(file, loader=Loader.QEMU, vcpus=vcpus, cpu_model=MILAN)


@pytest.mark.parametrize(
    ("position", "value", "why"),
    [
        (0, b"JGVM", "does not begin"),
        (4, b"\x03", "version 3"),
        (4, b"\x00", "version 0"),
        (8, b"\x10", "outside or out of line"),
        (8, b"\xff\xff\xff\x7f", "outside or out of line"),
        (12, b"\xf8\xff\xff\xff", "outside or out of line"),
        (16, b"\xff\xff\xff\xff", "but says"),
        (20, b"\xff\xff\xff\xff", "has checksum"),
    ],
)
def test_fixed_headers_that_are_refused(position: int, value: bytes, why: str) -> None:
    data = bytearray(start().page(0, None).write())
    data[position : position + len(value)] = value
    with pytest.raises(IgvmError, match=why):
        parse_igvm(bytes(data), name="guest.igvm")


def test_version_2_is_for_x86_with_pages_of_4_kib() -> None:
    data = bytearray(IgvmWriter(version=2).start().write())
    data[24] = 1
    with pytest.raises(IgvmError, match="architecture"):
        parse_igvm(with_checksum(bytes(data)), name="guest.igvm")


@pytest.mark.parametrize("size", range(24))
def test_files_cut_short(size: int) -> None:
    with pytest.raises(IgvmError):
        parse_igvm(start().page(0, None).write()[:size], name="guest.igvm")


@pytest.mark.parametrize("with_author", [True, False])
def test_id_block_of_a_file(with_author: bool) -> None:
    writer = start().pages(BASE, FIRMWARE)
    block = IdBlock(launch_digest=digest(predicted(writer)), policy=0x30000, guest_svn=3, image_id=b"i" * 16)
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]
    signed = sign_id_block(block, id_key=keys[0], author_key=keys[1] if with_author else None)
    file = parse_igvm(writer.id_block(block, signed).write(), name="guest.igvm")
    found = igvm_id_block(file)
    assert found == (block, signed)
    check_id_block(*found)
    assert digest(predict_igvm(file, loader=Loader.FILE)) == block.launch_digest
    with pytest.raises(IdSignatureError):
        check_id_block(IdBlock(launch_digest=block.launch_digest, policy=0xB0000), found[1])


def test_id_blocks_that_are_refused() -> None:
    block = IdBlock(launch_digest=b"d" * 48, policy=0x30000)
    signed = sign_id_block(block, id_key=ec.generate_private_key(ec.SECP384R1()))
    assert igvm_id_block(parse_igvm(start().write(), name="guest.igvm")) is None
    twice = start().id_block(block, signed).id_block(block, signed)
    with pytest.raises(IgvmError, match="2 ID blocks"):
        igvm_id_block(parse_igvm(twice.write(), name="guest.igvm"))
    # Positions in the body: flag, version, algorithms, reserved word of the ID key, author's key.
    for position, why in (
        (4, "key algorithms"),
        (88, "version"),
        (96, "algorithms"),
        (252, "reserved"),
        (600, "not enabled"),
    ):
        writer = start().id_block(block, signed)
        kind, body = writer.headers.pop()
        changed = body[:position] + b"\x01" + body[position + 1 :]
        if position in (88, 96):
            changed = body[:position] + b"\x02" + body[position + 1 :]
        with pytest.raises(IgvmError, match=why):
            igvm_id_block(parse_igvm(writer.add(kind, changed).write(), name="guest.igvm"))


def refusal(data: bytes) -> KeyturnError | None:
    try:
        predict_igvm(parse_igvm(data, name="guest.igvm"), loader=Loader.FILE)
    except KeyturnError as error:
        return error
    return None


@given(st.data())
def test_broken_files_give_one_error(data: st.DataObject) -> None:
    good = start().area(1, 8192).page(0, b"p" * 4096).insert(1, 0x8000).processor(0, state()).write()
    headers = len(good) - 2 * 4096
    broken = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(24, headers - 1))] = data.draw(st.integers(0, 255))
    error = refusal(with_checksum(bytes(broken)))
    assert error is None or error.advice


@given(st.binary(max_size=200))
def test_any_bytes_give_one_error(data: bytes) -> None:
    assert isinstance(refusal(b"IGVM" + data), IgvmError)


def test_every_known_type_is_of_one_stage() -> None:
    assert [kind.stage for kind in sorted(HeaderType)] == [0, 1, 1, 1] + [2] * (len(HeaderType) - 4)
    file = parse_igvm(start().page(0, None).write(), name="guest.igvm")
    assert snp_part(file).policy == 0x30000


class TestSets:
    def file(self) -> bytes:
        return IgvmWriter().start().pages(BASE, FIRMWARE).write()

    def test_models_count_where_the_file_has_no_processor_states(self) -> None:
        models = [CPU_MODELS[name] for name in ("EPYC-Milan", "EPYC-Genoa")]
        choices = SevChoices(cpu_models=models, vcpus=(1, 2))
        found = igvm_predictions(self.file(), name="g", platform=Platform.SNP, choices=choices)
        labels = [(each.label["cpu-model"], each.label["vcpus"]) for each in found]
        assert labels == [(model.name, count) for model in models for count in ("1", "2")]
        assert len({digest(each) for each in found}) == 4

    @pytest.mark.parametrize(
        ("platform", "vmm"), [(Platform.SEV, Vmm.QEMU), (Platform.SNP, Vmm.EC2), (Platform.SEV_ES, Vmm.QEMU)]
    )
    def test_other_platforms_and_hosts_are_refused(self, platform: Platform, vmm: Vmm) -> None:
        with pytest.raises(IgvmError, match="SNP guests of QEMU only"):
            igvm_predictions(self.file(), name="g", platform=platform, choices=SevChoices(vmm=vmm))
