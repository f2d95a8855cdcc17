"""``keyturn run`` without a machine: options, errors, what people see of a console, comparing registers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.console_view import ConsoleView
from keyturn.run_inputs import app_disks, find_firmware, parse_forward
from keyturn.shape_options import OptionError, make_shape
from measurements.boot_report import BEGIN
from measurements.errors import MissingToolError
from measurements.events import Bank
from measurements.register_comparison import register_differences
from measurements.shape import MachineShape, ShapeError, TpmInterface


def shape_of(
    *,
    shape: Path | None = None,
    memory: str | None = None,
    cpus: int | None = None,
    disks: list[str] | None = None,
    nics: list[str] | None = None,
    tpm: str | None = None,
) -> MachineShape:
    return make_shape(shape=shape, memory=memory, cpus=cpus, machine=None, disks=disks, nics=nics, tpm=tpm)


class TestShapeOptions:
    def test_none_is_the_default(self) -> None:
        assert shape_of() == MachineShape()

    def test_all_parts(self) -> None:
        shape = shape_of(
            memory="1GiB", cpus=2, tpm="tis", disks=["virtio-blk-pci", "virtio-blk-pci"], nics=["e1000e"]
        )
        assert (shape.memory_mib, shape.cpus, shape.tpm) == (1024, 2, TpmInterface.TIS)
        assert (len(shape.disks), len(shape.nics)) == (2, 1)

    def test_a_file_excludes_parts(self, tmp_path: Path) -> None:
        path = tmp_path / "shape.toml"
        path.write_text('memory = "1GiB"\n')
        assert shape_of(shape=path).memory_mib == 1024
        with pytest.raises(OptionError, match="together with options"):
            shape_of(shape=path, cpus=2)
        with pytest.raises(OptionError, match="together with options"):
            shape_of(shape=path, nics=["e1000e"])

    @pytest.mark.parametrize("tpm", ["crbx", "", "CRB"])
    def test_a_tpm_that_does_not_exist(self, tpm: str) -> None:
        with pytest.raises(ShapeError):
            shape_of(tpm=tpm)


class TestForwards:
    @pytest.mark.parametrize(("text", "ports"), [("8080:80", (8080, 80)), ("1:65535", (1, 65535))])
    def test_good(self, text: str, ports: tuple[int, int]) -> None:
        forward = parse_forward(text)
        assert (forward.host, forward.guest) == ports

    @pytest.mark.parametrize("text", ["", "80", "0:80", "80:65536", "a:b", "1:2:3", "-1:2", "²:3"])
    def test_bad(self, text: str) -> None:
        with pytest.raises(OptionError):
            parse_forward(text)


class TestFirmware:
    def test_both_or_none(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="needs the other"):
            find_firmware(tmp_path, None)
        with pytest.raises(OptionError, match="needs the other"):
            find_firmware(None, tmp_path)

    def test_absent_names_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("keyturn.run_inputs.FIRMWARE_PAIRS", (("/nowhere/code", "/nowhere/vars"),))
        with pytest.raises(MissingToolError) as missing:
            find_firmware(None, None)
        assert "apt install ovmf" in missing.value.advice


class TestConsoleView:
    def view(self, *pieces: bytes) -> bytes:
        stream = io.BytesIO()
        view = ConsoleView(stream)
        for piece in pieces:
            view.feed(piece)
        view.finish()
        return stream.getvalue()

    def test_the_report_is_hidden(self) -> None:
        text = f"before\r\n{BEGIN}\r\nKT abcd\r\n-----END KEYTURN BOOT REPORT 00-----\r\nafter".encode()
        assert self.view(text) == b"before\nafter\n"

    @given(st.binary(max_size=200))
    def test_no_control_sequence_reaches_the_terminal(self, data: bytes) -> None:
        shown = self.view(data)
        assert not [byte for byte in shown if byte < 0x20 and byte not in b"\t\n"]
        assert 0x7F not in shown

    @given(st.lists(st.binary(max_size=9), max_size=9))
    def test_pieces_do_not_matter(self, pieces: list[bytes]) -> None:
        assert self.view(*pieces) == self.view(b"".join(pieces))


class TestComparison:
    EXPECTED: ClassVar = {Bank.SHA256: {0: b"a" * 32, 4: b"b" * 32}, Bank.SHA384: {0: b"c" * 48}}

    def test_equal_whatever_else_was_booted(self) -> None:
        booted = {"sha256": {0: b"a" * 32, 4: b"b" * 32, 23: b"x" * 32}, "sha384": {0: b"c" * 48}}
        assert register_differences(self.EXPECTED, booted) == ()

    def test_every_difference_is_named_in_order(self) -> None:
        found = register_differences(self.EXPECTED, {"sha256": {0: b"a" * 32, 4: b"x" * 32}})
        assert [(each.pcr, each.bank, each.booted) for each in found] == [
            (0, Bank.SHA384, None),
            (4, Bank.SHA256, b"x" * 32),
        ]
        assert found[0].as_json() == {"bank": "sha384", "pcr": 0, "expected": "63" * 48, "booted": None}


def keyturn(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PATH": path} if path is not None else {})
    command = [sys.executable, "-m", "keyturn", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--port", "80"), "option"),
        (("--port", "80:80"), "option"),
        (("--memory", "much"), "shape"),
        (("--disk", "floppy"), "shape"),
        (("--nic", "virtio-net-pci,colour=red"), "shape"),
        (("--firmware-code", "code.fd"), "option"),
        (("--shape", "absent.toml"), "shape"),
        (("--shape", "absent.toml", "--cpus", "2"), "option"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path: Path, arguments: tuple[str, ...], code: str) -> None:
    done = keyturn(str(tmp_path), *arguments, "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert error["advice"]
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_image(tmp_path: Path) -> None:
    files = []
    for name in ("code", "vars"):
        (tmp_path / name).write_bytes(b"x")
        files += [f"--firmware-{name}", str(tmp_path / name)]
    done = keyturn(str(tmp_path), *files, "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "image")


def test_the_disks_of_an_app_have_the_names_that_the_agent_looks_for(tmp_path: Path) -> None:
    disks = app_disks(tmp_path, tmp_path / "config.disk", tmp_path / "data.raw")
    assert [(disk.serial, disk.read_only) for disk in disks] == [
        ("keyturn-app", True),
        ("keyturn-config", True),
        ("keyturn-data", False),
    ]
    assert app_disks(None, None, None) == []


def test_an_app_without_its_config_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="config disk"):
        app_disks(tmp_path, None, None)
