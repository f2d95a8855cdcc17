"""Which key of a shape QEMU's words are about. The words are those of QEMU 7.2, 10.0 and 11.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.qemu_refusal import refused_key, refused_subject


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("unsupported machine type\nUse -machine help to list supported machines", "machine"),
        ("-device nothing,id=device0: 'nothing' is not a valid device model name", "device 0"),
        ("-device e1000e,id=net1-device,netdev=net1: x", "nic 1"),
        ("-device virtio-blk-pci,id=disk2-device,drive=disk2: x", "disk 2"),
        ("-device pxb-pcie,id=pxb0,bus=pcie.0,bus_nr=32: x", "pxb 0"),
        ("-device pcie-root-port,id=passed0-port,bus=pcie.0: x", "gpu or nvswitch 0"),
        ("-object memory-backend-ram,id=memory1,size=1M: x", "numa 1"),
        ("Address space limit 0xffffffffff < 0x4087fffffff phys-bits too low (40)", "phys-bits"),
        ("phys-bits should be between 32 and 52  (but is 60)", "phys-bits"),
        ("Property 'pc-q35-6.0-machine.pic' not found", "pic"),
        ("Property 'pc-q35-7.2-machine.hpet' not found", "hpet"),
        ("Invalid SMP CPUs 300. The max CPUs supported by machine 'pc-q35-2.4' is 255", "cpus"),
        ("cannot set up guest memory 'pc.ram': Cannot allocate memory", "memory"),
        ("-smbios type=4,foo=3: Invalid parameter 'foo'", "smbios"),
        ("Invalid UUID for SMBIOS", "smbios"),
        ("-device tpm-crb,tpmdev=tpm0: x", "tpm"),
    ],
)
def test_words_and_their_key(words: str, key: str) -> None:
    assert refused_key(f"qemu-system-x86_64: {words}") == key
    assert refused_subject(words, program="q") == f"shape key {key!r}"


def test_words_about_nothing_are_about_the_program() -> None:
    assert refused_key("Segmentation fault") is None
    assert refused_subject("it said nothing", program="/usr/bin/qemu") == "/usr/bin/qemu"


@given(st.text())
def test_any_words(words: str) -> None:
    assert refused_subject(words, program="q")
