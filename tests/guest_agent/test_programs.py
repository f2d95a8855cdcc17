"""Helper programs: input by a pipe, bounded output, an error for every failure."""

from __future__ import annotations

import pytest

from guest_agent.programs import OUTPUT_LIMIT, ProgramError, attempt, run


def test_input_goes_to_standard_input_and_both_outputs_come_back() -> None:
    assert run(("/bin/sh", "-c", "cat; echo problem >&2"), given=b"table\n") == "table\nproblem\n"


def test_a_failure_says_the_last_line() -> None:
    with pytest.raises(ProgramError, match="sh: ended with status 3: two"):
        run(("/bin/sh", "-c", "echo one; echo two; exit 3"))


def test_a_signal_is_a_negative_status() -> None:
    assert attempt(("/bin/sh", "-c", "kill -9 $$"))[0] == -9


def test_output_is_bounded() -> None:
    status, output = attempt(("/bin/sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; echo end"))
    assert status == 0
    assert len(output) <= OUTPUT_LIMIT
    assert output.endswith("xend\n")


def test_only_the_listed_environment_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    assert "SECRET" not in run(("/usr/bin/env",), environment={"EXTRA": "2"})
    assert "EXTRA=2" in run(("/usr/bin/env",), environment={"EXTRA": "2"})


def test_input_larger_than_a_pipe_is_refused() -> None:
    with pytest.raises(ProgramError, match="too large"):
        attempt(("/bin/cat",), given=bytes(40000))
