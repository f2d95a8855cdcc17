"""The further keys of a machine shape: NUMA, SMBIOS, passed-through and other devices."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.shape import (
    KNOWN_KEYS,
    BootSource,
    MachineShape,
    ShapeError,
    TpmInterface,
    read_shape,
    shape_from_mapping,
)
from measurements.shape_devices import (
    ExtraDevice,
    NumaNode,
    PassedDevice,
    PassedKind,
    Pxb,
    SmbiosStrings,
    parse_device,
    parse_smbios,
)
from measurements.stand_ins import replaced_devices, stand_in, window_functions

EVERYTHING = """
memory = "4GiB"
cpus = 4
boot = "direct"
tpm = "none"
phys-bits = 46
hpet = false
pic = false
acpi-hotplug = false
pci-hole64 = "4TiB"
hugepages = true
[[numa]]
memory = "1GiB"
cpus = [0, 1]
[[numa]]
memory = "3GiB"
cpus = [2, 3]
[[smbios]]
type = 1
manufacturer = "A, B"
serial = "1"
[[smbios]]
type = 11
value = ["one", "two"]
[[device]]
model = "virtio-scsi-pci"
options = { iommu_platform = "on" }
[[device]]
model = "vhost-vsock-pci"
slot = 2
root-port = true
options = { guest-cid = "3" }
[[pxb]]
bus = 32
numa-node = 1
[[gpu]]
bars = ["16MiB", "128GiB"]
pxb = 0
[[nvswitch]]
bars = ["32MiB"]
"""


def test_file_gives_every_further_field(tmp_path: Path) -> None:
    path = tmp_path / "shape.toml"
    path.write_text(EVERYTHING)
    shape = read_shape(path)
    assert shape == MachineShape(
        memory_mib=4096,
        cpus=4,
        disks=(),
        boot=BootSource.DIRECT,
        tpm=TpmInterface.NONE,
        phys_bits=46,
        hpet=False,
        pic=False,
        acpi_hotplug=False,
        pci_hole64_mib=4 << 20,
        hugepages=True,
        numa=(NumaNode(memory_mib=1024, cpus=(0, 1)), NumaNode(memory_mib=3072, cpus=(2, 3))),
        smbios=(
            SmbiosStrings(type=1, fields=(("manufacturer", "A, B"), ("serial", "1"))),
            SmbiosStrings(type=11, fields=(("value", "one"), ("value", "two"))),
        ),
        devices=(
            ExtraDevice(model="virtio-scsi-pci", slot=8, options=(("iommu_platform", "on"),)),
            ExtraDevice(model="vhost-vsock-pci", slot=2, root_port=True, options=(("guest-cid", "3"),)),
        ),
        pxbs=(Pxb(slot=24, bus=32, numa_node=1),),
        passed=(
            PassedDevice(kind=PassedKind.GPU, slot=20, bars_mib=(16, 131072), pxb=0),
            PassedDevice(kind=PassedKind.NVSWITCH, slot=21, bars_mib=(32,)),
        ),
    )
    assert shape_from_mapping(shape.as_json()) == shape


def test_usual_shapes_have_only_the_usual_keys() -> None:
    usual = ["memory", "cpus", "machine", "tpm", "cpu-vendor", "smm", "boot-order", "disk", "nic"]
    assert list(MachineShape().as_json()) == usual
    assert list(MachineShape(hpet=False).as_json()) == [*usual, "hpet"]


@given(
    hpet=st.booleans(),
    pic=st.booleans(),
    hotplug=st.booleans(),
    hugepages=st.booleans(),
    boot=st.sampled_from(BootSource),
    tpm=st.sampled_from(TpmInterface),
    width=st.integers(36, 52),
    hole=st.none() | st.integers(0, 1 << 22),
    slots=st.sets(st.integers(4, 15), max_size=3),
)
def test_json_form_reads_back(
    *,
    hpet: bool,
    pic: bool,
    hotplug: bool,
    hugepages: bool,
    boot: BootSource,
    tpm: TpmInterface,
    width: int,
    hole: int | None,
    slots: set[int],
) -> None:
    shape = MachineShape(
        hpet=hpet,
        pic=pic,
        acpi_hotplug=hotplug,
        hugepages=hugepages,
        boot=boot,
        tpm=tpm,
        phys_bits=width,
        pci_hole64_mib=hole,
        devices=tuple(ExtraDevice(model="virtio-rng-pci", slot=slot) for slot in sorted(slots)),
    )
    assert shape_from_mapping(shape.as_json()) == shape


@pytest.mark.parametrize(
    "document",
    [
        {"boot": "network"},
        {"hpet": "off"},
        {"phys-bits": 30},
        {"phys-bits": 53},
        {"pci-hole64": "many"},
        {"numa": [{"memory": "2GiB", "cpus": [1]}]},
        {"numa": [{"memory": "2GiB", "cpus": []}]},
        {"numa": [{"memory": "1GiB", "cpus": [0]}]},
        {"numa": [{"cpus": [0]}]},
        {"numa": [{"memory": "2GiB", "cpus": "0"}]},
        {"numa": [{"memory": "2GiB", "cpus": [0], "distance": 10}]},
        {"smbios": [{"type": 0, "vendor": "x"}]},
        {"smbios": [{"type": 1}]},
        {"smbios": [{"type": 1, "colour": "red"}]},
        {"smbios": [{"type": 1, "serial": 5}]},
        {"smbios": [{"type": 1, "serial": "\n"}]},
        {"device": [{}]},
        {"device": [{"model": "a,b"}]},
        {"device": [{"model": "virtio-rng-pci", "slot": 3}]},
        {"device": [{"model": "virtio-rng-pci", "slot": 31}]},
        {"device": [{"model": "virtio-rng-pci", "slot": 0}]},
        {"device": [{"model": "virtio-rng-pci", "options": ["a"]}]},
        {"device": [{"model": "virtio-rng-pci", "options": {"bus": "pci.1"}}]},
        {"device": [{"model": "virtio-rng-pci", "options": {"a": "b,c=d"}}]},
        {"device": [{"model": "scsi-hd", "options": {"drive": "x"}}]},
        {"pxb": [{}]},
        {"pxb": [{"bus": 1}]},
        {"pxb": [{"bus": 32, "numa-node": 0}]},
        {"gpu": [{}]},
        {"gpu": [{"bars": []}]},
        {"gpu": [{"bars": ["3MiB"]}]},
        {"gpu": [{"bars": ["0MiB"]}]},
        {"gpu": [{"bars": ["1MiB"] * 9}]},
        {"gpu": [{"bars": ["1MiB"], "pxb": 0}]},
        {"nvswitch": [{"bars": ["1MiB"], "slot": 3}]},
    ],
)
def test_impossible_shapes_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(ShapeError):
        shape_from_mapping(document)


def test_a_direct_boot_needs_no_disk() -> None:
    assert shape_from_mapping({"boot": "direct"}).disks == ()
    assert len(shape_from_mapping({"boot": "direct", "disk": [{}]}).disks) == 1


def test_huge_pages_alone_are_one_node() -> None:
    shape = MachineShape(memory_mib=1024, cpus=3, hugepages=True)
    assert shape.numa_nodes == (NumaNode(memory_mib=1024, cpus=(0, 1, 2)),)
    assert MachineShape().numa_nodes == ()


def test_slots_of_other_buses_do_not_collide() -> None:
    gpu = PassedDevice(kind=PassedKind.GPU, slot=3, bars_mib=(1,), pxb=0)
    assert MachineShape(pxbs=(Pxb(bus=32),), passed=(gpu,)).passed == (gpu,)
    with pytest.raises(ShapeError, match="two devices are in PCI slot 3"):
        MachineShape(pxbs=(Pxb(bus=32),), passed=(gpu, gpu))


def test_flags() -> None:
    assert parse_smbios("type=11,value=a,value=b").fields == (("value", "a"), ("value", "b"))
    assert parse_device("virtio-scsi-pci,slot=5,root-port=on,ioeventfd=off", index=0) == ExtraDevice(
        model="virtio-scsi-pci", slot=5, root_port=True, options=(("ioeventfd", "off"),)
    )
    assert parse_device("virtio-rng-pci", index=2).slot == 10
    for text in ("type=x", "manufacturer=a"):
        with pytest.raises(ShapeError):
            parse_smbios(text)
    with pytest.raises(ShapeError, match="neither on nor off"):
        parse_device("virtio-rng-pci,root-port=1", index=0)


def test_devices_that_need_a_host_are_replaced_in_their_slot() -> None:
    vsock = ExtraDevice(model="vhost-vsock-pci", slot=2, options=(("guest-cid", "3"), ("packed", "on")))
    made = stand_in(vsock)
    assert (made.model, made.slot) == ("virtio-rng-pci", 2)
    assert made.options == (("disable-legacy", "on"), ("packed", "on"))
    plain = ExtraDevice(model="virtio-balloon-pci", slot=4)
    assert stand_in(plain) == plain
    gpu = PassedDevice(kind=PassedKind.GPU, bars_mib=(16, 64))
    assert window_functions(gpu) == [
        "pci-testdev,addr=0x0.0x0,multifunction=on,membar=16M",
        "pci-testdev,addr=0x0.0x1,multifunction=on,membar=64M",
    ]
    words = replaced_devices(MachineShape(devices=(vsock, plain), passed=(gpu,)))
    assert len(words) == 2
    assert "vhost-vsock-pci in slot 2 is replaced by virtio-rng-pci" in words[0]
    assert "gpu behind the port in slot 20" in words[1]
    assert "16 MiB, 64 MiB" in words[1]
    assert replaced_devices(MachineShape()) == ()


def test_the_documents_example_has_every_key() -> None:
    text = (Path(__file__).parents[2] / "docs/shapes.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    document = tomllib.loads(example)
    assert set(document) == set(KNOWN_KEYS)
    shape = shape_from_mapping(document)
    assert shape_from_mapping(shape.as_json()) == shape
    assert len(replaced_devices(shape)) == 3
