"""The boot chain's constants: initrd, root files, kernel command line, and the script that lives by them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.mounts import parse_mounts
from guest_agent.payload import FOLDER
from image_builder.command_line import DEFAULT, MAX_LENGTH, CommandLineError, kernel_command_line
from image_builder.cpio import cpio_bytes, read_cpio
from image_builder.initrd import PROGRAMS, InitrdError, KernelModule, VerifiedRoot, initrd_tree
from image_builder.recipe import Recipe, parse_recipe
from image_builder.root_files import MOUNT_POINTS, RootFilesError, interpreter, root_nodes
from image_builder.tree import BytesContent, Kind, Node, Tree, read_content
from image_builder.verity import VerityHasher, VerityTree
from measurements.image_facts import IMAGE_FACTS, ImageFacts, parse_facts
from tests.support.tools import require_tool

PARTITION = UUID("6B657974-7572-4E00-8000-000000000002")
LIBRARY = "usr/lib/x86_64-linux-gnu/libc.so.6"
PYTHON = "usr/bin/python3.13"
SCRIPT = Path(__file__).resolve().parents[2] / "image_builder" / "data" / "initrd_init.sh"
RECIPE = """
[image]
name = "test"
version = "3"
dev = true
[archive]
keyring = "k.gpg"
suites = ["trixie"]
[packages]
install = ["busybox"]
[kernel]
package = "linux-image-cloud-amd64"
[boot]
stub-package = "systemd-boot-efi"
[[tmpfs]]
path = "/srv/a/b"
size = "1MiB"
mode = "0700"
[[tmpfs]]
path = "/srv/a"
size = "2MiB"
"""


def program(path: str, *, mode: int = 0o755) -> Node:
    return Node(path=path, kind=Kind.FILE, mode=mode, content=BytesContent(path.encode()))


def source_tree() -> Tree:
    return {path: program(path) for path in (*PROGRAMS, LIBRARY, PYTHON)}


def verity() -> VerityTree:
    hasher = VerityHasher()
    hasher.update(bytes(8192))
    return hasher.finish()


def made(*, privileged: bool = False, command_line: str = "a=b c") -> Tree:
    modules = [
        KernelModule(file_name=f"{name}.ko", content=BytesContent(name.encode())) for name in ("b", "a")
    ]
    root = VerifiedRoot(partition=PARTITION, verity=verity(), privileged=privileged)
    return initrd_tree(
        source_tree(), libraries=[LIBRARY], modules=modules, command_line=command_line, root=root
    )


def text(tree: Tree, path: str) -> str:
    content = tree[path].content
    assert content is not None
    return read_content(content).decode()


class TestInitrd:
    def test_constants(self) -> None:
        tree = made()
        assert text(tree, "etc/keyturn/cmdline") == "a=b c\n"
        assert text(tree, "etc/keyturn/modules") == "b.ko\na.ko\n"
        assert text(tree, "etc/keyturn/partition") == "6b657974-7572-4e00-8000-000000000002\n"
        assert text(tree, "etc/keyturn/mount-options") == "ro,nodev,nosuid\n"

    def test_the_table_panics_and_names_everything(self) -> None:
        tree = verity()
        assert text(made(), "etc/keyturn/verity") == (
            "0 16 verity 1 /dev/keyturn-root /dev/keyturn-root 4096 4096 2 3 sha256 "
            f"{tree.root_hash.hex()} - 1 panic_on_corruption\n"
        )

    def test_set_id_files_need_a_mount_that_honours_them(self) -> None:
        assert text(made(privileged=True), "etc/keyturn/mount-options") == "ro,nodev\n"

    def test_it_is_an_archive_with_all_parents(self) -> None:
        names = {entry.name.decode() for entry in read_cpio(cpio_bytes(made()))}
        assert {"init", "dev", "proc", "sys", "root", "usr/bin/busybox", "usr/sbin/dmsetup", LIBRARY} <= names

    def test_no_modules_make_an_empty_list(self) -> None:
        root = VerifiedRoot(partition=PARTITION, verity=verity(), privileged=False)
        tree = initrd_tree(source_tree(), libraries=[], modules=[], command_line="a", root=root)
        assert text(tree, "etc/keyturn/modules") == ""

    @pytest.mark.parametrize("missing", [*PROGRAMS, LIBRARY])
    def test_a_missing_program_is_named(self, missing: str) -> None:
        tree = source_tree()
        del tree[missing]
        root = VerifiedRoot(partition=PARTITION, verity=verity(), privileged=False)
        with pytest.raises(InitrdError) as refused:
            initrd_tree(tree, libraries=[LIBRARY], modules=[], command_line="a", root=root)
        assert refused.value.subject == f"/{missing}"


class TestScript:
    @pytest.mark.parametrize("shell", [("dash",), ("busybox", "ash")], ids=["dash", "ash"])
    def test_shells_accept_it(self, shell: tuple[str, ...]) -> None:
        path = require_tool(shell[0], package=shell[0])
        done = subprocess.run(
            [path, *shell[1:], "-n", str(SCRIPT)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def test_it_never_starts_a_shell_or_reads_the_console(self) -> None:
        lines = [line for line in SCRIPT.read_text().splitlines() if not line.startswith("#")]
        assert "exec </dev/null >/dev/console 2>&1" in lines
        code = "\n".join(lines)
        assert not [
            word for word in ("/bin/sh", "veritysetup", "askfirst", "getty", "/dev/tty") if word in code
        ]

    def test_failures_end_the_machine(self) -> None:
        code = SCRIPT.read_text()
        assert code.index("set -eu") < code.index("trap give_up EXIT") < code.index("mount -t devtmpfs")
        assert '"$busybox" poweroff -f' in code

    def test_modules_are_locked_before_the_root_is_looked_for(self) -> None:
        code = SCRIPT.read_text()
        assert code.index("insmod") < code.index("modules_disabled") < code.index("find_root() {")


def recipe() -> Recipe:
    return parse_recipe(RECIPE.encode())


class TestRootFiles:
    def test_init_runs_the_agent_and_then_powers_off(self) -> None:
        lines = text(root_nodes(recipe(), tree=source_tree()), "etc/inittab").splitlines()
        entries = [line for line in lines if not line.startswith("#")]
        assert entries == [
            f"::sysinit:/{PYTHON} -I -S -B /{FOLDER}",
            "::sysinit:/usr/bin/busybox poweroff -f",
        ]

    def test_init_needs_no_shell(self) -> None:
        """BusyBox init hands a command with one of these characters to /bin/sh (init/init.c)."""
        for line in text(root_nodes(recipe(), tree=source_tree()), "etc/inittab").splitlines():
            command = line.split(":", 3)[-1] if not line.startswith("#") else ""
            assert not set(command) & set("~`!$^&*()=|\\{}[];\"'<>?")

    def test_no_line_of_init_is_repeated(self) -> None:
        """BusyBox init merges equal entries into one (init/init.c, new_init_action)."""
        lines = text(root_nodes(recipe(), tree=source_tree()), "etc/inittab").splitlines()
        assert len(set(lines)) == len(lines)

    def test_everything_writable_is_in_memory_and_guarded(self) -> None:
        mounts = parse_mounts(text(root_nodes(recipe(), tree=source_tree()), "etc/fstab"))
        by_target = {mount.target: mount for mount in mounts}
        assert set(by_target) == {"/sys/kernel/security", "/run", "/tmp", "/var", "/srv/a", "/srv/a/b"}
        assert all(mount.filesystem == "tmpfs" for target, mount in by_target.items() if "/sys" not in target)
        assert all({"nosuid", "nodev"} <= mount.options for mount in mounts)
        targets = [mount.target for mount in mounts]
        assert targets.index("/srv/a") < targets.index("/srv/a/b")

    def test_mount_points_exist(self) -> None:
        nodes = root_nodes(recipe(), tree=source_tree())
        assert {path: nodes[path].mode for path in MOUNT_POINTS} == MOUNT_POINTS
        assert nodes["srv/a/b"].mode == 0o700

    def test_facts(self) -> None:
        facts = parse_facts(text(root_nodes(recipe(), tree=source_tree()), IMAGE_FACTS).encode())
        assert facts == ImageFacts("test", "3", dev=True)

    @pytest.mark.parametrize("paths", [[], [PYTHON, "usr/bin/python3.14"]])
    def test_exactly_one_interpreter(self, paths: list[str]) -> None:
        with pytest.raises(RootFilesError, match=f"has {len(paths)} Python"):
            interpreter({path: program(path) for path in paths})

    def test_links_and_helpers_are_no_interpreters(self) -> None:
        tree = source_tree() | {"usr/bin/python3.13-config": program("usr/bin/python3.13-config")}
        tree["usr/bin/python3"] = Node(
            path="usr/bin/python3", kind=Kind.SYMLINK, mode=0o777, target="python3.13"
        )
        assert interpreter(tree) == PYTHON


class TestCommandLine:
    def test_default(self) -> None:
        assert kernel_command_line() == " ".join(DEFAULT)
        assert len(set(DEFAULT)) == len(DEFAULT)

    def test_additions_come_last(self) -> None:
        assert kernel_command_line(["quiet", "a.b=c"]).endswith(" quiet a.b=c")

    @pytest.mark.parametrize(
        "additions",
        [
            ["console=tty0"],
            ["lockdown=none"],
            ["quiet", "quiet"],
            ["a-b=1", "a_b=2"],
            ["panic"],
            ["random.trust-cpu=off"],
        ],
    )
    def test_duplicates_are_refused(self, additions: list[str]) -> None:
        with pytest.raises(CommandLineError, match="twice"):
            kernel_command_line(additions)

    @pytest.mark.parametrize("word", ["", "=a", "a b", 'a="b"', "a\n", "ä", "a\0"])
    def test_words_are_plain(self, word: str) -> None:
        with pytest.raises(CommandLineError):
            kernel_command_line([word])

    def test_the_kernel_would_cut_it_off(self) -> None:
        room = MAX_LENGTH - len(kernel_command_line()) - 1
        assert len(kernel_command_line(["x" * room])) == MAX_LENGTH
        with pytest.raises(CommandLineError, match="the kernel takes"):
            kernel_command_line(["x" * (room + 1)])

    @given(st.lists(st.from_regex(r"[a-z]{1,8}[-_][a-z]{1,3}(=[0-9]{1,3})?", fullmatch=True), max_size=6))
    def test_what_is_accepted_holds_every_parameter_once(self, additions: list[str]) -> None:
        try:
            line = kernel_command_line(additions)
        except CommandLineError:
            return
        names = [word.partition("=")[0].replace("-", "_") for word in line.split(" ")]
        assert len(set(names)) == len(names)
