"""Version comparison, against dpkg."""

from __future__ import annotations

import random
import subprocess

import pytest

from image_builder.debian_version import compare, holds
from tests.support.tools import require_tool

VERSIONS = [
    "1.0",
    "1.0-1",
    "1.0-1~bpo12+1",
    "1.0-1+b1",
    "1.0-1+deb13u1",
    "1:0.1",
    "0:1.0",
    "1.0~rc1-1",
    "1.0.0",
    "1.10",
    "1.9",
    "7.3.4-1~bpo13+1",
    "2:6.3.0+dfsg-3",
    "1.3.dfsg+really1.3.1-1+b1",
    "1.0+",
    "1.0a",
    "1.0-0",
    "1.0-1.1",
    "2026c-0+deb13u1",
]


def test_dpkg_orders_versions_the_same_way() -> None:
    dpkg = require_tool("dpkg", package="dpkg")
    pairs = [(first, second) for first in VERSIONS for second in VERSIONS]
    for first, second in random.Random(1).sample(pairs, 120):
        for operator, name in (("<<", "lt"), ("=", "eq"), (">>", "gt"), ("<=", "le"), (">=", "ge")):
            theirs = (
                subprocess.run([dpkg, "--compare-versions", first, name, second], check=False).returncode == 0
            )
            assert holds(first, operator, second) == theirs, (first, operator, second)


def test_comparison_is_antisymmetric() -> None:
    for first in VERSIONS:
        for second in VERSIONS:
            assert compare(first, second) == -compare(second, first)


def test_an_unknown_relation_is_an_error() -> None:
    with pytest.raises(ValueError, match="~="):
        holds("1", "~=", "1")
