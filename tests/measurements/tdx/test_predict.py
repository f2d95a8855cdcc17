"""The whole prediction: sequences of real logs, and what is refused because it is not known."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from measurements.boot_applications import CALLING, EXIT_ACTIONS
from measurements.errors import FormatError
from measurements.events import Bank, EventType
from measurements.firmware_catalogue import UnknownFirmwareError, hypervisor
from measurements.firmware_volume import FirmwareError
from measurements.pe import authenticode_digest
from measurements.platforms import Platform, PlatformPrediction
from measurements.runtime_events import DEV_IMAGE, boot_event, replay_runtime_events
from measurements.shape import MachineShape, Nic, ShapeError
from measurements.tdx import dxe_volume
from measurements.tdx.ccel import parse_cc_log
from measurements.tdx.mrtd import PageOrder, compute_mrtd
from measurements.tdx.predict import (
    LAUNCH_REGISTERS,
    DirectBoot,
    TdxFirmware,
    predict_mrtd,
    predict_tdx,
)
from measurements.tdx.register_events import replay
from measurements.tdx.rtmr1 import rtmr1_direct
from measurements.tdx.tdvf import parse_tdvf
from tests.measurements.tdx.kernel_files import bzimage
from tests.measurements.tdx.tdvf_builder import build
from tests.measurements.tdx.tdx_boots import (
    DIRECT,
    as_release,
    image,
    machine,
    ubuntu_bytes,
    ubuntu_firmware,
)
from tests.support.boot_model import ModelImage
from tests.support.vectors import vector

GKE = "tdx-ccel-logs/trustee/CCEL_data_grub_gke"
CC_INDEX = {"rtmr0": 1, "rtmr1": 2, "rtmr2": 3, "rtmr3": 4}


def direct(release: str = "2025.02", boot: DirectBoot = DIRECT) -> PlatformPrediction:
    (found,) = predict_tdx(as_release(ubuntu_firmware(), release), machine(direct=True), boot)
    return found


def kinds(prediction: PlatformPrediction, register: str) -> list[str]:
    return [event.event_type for event in prediction.events if event.register == register]


def logged(name: str, register: str) -> list[str]:
    log = parse_cc_log(vector(name).read_bytes())
    return [EventType(event.event_type).name for event in log.events if event.pcr == CC_INDEX[register]]


def digests(prediction: PlatformPrediction, register: str) -> list[bytes]:
    return [event.digests["sha384"] for event in prediction.events if event.register == register]


@pytest.mark.parametrize("register", ["rtmr0", "rtmr1"])
def test_a_direct_boot_has_the_events_of_dstacks_log(register: str) -> None:
    assert kinds(direct(), register) == logged("tdx-ccel-logs/dstack/ccel.bin", register)


@pytest.mark.parametrize("register", ["rtmr0", "rtmr1", "rtmr2"])
def test_a_direct_boot_of_old_firmware_has_the_events_of_trustees_log(register: str) -> None:
    assert kinds(direct("2024.02"), register) == logged("tdx-ccel-logs/trustee/CCEL_data_ovmf", register)


def test_actions_have_their_digests_of_real_logs() -> None:
    found = [value.hex()[:8] for value in digests(direct(), "rtmr1")]
    assert found[1:] == ["77a0dab2", "394341b7", "214b0bef", "0a2e01c8"]
    assert digests(direct(), "rtmr1")[0] == authenticode_digest(DIRECT.kernel, Bank.SHA384)
    assert [hashlib.sha384(text.encode()).hexdigest()[:8] for text in (CALLING, *EXIT_ACTIONS)] == [
        "77a0dab2",
        "214b0bef",
        "0a2e01c8",
    ]


def test_a_uki_boots_with_the_events_of_a_cloud_log() -> None:
    # GKE's image: a UKI on a stub that starts the kernel through firmware, and Linux before 6.9.
    log = parse_cc_log(vector(GKE).read_bytes())
    old = replace(image(), inputs=replace(image().inputs, kernel_release="6.6.1"))
    (found,) = predict_tdx(ubuntu_firmware(), machine(direct=False), old)
    assert kinds(found, "rtmr1") == logged(GKE, "rtmr1")
    real = {next(iter(event.digests.values())) for event in log.events if event.pcr == 3}
    named = {event.digests["sha384"] for event in found.events if event.register == "rtmr2"} & real
    assert len(named) == len([".linux", ".osrel", ".cmdline", ".initrd"])
    assert set(kinds(found, "rtmr2")) == {"EV_IPL"} == set(logged(GKE, "rtmr2"))


def test_linux_from_6_9_on_adds_command_line_and_initrd() -> None:
    (found,) = predict_tdx(ubuntu_firmware(), machine(direct=False), image())
    assert kinds(found, "rtmr2") == ["EV_IPL"] * 8 + ["EV_EVENT_TAG"] * 2
    assert digests(found, "rtmr2")[-2] == hashlib.sha384("console=ttyS0\0".encode("utf-16-le")).digest()
    older = direct(boot=replace(DIRECT, kernel=bzimage(release="6.8.12")))
    assert kinds(older, "rtmr2") == []
    assert older.registers["rtmr2"] == {"sha384": bytes(48)}


@pytest.mark.parametrize(
    ("release", "line"),
    [("2025.02", "console=ttyS0 initrd=initrd"), ("2025.08", "initrd=initrd console=ttyS0")],
)
def test_ovmf_adds_its_argument_where_the_release_does(release: str, line: str) -> None:
    wanted = [
        hashlib.sha384((line + "\0").encode("utf-16-le")).digest(),
        hashlib.sha384(b"initrd").digest(),
    ]
    assert digests(direct(release), "rtmr2") == wanted
    bare = direct(release, replace(DIRECT, initrd=b""))
    assert digests(bare, "rtmr2") == [hashlib.sha384("console=ttyS0\0".encode("utf-16-le")).digest()]


def test_each_page_order_is_a_prediction_of_its_own() -> None:
    found = predict_tdx(ubuntu_firmware(), machine(direct=True, host="any-qemu"), DIRECT)
    assert [dict(each.label) for each in found] == [
        {"hypervisor": "any-qemu", "page-order": "single-pass"},
        {"hypervisor": "any-qemu", "page-order": "two-pass"},
    ]
    one, other = (dict(each.registers) for each in found)
    assert [each.registers["mrtd"]["sha384"].hex()[:8] for each in found] == ["7357a10d", "7ce4cec5"]
    assert one.pop("mrtd") != other.pop("mrtd")
    assert one == other


def test_registers_follow_from_the_events() -> None:
    found = direct()
    assert found.platform is Platform.TDX
    assert found.shape["memory"] == "2048MiB"
    chain = [event for event in found.events if not event.running]
    expected = {name: {"sha384": value} for name, value in replay(chain).items()}
    assert {name: found.registers[name] for name in expected} == expected
    running = [event for event in found.events if event.register == "mrtd"]
    assert found.registers["mrtd"] == running[-1].digests
    assert all(event.description and event.origin for event in found.events)
    assert list(found.registers) == ["mrtd", *LAUNCH_REGISTERS, "rtmr0", "rtmr1", "rtmr2", "rtmr3"]


def test_the_guests_events_yield_rtmr3() -> None:
    events = (DEV_IMAGE, boot_event())
    (found,) = predict_tdx(ubuntu_firmware(), machine(direct=True), DIRECT, runtime_events=events)
    assert found.registers["rtmr3"]["sha384"] == replay_runtime_events(events)["sha384"]
    assert direct().registers["rtmr3"] == {"sha384": bytes(48)}


def test_what_the_host_sets_at_launch_is_shown() -> None:
    (found,) = predict_tdx(ubuntu_firmware(), machine(direct=True), DIRECT, launch={"mrconfigid": b"\1" * 48})
    assert found.registers["mrconfigid"]["sha384"] == b"\1" * 48
    assert found.registers["mrowner"]["sha384"] == bytes(48)
    assert any("nothing is bound" in event.description for event in found.events)


@pytest.mark.parametrize(("name", "value"), [("mrconfigid", b"\1" * 47), ("rtmr3", bytes(48))])
def test_launch_values_of_other_form_are_refused(name: str, value: bytes) -> None:
    with pytest.raises(FormatError, match=f"{name}: is no value of 48 bytes"):
        predict_tdx(ubuntu_firmware(), machine(direct=True), DIRECT, launch={name: value})


@pytest.mark.parametrize(
    ("boot", "registers"),
    [
        (replace(DIRECT, kernel=bzimage(release="6.12.2-test")), {"rtmr1"}),
        (replace(DIRECT, initrd=b"initre"), {"rtmr2"}),
        (replace(DIRECT, command_line="console=ttyS1"), {"rtmr2"}),
    ],
)
def test_each_part_of_a_direct_boot_is_in_its_register(boot: DirectBoot, registers: set[str]) -> None:
    before, after = direct().registers, direct(boot=boot).registers
    assert {name for name, value in before.items() if after[name] != value} == registers


def test_each_part_of_an_image_is_in_its_register() -> None:
    (before,) = predict_tdx(ubuntu_firmware(), machine(direct=False), image())
    for model, registers in (
        (ModelImage(initrd=b"other!"), {"rtmr1", "rtmr2"}),
        (ModelImage(disk_guid=ModelImage().root_guid), {"rtmr1"}),
    ):
        (after,) = predict_tdx(ubuntu_firmware(), machine(direct=False), image(model))
        assert {
            name for name, value in before.registers.items() if after.registers[name] != value
        } == registers


def test_old_qemu_changes_rtmr1_alone() -> None:
    base = machine(direct=True)
    old = replace(base, qemu_version=(9, 2))
    (new_values,) = predict_tdx(ubuntu_firmware(), base, DIRECT)
    (old_values,) = predict_tdx(ubuntu_firmware(), old, DIRECT)
    changed = {name for name, value in new_values.registers.items() if old_values.registers[name] != value}
    assert changed == {"rtmr1"}
    assert any("QEMU's changes" in event.description for event in old_values.events)


def test_mrtd_alone_needs_neither_image_nor_tables() -> None:
    firmware = ubuntu_firmware().tdvf
    (found,) = predict_mrtd(firmware, hypervisor("canonical-8.2"), MachineShape())
    assert found.registers == {"mrtd": {"sha384": compute_mrtd(firmware, order=PageOrder.TWO_PASS).value}}
    assert predict_mrtd(firmware, hypervisor("gce"), MachineShape())[0].label["page-order"] == "single-pass"
    with pytest.raises(FormatError, match="more than 3 GiB"):
        predict_mrtd(firmware, hypervisor("gce-early"), MachineShape())
    small = parse_tdvf(build(), name="x")
    sizes = (4096, 16384)
    values = {
        size: predict_mrtd(small, hypervisor("gce-early"), MachineShape(memory_mib=size))[0].registers["mrtd"]
        for size in sizes
    }
    assert values[4096] != values[16384]


@pytest.mark.parametrize("release", ["2022.02", "2022.08", "2022.11"])
def test_releases_with_mixed_up_registers_are_refused(release: str) -> None:
    with pytest.raises(UnknownFirmwareError, match=f"is of edk2 {release}: .*only MRTD is predicted"):
        direct(release)


def test_builds_that_do_not_measure_are_refused() -> None:
    base = ubuntu_firmware()
    silent = replace(base, facts=replace(base.facts, modules=frozenset({"UiApp"})))
    with pytest.raises(UnknownFirmwareError, match="no module TdTcg2Dxe"):
        predict_tdx(silent, machine(direct=True), DIRECT)


def test_hypervisors_with_another_memory_list_are_refused() -> None:
    with pytest.raises(UnknownFirmwareError, match="of Google Compute Engine only MRTD"):
        predict_tdx(ubuntu_firmware(), machine(direct=True, host="gce"), DIRECT)


def test_the_shape_must_boot_what_is_given() -> None:
    with pytest.raises(FormatError, match="is 'disk', but"):
        predict_tdx(ubuntu_firmware(), machine(direct=False), DIRECT)
    with pytest.raises(FormatError, match="is 'direct', but"):
        predict_tdx(ubuntu_firmware(), machine(direct=True), image())


def test_a_variable_store_of_another_size_is_refused() -> None:
    with pytest.raises(FormatError, match=r"vars\.fd: has 4096 bytes, but the firmware keeps 540672"):
        TdxFirmware.parse(ubuntu_bytes(), name="OVMF.fd", variables=("vars.fd", bytes(4096)))


def test_firmware_with_another_hash_is_recognised_by_its_version() -> None:
    changed = bytearray(ubuntu_bytes())
    changed[0x80000] ^= 1  # in the store, behind the variables
    firmware = TdxFirmware.parse(bytes(changed), name="x")
    assert firmware.build.known is None
    assert firmware.build.release.name == "2025.02"
    assert firmware.facts == replace(ubuntu_firmware().facts, name="x")
    with pytest.raises(FirmwareError, match="no DXE volume"):
        TdxFirmware.parse(build(), name="x")


def test_known_firmware_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(_: object) -> bytes:
        raise AssertionError("unpacked")

    monkeypatch.setattr(dxe_volume, "inner_volumes", unpack)
    with pytest.raises(AssertionError, match="unpacked"):
        TdxFirmware.parse(ubuntu_bytes()[:-1] + b"\1", name="changed")
    assert TdxFirmware.parse(ubuntu_bytes(), name="OVMF.fd").build.known is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"smm": True}, "no system management mode"), ({"nics": (Nic(rom=True),)}, "boot ROM measures")],
)
def test_shapes_that_no_trust_domain_has_are_refused(changes: dict[str, Any], reason: str) -> None:
    base = machine(direct=True)
    odd = replace(base, shape=replace(base.shape, **changes))
    with pytest.raises(ShapeError, match=reason):
        predict_tdx(ubuntu_firmware(), odd, DIRECT)


def test_the_order_of_rtmr1_follows_the_release() -> None:
    (found,) = predict_tdx(ubuntu_firmware(), machine(direct=True), DIRECT)
    assert kinds(found, "rtmr1")[0] == "EV_EFI_BOOT_SERVICES_APPLICATION"
    old = rtmr1_direct(as_release(ubuntu_firmware(), "2024.08").build.release, [])
    assert [event.event_type for event in old] == ["EV_EFI_ACTION"]
