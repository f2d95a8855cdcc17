"""GPUs of a generated PKI: the full pass, and every check that can fail."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.nvidia.binding import gpu_evidence, gpu_evidence_digest, gpu_report_data
from attestation.nvidia.device_checks import CHECKS
from attestation.nvidia.verify import SET_CHECKS, verify_gpus
from attestation.policy import Allowed, GpuPolicy
from attestation.report_data import qualifying_data
from tests.attestation.nvidia.cases import STRICT, Case, good_collateral, good_part
from tests.support.nvidia_pki import (
    DRIVER,
    DRIVER_GOLDEN,
    MEASUREMENTS,
    NONCE,
    NOW,
    NVDEC_OFF,
    VBIOS,
    VBIOS_GOLDEN,
    answers,
    composite_id,
    device_name,
    gpu,
    gpu_pki,
    make_device,
    manifest_text,
    opaque_fields,
    part,
    report,
    sign_manifest,
    tcb_info,
)
from tests.support.policies import ANY, NONE, only, permissive_policy

LOOSE = replace(STRICT, rims=False, ocsp=False, bound=True)


def test_good_gpu_passes_every_check_with_its_facts() -> None:
    verdict = Case().verify()
    assert verdict.passed
    names = [check.name for group in verdict.groups for check in group.checks]
    assert names == [*(f"gpu0-{one}" for one in CHECKS), *SET_CHECKS]
    facts = verdict.facts
    assert facts is not None
    assert facts.report_data == NONCE
    assert facts.identity == {"gpu0": "NVIDIA:GH100:48B02D0000000001"}
    assert facts.details["gpu0_driver"] == DRIVER
    assert facts.details["gpu0_vbios"] == VBIOS
    assert facts.details["gpu0_mode"] == "single-GPU passthrough"
    assert facts.details["gpu0_protected_pcie"] == "off"
    assert facts.registers == {}
    assert {"signxml", "lxml"} == {name for name, _ in verdict.versions}
    assert verdict.chain[0].subject == "report of gpu0"
    assert any(one.name.startswith("OCSP answer") for one in verdict.windows)


def test_several_gpus_pass_together() -> None:
    parts = (good_part(), part(gpu(2)))
    collateral = good_collateral().joined(Collateral(ocsp=answers(gpu(2))))
    case = Case(parts=parts, policy=replace(STRICT, count=2), collateral=collateral)
    assert case.failed() == {}


@pytest.mark.parametrize(
    ("policy", "check"),
    [
        (replace(STRICT, count=2), "gpu-count"),
        (replace(STRICT, count=0), "gpu-count"),
        (replace(STRICT, architectures=only("BLACKWELL")), "gpu0-architecture"),
        (replace(STRICT, architectures=NONE), "gpu0-architecture"),
        (replace(STRICT, driver_versions=only("1.0")), "gpu0-driver"),
        (replace(STRICT, vbios_versions=NONE), "gpu0-vbios"),
    ],
)
def test_policy_that_does_not_allow_the_device_refuses_it(policy: GpuPolicy, check: str) -> None:
    assert set(Case(policy=policy).failed()) == {check}


def test_all_that_is_wrong_with_versions_is_said_at_once() -> None:
    policy = replace(STRICT, architectures=NONE, driver_versions=NONE, vbios_versions=NONE, count=9)
    assert set(Case(policy=policy).failed()) == {
        "gpu0-architecture",
        "gpu0-driver",
        "gpu0-vbios",
        "gpu-count",
    }


def test_gpus_without_a_section_in_the_policy_are_refused() -> None:
    assert set(Case(policy=None).failed()) == {"gpu-allowed"}


def test_no_gpu_where_none_is_counted_passes() -> None:
    assert Case(parts=(), policy=replace(STRICT, count=0)).failed() == {}
    assert set(Case(parts=(), policy=STRICT).failed()) == {"gpu-count"}


def test_gpus_of_another_machine_are_refused() -> None:
    case = Case(report_data=gpu_report_data((part(gpu(2)),), NONCE))
    assert set(case.failed()) == {"gpu-binding"}


@pytest.mark.parametrize("report_data", [b"", bytes(64), gpu_evidence_digest((good_part(),)), NONCE])
def test_report_data_that_is_not_nonce_and_digest_binds_nothing(report_data: bytes) -> None:
    assert set(Case(report_data=report_data).failed()) == {"gpu-binding"}


def test_binding_without_verified_cpu_is_refused() -> None:
    assert set(Case(cpu=False).failed()) == {"gpu-binding"}


def test_qualifying_data_of_a_tpm_binds() -> None:
    wanted = gpu_report_data((good_part(),), NONCE)
    assert Case(report_data=qualifying_data(wanted)).failed() == {}


def test_unbound_gpu_needs_a_nonce_that_the_policy_lists() -> None:
    assert set(Case(policy=replace(STRICT, bound=False)).failed()) == {"gpu-binding"}


@pytest.mark.parametrize(("allowed", "passes"), [(only(NONCE.hex()), True), (ANY, True), (only("00"), False)])
def test_unbound_gpu_passes_by_the_list_of_report_data(allowed: Allowed, passes: bool) -> None:
    base = permissive_policy(EvidencePlatform.TDX, gpu=True, roots=gpu_pki().anchors)
    policy = replace(base, gpu=replace(STRICT, bound=False), report_data=allowed)
    evidence = EvidenceContainer(platform=EvidencePlatform.TDX, report=b"", gpus=(good_part(),))
    verdict = verify_gpus(
        evidence,
        collateral=good_collateral(),
        anchors=anchors_for(policy),
        policy=policy,
        now=NOW,
        cpu=None,
    )
    assert verdict.passed is passes


def test_one_gpu_shown_twice_is_refused() -> None:
    case = Case(parts=(good_part(), good_part()), policy=replace(STRICT, count=2))
    assert set(case.failed()) == {"gpu-distinct"}


def test_two_reports_of_one_gpu_are_refused() -> None:
    case = Case(parts=(good_part(), part()), policy=replace(STRICT, count=2))
    assert set(case.failed()) == {"gpu-distinct"}


def test_gpus_asked_with_different_nonces_are_refused() -> None:
    other = bytes(reversed(NONCE))
    second = replace(part(gpu(2)), report=report(gpu(2), nonce=other), nonce=other)
    case = Case(parts=(good_part(), second), policy=replace(LOOSE, count=2))
    assert set(case.failed()) == {"gpu-one-nonce"}


@pytest.mark.parametrize("nonce", [bytes(32), b"", NONCE[:31], NONCE + b"\0"])
def test_nonce_that_is_none_is_refused(nonce: bytes) -> None:
    made = report(gpu(), nonce=nonce) if len(nonce) == 32 else good_part().report
    case = Case(parts=(replace(good_part(), report=made, nonce=nonce),), policy=LOOSE)
    assert "gpu-one-nonce" in case.failed()


def test_replayed_report_with_an_old_nonce_is_refused() -> None:
    stale = replace(good_part(), report=report(gpu(), nonce=bytes(reversed(NONCE))))
    assert set(Case(parts=(stale,)).failed()) == {"gpu0-nonce"}


def test_report_signed_by_another_device_is_refused() -> None:
    mixed = replace(good_part(), report=report(gpu(2)))
    assert set(Case(parts=(mixed,)).failed()) == {"gpu0-report-signature"}


def test_claimed_architecture_must_be_the_chip_s() -> None:
    claimed = replace(good_part(), architecture="BLACKWELL")
    policy = replace(STRICT, architectures=ANY)
    assert set(Case(parts=(claimed,), policy=policy).failed()) == {"gpu0-architecture"}


def test_firmware_other_than_the_certificate_s_is_refused() -> None:
    wrong = part(opaque=opaque_fields(FWID=hashlib.sha384(b"other").digest()))
    assert set(Case(parts=(wrong,)).failed()) == {"gpu0-firmware"}


def test_report_that_names_no_firmware_passes() -> None:
    assert Case(parts=(part(opaque=opaque_fields(FWID=None)),)).failed() == {}


def test_gpu_without_a_driver_version_is_refused() -> None:
    silent = part(opaque=opaque_fields(DRIVER_VERSION=None))
    policy = replace(LOOSE, driver_versions=ANY)
    assert set(Case(parts=(silent,), policy=policy).failed()) == {"gpu0-driver"}


def test_firmware_in_debug_state_is_refused() -> None:
    debug = make_device((device_name(), False), (tcb_info(flags=0x90), False))
    failed = Case(parts=(part(debug),)).failed()
    assert "debug" in failed["gpu0-certificates"].reason


def test_firmware_named_by_dice_tcb_info_passes() -> None:
    device = make_device((device_name(), False), (tcb_info(), False))
    collateral = replace(good_collateral(), ocsp=answers(device))
    assert Case(parts=(part(device),), collateral=collateral).failed() == {}


def test_expired_device_certificate_is_refused() -> None:
    failed = Case(now=NOW + 366 * 86400).failed()
    assert "expired" in failed["gpu0-validity"].reason


def test_device_under_a_root_for_manifests_is_refused() -> None:
    """A root never serves another purpose."""
    policy = permissive_policy(EvidencePlatform.TDX, gpu=True, roots=gpu_pki().anchors[1:])
    verdict = verify_gpus(
        EvidenceContainer(platform=EvidencePlatform.TDX, report=b"", gpus=(good_part(),)),
        collateral=good_collateral(),
        anchors=anchors_for(policy),
        policy=policy,
        now=NOW,
        cpu=None,
    )
    made = {check.name: check for group in verdict.groups for check in group.checks}
    assert made["gpu0-report-form"].passed
    assert "does not chain to a trusted root" in made["gpu0-certificates"].reason
    assert verdict.facts is None


def test_absent_manifests_are_named() -> None:
    failed = Case(collateral=replace(good_collateral(), rims=())).failed()
    assert set(failed) == {"gpu0-driver-manifest", "gpu0-vbios-manifest"}
    assert DRIVER in failed["gpu0-driver-manifest"].expected


@pytest.mark.parametrize(
    ("index", "value"), [(1, bytes(48)), (7, b"\1" * 48), (35, b"\2" * 48), (20, b"\3" * 48)]
)
def test_measurement_that_differs_is_named(index: int, value: bytes) -> None:
    changed = part(measurements={**MEASUREMENTS, index: value})
    failed = Case(parts=(changed,)).failed()
    assert set(failed) == {"gpu0-measurements"}
    assert f"measurement {index} " in failed["gpu0-measurements"].found
    assert value.hex() in failed["gpu0-measurements"].found


def test_every_measurement_that_differs_is_named() -> None:
    changed = part(measurements={**MEASUREMENTS, 1: bytes(48), 7: bytes(48)})
    found = Case(parts=(changed,)).failed()["gpu0-measurements"].found
    assert "measurement 1 " in found
    assert "measurement 7 " in found
    assert "measurement 2 " not in found


def test_an_alternative_value_passes() -> None:
    changed = part(measurements={**MEASUREMENTS, 7: DRIVER_GOLDEN[7][1]})
    assert Case(parts=(changed,)).failed() == {}


def test_decoder_is_passed_over_only_where_it_is_disabled() -> None:
    measured = {**MEASUREMENTS, 35: b"\2" * 48}
    off = part(measurements=measured, opaque=opaque_fields(NVDEC0_STATUS=NVDEC_OFF))
    assert Case(parts=(off,)).failed() == {}
    for status in (None, b"\0"):
        unknown = part(measurements=MEASUREMENTS, opaque=opaque_fields(NVDEC0_STATUS=status))
        assert set(Case(parts=(unknown,)).failed()) == {"gpu0-measurements"}


def test_manifests_that_speak_of_the_same_measurement_are_refused() -> None:
    driver = sign_manifest(manifest_text(DRIVER, {**DRIVER_GOLDEN, 1: VBIOS_GOLDEN[1]}))
    collateral = replace(good_collateral(), rims=(driver, good_collateral().rims[1]))
    failed = Case(collateral=collateral).failed()
    assert "both speak of measurement 1" in failed["gpu0-manifests"].found


@pytest.mark.parametrize("product", ["GB100", "gh100"])
def test_manifest_of_another_chip_does_not_count(product: str) -> None:
    other = sign_manifest(manifest_text(DRIVER, DRIVER_GOLDEN, product=product))
    collateral = replace(good_collateral(), rims=(other, good_collateral().rims[1]))
    assert set(Case(collateral=collateral).failed()) == {"gpu0-driver-manifest"}


def test_of_several_manifests_the_one_that_fits_counts() -> None:
    """Boards share VBIOS versions, and each has its manifest."""
    other = sign_manifest(manifest_text(VBIOS, {1: (b"\1" * 48,)}))
    collateral = replace(good_collateral(), rims=(other, *good_collateral().rims))
    assert Case(collateral=collateral).failed() == {}


def test_switch_needs_no_driver() -> None:
    name, firmware = device_name("LS_10", "48B02D00000000AA"), composite_id()
    switch = make_device((name, False), (firmware, False))
    opaque = {6: b"96.10.55.00.01", 22: bytes(8)}
    shown = replace(part(switch, measurements=VBIOS_MEASURED, opaque=opaque), architecture="LS10")
    manifest = sign_manifest(manifest_text("96.10.55.00.01", VBIOS_GOLDEN, product="LS10"))
    policy = replace(STRICT, architectures=only("LS10"), vbios_versions=ANY, driver_versions=NONE)
    collateral = Collateral(rims=(manifest,), ocsp=answers(switch))
    assert Case(parts=(shown,), policy=policy, collateral=collateral).failed() == {}


VBIOS_MEASURED = {index: values[0] for index, values in VBIOS_GOLDEN.items()}


def test_digest_covers_every_part_of_the_evidence() -> None:
    base = good_part()
    variants = [
        (base,),
        (base, base),
        (replace(base, architecture="HOPPE"),),
        (replace(base, report=base.report[:-1]),),
        (replace(base, nonce=base.nonce + b"\0"),),
        (replace(base, certificates=base.certificates[:-1]),),
        (replace(base, certificates=base.certificates[::-1]),),
        (),
    ]
    assert len({gpu_evidence_digest(one) for one in variants}) == len(variants)
    assert gpu_evidence(()) == b""
    assert gpu_evidence_digest((base,)) == hashlib.sha256(gpu_evidence((base,))).digest()


def test_a_hundred_devices_cost_no_more_than_the_limit() -> None:
    case = Case(parts=(good_part(),) * 100, policy=replace(LOOSE, count=100))
    assert {"gpu-count", "gpu-distinct"} <= set(case.failed())


def test_more_devices_than_the_policy_counts_cost_no_more_time() -> None:
    crowd = tuple(part(gpu(number)) for number in range(1, 33))
    verdict = Case(parts=crowd, policy=LOOSE, report_data=gpu_report_data(crowd, NONCE)).verify()
    assert [group.name for group in verdict.groups] == [*(f"gpu{place}" for place in range(8)), "gpus"]
    failed = [check.name for check in verdict.groups[-1].checks if not check.passed]
    assert failed == ["gpu-count", "gpu-distinct"]
    counted = Case(parts=crowd, policy=replace(LOOSE, count=32), report_data=gpu_report_data(crowd, NONCE))
    assert counted.failed() == {}
