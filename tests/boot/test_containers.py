"""Containers under crun on the real kernel: from verity volumes, confined, supervised.

The containers' root file system is the image's own root, opened as a verity volume of an app disk.
"""

from __future__ import annotations

import json
import mmap
import shutil
from pathlib import Path

import pytest

from image_builder.image import Artefact, Image
from image_builder.verity import BLOCK_SIZE, VerityHasher, VerityTree
from tests.boot.test_storage import flip
from tests.support.kernel_boot import kernel_boot

PARTS = """
from guest_agent import container_roots, containers, storage
from guest_agent.supervision import Verdict
from measurements.app_manifest import *
VOLUME = Volume(4096, BLOCKS, BLOCKS * 4096, bytes.fromhex(HASH), b"salt")
ENV = {"MODE": "safe", "b": "/usr/bin/busybox"}
def container(name, script, **changes):
    plain = Container(
        name=name, image=Image("recipe", "sha256:" + "11" * 32), volume=VOLUME,
        command=("/usr/bin/busybox", "ash", "-c", script), working_dir="/", env=ENV,
        allowed_env=("LEVEL",), user=User(1000, 1001, ()), capabilities=(), read_only=True, tmpfs=(),
        mounts=(),
        ports=(), restart=Restart(RestartPolicy.NO, 0, 0), health=None, depends_on=(),
        limits=Limits(64 << 20, 32, 100, 256), socket=False)
    return plain._replace(**changes)
lines = []
def workload(*parts, host_env=None):
    roots = {each.name: container_roots.open_root(each, disk=disk) for each in parts}
    env = host_env or {}
    return containers.Workload(parts, roots=roots, volumes="/run/data", host_env=env, say=lines.append)
def after(name, condition):
    return (Dependency(name, condition),)
disk = storage.find_disk("app")
"""
RUN = (
    PARTS
    + r"""
container_roots.mount_cgroups()
os.makedirs("/run/data")
LOOK = '''
echo ids $($b id -u) $($b id -g) $($b id -G); echo env $LEVEL $MODE $SECRET; echo host $($b hostname)
while read -r key value; do
    case $key in CapEff:|CapBnd:|NoNewPrivs:|Seccomp:) echo $key $value;; esac
done </proc/self/status
echo pid $$; $b touch /root-file 2>/dev/null && echo root written
echo kept >/data/db/file && echo volume written
$b mount -t tmpfs x /tmp 2>/dev/null && echo mounted
$b unshare -U $b true 2>/dev/null && echo unshared
$b dd if=/dev/vda of=/dev/null count=1 2>/dev/null && echo disk read; $b ls /dev/tpm0 2>/dev/null
echo x 2>/dev/null >/proc/sys/kernel/hostname && echo sysctl written
$b cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max
exit 7
'''
look = container("look", LOOK, restart=Restart(RestartPolicy.ON_FAILURE, 1, 0),
                 mounts=(Mount("db", "/data/db", False),))
container_roots.make_volumes((look,), folder="/run/data")
outcome = workload(look, host_env={"LEVEL": "3", "SECRET": "x", "MODE": "unsafe"}).run()
say("look", outcome.verdict.value, outcome.exit_codes)
say("lines", __import__("json").dumps(lines))
lines.clear()
say("volume", open("/run/data/db/file").read().strip())

first = container("first", "echo one")
second = container("second", "$b sleep 1; $b touch /tmp/ok; $b sleep 600",
                   depends_on=after("first", Condition.COMPLETED), tmpfs=(Tmpfs("/tmp", 1 << 20, "1777"),),
                   health=Health(("/usr/bin/busybox", "cat", "/tmp/ok"), 1, 20, 20, 0))
third = container("third", "echo three; $b touch /tmp/written; echo root $?", read_only=False,
                  user=User(0, 0, ()), depends_on=after("second", Condition.HEALTHY))
stop, press = os.pipe()
import threading
def press_when_done():
    while not any("container third: ended" in line for line in lines):
        time.sleep(0.1)
    os.write(press, b"x")
threading.Thread(target=press_when_done, daemon=True).start()
outcome = workload(third, second, first).run(stop=stop)
say("order", outcome.verdict.value, outcome.exit_codes)
say("orderlines", __import__("json").dumps(lines))
lines.clear()
outcome = workload(container("absent", "x", command=("/bin/no-such-program",))).run()
say("absent", outcome.verdict.value, outcome.exit_codes["absent"] != 0)
lines.clear()
sick = container("sick", "trap '' TERM; while true; do $b sleep 1; done",
                 health=Health(("/usr/bin/busybox", "false"), 1, 20, 1, 0))
containers.GRACE_SECONDS = 2.0
outcome = workload(sick).run()
say("sick", outcome.verdict.value, outcome.exit_codes)
greedy = container("greedy", "x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done",
                   limits=Limits(16 << 20, 32, 100, 256))
outcome = workload(greedy).run()
say("greedy", outcome.verdict.value, outcome.exit_codes)
lines.clear()
TALK = r'''
import socket
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect("/run/keyturn.sock")
    connection.sendall(b"GET /v1/info HTTP/1.1\r\nHost: keyturn\r\n\r\n")
    print(connection.makefile("rb").read().splitlines()[-1].decode())
except OSError as error:
    print(type(error).__name__)
'''
class Services:
    def info(self):
        return {"app": "served"}
from guest_agent.socket_server import SocketServer
server = SocketServer(__import__("pathlib").Path("/run/keyturn.sock"), Services())
python = ("/usr/bin/python3.13", "-I", "-S", "-c", TALK)
caller = container("caller", "", command=python, read_only=False, socket=True)
workload(caller, caller._replace(name="stranger", socket=False)).run()
server.close()
say("socket", __import__("json").dumps(lines))
say("left", [name for name in os.listdir("/run/crun") if not name.startswith(".")])
"""
)
OPEN = (
    PARTS
    + """
container_roots.open_root(container("a", ""), disk=disk)
say("opened", len(os.listdir("/run/keyturn/roots/a")))
"""
)


