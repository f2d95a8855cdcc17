"""A machine with a real software TPM that is driven by ``tpm2-tools`` alone, as its owner would do it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attestation.container import EvidenceContainer, EvidencePlatform, TpmPart
from tests.support.tools import require_tool

PCRS = range(15)
BANKS = {"sha256": 32, "sha384": 48}
RSA_EK, ECC_EK = "0x81010001", "0x81010016"
CERTIFICATES = {RSA_EK: "0x01c00002", ECC_EK: "0x01c00016"}
"""Persistent EKs that the maker left, and the indices of their certificates."""

_SELECTION = "+".join(f"{bank}:{','.join(map(str, PCRS))}" for bank in BANKS)


class ToolMachine:
    """Files are in ``folder``; the attestation key of ``make_ak`` is ``ak.ctx`` there, a child of the EK."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder = folder
        self._tcti = f"swtpm:path={socket}"

    def run(self, tool: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        """One tool with its words, and no key left behind in the TPM; there is no resource manager."""
        self._call("tpm2_flushcontext", "-t")
        return self._call(tool, *words)

    def make_ak(self) -> None:
        """A new attestation key below the RSA EK."""
        self._do("tpm2_createak", "-C", RSA_EK, "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa")
        self._do("tpm2_readpublic", "-c", "ak.ctx", "-o", "ak.pub", "-n", "ak.name")

    def evidence(self, nonce: str, *, ek: str = RSA_EK) -> EvidenceContainer:
        """A quote over PCR 0 to 14 of both banks by the present attestation key, and one EK's certificate."""
        self._do("tpm2_nvread", CERTIFICATES[ek], "-o", "ek.der")
        quote = ("-l", _SELECTION, "-q", nonce, "-g", "sha256", "-m", "quote", "-s", "signature")
        self._do("tpm2_quote", "-c", "ak.ctx", *quote)
        self._do("tpm2_pcrread", _SELECTION, "-o", "pcrs")
        part = TpmPart(
            quote=self.read("quote"),
            signature=self.read("signature"),
            ak_public=self.read("ak.pub")[2:],
            pcrs=_registers(self.read("pcrs")),
            ek_certificate=self.read("ek.der"),
        )
        return EvidenceContainer(platform=EvidencePlatform.TPM, report=b"", tpm=part, origin="test")

    def activate(self, blob: Path, opened: str, *, ek: str = RSA_EK) -> bool:
        """Open a credential into a file; whether the TPM did. The ECC EK opens by its empty password."""
        words = ("-c", "ak.ctx", "-C", ek, "-i", str(blob), "-o", opened)
        if ek == ECC_EK:
            return self.run("tpm2_activatecredential", *words).returncode == 0
        self._do("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
        try:
            self._do("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
            return self.run("tpm2_activatecredential", *words, "-P", "session:session.ctx").returncode == 0
        finally:
            self._do("tpm2_flushcontext", "session.ctx")

    def read(self, name: str) -> bytes:
        """A file that a tool wrote."""
        return (self.folder / name).read_bytes()

    def _do(self, tool: str, *words: str) -> None:
        done = self.run(tool, *words)
        assert done.returncode == 0, done.stderr

    def _call(self, tool: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [require_tool(tool, package="tpm2-tools"), *words],
            cwd=self.folder,
            env={**os.environ, "TPM2TOOLS_TCTI": self._tcti},
            capture_output=True,
            check=False,
            timeout=60,
        )


@contextmanager
def tool_machine(state: Path) -> Iterator[ToolMachine]:
    """A machine on the TPM in ``state`` (of ``keyturn tpm make``), with an attestation key."""
    program = require_tool("swtpm", package="swtpm")
    socket, folder = state / "s", state / "files"
    folder.mkdir()
    command = [program, "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "startup-clear"]
    command += ["--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            machine = ToolMachine(folder, socket)
            deadline = time.monotonic() + 10
            while machine.run("tpm2_getrandom", "1").returncode:
                assert server.poll() is None, "swtpm ended at once"
                assert time.monotonic() < deadline, "swtpm did not answer"
                time.sleep(0.05)
            machine.make_ak()
            yield machine
        finally:
            server.terminate()


def _registers(data: bytes) -> dict[str, dict[int, bytes]]:
    """Register values as ``tpm2_pcrread --output`` writes them: one after another, bank by bank."""
    found: dict[str, dict[int, bytes]] = {}
    for bank, size in BANKS.items():
        found[bank] = {pcr: data[at * size : (at + 1) * size] for at, pcr in enumerate(PCRS)}
        data = data[len(PCRS) * size :]
    assert not data
    return found
