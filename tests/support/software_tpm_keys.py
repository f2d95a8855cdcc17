"""A real software TPM with an EK certificate, driven over its socket: keys, quotes, extends and credentials.

The swtpm of ``measurements.swtpm.manufacture`` listens on a UNIX socket in its state folder; tpm2-pytss talks
to it. Everything ends with the context.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from measurements.runtime_events import RUNTIME_BANKS, RuntimeEvent, event_digest
from measurements.swtpm import manufacture
from tests.support.tools import require_tool

AK = bytes.fromhex("0023000b00050472000000100018000b0003001000000000")
"""Template of an attestation key: ECC P-256, ECDSA with SHA-256, restricted signing."""

RSA_AK = bytes.fromhex("0001000b00050472000000100014000b0800000000000000")
UNRESTRICTED_AK = bytes.fromhex("0023000b00040472000000100018000b0003001000000000")
EK_HANDLE = 0x81010001
ECC_EK_HANDLE = 0x81010016
CERTIFICATE_INDEX = 0x01C00002
PCRS = ",".join(str(pcr) for pcr in range(15))
SELECTION = f"sha256:{PCRS}+sha384:{PCRS}"


class SoftwareTpmKeys:
    """One open TPM. ``root`` is the DER of its root authority, ``issuer`` of the authority below that, which
    signed the EK certificate.
    """

    def __init__(self, esapi: Any, authority: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        self._esapi = esapi

        def der(name: str) -> bytes:
            return x509.load_pem_x509_certificate((authority / name).read_bytes()).public_bytes(Encoding.DER)

        self.root = der("swtpm-localca-rootca-cert.pem")
        self.issuer = der("issuercert.pem")

    def create_ak(self, template: bytes = AK, *, hierarchy: str = "ENDORSEMENT") -> tuple[Any, bytes]:
        """Handle and TPMT_PUBLIC of a new primary key."""
        from tpm2_pytss import ESYS_TR, TPM2B_PUBLIC, TPMT_PUBLIC

        area, _ = TPMT_PUBLIC.unmarshal(template)
        handle, public, *_ = self._esapi.create_primary(
            None, TPM2B_PUBLIC(publicArea=area), getattr(ESYS_TR, hierarchy)
        )
        return handle, public.publicArea.marshal()

    def ek_public(self, handle: int = EK_HANDLE) -> bytes:
        """TPMT_PUBLIC of a persistent EK."""
        from tpm2_pytss import TPM2_HANDLE

        public, *_ = self._esapi.read_public(self._esapi.tr_from_tpmpublic(TPM2_HANDLE(handle)))
        data: bytes = public.publicArea.marshal()
        return data

    def ek_certificate(self) -> bytes:
        """DER of the RSA EK's certificate."""
        from tpm2_pytss import TPM2_HANDLE

        index = self._esapi.tr_from_tpmpublic(TPM2_HANDLE(CERTIFICATE_INDEX))
        public, _ = self._esapi.nv_read_public(index)
        size, data = int(public.nvPublic.dataSize), b""
        while len(data) < size:
            data += bytes(self._esapi.nv_read(index, min(512, size - len(data)), len(data), index))
        return data

    def extend(self, pcr: int, digests: dict[str, bytes]) -> None:
        """Extend one register in the named banks."""
        from tpm2_pytss import ESYS_TR, TPML_DIGEST_VALUES

        algorithms = {"sha256": b"\x00\x0b", "sha384": b"\x00\x0c"}
        data = len(digests).to_bytes(4, "big") + b"".join(algorithms[b] + d for b, d in digests.items())
        values, _ = TPML_DIGEST_VALUES.unmarshal(data)
        self._esapi.pcr_extend(ESYS_TR(pcr), values)

    def extend_events(self, events: Sequence[RuntimeEvent]) -> None:
        """Extend runtime events in PCR 14."""
        for event in events:
            self.extend(14, {bank: event_digest(event, algorithm=bank) for bank in RUNTIME_BANKS})

    def registers(self) -> dict[str, dict[int, bytes]]:
        """PCR 0 to 14 of both banks."""
        return {
            bank: {pcr: bytes(self._esapi.pcr_read(f"{bank}:{pcr}")[2][0]) for pcr in range(15)}
            for bank in RUNTIME_BANKS
        }

    def quote(self, key: Any, qualifying_data: bytes, selection: str = SELECTION) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and TPMT_SIGNATURE."""
        attest, signature = self._esapi.quote(key, selection, qualifying_data)
        return bytes(attest), signature.marshal()

    def activate(self, key: Any, id_object: bytes, encrypted_secret: bytes, *, ek: int = EK_HANDLE) -> bytes:
        """TPM2_ActivateCredential with a persistent EK; raises what the TSS raises.

        The RSA EK of the low template opens by PolicySecret, the ECC EK of the high one by its empty
        password.
        """
        from tpm2_pytss import (
            ESYS_TR,
            TPM2_ALG,
            TPM2_HANDLE,
            TPM2_SE,
            TPM2B_ENCRYPTED_SECRET,
            TPM2B_ID_OBJECT,
            TPMT_SYM_DEF,
        )

        blob, _ = TPM2B_ID_OBJECT.unmarshal(id_object)
        secret, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(encrypted_secret)
        handle = self._esapi.tr_from_tpmpublic(TPM2_HANDLE(ek))
        algorithm = TPM2_ALG(int(self._esapi.read_public(handle)[0].publicArea.nameAlg))
        if ek == ECC_EK_HANDLE:
            return bytes(self._esapi.activate_credential(key, handle, blob, secret))
        session = self._esapi.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), algorithm
        )
        try:
            self._esapi.policy_secret(ESYS_TR.ENDORSEMENT, session, expiration=0)
            opened = self._esapi.activate_credential(
                key, handle, blob, secret, session1=ESYS_TR.PASSWORD, session2=session
            )
            return bytes(opened)
        finally:
            self._esapi.flush_context(session)

    def flush(self, handle: Any) -> None:
        """Free a transient key."""
        self._esapi.flush_context(handle)


@contextmanager
def software_tpm_keys() -> Iterator[SoftwareTpmKeys]:
    """A fresh, running TPM."""
    program = require_tool("swtpm", package="swtpm")
    require_tool("swtpm_setup", package="swtpm-tools")
    tpm2_pytss = pytest.importorskip("tpm2_pytss")
    with tempfile.TemporaryDirectory(prefix="kt-") as folder:
        state = Path(folder)
        manufacture(state)
        socket = state / "s"
        command = [program, "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "startup-clear"]
        command += ["--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                _await(socket, server)
                esapi = _open(tpm2_pytss, socket)
                try:
                    yield SoftwareTpmKeys(esapi, state / "ca")
                finally:
                    esapi.close()
            finally:
                server.terminate()


def _open(tpm2_pytss: Any, socket: Path) -> Any:
    """The path is there a moment before swtpm listens on it."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return tpm2_pytss.ESAPI(f"swtpm:path={socket}")
        except tpm2_pytss.TSS2_Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _await(socket: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while not (socket.exists() and Path(f"{socket}.ctrl").exists()):
        assert server.poll() is None, "swtpm ended at once"
        assert time.monotonic() < deadline, "swtpm did not open its socket"
        time.sleep(0.01)
