"""What a user gives of a machine is recognised by its content; what does not belong together is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.booted_files import FileKind, read_files, recognise
from measurements.errors import FormatError
from measurements.eventlog import Algorithm
from measurements.events import EventType
from measurements.platforms import Platform
from tests.support.boot_model import ModelImage, ModelMachine, boot_log
from tests.support.event_log_writer import Record, write_log
from tests.support.vectors import vector

GCP = "tdx-ccel-pairs/gcp-cos113"

REAL = {
    "tdx-ccel-logs/dstack/tpm_eventlog.bin": (FileKind.TPM_LOG, Platform.TPM),
    f"{GCP}/ccel_data.dat": (FileKind.CC_LOG, Platform.TDX),
    "tdx-ccel-logs/dstack/ccel.bin": (FileKind.CC_LOG, Platform.TDX),
    f"{GCP}/cos-113-tdx-quote.dat": (FileKind.TDX_QUOTE, Platform.TDX),
    "tdx-ccel-pairs/dstack-simulator/quote.hex": (FileKind.TDX_QUOTE, Platform.TDX),
    "tdx-ccel-pairs/dstack-simulator/eventlog.json": (FileKind.DSTACK_LOG, Platform.TDX),
    "tdx-ccel-pairs/dstack-examples/report.json": (FileKind.DSTACK_REPORT, Platform.TDX),
    "dstack/quote-report.json": (FileKind.DSTACK_REPORT, Platform.TDX),
    "dstack/tdx-lite-attestation.json": (FileKind.DSTACK_REPORT, Platform.TDX),
    "dstack/sev-snp-attestation.json": (FileKind.DSTACK_REPORT, Platform.SNP),
    "snp/trustee/test-report.bin": (FileKind.SNP_REPORT, Platform.SNP),
    "snp/virtee-sev/report_milan.hex": (FileKind.SNP_REPORT, Platform.SNP),
    "attestation/nitro/evervault-valid.bin": (FileKind.NITRO_DOCUMENT, Platform.NITRO),
    "attestation/nitro/evervault-debug.bin": (FileKind.NITRO_DOCUMENT, Platform.NITRO),
}


def cc_record(register: int, event_type: EventType) -> Record:
    return Record(pcr=register, event_type=event_type, digests={Algorithm.SHA384: bytes(48)})


@pytest.mark.parametrize("name", REAL)
def test_real_evidence_is_recognised_by_its_content(name: str) -> None:
    kind, platform = REAL[name]
    told = recognise(vector(name).read_bytes(), name=name)
    assert (told.kind, told.platform) == (kind, platform)
    assert told.log is not None or told.reported


def test_log_and_quote_of_one_machine_are_joined() -> None:
    names = [f"{GCP}/ccel_data.dat", f"{GCP}/cos-113-tdx-quote.dat"]
    booted = read_files({name: vector(name).read_bytes() for name in names}).booted
    assert booted.log is not None
    assert booted.reported is not None
    for register in ("rtmr0", "rtmr1", "rtmr2"):
        assert booted.log.registers[register] == booted.reported[register]
    assert booted.registers is booted.reported
    assert {"mrtd", "mrconfigid", "mrowner", "mrownerconfig", "rtmr3"} <= set(booted.reported)


def test_a_dstack_report_tells_log_and_registers() -> None:
    name = "dstack/quote-report.json"
    booted = read_files({name: vector(name).read_bytes()}).booted
    assert booted.log is not None
    assert booted.reported is not None
    for register in ("rtmr0", "rtmr1", "rtmr2", "rtmr3"):
        assert booted.log.registers[register] == booted.reported[register]
    titles = [event.facts.title for event in booted.log.events if event.register == "rtmr3"]
    assert any(title.startswith("compose-hash: ") for title in titles)


def test_a_stripped_log_tells_the_guests_events_only() -> None:
    name = "dstack/tdx-lite-attestation.json"
    booted = read_files({name: vector(name).read_bytes()}).booted
    assert booted.log is not None
    assert booted.reported is not None
    assert booted.log.whole == frozenset(("rtmr3",))
    assert booted.log.registers["rtmr3"] == booted.reported["rtmr3"]
    assert booted.log.registers["rtmr0"] != booted.reported["rtmr0"]


def test_files_of_different_machines_are_refused() -> None:
    tpm, report = boot_log(ModelMachine(), ModelImage()), vector("snp/trustee/test-report.bin").read_bytes()
    with pytest.raises(FormatError, match=r"is a SNP report, and log\.bin is a TPM event log"):
        read_files({"log.bin": tpm, "report.bin": report})


def test_two_files_that_tell_the_same_are_refused() -> None:
    log = boot_log(ModelMachine(), ModelImage())
    with pytest.raises(FormatError, match=r"b\.bin: tells the log of the machine, as a\.bin does"):
        read_files({"a.bin": log, "b.bin": log})


def test_nothing_is_refused() -> None:
    with pytest.raises(FormatError, match="is not given"):
        read_files({})


def test_a_tpm_quote_without_a_log_is_refused() -> None:
    quote = (
        bytes.fromhex("ff5443478018") + bytes(4 + 17 + 8) + b"\0\0\0\1\0\x0b\3\1\0\0" + b"\0\x20" + bytes(32)
    )
    with pytest.raises(FormatError, match="tells a digest of registers only"):
        read_files({"quote": quote})
    machine = read_files({"quote": quote, "log": boot_log(ModelMachine(), ModelImage())})
    assert machine.quote is not None


@pytest.mark.parametrize(
    ("register", "event_type", "kind"),
    [
        (1, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, FileKind.CC_LOG),
        (7, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, FileKind.TPM_LOG),
        (2, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, FileKind.TPM_LOG),
        (5, EventType.EV_SEPARATOR, FileKind.TPM_LOG),
        (0, EventType.EV_SEPARATOR, FileKind.TPM_LOG),
        (4, EventType.EV_SEPARATOR, FileKind.CC_LOG),
    ],
)
def test_a_cc_log_has_the_registers_of_a_trust_domain(
    register: int, event_type: EventType, kind: FileKind
) -> None:
    data = write_log([cc_record(register, event_type)], algorithms=[Algorithm.SHA384])
    assert recognise(data, name="log").kind is kind


def test_a_log_with_other_banks_is_one_of_a_tpm() -> None:
    digests = {Algorithm.SHA256: bytes(32), Algorithm.SHA384: bytes(48)}
    record = Record(pcr=1, event_type=EventType.EV_SEPARATOR, digests=digests)
    data = write_log([record], algorithms=[Algorithm.SHA256, Algorithm.SHA384])
    assert recognise(data, name="log").kind is FileKind.TPM_LOG


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b"null",
        b"00",
        b"\xd2\x84",
        bytes.fromhex("0400020081000000"),
        bytes.fromhex("ff5443478018"),
        b"\x02\0\0\0".ljust(1184, b"\xff"),
        json.dumps({"quote": "zz", "event_log": "[]"}).encode(),
        json.dumps({"quote": 1, "event_log": "[]"}).encode(),
    ],
)
def test_damaged_files_are_refused_with_one_error(data: bytes) -> None:
    with pytest.raises(FormatError) as refused:
        recognise(data, name="file")
    assert refused.value.advice


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"{", b"[", b"\xd2\x84", b"\4\0\2\0\x81\0\0\0", b"\xffTCG"]),
)
def test_any_bytes_are_recognised_or_refused(data: bytes, head: bytes) -> None:
    try:
        told = recognise(head + data, name="file")
    except FormatError:
        return
    assert told.log is not None or told.reported is not None or told.quote is not None
