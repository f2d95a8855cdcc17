"""Benchmark of the measurements: ``python benchmarks/measure.py``.

In one process, by turns, the least of several runs each: MRTD and SNP launch digest of one firmware (the
latter beside ``sev-snp-measure``), RTMR0, the Authenticode digest of a UKI beside plain SHA-384 over the same
bytes, and the replay of a log of 10,000 events. Then whole processes: ``keyturn --help`` and ``keyturn
predict`` for one platform and for all of them, the median of several runs. Prints a table with the project's
targets; asserts nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sevsnpmeasure.guest import calc_launch_digest
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType

from benchmarks.process import timed
from image_builder.image import Artefact, load_image
from measurements.acpi_cache import cached_dump
from measurements.eventlog import Algorithm, parse_event_log
from measurements.events import Bank
from measurements.pe import authenticode_digest
from measurements.platforms import Platform
from measurements.qemu import QemuProgram
from measurements.sev.cpu_models import find_cpu_model
from measurements.sev.ovmf_metadata import parse_sev_image
from measurements.sev.predict import SevChoices, predict_sev
from measurements.shape import MachineShape, TpmInterface
from measurements.tdx.boot_variables import boot_variable_events
from measurements.tdx.mrtd import PageOrder, compute_mrtd
from measurements.tdx.predict import TdxFirmware
from measurements.tdx.register_events import replay as replay_rtmrs
from measurements.tdx.rtmr0 import Rtmr0Inputs, rtmr0_events
from measurements.tdx.tdvf import parse_tdvf
from tests.support.debian_packages import debian_package
from tests.support.event_log_writer import Record, write_log

KEYTURN = (sys.executable, "-m", "keyturn")
RUNS, PROCESS_RUNS = 15, 7
EVENTS = 10_000
CPU_MODEL = "EPYC-v4"
FEATURES = 0x1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: milliseconds, and the target in words; ``peer`` is the other tool's time."""

    name: str
    milliseconds: float
    target: str
    peer: float | None = None

    def cells(self) -> Sequence[str]:
        """The line's texts."""
        ratio = "" if self.peer is None else f"{self.milliseconds / self.peer:.2f}"
        peer = "" if self.peer is None else f"{self.peer:.1f}"
        return self.name, f"{self.milliseconds:.1f}", peer, ratio, self.target


def by_turns(*works: Callable[[], object], runs: int = RUNS) -> list[float]:
    """The least time of each in milliseconds; they run in turns, so that a slow moment hits all of them."""
    best = [float("inf")] * len(works)
    for _ in range(runs):
        for index, work in enumerate(works):
            started = time.perf_counter()
            work()
            best[index] = min(best[index], (time.perf_counter() - started) * 1000)
    return best


def trust_domain(data: bytes) -> Iterator[Row]:
    """MRTD from the bytes of a firmware, and RTMR0 from its parts."""
    (mrtd,) = by_turns(lambda: compute_mrtd(parse_tdvf(data, name="OVMF.fd"), order=PageOrder.SINGLE_PASS))
    yield Row(name=f"MRTD of {len(data) >> 20} MiB", milliseconds=mrtd, target="<= 15 ms")
    (rtmr0,) = by_turns(rtmr0_work(data))
    yield Row(name="RTMR0 without reading ACPI tables", milliseconds=rtmr0, target="<= 2 ms")


def rtmr0_work(data: bytes) -> Callable[[], object]:
    """RTMR0 of a machine whose ACPI tables have been read: memory list, variables, tables, boot entries."""
    firmware = TdxFirmware.parse(data, name="OVMF.fd")
    shape = MachineShape(tpm=TpmInterface.NONE, hpet=False, pic=False)
    dump = cached_dump(shape, QemuProgram.installed())

    def work() -> object:
        inputs = Rtmr0Inputs(
            firmware=firmware.tdvf,
            facts=firmware.facts,
            release=firmware.build.release,
            memory=shape.memory_mib << 20,
            store=firmware.store,
            store_name=firmware.store_name,
            policy=firmware.policy,
            acpi=dump.files,
            acpi_origin=dump.origin,
            fw_cfg=None,
            smbios=None,
            boot_variables=boot_variable_events(firmware.facts, shape),
            started=(),
            direct=False,
        )
        return replay_rtmrs(rtmr0_events(inputs))

    return work


