"""Judgements: a deployment that fits passes, and every change of a report flips a check, which is named."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.dstack.boot_log import AcpiDigests
from measurements.dstack.evidence import parse_report
from measurements.dstack.expectations import Expectations
from measurements.dstack.judge import judge
from measurements.dstack.judgement import NOT_COVERED, Judgement, Outcome
from measurements.dstack.mr_config import KeyProvider, MrConfigV3, config_id_v2, config_id_v3
from measurements.dstack.runtime_events import RuntimeEvent
from measurements.errors import KeyturnError
from measurements.platforms import Platform
from tests.support.dstack_deployment import ACPI, COMPOSE, DOCUMENT, DstackGuest

GUEST = DstackGuest()
KNOWN = Expectations(os_image_hash=GUEST.image_hash, app_compose=COMPOSE, acpi=ACPI)


def judged(guest: DstackGuest = GUEST, known: Expectations = KNOWN, **changes: Any) -> Judgement:
    return judge(parse_report(guest.report(**changes)), known)


def outcomes(judgement: Judgement, outcome: Outcome) -> list[str]:
    return [check.name for check in judgement.checks if check.outcome is outcome]


def failures(judgement: Judgement) -> list[str]:
    return outcomes(judgement, Outcome.FAIL)


def test_a_deployment_that_fits_passes() -> None:
    judgement = judged()
    assert judgement.passed
    assert not judgement.failed
    assert judgement.platform is Platform.TDX
    assert [check.name for check in judgement.checks] == [
        "debug", "report-data", "runtime-digests", "rtmr3-replay", "runtime-order", "rtmr0-replay",
        "rtmr1-replay", "rtmr2-replay", "app-events", "compose-hash", "app-events-derived", "mr-config-id",
        "os-image-hash", "checksum-file", "measurement-document", "os-image-event", "image-reference", "mrtd",
        "acpi-tables", "rtmr0", "rtmr1", "rtmr2",
    ]  # fmt: skip


def test_every_judgement_says_what_it_is_not_about() -> None:
    judgement = judged()
    assert judgement.not_covered == NOT_COVERED
    assert judgement.as_json()["not_covered"] == list(NOT_COVERED)
    assert "signature" in NOT_COVERED[0]
    with pytest.raises(TypeError, match="passed"):
        bool(judgement)


def test_a_judgement_without_checks_does_not_pass() -> None:
    assert not Judgement(platform=Platform.TDX, checks=()).passed


def test_what_nobody_else_knows_is_no_pass() -> None:
    judgement = judged(known=Expectations())
    assert not judgement.passed
    assert not judgement.failed
    assert outcomes(judgement, Outcome.UNCHECKED) == [
        "compose-hash", "app-events-derived", "os-image-hash", "acpi-tables",
    ]  # fmt: skip
    assert outcomes(judgement, Outcome.CLAIMED) == ["rtmr0"]
    assert "claimed by the guest, not computed" in judgement.check("rtmr0").reason


def test_hostile_acpi_tables_are_found_only_by_computing_them() -> None:
    """A host slips in tables of its own. The guest measures them and its log says so, so the log's digests
    fit the quote: without tables from elsewhere this is a claim, and with them a failure.
    """
    guest = DstackGuest(acpi=replace(ACPI, tables=b"\xee" * 48))
    assert failures(judged(guest)) == ["acpi-tables", "rtmr0"]
    blind = judged(guest, known=replace(KNOWN, acpi=None))
    assert not blind.failed
    assert not blind.passed


@pytest.mark.parametrize("part", ["loader", "rsdp", "tables"])
def test_each_acpi_file_decides(part: str) -> None:
    wrong = {name: getattr(ACPI, name) for name in ("loader", "rsdp", "tables")}
    wrong[part] = b"\xee" * 48
    known = replace(KNOWN, acpi=AcpiDigests(**wrong, origin="test"))
    assert failures(judged(known=known)) == ["acpi-tables", "rtmr0"]


def test_other_page_order_is_still_this_firmware() -> None:
    assert judged(DstackGuest(mrtd=b"\x05" * 48)).passed
    assert failures(judged(DstackGuest(mrtd=b"\x06" * 48))) == ["mrtd"]


def test_a_debug_guest_fails() -> None:
    assert failures(judged(DstackGuest(td_attributes=b"\1" + bytes(7)))) == ["debug"]


def test_report_data_of_another_report_fail() -> None:
    assert failures(judged(report_data="ab" * 64)) == ["report-data"]


def test_a_foreign_app_fails() -> None:
    guest = DstackGuest(compose=COMPOSE.replace(b"demo", b"evil"))
    assert failures(judged(guest)) == ["compose-hash"]


def test_an_app_that_the_host_did_not_bind_fails() -> None:
    foreign = b"\1" + b"\x77" * 32 + bytes(15)
    assert failures(judged(DstackGuest(config_id=foreign))) == ["mr-config-id"]
    assert failures(judged(DstackGuest(config_id=b"\4" + bytes(47)))) == ["mr-config-id"]


def test_an_unbound_app_passes_only_knowingly() -> None:
    guest = DstackGuest(config_id=bytes(48))
    assert outcomes(judged(guest), Outcome.UNCHECKED) == ["mr-config-id"]
    assert judged(guest, known=replace(KNOWN, unbound=True)).passed


def test_configurations_of_every_version_pass() -> None:
    compose_hash = judged().values["compose-hash"]
    fields: dict[str, Any] = {
        "compose_hash": compose_hash,
        "app_id": compose_hash[:20],
        "key_provider": KeyProvider.KMS,
    }
    two = config_id_v2(**fields, key_provider_id=b"\xab")
    assert judged(DstackGuest(config_id=two)).passed
    document = MrConfigV3(**fields, key_provider_id=b"\xab", instance_id=b"\6" * 20).document()
    vm = {"mr_config": document.decode()}
    assert judged(DstackGuest(config_id=config_id_v3(document), vm=vm)).passed
    assert failures(judged(DstackGuest(config_id=config_id_v3(document)))) == ["mr-config-id"]
    foreign = MrConfigV3(**{**fields, "app_id": b"\7" * 20}).document()
    guest = DstackGuest(config_id=config_id_v3(foreign), vm={"mr_config": foreign.decode()})
    assert failures(judged(guest)) == ["mr-config-id"]
    assert "app_id is not what the runtime events say" in judged(guest).check("mr-config-id").reason


def test_events_after_the_boot_must_be_expected() -> None:
    guest = DstackGuest(app_events=(RuntimeEvent(name="METRIC", payload=b"1"),))
    assert failures(judged(guest)) == ["app-events"]
    assert judged(guest, known=replace(KNOWN, app_events={"METRIC"})).passed


def test_a_second_identity_after_the_boot_fails() -> None:
    """The attack of a privileged container: it extends an app id once more."""
    guest = DstackGuest(app_events=(RuntimeEvent(name="app-id", payload=b"\7" * 20),))
    assert failures(judged(guest)) == ["runtime-order"]


def test_stripped_digests_are_computed() -> None:
    assert judged(DstackGuest(stripped_digests=True)).passed


BROKEN = {"rtmr3-replay", "runtime-order"}
FIRMWARE = {"rtmr0-replay", "rtmr1-replay", "rtmr2-replay"}


def log_with(change: Any) -> str:
    entries = copy.deepcopy(GUEST.log())
    change(entries)
    return json.dumps(entries)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (lambda log: log.pop(), BROKEN),
        (lambda log: log.append(dict(log[-1])), BROKEN),
        (lambda log: log.insert(-1, {**log[-1], "event": "extra", "digest": ""}), BROKEN),
        (lambda log: log[-3].update(event="key-provide"), BROKEN | {"runtime-digests"}),
        (
            lambda log: log[-3].update(event_payload=b'{"name":"kms","id":"cd"}'.hex()),
            {"runtime-digests", "rtmr3-replay"},
        ),
        (lambda log: log[-3].update(digest="ab" * 48), {"runtime-digests"}),
        (lambda log: log[0].update(digest="ab" * 48), {"rtmr0-replay"}),
        (lambda log: log[8].update(digest="ab" * 48), {"rtmr0-replay", "acpi-tables"}),
        (lambda log: log[13].update(digest="ab" * 48), {"rtmr1-replay"}),
        (lambda log: log[18].update(digest="ab" * 48), {"rtmr2-replay"}),
        (lambda log: log.reverse(), BROKEN | FIRMWARE | {"acpi-tables"}),
    ],
)  # fmt: skip
def test_changed_logs_fail(change: Any, failed: set[str]) -> None:
    assert set(failures(judged(event_log=log_with(change)))) == failed


def test_names_of_firmware_events_decide_nothing() -> None:
    """Only their place does: a log whose ACPI events are called otherwise is the same log."""
    renamed = log_with(lambda log: [entry.update(event="acpi-tables") for entry in log[:8]])
    assert judged(event_log=renamed).passed


@pytest.mark.parametrize(
    ("vm", "failed"),
    [
        ({"os_image_hash": "cd" * 32}, {"os-image-hash", "checksum-file", "os-image-event"}),
        ({"memory_size": 8 << 30}, {"rtmr0"}),
        ({"memory_size": 1 << 30}, {"image-reference"}),
    ],
)
def test_a_host_that_lies_about_the_machine_is_found(vm: dict[str, Any], failed: set[str]) -> None:
    config = json.dumps({**GUEST.vm_config(), **vm})
    assert set(failures(judged(vm_config=config))) == failed


@pytest.mark.parametrize(
    ("path", "failed"),
    [
        (("image", "kernel_authenticode"), "rtmr1"),
        (("image", "cmdline_sha384"), "rtmr2"),
        (("image", "initrd_sha384"), "rtmr2"),
        (("tdvf", "mrtd", "single_pass"), "mrtd"),
    ],
)
def test_another_image_is_found_even_if_its_documents_fit(path: tuple[str, ...], failed: str) -> None:
    """The host sends another image's documents, which agree with each other, beside the guest's quote."""
    document = copy.deepcopy(DOCUMENT)
    target: Any = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = b"\x99" * 48
    other = DstackGuest(document=document)
    judgement = judged(vm_config=json.dumps(other.vm_config()))
    assert set(failures(judgement)) == {"os-image-hash", "os-image-event", failed}


def test_a_document_that_the_checksum_file_does_not_list_fails() -> None:
    config = GUEST.vm_config()
    other = DstackGuest(document={**DOCUMENT, "image": {**DOCUMENT["image"], "initrd_sha384": b"\x88" * 48}})
    config["tdx_measurement"]["measurement"] = other.vm_config()["tdx_measurement"]["measurement"]
    assert failures(judged(vm_config=json.dumps(config))) == ["measurement-document", "rtmr2"]


def test_no_document_means_unchecked() -> None:
    config = GUEST.vm_config()
    del config["tdx_measurement"]
    judgement = judged(vm_config=json.dumps(config))
    assert outcomes(judgement, Outcome.UNCHECKED) == ["image-reference"]
    assert not judgement.passed


def test_values_of_a_policy_are_checked() -> None:
    values = judged().values
    known = replace(KNOWN, mr_aggregated=values["mr-aggregated"], mr_system=values["mr-system"])
    assert judged(known=known).passed
    assert failures(judged(known=replace(known, mr_system=b"\1" * 32))) == ["mr-system"]
    assert failures(judged(known=replace(known, mr_aggregated=b"\1" * 32))) == ["mr-aggregated"]


# Offset and size in the quote's body: TD attributes, MRTD, MRCONFIGID, RTMR0 to RTMR3, report data.
PLACES = st.sampled_from([(120, 1), (136, 48), (184, 48), (328, 192), (520, 64)])


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([(120, 1), (136, 48), (184, 48), (328, 192), (520, 64)]),
    st.integers(0, 191),
    st.integers(0, 7),
)
def test_a_changed_bit_of_the_quote_flips_a_check(place: tuple[int, int], offset: int, bit: int) -> None:
    start, size = place
    quote = bytearray(GUEST.quote())
    quote[48 + start + offset % size] ^= 1 << (0 if start == 120 else bit)
    assert not judged(quote=quote.hex()).passed


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=2))
def test_a_changed_log_never_passes_with_other_events(at: int, value: bytes) -> None:
    data = bytearray(json.dumps(GUEST.log()).encode())
    at %= len(data)
    data[at : at + len(value)] = value
    try:
        judgement = judged(event_log=data.decode("latin-1"))
    except KeyturnError:
        return
    if judgement.passed:
        assert judgement.values == judged().values
