"""Machine shapes from flags and files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.shape import (
    BootOrder,
    CpuVendor,
    Disk,
    MachineShape,
    Nic,
    NicModel,
    ShapeError,
    TpmInterface,
    parse_disk,
    parse_memory,
    parse_nic,
    read_shape,
    shape_from_mapping,
)


def test_file_gives_every_field(tmp_path: Path) -> None:
    path = tmp_path / "shape.toml"
    path.write_text(
        'memory = "3GiB"\ncpus = 4\nmachine = "pc-q35-7.2"\ntpm = "tis"\nsmm = true\n'
        'cpu-vendor = "GenuineIntel"\nboot-order = "firmware"\n'
        "[[disk]]\n[[disk]]\nslot = 9\n"
        '[[nic]]\nmodel = "e1000e"\nmac = "52:54:00:AA:00:01"\nrom = true\n'
    )
    assert read_shape(path) == MachineShape(
        memory_mib=3072,
        cpus=4,
        machine="pc-q35-7.2",
        tpm=TpmInterface.TIS,
        smm=True,
        cpu_vendor=CpuVendor.INTEL,
        boot_order=BootOrder.FIRMWARE,
        disks=(Disk(slot=3), Disk(slot=9)),
        nics=(Nic(model=NicModel.E1000E, mac="52:54:00:aa:00:01", rom=True),),
    )


@given(
    memory=st.integers(256, 1 << 20),
    cpus=st.integers(1, 255),
    tpm=st.sampled_from(TpmInterface),
    smm=st.booleans(),
    cards=st.integers(0, 3),
)
def test_json_form_reads_back(memory: int, cpus: int, tpm: TpmInterface, smm: bool, cards: int) -> None:
    nics = tuple(parse_nic("virtio-net-pci", index=index) for index in range(cards))
    shape = MachineShape(memory_mib=memory, cpus=cpus, tpm=tpm, smm=smm, nics=nics)
    assert shape_from_mapping(shape.as_json()) == shape


@pytest.mark.parametrize(
    ("text", "mib"), [("2048", 2048), ("2048MiB", 2048), ("2GiB", 2048), ("2G", 2048), (" 512 M ", 512)]
)
def test_memory_sizes(text: str, mib: int) -> None:
    assert parse_memory(text) == mib


@pytest.mark.parametrize("text", ["", "2 TB", "-1", "1.5GiB", "GiB"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(ShapeError, match="not a memory size"):
        parse_memory(text)


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ShapeError) as caught:
        shape_from_mapping({"memroy": "2GiB"})
    assert "'memory'" in caught.value.advice


def test_unknown_key_in_a_device() -> None:
    with pytest.raises(ShapeError, match="unknown key 'slto'"):
        shape_from_mapping({"disk": [{"slto": 4}]})


@pytest.mark.parametrize(
    "document",
    [
        {"memory": "128MiB"},
        {"cpus": 0},
        {"cpus": True},
        {"cpus": "many"},
        {"machine": "pc-i440fx-7.2"},
        {"machine": "q35,foo=bar"},
        {"tpm": "spi"},
        {"smm": "yes"},
        {"disk": {"slot": 3}},
        {"disk": [{"slot": 3}, {"slot": 3}]},
        {"disk": [{"slot": 31}]},
        {"disk": [{"model": "ide-hd"}]},
        {"disk": [{"slot": 16}], "nic": [{}]},
        {"nic": [{"mac": "01:00:00:00:00:00"}]},
        {"nic": [{"mac": "52:54:00:12:34"}]},
        {"nic": [{"rom": 1}]},
    ],
)
def test_impossible_shapes_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(ShapeError):
        shape_from_mapping(document)


def test_flags_with_options() -> None:
    assert parse_disk("virtio-blk-pci,slot=0x8", index=1).slot == 8
    assert parse_disk("virtio-blk-pci", index=2).slot == 5
    nic = parse_nic("e1000e,mac=52:54:00:00:00:AA,rom=on", index=1)
    assert (nic.slot, nic.mac, nic.rom) == (17, "52:54:00:00:00:aa", True)


@pytest.mark.parametrize("text", ["e1000e,rom=maybe", "e1000e,colour=red", "tulip"])
def test_card_flags_that_are_wrong(text: str) -> None:
    with pytest.raises(ShapeError):
        parse_nic(text, index=0)


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "shape.toml"
    path.write_text("memory = \n")
    with pytest.raises(ShapeError, match="cannot be read"):
        read_shape(path)
