"""Order of starts, restarts, health, and when the app has failed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.supervision import (
    Action,
    ActionKind,
    App,
    Stage,
    SupervisionError,
    Verdict,
    actions,
    ended,
    new_app,
    next_due,
    probed,
    probing,
    started,
    verdict,
)
from measurements.app_manifest import Condition, RestartPolicy
from tests.guest_agent.app_containers import HEALTH, after, container, restart


def starts(app: App, now: float = 0.0) -> list[str]:
    return [action.container for action in actions(app, now) if action.kind is ActionKind.START]


def probe(app: App, name: str, now: float, *, passed: bool) -> tuple[App, tuple[Action, ...]]:
    assert Action(ActionKind.PROBE, name) in actions(app, now)
    return probed(probing(app, name), name, now, passed=passed)


def test_a_container_waits_until_its_dependency_has_started() -> None:
    app = new_app((container("b", depends_on=after("a", Condition.STARTED)), container("a")))
    assert starts(app) == ["a"]
    app = started(app, "a", 0.0)
    assert starts(app) == ["b"]


def test_a_container_waits_until_its_dependency_is_healthy() -> None:
    app = new_app((container("a", health=HEALTH), container("b", depends_on=after("a", Condition.HEALTHY))))
    app = started(app, "a", 0.0)
    assert starts(app) == []
    assert actions(app, 4.9) == ()
    app, stops = probe(app, "a", 5.0, passed=True)
    assert stops == ()
    assert starts(app, 5.0) == ["b"]


def test_a_container_waits_until_its_dependency_has_completed() -> None:
    app = new_app((container("a"), container("b", depends_on=after("a", Condition.COMPLETED))))
    app = started(app, "a", 0.0)
    assert starts(app) == []
    assert starts(ended(app, "a", 1.0, exit_code=0)) == ["b"]
    failed = ended(app, "a", 1.0, exit_code=1)
    assert starts(failed) == []
    assert verdict(failed) is Verdict.FAILED


def test_waiting_for_the_health_of_what_has_ended_fails_the_app() -> None:
    app = new_app((container("a", health=HEALTH), container("b", depends_on=after("a", Condition.HEALTHY))))
    app = ended(started(app, "a", 0.0), "a", 1.0, exit_code=0)
    assert verdict(app) is Verdict.FAILED


@pytest.mark.parametrize(
    ("policy", "code", "stage"),
    [
        (RestartPolicy.NO, 0, Stage.DONE),
        (RestartPolicy.NO, 1, Stage.FAILED),
        (RestartPolicy.ON_FAILURE, 0, Stage.DONE),
        (RestartPolicy.ON_FAILURE, 1, Stage.WAITING),
        (RestartPolicy.ON_FAILURE, -9, Stage.WAITING),
        (RestartPolicy.ALWAYS, 0, Stage.WAITING),
        (RestartPolicy.ALWAYS, 1, Stage.WAITING),
    ],
)
def test_restart_policies(policy: RestartPolicy, code: int, stage: Stage) -> None:
    app = started(new_app((container("a", restart=restart(policy)),)), "a", 0.0)
    app = ended(app, "a", 1.0, exit_code=code)
    assert app.state("a").stage is stage
    assert app.state("a").exit_code == code


def test_a_restart_waits_for_its_delay() -> None:
    app = started(new_app((container("a", restart=restart(RestartPolicy.ALWAYS, delay=7)),)), "a", 0.0)
    app = ended(app, "a", 1.0, exit_code=0)
    assert next_due(app) == 8.0
    assert starts(app, 7.9) == []
    assert starts(app, 8.0) == ["a"]


@given(st.integers(min_value=1, max_value=20))
def test_restarts_are_limited_to_the_number_given(limit: int) -> None:
    app = new_app((container("a", restart=restart(RestartPolicy.ON_FAILURE, retries=limit)),))
    runs = 0
    while verdict(app) is Verdict.RUNNING:
        assert starts(app, 0.0) == ["a"]
        app = ended(started(app, "a", 0.0), "a", 0.0, exit_code=1)
        runs += 1
    assert runs == limit + 1
    assert verdict(app) is Verdict.FAILED


def test_failed_probes_in_a_row_stop_the_container_and_count_as_its_failure() -> None:
    app = started(new_app((container("a", health=HEALTH),)), "a", 0.0)
    for now, misses in ((15.0, 1), (20.0, 2)):
        app, stops = probe(app, "a", now, passed=False)
        assert (stops, app.state("a").misses) == ((), misses)
    app, stops = probe(app, "a", 25.0, passed=False)
    assert stops == (Action(ActionKind.STOP, "a"),)
    assert actions(app, 1e9) == ()
    app = ended(app, "a", 26.0, exit_code=0)
    assert app.state("a").stage is Stage.FAILED


def test_a_passed_probe_forgets_the_failed_ones() -> None:
    app = started(new_app((container("a", health=HEALTH),)), "a", 0.0)
    for now, passed in ((15.0, False), (20.0, False), (25.0, True), (30.0, False), (35.0, False)):
        app, stops = probe(app, "a", now, passed=passed)
        assert stops == ()
    assert app.state("a").healthy


def test_failures_while_starting_do_not_count_until_it_was_healthy() -> None:
    app = started(new_app((container("a", health=HEALTH),)), "a", 0.0)
    app, _ = probe(app, "a", 5.0, passed=False)
    assert app.state("a").misses == 0
    app, _ = probe(app, "a", 10.0, passed=False)
    assert app.state("a").misses == 1
    fresh = started(new_app((container("a", health=HEALTH),)), "a", 0.0)
    fresh, _ = probe(fresh, "a", 5.0, passed=True)
    fresh, _ = probed(probing(fresh, "a"), "a", 6.0, passed=False)
    assert fresh.state("a").misses == 1


def test_no_second_probe_starts_while_one_runs() -> None:
    app = started(new_app((container("a", health=HEALTH),)), "a", 0.0)
    app = probing(app, "a")
    assert actions(app, 1e9) == ()
    assert next_due(app) == float("inf")


def test_a_restarted_container_is_not_healthy_before_its_first_probe() -> None:
    app = new_app((container("a", health=HEALTH, restart=restart(RestartPolicy.ALWAYS)),))
    app, _ = probe(started(app, "a", 0.0), "a", 5.0, passed=True)
    app = started(ended(app, "a", 6.0, exit_code=0), "a", 6.0)
    assert not app.state("a").healthy


def test_one_failed_container_fails_the_app_and_all_done_is_done() -> None:
    app = new_app((container("a"), container("b")))
    app = started(started(app, "a", 0.0), "b", 0.0)
    assert verdict(app) is Verdict.RUNNING
    one = ended(app, "a", 1.0, exit_code=0)
    assert verdict(one) is Verdict.RUNNING
    assert verdict(ended(one, "b", 1.0, exit_code=0)) is Verdict.DONE
    assert verdict(ended(app, "a", 1.0, exit_code=3)) is Verdict.FAILED


def test_events_that_cannot_happen_are_refused() -> None:
    app = new_app((container("a"),))
    with pytest.raises(SupervisionError, match="is waiting, not running"):
        ended(app, "a", 0.0, exit_code=0)
    running = started(app, "a", 0.0)
    with pytest.raises(SupervisionError, match="is running, not waiting"):
        started(running, "a", 0.0)
    with pytest.raises(SupervisionError, match="no health command"):
        probed(running, "a", 0.0, passed=True)
    with pytest.raises(SupervisionError, match="no such container"):
        started(app, "b", 0.0)
