"""When containers start, start again, and when the guest gives up: a state machine without clock or process.

The shell (``containers``) feeds events with the time in seconds (any monotonic clock) and carries out the
actions that come back. A container goes

    waiting → running → (ended → waiting …) → done | failed

``waiting`` ends when every dependency holds and the delay of a restart has passed. What holds stays so for a
dependency of kind ``started`` and ``completed``; ``healthy`` is asked at the moment of the start. A container
that fails for good, and a dependency that can never hold, fail the app: the guest stops, because a service
that is half there must not look alive. The app is done when all containers are.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from measurements.app_manifest import Condition, Container, Restart, RestartPolicy
from measurements.errors import RefusedError


class SupervisionError(RefusedError):
    """An event that cannot happen in the state a container is in."""

    code = "supervision"


class Stage(Enum):
    """Where a container is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class ActionKind(Enum):
    """What the shell has to do with a container."""

    START = "start"
    PROBE = "probe"
    STOP = "stop"


class Verdict(Enum):
    """What the app as a whole is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Action(NamedTuple):
    """One thing to do now."""

    kind: ActionKind
    container: str


class State(NamedTuple):
    """One container: ``due`` is when it may start (waiting) or is probed next (running); ``misses`` are
    failed probes in a row; ``exit_code`` is that of the last end, negative for a signal.
    """

    stage: Stage = Stage.WAITING
    due: float = 0.0
    started_at: float = 0.0
    ever_started: bool = False
    healthy: bool = False
    misses: int = 0
    restarts: int = 0
    exit_code: int | None = None


class App(NamedTuple):
    """All containers, in the order of the manifest."""

    containers: tuple[Container, ...]
    states: tuple[State, ...]

    def state(self, name: str) -> State:
        """The state of container ``name``."""
        return self.states[self._index(name)]

    def container(self, name: str) -> Container:
        """The container ``name``."""
        return self.containers[self._index(name)]

    def with_state(self, name: str, state: State) -> App:
        """The app with another state of one container."""
        at = self._index(name)
        return self._replace(states=(*self.states[:at], state, *self.states[at + 1 :]))

    def _index(self, name: str) -> int:
        for index, container in enumerate(self.containers):
            if container.name == name:
                return index
        raise _error(name, "there is no such container")


def new_app(containers: tuple[Container, ...]) -> App:
    """All containers waiting."""
    return App(containers, tuple(State() for _ in containers))


def actions(app: App, now: float) -> tuple[Action, ...]:
    """What to do at ``now``: starts and probes that are due. Report them with ``started`` and
    ``probing``.
    """
    found = []
    for container, state in zip(app.containers, app.states, strict=True):
        if state.due > now:
            continue
        if state.stage is Stage.WAITING and _ready(app, container):
            found.append(Action(ActionKind.START, container.name))
        elif state.stage is Stage.RUNNING and container.health is not None:
            found.append(Action(ActionKind.PROBE, container.name))
    return tuple(found)


def next_due(app: App) -> float | None:
    """The earliest time at which something may be due without an event; ``None``: only events matter."""
    times = [
        state.due
        for container, state in zip(app.containers, app.states, strict=True)
        if (state.stage is Stage.RUNNING and container.health is not None)
        or (state.stage is Stage.WAITING and _ready(app, container))
    ]
    return min(times, default=None)


def started(app: App, name: str, now: float) -> App:
    """``name`` runs since ``now``."""
    state = _in_stage(app, name, Stage.WAITING)
    health = app.container(name).health
    due = now + health.interval_seconds if health is not None else 0.0
    return app.with_state(
        name,
        state._replace(
            stage=Stage.RUNNING, due=due, started_at=now, ever_started=True, healthy=False, misses=0
        ),
    )


def probing(app: App, name: str) -> App:
    """The health command of ``name`` runs; the next one is due after ``probed`` only."""
    return app.with_state(name, _in_stage(app, name, Stage.RUNNING)._replace(due=float("inf")))


def probed(app: App, name: str, now: float, *, passed: bool) -> tuple[App, tuple[Action, ...]]:
    """The health command of ``name`` has ended. Too many failures in a row stop the container; its end then
    counts as a failure. Failures within ``start_seconds`` count only once it was healthy.
    """
    state = _in_stage(app, name, Stage.RUNNING)
    health = app.container(name).health
    if health is None:
        raise _error(name, "was probed and has no health command")
    excused = not state.healthy and now < state.started_at + health.start_seconds
    misses = 0 if passed or excused else state.misses + 1
    dead = misses >= health.retries
    changed = state._replace(
        # One that is being stopped is not probed any more.
        due=float("inf") if dead else now + health.interval_seconds,
        healthy=passed or (state.healthy and not dead),
        misses=misses,
    )
    stop = (Action(ActionKind.STOP, name),) if dead else ()
    return app.with_state(name, changed), stop


def ended(app: App, name: str, now: float, *, exit_code: int) -> App:
    """The container's first process ended; one that was stopped for its health failed whatever it returns."""
    state = _in_stage(app, name, Stage.RUNNING)
    container = app.container(name)
    unhealthy = container.health is not None and state.misses >= container.health.retries
    failed = exit_code != 0 or unhealthy
    after = state._replace(exit_code=exit_code, healthy=False, misses=0)
    if _restarts(container.restart, state.restarts, failed=failed):
        due = now + container.restart.delay_seconds
        return app.with_state(name, after._replace(stage=Stage.WAITING, due=due, restarts=state.restarts + 1))
    return app.with_state(name, after._replace(stage=Stage.FAILED if failed else Stage.DONE))


def verdict(app: App) -> Verdict:
    """Whether the app goes on. It has failed with its first failed container, and when a waiting one waits
    for what can no longer happen.
    """
    stages = [state.stage for state in app.states]
    if Stage.FAILED in stages:
        return Verdict.FAILED
    if all(stage is Stage.DONE for stage in stages):
        return Verdict.DONE
    waiting = [c for c, s in zip(app.containers, app.states, strict=True) if s.stage is Stage.WAITING]
    if any(_hopeless(app, container) for container in waiting):
        return Verdict.FAILED
    return Verdict.RUNNING


def _ready(app: App, container: Container) -> bool:
    return all(_holds(app.state(each.container), each.condition) for each in container.depends_on)


def _holds(state: State, condition: Condition) -> bool:
    if condition is Condition.STARTED:
        return state.ever_started
    if condition is Condition.HEALTHY:
        return state.stage is Stage.RUNNING and state.healthy
    return state.stage is Stage.DONE


def _hopeless(app: App, container: Container) -> bool:
    return any(
        each.condition is Condition.HEALTHY and app.state(each.container).stage is Stage.DONE
        for each in container.depends_on
    )


def _restarts(rule: Restart, restarts: int, *, failed: bool) -> bool:
    if rule.policy is RestartPolicy.NO or (rule.policy is RestartPolicy.ON_FAILURE and not failed):
        return False
    return rule.max_retries == 0 or restarts < rule.max_retries


def _in_stage(app: App, name: str, stage: Stage) -> State:
    state = app.state(name)
    if state.stage is not stage:
        raise _error(name, f"is {state.stage.value}, not {stage.value}")
    return state


def _error(name: str, reason: str) -> SupervisionError:
    return SupervisionError(reason, subject=f"container {name}", advice="report this as a bug")
