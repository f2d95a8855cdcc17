"""One server and one simulated PKI for all tests of fetching."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.collateral_server import CollateralServer, collateral_server


@pytest.fixture
def server() -> Iterator[CollateralServer]:
    with collateral_server() as running:
        yield running
