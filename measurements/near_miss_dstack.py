"""Near misses of dstack guests, from the measurement documents in their own reports instead of firmware
files.

A document is what a guest says of its image. For a launch digest it is used only if it gives the predicted
value; for a trust domain the search compares with registers, so a false document finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from measurements.dstack.lite import SNP_FILE, TDX_FILE, SnpMeasurement, TdxMeasurement
from measurements.dstack.predict import predict_snp
from measurements.dstack.vm_config import SnpLaunch
from measurements.errors import FormatError
from measurements.near_miss import Change, NearMissKind, differing_registers
from measurements.near_miss_firmware import mrtd_change
from measurements.near_miss_sev import FEATURES, VCPUS
from measurements.near_miss_tdx import memory_edits
from measurements.platforms import PlatformPrediction
from measurements.sev.chains import REGISTER
from measurements.sev.cpu_models import ONE_OF_EACH
from measurements.sev.guest_features import names
from measurements.tdx.mrtd import PageOrder


def dstack_tdx_edits(document: TdxMeasurement) -> Iterator[Change[Any]]:
    """Other memory, and the other order of pages."""
    yield from memory_edits(document.witness.td_hob, origin=f"memory of the machine, regions in {TDX_FILE}")
    for order, value in (
        (PageOrder.SINGLE_PASS, document.mrtd_single_pass),
        (PageOrder.TWO_PASS, document.mrtd_two_pass),
    ):
        words = f"the hypervisor adds pages in the order {order.value}"
        yield mrtd_change(NearMissKind.PAGE_ORDER, words, value)


def dstack_snp_predictor(document: SnpMeasurement) -> Callable[[SnpLaunch], PlatformPrediction]:
    """The prediction of a launch of the document's image."""
    return partial(predict_snp, document)


def dstack_snp_inputs(
    expected: PlatformPrediction, told: SnpLaunch, predict: Callable[[SnpLaunch], PlatformPrediction]
) -> SnpLaunch:
    """The launch that was predicted, by its label; ``told`` is the one of the report.

    Raises ``FormatError`` if the report's document does not give the expected value.
    """
    launch = replace(told, **_labelled(expected.label))
    if differing_registers(predict(launch), expected.registers):
        raise FormatError(
            "does not give the reference values: the report is of another image",
            subject=SNP_FILE,
            advice="give the reference values of the image that runs",
        )
    return launch


def dstack_snp_changes() -> Iterator[Change[Any]]:
    """Other numbers of vCPUs, feature words and CPU models."""
    for count in VCPUS:
        words = f"there are {count} vCPUs" if count > 1 else "there is 1 vCPU"
        yield _change(NearMissKind.CPUS, words, vcpus=count)
    for word in FEATURES:
        words = f"the guest features are {int(word):#x} ({', '.join(names(word))})"
        yield _change(NearMissKind.GUEST_FEATURES, words, guest_features=int(word))
    for model in ONE_OF_EACH:
        yield _change(NearMissKind.CPU_MODEL, f"the CPU model is {model.name}", vcpu_type=model.name)


def _labelled(label: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a launch that a label names."""
    readers: Mapping[str, tuple[str, Callable[[str], Any]]] = {
        "cpu-model": ("vcpu_type", str),
        "guest-features": ("guest_features", partial(int, base=16)),
        "vcpus": ("vcpus", int),
    }
    return {name: read(label[key]) for key, (name, read) in readers.items() if key in label}


def _change(kind: NearMissKind, words: str, **fields: Any) -> Change[Any]:
    def inputs(launch: SnpLaunch) -> SnpLaunch:
        return replace(launch, **fields)

    return Change(kind=kind, words=words, registers=frozenset((REGISTER,)), inputs=inputs)