def snp(firmware: Path) -> Iterator[Row]:
    """One launch digest, with both tools reading the file."""
    model = find_cpu_model(CPU_MODEL)
    choices = SevChoices(cpu_models=[model], guest_features=[FEATURES], vcpus=[4])

    def ours() -> bytes:
        image = parse_sev_image(firmware.read_bytes(), name="OVMF.fd")
        (value,) = predict_sev(Platform.SNP, image, choices=choices)
        return value.registers["measurement"]["sha384"]

    def theirs() -> bytes:
        digest: bytes = calc_launch_digest(
            SevMode.SEV_SNP, 4, model.signature, str(firmware), "", "", "", FEATURES, "", VMMType.QEMU
        )
        return digest

    if ours() != theirs():
        raise SystemExit("the two tools give different launch digests")
    mine, other = by_turns(ours, theirs)
    yield Row(name="SNP launch digest", milliseconds=mine, peer=other, target="<= 8 ms, ratio < 1")


def authenticode(uki: bytes) -> Iterator[Row]:
    """The digest of a UKI, beside SHA-384 over the whole file."""
    mine, plain = by_turns(
        lambda: authenticode_digest(uki, Bank.SHA384, subject="uki.efi"), lambda: hashlib.sha384(uki).digest()
    )
    name = f"Authenticode of a UKI of {len(uki) >> 20} MiB (SHA-384)"
    yield Row(name=name, milliseconds=mine, peer=plain, target="ratio <= 1.25 to plain SHA-384")


def replay() -> Iterator[Row]:
    """Parse and replay of a long log with one bank."""
    records = [
        Record(
            pcr=index % 16,
            event_type=0xD,
            digests={Algorithm.SHA384: hashlib.sha384(index.to_bytes(4, "little")).digest()},
            data=b"event",
        )
        for index in range(EVENTS)
    ]
    log = parse_event_log(write_log(records, algorithms=[Algorithm.SHA384]))
    (milliseconds,) = by_turns(lambda: log.replay(Algorithm.SHA384))
    yield Row(name=f"replay of {EVENTS} events", milliseconds=milliseconds, target="<= 30 ms")


def processes(image: Path, firmware: Path, folder: Path) -> Iterator[Row]:
    """Whole processes, the median; the first run of each fills the caches and is not counted."""
    predict = ("predict", str(image), "--json", "--output", str(folder / "reference.json"))
    whole = ("--firmware", str(firmware))
    works = [
        ("keyturn --help", ("--help",), "<= 120 ms"),
        *(
            (f"keyturn predict --platform {name}", (*predict, "--platform", name, *whole), "<= 150 ms")
            for name in ("tdx", "snp")
        ),
        ("keyturn predict --platform tpm", (*predict, "--platform", "tpm"), "<= 150 ms"),
        ("keyturn predict --platform all", (*predict, "--platform", "all", *whole), "<= 500 ms"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for name, words, target in works:
        costs = [
            timed([*KEYTURN, *words], cwd=folder, environment=environment).seconds * 1000
            for _ in range(PROCESS_RUNS + 1)
        ]
        yield Row(name=name, milliseconds=statistics.median(costs[1:]), target=target)


def render(rows: Sequence[Row]) -> str:
    """The table as text."""
    lines = [("what", "ms", "peer ms", "ratio", "target"), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main() -> None:
    """Run everything and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--image", type=Path, help="an image folder; by default one of the default recipe")
    options.add_argument("--firmware", type=Path, help="a whole OVMF.fd; by default that of Debian 13")
    options.add_argument("--json", action="store_true", help="print JSON")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        firmware = given.firmware.resolve() if given.firmware else whole_firmware(folder)
        data = firmware.read_bytes()
        image = given.image.resolve() if given.image else built_image(folder)
        uki = load_image(image, verify=False).path(Artefact.UKI).read_bytes()
        rows = [*trust_domain(data), *snp(firmware), *authenticode(uki), *replay()]
        rows += processes(image, firmware, folder)
    if given.json:
        print(json.dumps([vars(row) for row in rows], indent=2))
    else:
        print(render(rows))


def built_image(folder: Path) -> Path:
    """An image of the recipe that ``keyturn init`` writes."""
    project = folder / "project"
    project.mkdir()
    for words in (("init",), ("lock",), ("build", "--output", str(project / "image"))):
        timed([*KEYTURN, *words], cwd=project, environment=os.environ)
    return project / "image"


def whole_firmware(folder: Path) -> Path:
    """The firmware of Debian 13 in one file: its variables, then its code."""
    parts = debian_package("ovmf", suite="trixie") / "usr/share/OVMF"
    whole = folder / "OVMF.fd"
    whole.write_bytes(
        b"".join((parts / name).read_bytes() for name in ("OVMF_VARS_4M.fd", "OVMF_CODE_4M.fd"))
    )
    return whole


if __name__ == "__main__":
    main()
