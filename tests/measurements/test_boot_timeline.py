"""The timeline line: what the agent writes is what a reader finds, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.boot_timeline import PREFIX, BootTimelineError, Moment, find_timeline, timeline_line

LINE = 'timeline {"agent":1,"report":2,"keys":30,"container":400}'
TIMES = {Moment.AGENT: 1, Moment.REPORT: 2, Moment.KEYS: 30, Moment.CONTAINER: 400}


def console(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in ("[    0.1] kernel", *lines)).encode()


def test_the_line() -> None:
    assert timeline_line(dict(reversed(TIMES.items()))) == LINE
    assert find_timeline(console(PREFIX + LINE, "keyturn: [web] 1")) == TIMES


@given(st.dictionaries(st.sampled_from(Moment), st.integers(0, 1 << 62)))
def test_what_is_written_is_found(timeline: dict[Moment, int]) -> None:
    assert find_timeline(console(PREFIX + timeline_line(timeline))) == timeline


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((), "shows 0 timelines"),
        ((PREFIX + LINE, PREFIX + LINE), "shows 2 timelines"),
        ((LINE,), "shows 0"),
        (("x " + PREFIX + LINE,), "shows 0"),
        ((PREFIX + LINE + " ",), "shows 0"),
        ((PREFIX + 'timeline {"agent":1,"lunch":2}',), "not well formed"),
        ((PREFIX + 'timeline {"agent":}',), "not well formed"),
        ((PREFIX + 'timeline {"agent":-1}',), "not a count"),
        ((PREFIX + 'timeline {"agent":true}',), "not a count"),
        ((PREFIX + 'timeline {"agent":1.5}',), "not a count"),
        ((PREFIX + 'timeline {"agent": 1}',), "another way"),
        ((PREFIX + 'timeline {"agent":1,"agent":1}',), "another way"),
        ((PREFIX + 'timeline {"report":2,"agent":1}',), "another way"),
    ],
)
def test_anything_else_is_refused(lines: tuple[str, ...], reason: str) -> None:
    with pytest.raises(BootTimelineError, match=reason):
        find_timeline(console(*lines))


def test_attack_a_container_writes_a_timeline() -> None:
    forged = f"{PREFIX}[web] {PREFIX}{LINE}"
    assert find_timeline(console(forged, PREFIX + 'timeline {"agent":7}')) == {Moment.AGENT: 7}
