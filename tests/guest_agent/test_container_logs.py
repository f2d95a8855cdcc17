"""Lines of containers on the console: marked, harmless, bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from guest_agent.container_logs import LINE_LIMIT, LINES_PER_PERIOD, PERIOD_SECONDS, ContainerLog, printable


def test_lines_come_whole_and_marked() -> None:
    log = ContainerLog("web")
    assert log.feed(b"hel", 0.0) == []
    assert log.feed(b"lo\nnext", 0.0) == ["[web] hello"]
    assert log.finish(0.0) == ["[web] next"]
    assert log.finish(0.0) == []


def test_a_forged_line_of_the_agent_stays_the_containers() -> None:
    lines = ContainerLog("web").feed(b"x\nkeyturn: all is well\r\n\x1b[2Jcleared\n", 0.0)
    assert lines == ["[web] x", "[web] keyturn: all is well", "[web] \\x1b[2Jcleared"]


@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_no_control_character_and_no_long_line_passes(pieces: list[bytes]) -> None:
    log = ContainerLog("web")
    lines = [line for piece in pieces for line in log.feed(piece, 0.0)] + log.finish(0.0)
    assert all(line.startswith("[web] ") for line in lines)
    assert all(char.isprintable() or char == "\t" for line in lines for char in line)
    assert all(len(line) <= 10 * LINE_LIMIT + 6 for line in lines)


def test_an_endless_line_is_cut_and_not_kept() -> None:
    log = ContainerLog("web")
    lines = log.feed(b"x" * (5 * LINE_LIMIT), 0.0)
    assert len(lines) == 4
    assert log.finish(0.0) == ["[web] " + "x" * LINE_LIMIT]


def test_a_flood_is_dropped_and_counted() -> None:
    log = ContainerLog("web")
    assert len(log.feed(b"x\n" * (LINES_PER_PERIOD + 50), 1.0)) == LINES_PER_PERIOD
    assert log.feed(b"y\n", 2.0) == []
    assert log.feed(b"z\n", 1.0 + PERIOD_SECONDS) == ["[web] (51 lines dropped)", "[web] z"]
    log.feed(b"x\n" * 300, 1.0 + PERIOD_SECONDS)
    assert log.finish(2.0 + PERIOD_SECONDS) == ["[web] (101 lines dropped)"]


def test_bytes_that_are_no_text_are_escaped() -> None:
    assert printable("grün\t✓".encode() + b"\xff\x00") == "grün\t✓\\xff\\x00"
