"""``keyturn run`` on real machines: it compares, it names what is missing, and nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from image_builder.image import Image
from measurements.boot_sequence import PREDICTED_PCRS, Prediction
from measurements.events import EventType, MeasuredEvent, digests_of, replay
from measurements.qemu_args import FirmwareFiles
from measurements.reference import reference_document
from measurements.shape import MachineShape
from tests.boot.conftest import ImageMaker
from tests.support.images import keyturn

pytestmark = [pytest.mark.boot, pytest.mark.network]


def processes_with(text: str) -> list[str]:
    """Command lines of running processes that hold ``text``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A folder for everything temporary; afterwards it is empty and no process uses it."""
    folder = tmp_path / "t"
    folder.mkdir()
    yield folder
    assert processes_with(str(folder)) == []
    assert list(folder.iterdir()) == []


def start(image: Image, temporary: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "keyturn", "run", str(image.folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"TMPDIR": str(temporary)},
    )


def read_until(process: subprocess.Popen[bytes], text: bytes, *, seconds: float) -> bytes:
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    seen = b""
    while text not in seen:
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, seen
        assert time.monotonic() < deadline, seen
        seen += piece
    return seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(
    built_image: Image, firmware: FirmwareFiles, temporary: Path, number: signal.Signals
) -> None:
    process = start(built_image, temporary)
    try:
        read_until(process, b"BdsDxe: starting", seconds=120)
        assert any("qemu" in line for line in processes_with(str(temporary)))
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert b"Traceback" not in output


def test_a_killed_run_takes_its_machine_along(
    built_image: Image, firmware: FirmwareFiles, tmp_path: Path
) -> None:
    """Nobody can clean up after SIGKILL, but nothing goes on running."""
    process = start(built_image, tmp_path)
    try:
        read_until(process, b"BdsDxe", seconds=120)
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 20
    while processes_with(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_with(str(tmp_path)) == []


def reference_with(values: Sequence[int], folder: Path) -> Path:
    """A well-formed reference whose registers no boot has."""
    events = tuple(
        MeasuredEvent(
            pcr=pcr,
            event_type=EventType.EV_SEPARATOR,
            digests=digests_of(b"never measured"),
            description="made up",
            origin="test",
        )
        for pcr in values
    )
    prediction = Prediction(events=events, registers=replay(events, pcrs=PREDICTED_PCRS))
    path = folder / "reference.json"
    document = reference_document(prediction, shape=MachineShape().as_json())
    path.write_text(json.dumps(document))
    return path


def test_other_registers_are_refused_and_named(
    built_image: Image, firmware: FirmwareFiles, tmp_path: Path
) -> None:
    reference = reference_with(list(PREDICTED_PCRS), tmp_path)
    done = keyturn("run", built_image.folder, "--expect", reference, "--json")
    assert done.returncode == 1, done.stderr
    result, _ = json.JSONDecoder().raw_decode(done.stdout)
    assert {each["pcr"] for each in result["differences"]} == set(PREDICTED_PCRS)
    assert result["equal"] is False
    assert "not as predicted" in done.stderr


def predicted(image: Image, path: Path) -> Path:
    done = keyturn("predict", image.folder, "--output", path)
    assert done.returncode == 0, done.stderr
    return path


def test_the_predicted_registers_are_the_booted_ones(
    built_image: Image, firmware: FirmwareFiles, tmp_path: Path
) -> None:
    reference = predicted(built_image, tmp_path / "reference.json")
    kept = tmp_path / "report.json"
    options = ("--expect", reference, "--report", kept, "--until-report", "--json")
    done = keyturn("run", built_image.folder, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["equal"] is True
    assert json.loads(kept.read_text()) == json.loads(done.stdout)


def test_a_changed_command_line_is_refused_by_the_registers(
    built_image: Image, make_image: ImageMaker, firmware: FirmwareFiles, tmp_path: Path
) -> None:
    """The same recipe with one more parameter: a valid image, but not the one that was predicted."""
    changed = make_image("quiet", {"command-line = [] ": 'command-line = ["quiet"] '})
    reference = predicted(built_image, tmp_path / "reference.json")
    done = keyturn("run", changed.folder, "--expect", reference, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    result, _ = json.JSONDecoder().raw_decode(done.stdout)
    assert {each["pcr"] for each in result["differences"]} == {4, 9, 10, 11}
    assert "quiet" in result["report"]["command_line"]


@pytest.mark.parametrize(
    ("tool", "package"), [("qemu-system-x86_64", "qemu-system-x86"), ("swtpm_setup", "swtpm-tools")]
)
def test_a_missing_program_is_named_with_its_package(
    built_image: Image, firmware: FirmwareFiles, tmp_path: Path, tool: str, package: str
) -> None:
    """The search path holds everything but one program."""
    for folder in os.environ["PATH"].split(":"):
        for program in Path(folder).glob("*"):
            link = tmp_path / program.name
            if program.name != tool and not link.exists() and not link.is_symlink():
                link.symlink_to(program)
    command = [sys.executable, "-m", "keyturn", "run", str(built_image.folder), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": str(tmp_path)}
    )
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["subject"]) == ("missing-tool", tool)
    assert package in error["advice"]
