"""What dstack's host says about a VM: the documents of real deployments, and ones that are not understood."""

from __future__ import annotations

import json

import pytest

from measurements.dstack.errors import DstackFormatError, DstackInputError
from measurements.dstack.vm_config import parse_vm_config
from measurements.tdx.mrtd import PageOrder
from tests.support.dstack_reports import report, vm_config

BASE = {"os_image_hash": "ab" * 32, "cpu_count": 2, "memory_size": 2 << 30}


def parse(**changes: object) -> object:
    return parse_vm_config(json.dumps({**BASE, **changes}).encode())


def test_config_of_a_machine_with_a_gpu() -> None:
    data = report("quote-report").vm_config
    assert data is not None
    found = parse_vm_config(data)
    assert (found.cpus, found.memory, found.gpus, found.nics) == (16, 64 << 30, 1, 1)
    assert (found.qemu, found.page_order, found.pic) == ((9, 2, 1), PageOrder.SINGLE_PASS, False)
    assert (found.hotplug_off, found.pci_hole64, found.lite) == (True, 1 << 44, False)
    assert found.os_image_hash.hex().startswith("14ad42d0")
    assert (found.tdx, found.snp, found.mr_config) == (None, None, None)


def test_config_of_a_lite_deployment() -> None:
    found = parse_vm_config(vm_config("tdx-lite-attestation"))
    assert (found.qemu, found.page_order, found.pic) == ((8, 2, 2), PageOrder.TWO_PASS, True)
    assert (found.lite, found.share_mode, found.image) == (True, "9p", "dstack-0.6.0")
    assert found.tdx is not None


def test_config_of_an_snp_guest() -> None:
    found = parse_vm_config(vm_config("sev-snp-attestation"))
    assert found.snp is not None
    assert (found.snp.vcpus, found.snp.vcpu_type, found.snp.guest_features) == (2, "EPYC-v4", 1)
    assert found.mr_config is not None
    assert found.mr_config.startswith(b'{"app_id":"86e59625')


@pytest.mark.parametrize(
    ("fields", "order", "pic"),
    [
        ({}, PageOrder.SINGLE_PASS, False),
        ({"qemu_version": "8.2.2"}, PageOrder.TWO_PASS, True),
        ({"qemu_version": "9.0.0"}, PageOrder.SINGLE_PASS, False),
        ({"qemu_version": "11.1.2"}, PageOrder.SINGLE_PASS, False),
        # The name of this key says the opposite of what it does.
        ({"qemu_single_pass_add_pages": True}, PageOrder.TWO_PASS, False),
        ({"qemu_version": "8.2.2", "qemu_single_pass_add_pages": False}, PageOrder.SINGLE_PASS, True),
        ({"qemu_version": "8.2.2", "pic": False}, PageOrder.TWO_PASS, False),
    ],
)
def test_defaults_follow_qemus_version(fields: dict[str, object], order: PageOrder, pic: bool) -> None:
    found = parse_vm_config(json.dumps({**BASE, **fields}).encode())
    assert (found.page_order, found.pic) == (order, pic)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"numa_nodes": [0]}, "key 'numa_nodes' is unknown"),
        ({"os_image_hash": "ab"}, "os_image_hash: has 1 bytes, not 32"),
        ({"cpu_count": 0}, "cpu_count: is not an integer from 1"),
        ({"cpu_count": "2"}, "cpu_count: is not an integer"),
        ({"memory_size": 0}, "memory_size: is not an integer"),
        ({"memory_size": 2.5}, "memory_size: is not an integer"),
        ({"num_gpus": 65}, "num_gpus: is not an integer from 0 to 64"),
        ({"num_nics": True}, "num_nics: is not an integer"),
        ({"hugepages": 1}, "hugepages: is neither"),
        ({"qemu_version": "9.2"}, "qemu_version is '9.2'"),
        ({"qemu_version": 9}, "qemu_version is 9"),
        ({"spec_version": 2}, "has spec_version 2"),
        ({"ovmf_variant": "202505"}, "the firmware layout '202505'"),
        ({"tdx_attestation_variant": "full"}, "the attestation variant 'full'"),
        ({"host_share_mode": "nfs"}, "the share mode 'nfs'"),
        ({"tdx_measurement": {}}, "tdx_measurement: key checksum_file is missing"),
        ({"tdx_measurement": {"measurement": "!", "checksum_file": ""}}, "measurement: is not base64"),
        ({"sev_snp_measurement": {}}, "sev_snp_measurement: is not a text"),
        ({"sev_snp_measurement": "{"}, "is not a JSON document"),
        ({"mr_config": {}}, "mr_config: is not a text"),
        ({"mr_config": "\ud800"}, "mr_config: holds a lone surrogate"),
    ],
)
def test_other_configs_are_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(DstackFormatError, match=reason):
        parse(**fields)


def test_a_key_twice_is_refused() -> None:
    text = json.dumps(BASE)[:-1] + ', "cpu_count": 4}'
    with pytest.raises(DstackFormatError, match="same key twice"):
        parse_vm_config(text.encode())


def test_old_qemu_is_refused() -> None:
    with pytest.raises(DstackInputError, match=r"QEMU 7\.2\.0"):
        parse(qemu_version="7.2.0")


@pytest.mark.parametrize("key", BASE)
def test_a_missing_key_is_refused(key: str) -> None:
    fields = {name: value for name, value in BASE.items() if name != key}
    with pytest.raises(DstackFormatError, match=f"key {key} is missing"):
        parse_vm_config(json.dumps(fields).encode())
