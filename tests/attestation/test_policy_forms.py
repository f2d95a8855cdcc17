"""TOML and canonical JSON are two forms of one policy: whatever the one says, the other can."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime

import tomli_w
from hypothesis import given

from attestation.policy import Policy
from attestation.policy_document import policy_document
from attestation.policy_file import VERSION, parse_policy
from tests.support.policy_strategies import policies

MOMENTS = {"until", "min_tcb_date"}
SPANS = {"max_collateral_age", "max_crl_age", "max_age"}
DATA = {"registers"}
"""Tables whose keys are names of registers and stay as they are."""


def toml_value(key: str, value: object) -> object:
    """The value at ``key`` as TOML has it."""
    forms: list[tuple[bool, Callable[[], object]]] = [
        (key in MOMENTS, lambda: datetime.fromtimestamp(int(str(value)), UTC)),
        (key in SPANS, lambda: f"{value} seconds"),
        (key == "date", lambda: date.fromisoformat(str(value))),
        (key in DATA, lambda: value),
    ]
    for holds, form in forms:
        if holds:
            return form()
    if isinstance(value, dict):
        return {name.replace("_", "-"): toml_value(name, one) for name, one in value.items()}
    if isinstance(value, list):
        return [toml_value("", one) for one in value]
    return value


@given(policies())
def test_a_policy_in_toml_is_the_same_policy(policy: Policy) -> None:
    document = {key: value for key, value in policy_document(policy).items() if key != "type"}
    table = toml_value("", document)
    assert isinstance(table, dict)
    text = tomli_w.dumps({"version": VERSION, **table})
    assert parse_policy(text.encode()) == policy
