"""What the boot benchmark reads from a console, its table and ratio, and that its peer follows the initrd."""

from __future__ import annotations

from importlib.resources import files

import pytest

from benchmarks.boot_peer import PeerError, peer_archive, peer_init
from benchmarks.boot_times import BootTimes, TimesError, as_json, boot_times, ratio, render
from image_builder.cpio import read_cpio
from measurements.boot_timeline import BootTimelineError, Moment
from tests.guest_agent.app_containers import PLAIN

CONSOLE = (
    b"[    0.10] kernel\r\n"
    b'keyturn: timeline {"agent":2500000,"report":3000000,"keys":4500000,"container":6000000}\r\n'
    b"keyturn: [web] workload runs at 7.25\r\n"
)


def init_script() -> str:
    return files("image_builder.data").joinpath("initrd_init.sh").read_text(encoding="ascii")


def test_times_count_from_the_kernel_s_start() -> None:
    times = boot_times(CONSOLE, agent=True, seen=17.25, answered=17.5)
    assert times.firmware == 10
    assert times.workload == 7.25
    assert times.answer == 7.5
    assert times.moments[Moment.AGENT] == 2.5
    assert Moment.QUOTE not in times.moments


def test_without_an_agent_there_is_no_timeline() -> None:
    assert boot_times(b"workload runs at 4.50\n", agent=False, seen=5, answered=6).moments == {}
    with pytest.raises(BootTimelineError):
        boot_times(b"workload runs at 4.50\n", agent=True, seen=5, answered=6)


@pytest.mark.parametrize("console", [b"", b"workload runs at 4\n", CONSOLE + b"workload runs at 8.00\n"])
def test_a_workload_that_ran_not_once_is_no_boot(console: bytes) -> None:
    with pytest.raises(TimesError):
        boot_times(console, agent=False, seen=1, answered=1)


def test_the_table_shows_medians_and_dashes() -> None:
    def boot(workload: float, **moments: float) -> BootTimes:
        found = {Moment(name): time for name, time in moments.items()}
        return BootTimes(firmware=1, moments=found, workload=workload, answer=workload + 1)

    ours, peer = [boot(6, keys=4), boot(3, keys=2), boot(9, keys=8)], [boot(4)]
    lines = {line[:30].strip(): line for line in render({"kms": ours, "busybox": peer})}
    assert lines["→ keys"].split()[2:] == ["4.00", "s", "(2.00-8.00)", "-"]
    assert lines["→ container's program runs"].endswith("6.00 s (3.00-9.00)        4.00 s (4.00-4.00)")
    assert lines["→ quote"].split()[2:] == ["-", "-"]
    assert ratio(ours, peer) == 1.5
    assert as_json(peer) == [{"firmware": 1, "moments": {}, "workload": 4, "answer": 5}]


def test_the_peer_is_made_from_the_initrd_of_today() -> None:
    script = init_script()
    assert peer_init(script).endswith('exec "$busybox" switch_root /root "$busybox" init\n')
    assert "/proc/cmdline" not in peer_init(script)
    with pytest.raises(PeerError):
        peer_init(script.replace("switch_root", "pivot_root"))


def test_the_peer_runs_the_container_without_agent() -> None:
    archive = peer_archive(PLAIN._replace(socket=True))
    found = {each.name: archive[each.offset : each.offset + each.size] for each in read_cpio(archive)}
    config = found[b"peer/config.json"]
    assert b'"/bin/web"' in config
    assert b"keyturn.sock" not in config
    assert PLAIN.volume.root_hash.hex().encode() in found[b"peer/verity"]
