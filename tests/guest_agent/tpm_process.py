"""A software TPM that listens on a socket of its own, without a machine around it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.tools import require_tool


@contextmanager
def powered_on(state: Path) -> Iterator[str]:
    """Runs the TPM kept in ``state``, as after power-on; its TCTI. Leaving the block powers it off."""
    program = require_tool("swtpm", package="swtpm")
    folder = Path(tempfile.mkdtemp(prefix="tpm"))
    socket = folder / "s"
    command = [
        *(program, "socket", "--tpm2", "--tpmstate", f"dir={state}"),
        *("--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl"),
        *("--flags", "not-need-init,startup-clear"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert process.poll() is None, "swtpm ended"
            assert time.monotonic() < deadline, "swtpm does not listen"
            time.sleep(0.01)
        yield f"swtpm:path={socket}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)
