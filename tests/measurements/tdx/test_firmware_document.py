"""docs/firmware.md lists what the data know, no more and no less."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from measurements.firmware_catalogue import EventGroup, Proof, catalogue
from measurements.linux_stub import OLDEST_KERNEL
from measurements.systemd_stub import NEWEST, OLDEST, UNKNOWN
from measurements.tdx.rtmr2 import OLDEST_MEASURING_KERNEL

DOCUMENT = Path(__file__).parents[3] / "docs" / "firmware.md"
WORDS = {
    Proof.HARDWARE_QUOTE: "hardware quote",
    Proof.REAL_BOOT: "real boot",
    Proof.LOG: "log",
    Proof.SOURCE: "source read",
    Proof.COMPUTED: "computed only",
}


def release_rows() -> Iterator[str]:
    for release in catalogue().releases.values():
        if release.unsupported:
            yield f"| {release.name} | MRTD only | | | | {WORDS[release.proof]} |"
            continue
        place = "RTMR1" if EventGroup.SEPARATOR in release.rtmr1_disk else "RTMR0"
        more = "fw_cfg, SMBIOS" if EventGroup.FW_CFG in release.rtmr0 else "no"
        kernel = "yes" if release.named_kernel else "no"
        argument = release.initrd_argument.value
        yield f"| {release.name} | {place} | {more} | {kernel} | {argument} | {WORDS[release.proof]} |"


def hypervisor_rows() -> Iterator[str]:
    for each in catalogue().hypervisors.values():
        orders = ", ".join(order.value for order in each.orders)
        yield f"| `{each.name}` | {each.words} | {orders} | {each.header_patch.value} | {WORDS[each.proof]} |"


def file_rows() -> Iterator[str]:
    for file in catalogue().files.values():
        values = list(file.mrtd.values())
        yield (
            f"| {file.distribution} | {file.package} | {file.file} | `{file.sha256[:16]}` "
            f"| `{values[0].hex()[:16]}` | `{values[1].hex()[:16]}` | {WORDS[file.proof]} |"
        )


def table(heading: str) -> list[str]:
    """The rows below a table's heading and its rule."""
    lines = DOCUMENT.read_text().splitlines()
    start = lines.index(heading) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(line)
    return rows


def test_the_releases_are_those_of_the_data() -> None:
    heading = "| edk2 | second separator | besides | takes the untouched kernel | initrd=initrd | proof |"
    assert table(heading) == list(release_rows())


def test_the_hypervisors_are_those_of_the_data() -> None:
    heading = "| name | hypervisor | MRTD, order of pages | changes the kernel's header | proof |"
    assert table(heading) == list(hypervisor_rows())


def test_the_files_are_those_of_the_data() -> None:
    heading = "| distribution | package | file | SHA-256 | MRTD, single pass | MRTD, two passes | proof |"
    assert table(heading) == list(file_rows())


def test_the_stubs_are_those_that_are_predicted() -> None:
    versions = [str(number) for number in range(OLDEST, NEWEST + 1) if number not in UNKNOWN]
    assert f"| systemd-stub | {', '.join(versions)} |" in DOCUMENT.read_text()


def test_the_kernels_are_those_that_are_predicted() -> None:
    oldest = ".".join(map(str, OLDEST_KERNEL))
    measuring = ".".join(map(str, OLDEST_MEASURING_KERNEL))
    row = f"| Linux | {oldest} or later; command line and initrd in RTMR2 from {measuring} on |"
    assert row in DOCUMENT.read_text()
