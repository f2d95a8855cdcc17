"""The fixed log of dstack's firmware: every digest built from layouts equals the ones of real boots."""

from __future__ import annotations

import lzma

import pytest

from measurements.dstack.boot_log import (
    AcpiDigests,
    Measured,
    command_line_digest,
    empty_variable_store,
    menu_entry,
    replayed,
    rtmr0_events,
    rtmr1_events,
    rtmr2_events,
    secure_boot_variables,
    sha384,
)
from measurements.dstack.event_log import digests, parse_event_log
from measurements.tdx.quote import parse_quote
from tests.support.dstack_reports import report
from tests.support.vectors import vector


def test_empty_variable_store_is_that_of_real_firmware() -> None:
    firmware = lzma.decompress(vector("firmware/OVMF-2025.02-3ubuntu2.fd.xz").read_bytes())
    assert empty_variable_store() == firmware[:0x84000]


# CFV and Boot0000 of dstack/verifier/fixtures/quote-report.json, constants in dstack/dstack-mr/src/tdvf.rs.
def test_constants_of_dstack_are_computed() -> None:
    assert sha384(empty_variable_store()).hex() == (
        "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
    )
    assert len(menu_entry().data()) == 62
    assert sha384(menu_entry().data()).hex() == (
        "23ada07f5261f12f34a0bd8e46760962d6b4d576a416f1fea1c64bc656b1d28eacf7047ae6e967c58fd2a98bfa74c298"
    )
    assert [sha384(each.measured_bytes()).hex()[:8] for each in secure_boot_variables()] == [
        "9dc3a1f8", "6f2e3cbc", "d607c0ef", "08a74f89", "18cc6e01",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["quote-report", "dstack-examples", "dstack-simulator"])
def test_real_logs_have_this_layout(name: str) -> None:
    """With the digests that depend on image and machine taken from the log, all others are computed."""
    pair = report(name)
    log = parse_event_log(pair.event_log)
    rtmr0, rtmr1, rtmr2 = (digests(log, register) for register in range(3))
    loader, rsdp, tables = rtmr0[8:11]
    first = rtmr0_events(
        td_hob=Measured(digest=rtmr0[0], origin="log"),
        variables=Measured(digest=sha384(empty_variable_store()), origin="layout"),
        acpi=AcpiDigests(loader=loader, rsdp=rsdp, tables=tables, origin="log"),
    )
    second = rtmr1_events(Measured(digest=rtmr1[0], origin="log"))
    third = rtmr2_events(
        command_line=Measured(digest=rtmr2[0], origin="log"),
        initrd=Measured(digest=rtmr2[1], origin="log"),
    )
    for events, found, value in zip(
        (first, second, third), (rtmr0, rtmr1, rtmr2), parse_quote(pair.quote).body.rtmrs, strict=False
    ):
        assert tuple(event.digests["sha384"] for event in events) == found
        assert replayed(events) == value


def test_the_firmware_extends_the_command_line() -> None:
    assert command_line_digest("quiet") == sha384("quiet initrd=initrd\0".encode("utf-16-le"))
