"""A software TPM (swtpm) for one run: with an EK certificate, SHA-256 and SHA-384 banks, fresh or kept.

Kept state is a folder with ``tpm2-00.permall`` (swtpm's own format) and ``ca/``, the local authority that
signed the EK certificate. Programs: ``swtpm(8)`` and ``swtpm_setup(8)``, Debian packages swtpm and
swtpm-tools.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from measurements.errors import KeyturnError, MissingToolError

SETUP_SECONDS = 60
START_SECONDS = 10
STOP_SECONDS = 5
ROOT_NAME = "swtpm-localca-rootca-cert.pem"
INTERMEDIATE_NAME = "issuercert.pem"
"""Certificates in the authority's folder: its root, and the one below that signs EK certificates."""

_STATE_FILE = "tpm2-00.permall"


class TpmError(KeyturnError):
    """The software TPM could not be made or started."""

    code = "tpm"


def require_program(name: str, *, package: str) -> str:
    """Path of a program of the host, or an error that names the package to install."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise MissingToolError("is not installed", subject=name, advice=f"install it: apt install {package}")
    return path


def manufacture(state: Path, *, authority: Path | None = None) -> None:
    """Makes a new TPM with an EK certificate in ``state``; one that is there already is left as it is.

    ``authority`` is the folder of the local authority that signs, by default one of this TPM alone.
    """
    if (state / _STATE_FILE).exists():
        return
    setup = require_program("swtpm_setup", package="swtpm-tools")
    require_program("swtpm", package="swtpm")
    signer = require_program("swtpm_localca", package="swtpm-tools")
    authority = (state / "ca" if authority is None else authority).resolve()
    for folder in (state, authority):
        folder.mkdir(parents=True, exist_ok=True)
    configuration = _write_configuration(authority, signer)
    command = [
        *(setup, "--tpm2", "--tpmstate", str(state), "--config", str(configuration)),
        *("--create-ek-cert", "--pcr-banks", "sha256,sha384"),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SETUP_SECONDS, check=False, text=True
    )
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-3:]
        raise TpmError("swtpm_setup failed: " + " / ".join(last), subject=str(state), advice="see the reason")


def _write_configuration(authority: Path, signer: str) -> Path:
    authority_file = authority / "swtpm-localca.conf"
    authority_file.write_text(
        f"statedir = {authority}\n"
        f"signingkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/{INTERMEDIATE_NAME}\n"
        f"certserial = {authority}/certserial\n"
    )
    options = authority / "swtpm-localca.options"
    options.write_text("--tpm-manufacturer id:00001014\n--tpm-model swtpm\n--tpm-version 2\n")
    configuration = authority / "swtpm_setup.conf"
    configuration.write_text(
        f"create_certs_tool = {signer}\n"
        f"create_certs_tool_config = {authority_file}\n"
        f"create_certs_tool_options = {options}\n"
    )
    return configuration


class SoftwareTpm:
    """A running swtpm; it ends by itself when QEMU lets go of it, and ``stop`` ends it in any case."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path) -> None:
        self._process = process
        self.socket = socket

    @classmethod
    def start(cls, state: Path, *, socket: Path, log: Path, launcher: tuple[str, ...] = ()) -> SoftwareTpm:
        """Starts swtpm on ``state``; ``socket`` is its control socket, ready when this returns."""
        program = require_program("swtpm", package="swtpm")
        command = [
            *(*launcher, program, "socket", "--tpm2", "--terminate"),
            *("--tpmstate", f"dir={state}"),
            *("--ctrl", f"type=unixio,path={socket}"),
            *("--log", f"file={log},level=1"),
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        tpm = cls(process, socket)
        try:
            tpm._await_socket(log)
        except BaseException:
            tpm.stop()
            raise
        return tpm

    def _await_socket(self, log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip()[-300:] if log.exists() else ""
                raise TpmError(
                    f"swtpm did not start: {said or 'it said nothing'}",
                    subject=str(self.socket.parent),
                    advice="another swtpm may hold the same state folder",
                )
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Process id, for tests that nothing is left running."""
        return self._process.pid

    def stop(self) -> None:
        """Ends the process and its group; it may have ended already."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def socket_folder_fits(folder: Path) -> bool:
    """Whether a socket in ``folder`` stays below the kernel's limit of 108 bytes with the terminator."""
    return len(os.fsencode(folder)) + len("/swtpm.sock") < 107
