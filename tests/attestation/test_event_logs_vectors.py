"""Real event logs: what belongs to known registers is accepted with them, and with no others."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from attestation.event_logs import judge_logs, parse_log, proven_records
from attestation.importers import import_evidence
from measurements.events import EventType
from measurements.tdx.quote import parse_quote
from tests.support.log_evidence import (
    ccel,
    container,
    dstack,
    failures,
    pcrs_of,
    reasons,
    rtmrs_of,
    tcg2,
)
from tests.support.vectors import vector

PAIRS = "tdx-ccel-pairs"
LOGS = "tdx-ccel-logs"
GOOGLE = (
    "rhel8-uefi.bin",
    "ubuntu-1804-amd-sev.bin",
    "ubuntu-2104-no-dbx.bin",
    "ubuntu-2104-no-secure-boot.bin",
    "arch-linux-workstation.bin",
    "debian-10.bin",
    "cos-85-amd-sev.bin",
    "cos-101-amd-sev.bin",
    "eventlogwithsp800155.bin",
)
TPM2_TOOLS = (
    "event-arch-linux.bin",
    "event-bootorder.bin",
    "event-postcode.bin",
    "event-uefi-sha1-log.bin",
    "event-uefiservices.bin",
    "event.bin",
)
CUT = ("event-uefiaction.bin", "event-uefivar.bin")
OTHERS = (
    "keylime/binary_bios_measurements",
    "keylime/binary_bios_measurements-secureboot",
    "keylime/mb_log.bin",
    "go-attestation/coreos_36_shielded_vm_no_secure_boot_eventlog",
    "go-attestation/crypto_agile_eventlog",
    "go-attestation/ebs_event_missing_eventlog",
    "go-attestation/option_rom_eventlog",
    "go-attestation/sb_cert_eventlog",
    "go-attestation/ubuntu_2104_shielded_vm_no_secure_boot_eventlog",
    "tpm2-tss/binary_measurements_nuc.bin",
    "tpm2-tss/binary_measurements_pc_client.bin",
    "tpm2-tss/binary_measurements_hcrtm.bin",
)
CC_LOGS = (
    "go-eventlog/cos-113-intel-tdx-dupe-separator-unpadded.bin",
    "go-eventlog/cos-113-intel-tdx-dupe-separator.bin",
    "go-eventlog/cos-113-intel-tdx.bin",
    "go-eventlog/event_log.bin",
    "trustee/CCEL_AAEL_alibabacloud",
    "trustee/CCEL_data",
    "trustee/CCEL_data_grub_gke",
    "trustee/CCEL_data_ovmf",
    "dstack/ccel.bin",
)


def registers_of_quote(quote: bytes) -> dict[str, bytes]:
    return dict(parse_quote(quote).body.registers())


def known_pcrs(expected: dict[str, dict[str, str]]) -> dict[str, bytes]:
    return {
        f"{bank}:{pcr}": bytes.fromhex(value.removeprefix("0x"))
        for bank, values in expected.items()
        for pcr, value in values.items()
    }


@pytest.mark.parametrize("name", GOOGLE)
def test_googles_logs_yield_their_known_registers(name: str) -> None:
    expected = json.loads(vector("tpm-eventlogs/expected_pcrs_google.json").read_text())
    log = tcg2(vector(f"tpm-eventlogs/go-tpm-tools/{name}").read_bytes())
    registers = known_pcrs(expected[f"go-tpm-tools/{name}"])
    assert failures(registers, log) == [], reasons(registers, log)


@pytest.mark.parametrize("name", TPM2_TOOLS)
def test_tpm2_tools_logs_yield_their_known_registers(name: str) -> None:
    expected = json.loads(vector("tpm-eventlogs/tpm2-tools/expected_pcrs.json").read_text())
    log = tcg2(vector(f"tpm-eventlogs/tpm2-tools/{name}").read_bytes())
    registers = known_pcrs(expected[name])
    assert failures(registers, log) == [], reasons(registers, log)


@pytest.mark.parametrize("name", CUT)
def test_samples_that_lack_a_bank_which_they_announce_are_refused(name: str) -> None:
    expected = json.loads(vector("tpm-eventlogs/tpm2-tools/expected_pcrs.json").read_text())
    log = tcg2(vector(f"tpm-eventlogs/tpm2-tools/{name}").read_bytes())
    assert failures(known_pcrs(expected[name]), log) == ["log-tcg2-form"]
    assert "has no digest of each bank" in reasons({}, log)


@pytest.mark.parametrize("name", OTHERS)
def test_other_real_logs_are_accepted_with_their_own_registers(name: str) -> None:
    data = vector(f"tpm-eventlogs/{name}").read_bytes()
    assert failures(pcrs_of(data), tcg2(data)) == [], reasons(pcrs_of(data), tcg2(data))


def test_the_version_of_a_bare_metal_host_is_not_what_it_measured() -> None:
    data = vector("tpm-eventlogs/go-tpm-tools/gdc-host.bin").read_bytes()
    assert failures(pcrs_of(data), tcg2(data)) == ["log-tcg2-digests"]
    assert "EV_S_CRTM_VERSION" in reasons(pcrs_of(data), tcg2(data))


def test_a_log_of_a_uki_boot_covers_the_section_names() -> None:
    data = vector(f"{LOGS}/dstack/tpm_eventlog.bin").read_bytes()
    assert failures(pcrs_of(data), tcg2(data)) == []
    covered = [one.covered for one in parse_log(tcg2(data)).records if "sha256:11" in one.registers]
    assert covered[::2] == [b".linux\0", b".osrel\0", b".cmdline\0", b".initrd\0", b".uname\0", b".sbat\0"]
    assert covered[1::2] == [None] * 6


@pytest.mark.parametrize("name", CC_LOGS)
def test_logs_of_trust_domains_are_accepted_with_their_own_registers(name: str) -> None:
    data = vector(f"{LOGS}/{name}").read_bytes()
    assert failures(rtmrs_of(data), ccel(data)) == [], reasons(rtmrs_of(data), ccel(data))


def test_a_log_of_a_hygon_machine_is_none_of_a_trust_domain() -> None:
    data = vector(f"{LOGS}/trustee/CCEL_data_csv").read_bytes()
    assert failures({"rtmr0": bytes(48)}, ccel(data)) == ["log-ccel-form"]


def test_googles_log_yields_the_registers_of_its_quote() -> None:
    registers = registers_of_quote(vector(f"{PAIRS}/gcp-cos113/cos-113-tdx-quote.dat").read_bytes())
    log = ccel(vector(f"{PAIRS}/gcp-cos113/ccel_data.dat").read_bytes())
    assert failures(registers, log) == []
    lines = [one.covered for one in parse_log(log).records if one.data.startswith(b"kernel_cmdline: ")]
    assert len(lines) == 1
    assert b"init=/usr/lib/systemd/systemd" in (lines[0] or b"")


def test_a_log_with_a_separator_too_many_is_refused() -> None:
    registers = registers_of_quote(vector(f"{PAIRS}/gcp-cos113/cos-113-tdx-quote.dat").read_bytes())
    log = ccel(vector(f"{LOGS}/go-eventlog/cos-113-intel-tdx-dupe-separator.bin").read_bytes())
    assert failures(registers, log) == ["log-ccel-replay"]
    assert "rtmr0" in reasons(registers, log)
    assert "rtmr2" not in reasons(registers, log)


def test_a_log_without_the_entries_of_ima_does_not_explain_rtmr2() -> None:
    registers = registers_of_quote(vector(f"{PAIRS}/cc-trusted-api/quote.bin").read_bytes())
    log = ccel(vector(f"{PAIRS}/cc-trusted-api/ccel_data.bin").read_bytes())
    assert failures(registers, log) == ["log-ccel-replay"]
    assert reasons(registers, log).startswith("rtmr2: ")


@pytest.mark.parametrize("name", ["tdx-ccel-pairs/dstack-examples/report.json", "dstack/quote-report.json"])
def test_dstacks_logs_yield_the_registers_of_their_quotes(name: str) -> None:
    report = json.loads(vector(name).read_text())
    registers = registers_of_quote(bytes.fromhex(report["quote"].removeprefix("0x")))
    log = dstack(report["event_log"].encode())
    assert failures(registers, log) == [], reasons(registers, log)
    assert len(proven_records(parse_log(log), registers)) == 28


def test_a_log_that_dstack_stripped_explains_rtmr3_alone() -> None:
    evidence = import_evidence(vector("dstack/tdx-lite-attestation.json").read_bytes())
    registers = registers_of_quote(evidence.report)
    (log,) = evidence.logs
    assert failures(registers, log) == [], reasons(registers, log)
    parsed = parse_log(log)
    assert set(parsed.replay()) == {"rtmr3"}
    assert [one.name for one in parsed.records if not one.registers] == [
        "acpi-loader",
        "acpi-rsdp",
        "acpi-tables",
    ]
    assert {one.name for one in proven_records(parsed, registers)} >= {"app-id", "compose-hash"}


def test_the_log_of_dstacks_simulator_yields_the_registers_of_its_quote() -> None:
    folder = f"{PAIRS}/dstack-simulator"
    quote = bytes.fromhex(vector(f"{folder}/quote.hex").read_text().strip())
    log = dstack(vector(f"{folder}/eventlog.json").read_bytes())
    assert failures(registers_of_quote(quote), log) == []


def test_the_binary_log_of_a_dstack_guest_explains_rtmr0_of_its_quote() -> None:
    report = json.loads(vector("tdx-ccel-pairs/dstack-examples/report.json").read_text())
    registers = registers_of_quote(bytes.fromhex(report["quote"].removeprefix("0x")))
    firmware = ccel(vector(f"{LOGS}/dstack/ccel.bin").read_bytes())
    replayed = parse_log(firmware).replay()
    assert replayed["rtmr0"] == registers["rtmr0"]
    assert "log-ccel-replay" in failures(registers, firmware, dstack(report["event_log"].encode()))


def test_every_type_that_defines_its_digest_is_covered_in_real_logs() -> None:
    """The numbers of the table in ``attestation.event_log_digests``, less those of logs that are not read."""
    counted: Counter[str] = Counter()
    logs = [tcg2(vector(f"tpm-eventlogs/{name}").read_bytes()) for name in OTHERS]
    logs += [tcg2(vector(f"tpm-eventlogs/go-tpm-tools/{name}").read_bytes()) for name in GOOGLE]
    logs += [ccel(vector(f"{LOGS}/{name}").read_bytes()) for name in CC_LOGS]
    for log in logs:
        for record in parse_log(log).records:
            if record.covered is not None:
                counted[record.type_name] += len(record.digests)
    for kind in (
        EventType.EV_SEPARATOR,
        EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EV_EFI_VARIABLE_BOOT,
        EventType.EV_EFI_VARIABLE_AUTHORITY,
        EventType.EV_EFI_ACTION,
        EventType.EV_EFI_GPT_EVENT,
        EventType.EV_S_CRTM_VERSION,
        EventType.EV_IPL,
        EventType.EV_EVENT_TAG,
    ):
        assert counted[kind.name] > 0, kind.name
    assert sum(counted.values()) > 1500


def test_application_events_of_confidential_containers_are_covered() -> None:
    data = vector(f"{LOGS}/trustee/CCEL_AAEL_alibabacloud").read_bytes()
    tagged = [one for one in parse_log(ccel(data)).records if one.event_type == EventType.EV_EVENT_TAG]
    assert [one.covered for one in tagged] == [one.data for one in tagged]
    assert len(tagged) == 2


def test_evidence_without_logs_has_no_checks() -> None:
    assert judge_logs(container(), {"rtmr0": bytes(48)}).checks == ()


@pytest.mark.parametrize("name", ["gce-cos-85-no-nonce.pb", "gce-cos-85-nonce9009.pb"])
def test_the_log_of_a_google_machine_yields_the_registers_that_its_tpm_quoted(name: str) -> None:
    evidence = import_evidence(vector(f"tpm-quote-pairs/go-tpm-tools/{name}").read_bytes())
    assert evidence.tpm is not None
    registers = {
        f"{bank}:{pcr}": value for bank, values in evidence.tpm.pcrs.items() for pcr, value in values.items()
    }
    assert len(registers) >= 24
    (log,) = evidence.logs
    assert failures(registers, log) == [], reasons(registers, log)
    for register in ("sha384:0", "sha384:9"):
        changed = {**registers, register: b"\x01" * 48}
        assert failures(changed, log) == ["log-tcg2-replay"]
