"""Benchmark of the boot: ``python benchmarks/boot.py``.

Boots one image with one app in three ways: with keys from a KMS, with keys that the TPM seals, and with
BusyBox as init that mounts the same verity root and starts the same container from the same verity volume
(``boot_peer``). Times are the guest's own. Same disk files, same machine shape, in turns, one machine at a
time. The KMS is the real service in this process over a chain on paper (``boot_kms``). Encrypted disks are
formatted in a first boot, which is not counted. Prints the timeline, sizes and ratios; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import boot_kms
from benchmarks.boot_peer import ADDRESS, GATEWAY, peer_arguments
from benchmarks.boot_times import (
    TARGET_RATIO,
    WORKLOAD,
    BootTimes,
    as_json,
    boot_times,
    ratio,
    render,
)
from benchmarks.process import timed
from image_builder.erofs_reader import open_erofs
from image_builder.image import Artefact, Image, load_image
from image_builder.tree import Kind
from keyturn.run_inputs import app_disks, find_firmware
from measurements.app_manifest import AppManifest, parse_manifest
from measurements.qemu import Machine, MachineSpec
from measurements.qemu_args import DiskFile, PortForward
from measurements.reference import read_reference, reference_values
from measurements.shape import BootOrder, MachineShape, read_shape
from measurements.swtpm import manufacture

KEYTURN = (sys.executable, "-m", "keyturn")
FILES = Path(__file__).resolve().parent / "boot_app"
REPOSITORY = FILES.parents[1]
SHAPE = """memory = "1GiB"

[[disk]]
model = "virtio-blk-pci"

[[disk]]
model = "virtio-blk-pci"

[[disk]]
model = "virtio-blk-pci"

[[disk]]
model = "virtio-blk-pci"

[[nic]]
model = "virtio-net-pci"
"""
DATA_BYTES = 24 << 20
BOOT_SECONDS = 300
STOP_SECONDS = 60
GUEST_PORT = 8080
SIZES = {
    "agent (sources and byte code)": ("usr/lib/keyturn/",),
    "Python (interpreter and its library)": ("usr/bin/python3", "usr/lib/python3."),
    "Python packages (TPM bindings, cryptography)": ("usr/lib/python3/",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all boots share."""

    folder: Path
    image: Image
    shape: MachineShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """One way to boot: its disks, TPM and QEMU's further arguments."""

    app: Path
    config: Path
    data: Path
    tpm: Path
    extra: tuple[str, ...] = ()

    @property
    def agent(self) -> bool:
        """Whether the agent runs in it."""
        return not self.extra


def keyturn(folder: Path, *words: str) -> None:
    """Run one keyturn command in ``folder``; Python keeps byte code, as for any installed program."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    timed([*KEYTURN, *words], cwd=folder, environment={**kept, "PYTHONPATH": str(REPOSITORY)})


def prepare(folder: Path) -> Bench:
    """The image for apps, and the reference values of the machine."""
    keyturn(folder, "init", "--template", "apps")
    for verb in ("lock", "fetch", "build"):
        keyturn(folder, verb)
    (folder / "shape.toml").write_text(SHAPE)
    keyturn(folder, "predict", "image", "--shape", "shape.toml", "--output", "reference.json")
    shape = read_shape(folder / "shape.toml")
    return Bench(folder=folder, image=load_image(folder / "image"), shape=shape)


def build_app(bench: Bench, mode: str, *identity: str) -> Path:
    """The folder of the app with that key provider."""
    project = bench.folder / mode
    (project / "root").mkdir(parents=True)
    (project / "root/keyturn.toml").write_text((FILES / "root/keyturn.toml").read_text())
    (project / "app.toml").write_text((FILES / "app.toml.tmpl").read_text().replace("@MODE@", mode))
    keyturn(project, "lock", "root/keyturn.toml")
    keyturn(project, "fetch", "root/keyturn.toml")
    keyturn(project, "app", "lock")
    pins = ("--app-id", boot_kms.APP, "--contract", boot_kms.CONTRACT, "--chain-id", str(boot_kms.CHAIN_ID))
    keyturn(project, "app", "build", *pins, *identity)
    return project / "app"


def make_guest(bench: Bench, app: Path, *kms: str) -> Guest:
    """The guest of an app, with an empty data disk and a TPM of its own."""
    project = app.parent
    network = ("--address", ADDRESS, "--gateway", GATEWAY, "--reference", "../reference.json")
    keyturn(project, "app", "config", "app", *network, *kms)
    data = project / "data.disk"
    with data.open("wb") as stream:
        stream.truncate(DATA_BYTES)
    manufacture(project / "tpm")
    return Guest(app=app, config=project / "config.disk", data=data, tpm=project / "tpm")


def read_app(app: Path) -> tuple[bytes, AppManifest]:
    """The app's manifest: its bytes and what they say."""
    data = (app / "app-manifest.json").read_bytes()
    return data, parse_manifest(data)


