"""The CC mapping: each PCR has its register, and events keep digest, order and origin."""

from __future__ import annotations

import hashlib

import pytest

from measurements.errors import FormatError
from measurements.events import EventType, event_over
from measurements.tdx.cc_mapping import CcRegister, in_trust_domain, register_of
from measurements.tdx.register_events import replay


def test_every_pcr_has_its_register() -> None:
    # UEFI 2.10, section 38.4.1.
    found = [register_of(pcr).name for pcr in range(16)]
    assert found == ["MRTD", "RTMR0", *["RTMR1"] * 5, "RTMR0", *["RTMR2"] * 8]


@pytest.mark.parametrize("pcr", [-1, 16, 17, 23, 0xFFFFFFFF])
def test_other_pcrs_have_none(pcr: int) -> None:
    with pytest.raises(FormatError, match=f"PCR {pcr}"):
        register_of(pcr)


def test_events_keep_order_and_digest() -> None:
    events = [
        event_over(bytes([pcr]), pcr=pcr, event_type=kind, description=f"d{pcr}", origin=f"o{pcr}")
        for pcr, kind in [
            (0, EventType.EV_S_CRTM_VERSION),
            (4, EventType.EV_EFI_ACTION),
            (7, EventType.EV_SEPARATOR),
            (7, EventType.EV_EFI_VARIABLE_AUTHORITY),
            (11, EventType.EV_IPL),
            (5, EventType.EV_EFI_ACTION),
        ]
    ]
    mapped = in_trust_domain(events)
    assert [(event.register, event.description, event.origin) for event in mapped] == [
        ("rtmr1", "d4", "o4"),
        ("rtmr0", "d7", "o7"),
        ("rtmr2", "d11", "o11"),
        ("rtmr1", "d5", "o5"),
    ]
    assert [event.digests for event in mapped] == [
        {"sha384": hashlib.sha384(bytes([pcr])).digest()} for pcr in (4, 7, 11, 5)
    ]


def test_registers_start_at_zero_and_chain() -> None:
    event = event_over(b"x", pcr=4, event_type=EventType.EV_EFI_ACTION, description="", origin="")
    values = replay(in_trust_domain([event, event]))
    once = hashlib.sha384(bytes(48) + hashlib.sha384(b"x").digest()).digest()
    assert values["rtmr1"] == hashlib.sha384(once + hashlib.sha384(b"x").digest()).digest()
    assert values["rtmr0"] == values["rtmr2"] == values["rtmr3"] == bytes(48)
    assert CcRegister.RTMR3.register == "rtmr3"
