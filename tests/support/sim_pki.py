"""A simulated TEE for tests: one set of keys, so that the PKIs of a run differ only by their plans."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import dcap_qvl

from attestation.collateral import DcapCollateral
from attestation.platform_verification import Window
from attestation.sim.pki import SimKeys, SimPki, make_pki, new_keys
from attestation.sim.plan import Part, SimPlan, sim_plan

NOW = 1_790_000_000
"""2026-09-21: the moment at which the plans are good."""


@cache
def keys() -> SimKeys:
    return new_keys()


def plan(**changes: Any) -> SimPlan:
    return replace(sim_plan(NOW), **changes)


def pki(of: SimPlan | None = None) -> SimPki:
    return _good() if of is None else make_pki(of, keys())


@cache
def _good() -> SimPki:
    return make_pki(sim_plan(NOW), keys())


def with_window(part: Part, start: int, end: int) -> SimPlan:
    """The good plan, but for one window."""
    windows = {**plan().windows, part: Window(name=part.value, start=start, end=end)}
    return plan(windows=windows)


def library_verdict(quote: bytes, collateral: DcapCollateral, root: bytes, now: int = NOW) -> Any:
    """The verdict of dcap-qvl alone; raises ``ValueError`` for a refusal."""
    fields = {name: getattr(collateral, name) for name in DcapCollateral.__slots__}
    return dcap_qvl.verify_with_root_ca(quote, dcap_qvl.QuoteCollateralV3(**fields), root, now)
