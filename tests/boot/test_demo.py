"""The demo, as `make demo` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tools import require_tool

pytestmark = [pytest.mark.boot, pytest.mark.network]


def test_demo_ends_with_equal_registers(tmp_path: Path) -> None:
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    require_tool("swtpm_setup", package="swtpm-tools")
    unusable = tmp_path / "keyturn.lock"
    unusable.write_text("version = 0\n")
    done = subprocess.run(
        [sys.executable, "-m", "keyturn", "demo", "--folder", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["equal"] is True
    assert document["different"] == []
    assert document["predicted"] == {
        bank: {pcr: document["booted"][bank][pcr] for pcr in registers}
        for bank, registers in document["predicted"].items()
    }
    assert [len(registers) for registers in document["predicted"].values()] == [15, 15]
    assert unusable.with_name("keyturn.lock.old").read_text() == "version = 0\n"
