"""Near misses of real dstack guests, from the documents in their reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from measurements.booted_files import BootedMachine, read_files
from measurements.dstack.boot_log import AcpiDigests
from measurements.dstack.lite import parse_snp_measurement, parse_tdx_measurement
from measurements.dstack.predict import lite_reference, predict_tdx
from measurements.errors import FormatError
from measurements.near_miss import NearMiss, NearMissKind, Problem
from measurements.near_miss_dstack import (
    dstack_snp_changes,
    dstack_snp_inputs,
    dstack_snp_predictor,
    dstack_tdx_edits,
)
from measurements.near_miss_search import search
from measurements.platforms import PlatformPrediction
from measurements.tdx.mrtd import PageOrder
from tests.support.vectors import vector

TDX = "dstack/tdx-lite-attestation.json"
SNP = "dstack/sev-snp-attestation.json"


def machine(name: str) -> BootedMachine:
    return read_files({name: vector(name).read_bytes()})


def tdx_prediction(**config: Any) -> PlatformPrediction:
    """The guest's image on another machine, with the ACPI tables that its log claims."""
    found = machine(TDX)
    assert found.vm_config is not None
    assert found.vm_config.tdx is not None
    assert found.booted.log is not None
    document = parse_tdx_measurement(found.vm_config.tdx.measurement)
    changed = replace(found.vm_config, **config)
    acpi = [each.digests["sha384"] for each in found.booted.log.events if each.register == "rtmr0"]
    claimed = AcpiDigests(loader=acpi[0], rsdp=acpi[1], tables=acpi[2], origin="the guest's log")
    return predict_tdx(lite_reference(document, changed), changed, claimed)


def tdx_misses(expected: PlatformPrediction) -> tuple[NearMiss, ...]:
    found = machine(TDX)
    assert found.vm_config is not None
    assert found.vm_config.tdx is not None
    problem: Problem[Any] = Problem(expected=expected, found=found.booted.registers)
    document = parse_tdx_measurement(found.vm_config.tdx.measurement)
    return search(problem, list(dstack_tdx_edits(document))).found


def page_orders() -> tuple[PageOrder, PageOrder]:
    """The guest's, and the other one."""
    config = machine(TDX).vm_config
    assert config is not None
    single = config.page_order is PageOrder.SINGLE_PASS
    return config.page_order, PageOrder.TWO_PASS if single else PageOrder.SINGLE_PASS


def test_a_quoted_guest_is_as_predicted() -> None:
    problem: Problem[Any] = Problem(expected=tdx_prediction(), found=machine(TDX).booted.registers)
    assert problem.wrong == frozenset()


def test_the_memory_of_a_quoted_guest_is_named() -> None:
    """The prediction is for 4 GiB; the quote is of a machine with 2 GiB."""
    (miss,) = tdx_misses(tdx_prediction(memory=4 << 30))
    assert miss.kinds == (NearMissKind.MEMORY,)
    assert miss.words == ("memory is 2048 MiB, and the ACPI tables are the same",)
    assert (miss.explains, miss.left) == (("rtmr0",), ())


def test_the_page_order_of_a_quoted_guest_is_named() -> None:
    own, other = page_orders()
    (miss,) = tdx_misses(tdx_prediction(page_order=other))
    assert miss.kinds == (NearMissKind.PAGE_ORDER,)
    assert miss.words == (f"the hypervisor adds pages in the order {own.value}",)


def test_memory_and_page_order_of_a_quoted_guest_are_joined() -> None:
    _, other = page_orders()
    best = tdx_misses(tdx_prediction(page_order=other, memory=4 << 30))[0]
    assert set(best.kinds) == {NearMissKind.MEMORY, NearMissKind.PAGE_ORDER}
    assert best.left == ()


@pytest.mark.parametrize(
    ("launch", "kinds"),
    [
        ({"vcpus": 1}, (NearMissKind.CPUS,)),
        ({"guest_features": 0x21}, (NearMissKind.GUEST_FEATURES,)),
        ({"vcpu_type": "EPYC-Milan"}, (NearMissKind.CPU_MODEL,)),
        ({"vcpus": 8, "vcpu_type": "EPYC-Turin"}, (NearMissKind.CPUS, NearMissKind.CPU_MODEL)),
    ],
)
def test_what_a_signed_snp_report_is_of(launch: dict[str, Any], kinds: tuple[NearMissKind, ...]) -> None:
    """The prediction is for another launch; the report is one that a VCEK signed."""
    found = machine(SNP)
    assert found.vm_config is not None
    told = found.vm_config.snp
    assert told is not None
    predict = dstack_snp_predictor(parse_snp_measurement(told.document.measurement))
    expected = predict(replace(told, **launch))
    inputs = dstack_snp_inputs(expected, told, predict)
    problem: Problem[Any] = Problem(
        expected=expected, found=found.booted.registers, inputs=inputs, predict=predict
    )
    (miss,) = search(problem, list(dstack_snp_changes())).found
    assert miss.kinds == kinds
    assert f"a {told.vcpus} vCPU machine" in miss.machine


def test_a_document_of_another_image_is_refused() -> None:
    found = machine(SNP)
    assert found.vm_config is not None
    assert found.vm_config.snp is not None
    document = parse_snp_measurement(found.vm_config.snp.document.measurement)
    expected = dstack_snp_predictor(document)(found.vm_config.snp)
    other = dstack_snp_predictor(replace(document, kernel=bytes(32)))
    with pytest.raises(FormatError, match="the report is of another image"):
        dstack_snp_inputs(expected, found.vm_config.snp, other)
