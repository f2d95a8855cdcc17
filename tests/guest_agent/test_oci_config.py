"""What a container gets from its manifest, and that it gets nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from guest_agent.oci_config import (
    CAPABILITIES,
    ConfigError,
    Places,
    environment,
    runtime_config,
)
from guest_agent.seccomp_profile import ALLOWED, WITH_CAPABILITY, seccomp
from measurements.app_manifest import Container, Mount, Tmpfs
from tests.guest_agent.app_containers import container

DANGEROUS = """
add_key bpf delete_module finit_module fsopen init_module io_uring_setup kexec_file_load kexec_load
keyctl mount move_mount open_by_handle_at open_tree perf_event_open pivot_root process_vm_writev
ptrace reboot request_key setns swapon umount2 unshare userfaultfd chroot clone3 clone socket
personality
"""
PLACES = Places(root="/run/keyturn/roots/web", volumes="/run/keyturn/data")


def config(each: Container, **host_env: str) -> dict[str, Any]:
    return runtime_config(each, places=PLACES, host_env=host_env)


def destinations(document: dict[str, Any]) -> list[str]:
    return [mount["destination"] for mount in document["mounts"]]


def test_the_process_is_the_manifests() -> None:
    process = config(container())["process"]
    assert process["args"] == ["/bin/web", "--port", "80"]
    assert process["cwd"] == "/srv"
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [5], "umask": 0o022}
    assert process["noNewPrivileges"] is True
    assert process["terminal"] is False
    assert {"type": "RLIMIT_NOFILE", "hard": 256, "soft": 256} in process["rlimits"]
    assert {"type": "RLIMIT_CORE", "hard": 0, "soft": 0} in process["rlimits"]


def test_without_a_list_there_is_no_capability_at_all() -> None:
    sets = config(container())["process"]["capabilities"]
    assert sets == {kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")}


def test_exactly_the_listed_capabilities_are_given() -> None:
    sets = config(container(capabilities=("CAP_NET_BIND_SERVICE", "CAP_CHOWN")))["process"]["capabilities"]
    assert all(granted == ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"] for granted in sets.values())


@pytest.mark.parametrize(
    "name",
    [
        "CAP_SYS_ADMIN",
        "CAP_SYS_MODULE",
        "CAP_SYS_RAWIO",
        "CAP_BPF",
        "CAP_MKNOD",
        "CAP_DAC_READ_SEARCH",
        "CAP_X",
    ],
)
def test_a_capability_that_is_the_guest_itself_is_refused(name: str) -> None:
    assert name not in CAPABILITIES
    with pytest.raises(ConfigError, match=f"lists {name}"):
        config(container(capabilities=(name,)))


@pytest.mark.parametrize("read_only", [True, False])
def test_the_root_is_as_writable_as_asked(read_only: bool) -> None:
    root = config(container(read_only=read_only))["root"]
    assert root == {"path": "/run/keyturn/roots/web", "readonly": read_only}


def test_all_namespaces_but_network_and_user_are_own() -> None:
    kinds = {each["type"] for each in config(container())["linux"]["namespaces"]}
    assert kinds == {"pid", "mount", "ipc", "uts", "cgroup"}


def test_limits_are_kept_by_control_groups() -> None:
    resources = config(container())["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20, "swap": 64 << 20}
    assert resources["pids"] == {"limit": 32}
    assert resources["cpu"] == {"period": 100_000, "quota": 150_000}
    assert resources["devices"] == [{"allow": False, "access": "rwm"}]


def test_nothing_of_the_guest_is_mounted_unasked() -> None:
    document = config(container())
    assert all(mount["type"] != "bind" for mount in document["mounts"])
    assert destinations(document) == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
    ]
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware", "/sys/kernel/security"} <= set(
        document["linux"]["maskedPaths"]
    )
    assert "/proc/sys" in document["linux"]["readonlyPaths"]


def test_the_socket_is_there_only_for_who_asks() -> None:
    assert "/run/keyturn.sock" not in destinations(config(container()))
    mount = config(container(socket=True))["mounts"][-1]
    assert (mount["destination"], mount["source"]) == ("/run/keyturn.sock", "/run/keyturn.sock")


def test_volumes_and_tmpfs_are_mounted_outer_first_without_devices() -> None:
    document = config(
        container(
            tmpfs=(Tmpfs(path="/data/tmp", size=1 << 20, mode="1777"),),
            mounts=(
                Mount(volume="db", path="/data/tmp/deep", read_only=True),
                Mount(volume="all", path="/data", read_only=False),
            ),
        )
    )
    asked = document["mounts"][-3:]
    assert destinations(document)[-3:] == ["/data", "/data/tmp", "/data/tmp/deep"]
    assert all({"nosuid", "nodev"} <= set(mount["options"]) for mount in asked)
    assert asked[0]["source"] == "/run/keyturn/data/all"
    assert "rw" in asked[0]["options"]
    assert {"mode=1777", "size=1048576"} <= set(asked[1]["options"])
    assert "ro" in asked[2]["options"]


def test_the_host_sets_only_allowed_names_and_never_the_manifests_own() -> None:
    each = container(env={"MODE": "safe"}, allowed_env=("LEVEL", "MODE"))
    assert environment(each, {"LEVEL": "3", "MODE": "unsafe", "OTHER": "x"}) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LEVEL": "3",
        "MODE": "safe",
    }
    assert "LEVEL=3" in config(each, LEVEL="3")["process"]["env"]


def test_a_nul_in_a_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="NUL"):
        environment(container(allowed_env=("LEVEL",)), {"LEVEL": "3\0X=1"})


def test_seccomp_refuses_by_default() -> None:
    profile = config(container())["linux"]["seccomp"]
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["defaultErrnoRet"] == 1
    assert profile["architectures"] == ["SCMP_ARCH_X86_64"]


@pytest.mark.parametrize(
    "name",
    DANGEROUS.split(),
)
def test_dangerous_calls_are_not_allowed_as_such(name: str) -> None:
    assert name not in ALLOWED
    assert name not in seccomp()["syscalls"][0]["names"]


def test_every_call_is_named_once() -> None:
    assert len(set(ALLOWED)) == len(ALLOWED)
    assert not set(ALLOWED) & {name for names in WITH_CAPABILITY.values() for name in names}
    assert set(WITH_CAPABILITY) <= CAPABILITIES


def test_a_capability_brings_its_calls() -> None:
    assert "chroot" in seccomp(("CAP_SYS_CHROOT",))["syscalls"][0]["names"]
    assert "ptrace" not in seccomp(("CAP_SYS_CHROOT",))["syscalls"][0]["names"]


def test_conditions_of_single_calls() -> None:
    rules = {each["names"][0]: each for each in seccomp()["syscalls"][1:]}
    assert rules["clone3"] == {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    (clone,) = rules["clone"]["args"]
    new_namespaces = (
        0x00000080 * 0
        | 0x00020000
        | 0x02000000
        | 0x04000000
        | 0x08000000
        | 0x10000000
        | 0x20000000
        | 0x40000000
    )
    assert clone == {"index": 0, "value": new_namespaces, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 0}
    families = [each["args"][0]["value"] for each in seccomp()["syscalls"] if each["names"] == ["socket"]]
    assert families == [1, 2, 10, 16]
