"""Runs the containers of an app under crun until the app is done, fails, or the machine is told to stop.

The shell around ``supervision``: it starts ``crun run`` per container (whose exit status is the container's),
health commands by ``crun exec``, reads what containers write, and says on the console who ended how. One
thread, one ``poll``: output and ends arrive as readable descriptors, time as the poll's timeout.

A container that is stopped gets SIGTERM and, after ``GRACE_SECONDS``, SIGKILL.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from guest_agent import supervision
from guest_agent.container_logs import ContainerLog
from guest_agent.oci_config import SOCKET_PATH, Places, runtime_config
from guest_agent.programs import ENVIRONMENT, RESET_SIGNALS, attempt
from guest_agent.supervision import ActionKind, App, Verdict
from measurements.app_manifest import Container

CRUN = "/usr/bin/crun"
STATE_FOLDER = "/run/crun"
BUNDLES = "/run/keyturn/bundles"
GRACE_SECONDS = 10.0
_READ = 65536


class Outcome(NamedTuple):
    """How it ended: ``verdict`` is RUNNING when the machine was told to stop. Exit codes by container; 128
    and more is a signal, as crun reports it.
    """

    verdict: Verdict
    exit_codes: dict[str, int]


class Child(NamedTuple):
    """A process of ours: the container itself, or its health command (``deadline`` in seconds)."""

    container: str
    pid: int
    probe: bool
    deadline: float | None


class Workload:
    """All containers of an app.

    ``roots`` are the mounted roots by container, ``volumes`` is the folder of the encrypted disk, ``say``
    writes one line to the console.
    """

    def __init__(
        self,
        containers: tuple[Container, ...],
        *,
        roots: Mapping[str, str],
        volumes: str,
        host_env: Mapping[str, str],
        say: Callable[[str], None],
        socket: str = SOCKET_PATH,
    ) -> None:
        self._app = supervision.new_app(containers)
        self._say = say
        self._poll = select.poll()
        self._children: dict[int, Child] = {}
        self._logs: dict[int, tuple[ContainerLog, Child]] = {}
        self._kill_at: dict[str, float] = {}
        for container in containers:
            places = Places(roots[container.name], volumes, socket)
            _write_bundle(container, places, host_env)

    @property
    def app(self) -> App:
        """The state of all containers."""
        return self._app

    def run(self, *, stop: int | None = None, when_started: Callable[[], None] = lambda: None) -> Outcome:
        """Run until the verdict, or until the descriptor ``stop`` is readable; nothing runs afterwards.
        ``when_started`` is called once, after the first starts.
        """
        if stop is not None:
            self._poll.register(stop, select.POLLIN)
        verdict = Verdict.RUNNING
        try:
            self._act(time.monotonic())
            when_started()
            while verdict is Verdict.RUNNING:
                self._act(time.monotonic())
                ready = [descriptor for descriptor, _ in self._poll.poll(self._timeout())]
                if stop in ready:
                    break
                for descriptor in ready:
                    self._handle(descriptor)
                verdict = supervision.verdict(self._app)
        finally:
            if stop is not None:
                self._poll.unregister(stop)
            self._stop_all()
        return Outcome(verdict, self._exit_codes())

    def _act(self, now: float) -> None:
        for action in supervision.actions(self._app, now):
            if action.kind is ActionKind.START:
                self._start(action.container)
            elif action.kind is ActionKind.PROBE:
                self._probe(action.container, now)
        for child in list(self._children.values()):
            if child.deadline is not None and now >= child.deadline:
                os.kill(child.pid, 9)
        for name in [name for name, at in self._kill_at.items() if now >= at]:
            del self._kill_at[name]
            self._signal(name, "KILL")

    def _timeout(self) -> int:
        """Milliseconds until something is due; without an event nothing needs more than a look per second."""
        deadlines = (child.deadline for child in self._children.values())
        every = (supervision.next_due(self._app), *self._kill_at.values(), *deadlines)
        now = time.monotonic()
        left = min((due for due in every if due is not None), default=now + 1) - now
        return max(10, min(1000, int(min(left, 1) * 1000) + 1))

    def _start(self, name: str) -> None:
        self._say(f"container {name}: starts")
        self._spawn(("run", "--bundle", f"{BUNDLES}/{name}", name), name)
        self._app = supervision.started(self._app, name, time.monotonic())

    def _probe(self, name: str, now: float) -> None:
        health = self._app.container(name).health
        assert health is not None
        # Without options crun takes user, capabilities and environment of the container's own process.
        self._spawn(("exec", name, *health.command), name, deadline=now + health.timeout_seconds)
        self._app = supervision.probing(self._app, name)

    def _spawn(self, command: tuple[str, ...], name: str, *, deadline: float | None = None) -> None:
        output, sink = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, sink, 1),
            (os.POSIX_SPAWN_DUP2, sink, 2),
        ]
        words = [CRUN, "--root", STATE_FOLDER, *command]
        try:
            pid = os.posix_spawn(
                CRUN, words, ENVIRONMENT, file_actions=actions, setsigmask=(), setsigdef=RESET_SIGNALS
            )
        finally:
            os.close(sink)
        child = Child(name, pid, deadline is not None, deadline)
        ends = os.pidfd_open(pid)
        self._children[ends] = child
        self._logs[output] = (ContainerLog(name), child)
        self._poll.register(ends, select.POLLIN)
        self._poll.register(output, select.POLLIN)

    def _handle(self, descriptor: int) -> None:
        if descriptor in self._logs:
            self._read(descriptor)
        elif descriptor in self._children:
            self._reap(descriptor)

    def _read(self, descriptor: int) -> None:
        log, child = self._logs[descriptor]
        try:
            data = os.read(descriptor, _READ)
        except BlockingIOError:
            return
        # What a health command says is of no interest; its exit status is.
        for line in log.feed(data, time.monotonic()) if not child.probe else ():
            self._say(line)
        if not data:
            self._close_log(descriptor)

    def _close_log(self, descriptor: int) -> None:
        log, child = self._logs.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        for line in log.finish(time.monotonic()) if not child.probe else ():
            self._say(line)

    def _reap(self, descriptor: int) -> None:
        child = self._children.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        if child.probe:
            self._probed(child.container, passed=code == 0)
            return
        self._drain(child)
        self._kill_at.pop(child.container, None)
        self._say(f"container {child.container}: ended with status {code}")
        attempt((CRUN, "--root", STATE_FOLDER, "delete", "--force", child.container))
        self._app = supervision.ended(self._app, child.container, time.monotonic(), exit_code=code)

    def _drain(self, child: Child) -> None:
        """What the container wrote before its end; a process that it left behind may hold the pipe open."""
        for descriptor in [each for each, (_, owner) in self._logs.items() if owner == child]:
            self._read(descriptor)
            if descriptor in self._logs:
                self._close_log(descriptor)

    def _probed(self, name: str, *, passed: bool) -> None:
        if self._app.state(name).stage is not supervision.Stage.RUNNING:
            return
        was = self._app.state(name).healthy
        self._app, actions = supervision.probed(self._app, name, time.monotonic(), passed=passed)
        if self._app.state(name).healthy != was:
            self._say(f"container {name}: {'unhealthy' if was else 'healthy'}")
        for action in actions:
            self._say(f"container {action.container}: is stopped, its health command fails")
            self._signal(action.container, "TERM")
            self._kill_at[action.container] = time.monotonic() + GRACE_SECONDS

    def _stop_all(self) -> None:
        """SIGTERM to all, the last started first; SIGKILL to what is left after the grace."""
        running = [child for child in self._children.values() if not child.probe]
        for child in reversed(running):
            self._signal(child.container, "TERM")
        deadline = time.monotonic() + GRACE_SECONDS
        while self._children and time.monotonic() < deadline:
            for descriptor, _ in self._poll.poll(100):
                self._handle(descriptor)
        for child in list(self._children.values()):
            self._signal(child.container, "KILL")
            if child.probe:
                os.kill(child.pid, 9)
        while self._children:
            for descriptor, _ in self._poll.poll(1000):
                self._handle(descriptor)
        for descriptor in list(self._logs):
            self._close_log(descriptor)

    def _signal(self, name: str, signal: str) -> None:
        attempt((CRUN, "--root", STATE_FOLDER, "kill", name, signal))

    def _exit_codes(self) -> dict[str, int]:
        pairs = zip(self._app.containers, self._app.states, strict=True)
        return {each.name: state.exit_code for each, state in pairs if state.exit_code is not None}


def _write_bundle(container: Container, places: Places, host_env: Mapping[str, str]) -> None:
    folder = Path(BUNDLES, container.name)
    folder.mkdir(mode=0o700, parents=True)
    config = runtime_config(container, places=places, host_env=host_env)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