def app_disk(image: Image, path: Path) -> VerityTree:
    """An app disk with the image's root as a volume at byte 4096."""
    hasher = VerityHasher(salt=b"salt")
    root = image.path(Artefact.ROOT)
    data_bytes = image_data_bytes(image)
    with root.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        hasher.update(view[:data_bytes])
        tree = hasher.finish()
        with path.open("wb") as disk:
            disk.write(bytes(BLOCK_SIZE))
            disk.write(view[:data_bytes])
            disk.write(tree.levels)
        view.release()
    return tree


def image_data_bytes(image: Image) -> int:
    blocks = image.manifest["verity"]["data_blocks"]
    assert isinstance(blocks, int)
    return blocks * BLOCK_SIZE


def script(text: str, tree: VerityTree) -> str:
    return f"HASH, BLOCKS = {tree.root_hash.hex()!r}, {tree.data_blocks}\n{text}"


@pytest.fixture(scope="session")
def disk(apps_image: Image, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VerityTree]:
    path = tmp_path_factory.mktemp("app-disk") / "app.raw"
    return path, app_disk(apps_image, path)


@pytest.fixture(scope="session")
def said(
    apps_image: Image, disk: tuple[Path, VerityTree], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What the guest said after it ran several apps, one after another."""
    path, tree = disk
    folder = tmp_path_factory.mktemp("containers")
    with kernel_boot(apps_image, script(RUN, tree), {"app": path}, folder=folder) as guest:
        return guest.finish(seconds=200)


@pytest.fixture(scope="session")
def look(said: dict[str, str]) -> list[str]:
    """What the first run of the container that looks around wrote."""
    lines: list[str] = json.loads(said["lines"])
    assert lines[0] == "container look: starts"
    return [
        line.removeprefix("[look] ") for line in lines[1 : lines.index("container look: ended with status 7")]
    ]


def test_a_container_has_its_own_user_and_no_privileges(look: list[str]) -> None:
    assert "ids 1000 1001 1001" in look
    assert {"CapEff: 0000000000000000", "CapBnd: 0000000000000000"} <= set(look)
    assert {"NoNewPrivs: 1", "Seccomp: 2"} <= set(look)
    assert "pid 1" in look
    assert "host look" in look


def test_the_host_sets_only_what_the_manifest_allows(look: list[str]) -> None:
    assert "env 3 safe" in look


def test_a_container_cannot_leave_or_write_what_is_not_its_own(look: list[str]) -> None:
    forbidden = {"root written", "unshared", "mounted", "disk read", "/dev/tpm0", "sysctl written"}
    assert not forbidden & set(look)


def test_limits_hold(look: list[str], said: dict[str, str]) -> None:
    assert {str(64 << 20), "32"} <= set(look)
    assert said["greedy"] == "failed {'greedy': 137}"


def test_a_volume_of_the_data_disk_is_writable(look: list[str], said: dict[str, str]) -> None:
    assert "volume written" in look
    assert said["volume"] == "kept"


def test_exit_codes_are_reported_and_restarts_limited(said: dict[str, str]) -> None:
    assert said["look"] == "failed {'look': 7}"
    assert json.loads(said["lines"]).count("container look: starts") == 2


def test_containers_start_in_order_and_stop_with_the_machine(said: dict[str, str]) -> None:
    verdict, _, codes = said["order"].partition(" ")
    assert verdict == "running"
    # A shell that waits for a command is PID 1 and takes no SIGTERM, so it is killed in the end.
    assert codes == "{'third': 0, 'second': 137, 'first': 0}"
    lines: list[str] = json.loads(said["orderlines"])
    order = [
        "container first: starts",
        "[first] one",
        "container first: ended with status 0",
        "container second: starts",
        "container second: healthy",
        "container third: starts",
        "[third] three",
        "[third] root 0",
    ]
    assert [line for line in lines if line in order] == order


def test_a_program_that_is_not_there_is_a_failure(said: dict[str, str]) -> None:
    assert said["absent"] == "failed True"


def test_a_sick_container_that_ignores_sigterm_is_killed(said: dict[str, str]) -> None:
    assert said["sick"] == "failed {'sick': 137}"


def test_only_a_container_that_asks_for_the_agent_s_socket_reaches_it(said: dict[str, str]) -> None:
    lines: list[str] = json.loads(said["socket"])
    answers = {line for line in lines if line.startswith("[")}
    assert answers == {'[caller] {"app":"served"}', "[stranger] FileNotFoundError"}


def test_nothing_of_a_container_is_left(said: dict[str, str]) -> None:
    assert said["left"] == "[]"


def test_an_altered_block_of_the_app_disk_ends_the_boot(
    apps_image: Image, disk: tuple[Path, VerityTree], tmp_path: Path
) -> None:
    path, tree = disk
    altered = tmp_path / "app.raw"
    shutil.copyfile(path, altered)
    flip(altered, 8, offset=1024)
    with kernel_boot(apps_image, script(OPEN, tree), {"app": altered}, folder=tmp_path) as guest:
        console = guest.wait_end(seconds=120)
    assert "SAY opened" not in console
    assert "Kernel panic - not syncing: dm-verity" in console
