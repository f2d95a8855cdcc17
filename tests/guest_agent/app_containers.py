"""Containers of an app manifest for tests."""

from __future__ import annotations

from typing import Any

from measurements.app_manifest import (
    Condition,
    Container,
    Dependency,
    Health,
    Image,
    Limits,
    Restart,
    RestartPolicy,
    User,
    Volume,
)

HEALTH = Health(command=("/bin/check",), interval_seconds=5, timeout_seconds=2, retries=3, start_seconds=10)
VOLUME = Volume(offset=0, data_blocks=4, hash_offset=4 * 4096, root_hash=b"\x5a" * 32, salt=b"")
PLAIN = Container(
    name="web",
    image=Image(source="recipe", digest="sha256:" + "11" * 32),
    volume=VOLUME,
    command=("/bin/web", "--port", "80"),
    working_dir="/srv",
    env={},
    allowed_env=(),
    user=User(uid=1000, gid=1001, groups=(5,)),
    capabilities=(),
    read_only=True,
    tmpfs=(),
    mounts=(),
    ports=(),
    restart=Restart(policy=RestartPolicy.NO, max_retries=0, delay_seconds=0),
    health=None,
    depends_on=(),
    limits=Limits(memory=64 << 20, pids=32, cpu_percent=150, open_files=256),
    socket=False,
)


def container(name: str = "web", **changes: Any) -> Container:
    """The plain container with changes."""
    return PLAIN._replace(name=name, **changes)


def restart(policy: RestartPolicy, *, retries: int = 0, delay: int = 0) -> Restart:
    """A restart rule."""
    return Restart(policy=policy, max_retries=retries, delay_seconds=delay)


def after(name: str, condition: Condition) -> tuple[Dependency, ...]:
    """One dependency."""
    return (Dependency(container=name, condition=condition),)
