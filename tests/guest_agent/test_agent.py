"""The agent's parts, away from a machine: phases, mounts, registers, TPM commands, power button, facts."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent import agent, console
from guest_agent.facts import parse_os_release, read_facts
from guest_agent.mounts import MountError, check_mounts, parse_mounts
from guest_agent.phases import Boot, Phase, PhaseError
from guest_agent.power import PowerError, listen, pressed, wait_for_stop
from guest_agent.registers import BANKS, PCRS, RegisterError, parse_register, read_banks, read_event_log
from guest_agent.tpm_commands import TpmError, check_response, extend, extend_command
from measurements.image_facts import ImageFacts, ImageFactsError, encode_facts, parse_facts

FSTAB = "tmpfs /run tmpfs nosuid,nodev,noexec,mode=755 0 0\n"
MOUNTED = "/dev/mapper/root / erofs ro,nodev 0 0\ntmpfs /run tmpfs rw,nosuid,nodev,noexec 0 0\n"


class TestPhases:
    def test_the_order_is_the_only_one(self) -> None:
        boot = Boot()
        for phase in Phase:
            boot = boot.enter(phase)
        assert boot.next_phase is None
        with pytest.raises(PhaseError, match="none is left"):
            boot.enter(Phase.WAIT)

    @given(st.lists(st.sampled_from(Phase), max_size=4))
    def test_any_other_order_is_refused(self, phases: list[Phase]) -> None:
        boot = Boot()
        for expected, phase in zip(Phase, phases, strict=False):
            if phase is not expected:
                with pytest.raises(PhaseError):
                    boot.enter(phase)
                return
            boot = boot.enter(phase)


class TestMounts:
    def test_as_wanted(self) -> None:
        check_mounts(parse_mounts(FSTAB), parse_mounts(MOUNTED))

    @pytest.mark.parametrize(
        ("mounted", "reason"),
        [
            (MOUNTED.replace("erofs ro", "erofs rw"), "without ro"),
            (MOUNTED.replace("erofs", "ext4"), "should be erofs"),
            (MOUNTED.replace("noexec", "exec"), "without noexec"),
            (MOUNTED.splitlines()[0], "not mounted"),
            (MOUNTED + "tmpfs / tmpfs rw 0 0\n", "should be erofs"),
        ],
    )
    def test_anything_else_is_refused(self, mounted: str, reason: str) -> None:
        with pytest.raises(MountError, match=reason):
            check_mounts(parse_mounts(FSTAB), parse_mounts(mounted))


class TestRegisters:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for bank, size in BANKS.items():
            folder = tmp_path / "sys/class/tpm/tpm0" / f"pcr-{bank}"
            folder.mkdir(parents=True)
            for pcr in PCRS:
                (folder / str(pcr)).write_text(f"{pcr:02X}" * size + "\n")
        log = tmp_path / "sys/kernel/security/tpm0"
        log.mkdir(parents=True)
        (log / "binary_bios_measurements").write_bytes(b"log")
        return tmp_path

    def test_all_are_read(self, root: Path) -> None:
        banks = read_banks(root)
        assert banks["sha384"][23] == bytes([23]) * 48
        assert {bank: len(values) for bank, values in banks.items()} == {"sha256": 24, "sha384": 24}
        assert read_event_log(root) == b"log"

    def test_no_tpm(self, tmp_path: Path) -> None:
        with pytest.raises(RegisterError, match="no TPM"):
            read_banks(tmp_path)

    def test_a_bank_is_absent(self, root: Path) -> None:
        (root / "sys/class/tpm/tpm0/pcr-sha384").rename(root / "gone")
        with pytest.raises(RegisterError, match="sha384 is not active"):
            read_banks(root)

    @pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31, "00" * 48])
    def test_a_bad_value(self, text: str) -> None:
        with pytest.raises(RegisterError):
            parse_register(text, bank="sha256", pcr=0)

    @pytest.mark.parametrize("log", [None, b"", bytes((4 << 20) + 1)])
    def test_a_bad_log(self, root: Path, log: bytes | None) -> None:
        path = root / "sys/kernel/security/tpm0/binary_bios_measurements"
        path.unlink() if log is None else path.write_bytes(log)
        with pytest.raises(RegisterError):
            read_event_log(root)


class TestTpmCommands:
    def test_the_bytes_of_the_specification(self) -> None:
        command = extend_command(14, {"sha256": b"\x11" * 32, "sha384": b"\x22" * 48})
        assert command.hex() == (
            "80020000007300000182" + "0000000e" + "00000009" + "40000009" + "0000" + "00" + "0000"
            "00000002" + "000b" + "11" * 32 + "000c" + "22" * 48
        )

    def test_success(self) -> None:
        check_response(bytes.fromhex("80020000001300000000") + bytes(9))

    @pytest.mark.parametrize(
        ("response", "reason"),
        [
            (b"", "cut off"),
            (bytes.fromhex("80010000000a00000922"), "code 0x922"),
            (bytes.fromhex("80010000000b00000000"), "another size"),
        ],
    )
    def test_refusals(self, response: bytes, reason: str) -> None:
        with pytest.raises(TpmError, match=reason):
            check_response(response)

    def test_a_device_that_answers_nothing(self, tmp_path: Path) -> None:
        device = tmp_path / "tpm0"
        device.write_bytes(b"")
        with pytest.raises(TpmError, match="cut off"):
            extend(14, {"sha256": bytes(32)}, device=str(device))


def event(kind: int, code: int, value: int) -> bytes:
    return struct.pack("<qqHHi", 1, 2, kind, code, value)


class TestPower:
    def test_a_press(self) -> None:
        assert pressed(event(0, 0, 0) + event(1, 116, 1))
        assert pressed(event(1, 116, 1) + b"\0" * 5)

    @pytest.mark.parametrize(
        "data", [b"", event(1, 116, 0), event(1, 30, 1), event(4, 116, 1), event(1, 116, 1)[:-1]]
    )
    def test_no_press(self, data: bytes) -> None:
        assert not pressed(data)

    def test_no_device(self) -> None:
        with pytest.raises(PowerError, match="no event device"):
            listen([])

    def test_the_button_wakes_also_if_pressed_before_waiting(self, tmp_path: Path) -> None:
        device = tmp_path / "event0"
        os.mkfifo(device)
        keep = os.open(device, os.O_RDWR)
        previous = signal.getsignal(signal.SIGTERM)
        try:
            descriptors = listen([device])
            os.write(keep, event(1, 30, 1) + event(1, 116, 1))
            assert wait_for_stop(descriptors) == "power button"
        finally:
            signal.signal(signal.SIGTERM, previous)
            os.close(keep)

    def test_sigterm_wakes(self, tmp_path: Path) -> None:
        device = tmp_path / "event0"
        os.mkfifo(device)
        keep = os.open(device, os.O_RDWR)
        previous = signal.getsignal(signal.SIGTERM)

        def terminate() -> None:
            time.sleep(0.2)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

        try:
            descriptors = listen([device])
            threading.Thread(target=terminate, daemon=True).start()
            assert wait_for_stop(descriptors) == "SIGTERM"
        finally:
            signal.signal(signal.SIGTERM, previous)
            os.close(keep)


class TestFacts:
    def test_os_release(self) -> None:
        text = '# comment\nID=debian\nPRETTY_NAME="Debian GNU/Linux 13"\n\nEMPTY=\n'
        assert parse_os_release(text) == {"ID": "debian", "PRETTY_NAME": "Debian GNU/Linux 13", "EMPTY": ""}

    def test_the_command_line_loses_its_line_end_only(self, tmp_path: Path) -> None:
        for path, text in (("proc/cmdline", "a=b  c \n"), ("usr/lib/os-release", "ID=x\n")):
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_text(text)
        assert read_facts(tmp_path).command_line == "a=b  c "

    @given(st.text(), st.text(), st.booleans())
    def test_image_facts_round_trip(self, name: str, version: str, dev: bool) -> None:
        facts = ImageFacts(name, version, dev)
        assert parse_facts(encode_facts(facts)) == facts

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{}",
            b'{"name":"a","version":"1"}',
            b'{"name":"a","version":"1","dev":1}',
            b'{"name":"a","version":"1","dev":true,"x":1}',
            b"[]",
        ],
    )
    def test_bad_image_facts(self, data: bytes) -> None:
        with pytest.raises(ImageFactsError):
            parse_facts(data)


class TestAgent:
    def test_a_release_image_extends_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("extended")

        monkeypatch.setattr(agent, "extend", refuse)
        assert agent.mark(ImageFacts("a", "1", dev=False)) == ()

    def test_any_failure_is_one_line_and_status_1(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def fail() -> None:
            raise RegisterError("there is no TPM", subject="TPM", advice="")

        monkeypatch.setattr(console, "detach_input", fail)
        assert agent.run_on_console(started_us=1) == 1
        assert capfd.readouterr().out == "keyturn: gives up (registers): TPM: there is no TPM\n"