def boot(bench: Bench, guest: Guest) -> BootTimes:
    """Boot, wait for the first answer, press the power button."""
    port = free_port()
    disks = [DiskFile(path=bench.image.path(Artefact.DISK)), *app_disks(guest.app, guest.config, guest.data)]
    spec = MachineSpec(
        # A kernel from the host takes the first place in the boot order, so the disk cannot have it.
        shape=bench.shape if guest.agent else replace(bench.shape, boot_order=BootOrder.FIRMWARE),
        firmware=find_firmware(None, None),
        disks=disks,
        tpm_state=guest.tpm,
        forwards=[PortForward(host=port, guest=GUEST_PORT)],
        extra=guest.extra,
    )
    started = time.monotonic()
    with Machine.start(spec) as machine:
        machine.wait_for(WORKLOAD.pattern.decode() + r"[^\n]*\n", seconds=BOOT_SECONDS)
        seen = time.monotonic() - started
        await_answer(port, deadline=started + BOOT_SECONDS)
        answered = time.monotonic() - started
        console = machine.console.data
        if guest.agent:
            machine.power_button()
            machine.wait_exit(seconds=STOP_SECONDS)
    return boot_times(console, agent=guest.agent, seen=seen, answered=answered)


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def await_answer(port: int, *, deadline: float) -> None:
    """Ask until the service answers."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                answer.read()
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def guests(bench: Bench) -> Iterator[dict[str, Guest]]:
    """All ways to boot, by name; the KMS runs while the block does."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        released = build_app(bench, "kms", "--kms-root", boot_kms.KMS_ROOT)
        url = f"http://{GATEWAY}:{listener.getsockname()[1]}"
        asking = make_guest(bench, released, "--kms", url)
        sealed = make_guest(bench, build_app(bench, "tpm-seal"))
        manifest, parsed = read_app(released)
        reference = reference_values(read_reference(bench.folder / "reference.json"))
        kms = boot_kms.open_kms(
            asking.tpm,
            manifest=manifest,
            reference=reference,
            journal=bench.folder / "journal.sqlite",
        )
        stack.enter_context(boot_kms.served(kms, listener))
        arguments = peer_arguments(bench.image, parsed.containers[0], folder=bench.folder)
        peer = Guest(app=released, config=asking.config, data=asking.data, tpm=asking.tpm, extra=arguments)
        yield {"kms": asking, "tpm-seal": sealed, "busybox": peer}


def measure(bench: Bench, boots: int, say: Callable[[str], None]) -> dict[str, list[BootTimes]]:
    """All boots, the ways in turns."""
    with guests(bench) as ways:
        for name, guest in ways.items():
            if guest.agent:
                say(f"{name}: first boot, formats the disk")
                boot(bench, guest)
        times: dict[str, list[BootTimes]] = {name: [] for name in ways}
        for number in range(boots):
            for name, guest in ways.items():
                times[name].append(boot(bench, guest))
                say(f"{name}: boot {number + 1} of {boots}, workload after {times[name][-1].workload:.2f} s")
    return times


def sizes(image: Image) -> dict[str, int]:
    """Bytes of files in the root, by what they belong to."""
    with open_erofs(image.path(Artefact.ROOT)) as reader:
        found = [(entry.path, entry.size) for entry in reader.entries() if entry.kind is Kind.FILE]
    return {
        what: sum(size for path, size in found if path.startswith(prefixes))
        for what, prefixes in SIZES.items()
    }


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boots", type=int, default=3, help="boots of each kind; medians are shown")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = parser.parse_args()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="kt-boot-") as name:
        bench = prepare(Path(name))
        parts = sizes(bench.image)
        times = measure(bench, options.boots, say)
    ratios = {name: ratio(boots, times["busybox"]) for name, boots in times.items() if name != "busybox"}
    if options.json:
        boots = {name: as_json(each) for name, each in times.items()}
        print(json.dumps({"boots": boots, "ratios": ratios, "target": TARGET_RATIO, "bytes": parts}))
        return
    print(f"boot timeline, guest clock: median of {options.boots} (shortest-longest)")
    print("\n".join(render(times)))
    for name, value in ratios.items():
        print(f"time to workload, {name} ÷ busybox: {value:.2f} x   (target ≤ {TARGET_RATIO} x)")
    for what, size in parts.items():
        print(f"{what}: {size:,} bytes")


if __name__ == "__main__":
    main()
