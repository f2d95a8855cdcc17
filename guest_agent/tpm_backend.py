"""The TPM backend: attestation key, quote, credential activation, runtime register and one sealed secret.

Built on tpm2-pytss (2.3 and 3.0), which is imported only when a backend is opened. Objects, all in the TPM's
own big-endian format (TPM 2.0 Library, part 2):

- endorsement key (EK): RSA 2048, persistent at ``0x81010001`` or made from the default template L-1 of the
  TCG EK Credential Profile 2.5, appendix B.3.3; its certificate is NV index ``0x01C00002`` (section 2.2.1.4);
- attestation key (AK): ECC P-256, ECDSA with SHA-256, restricted signing, a primary key of the endorsement
  hierarchy: it never leaves the TPM and signs only what the TPM made. Its unique part is random, so every
  boot has another one, and no credential of an earlier boot opens;
- sealed secret: a keyed-hash object of the owner hierarchy, persistent at ``0x81018000``, whose only
  authorisation is PolicyPCR over PCR 0 to 14 of bank SHA-256. It is made once. What cannot be unsealed stays
  as it is: a second secret would be another identity.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from guest_agent.backend import SECRET_SIZE, Identity, Platform, Registers, SignedQuote
from guest_agent.deferred_modules import defer
from guest_agent.tpm_commands import TpmError
from measurements.runtime_events import RUNTIME_BANKS, RUNTIME_PCR

DEVICE = "device:/dev/tpmrm0"
"""TCTI of the kernel's resource manager."""

QUOTED_PCRS = range(15)
REPORT_DATA_SIZE = 64
EK_HANDLE = 0x81010001
EK_CERTIFICATE_INDEX = 0x01C00002
SECRET_HANDLE = 0x81018000
EK_TEMPLATE = bytes.fromhex(
    "0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
    "0006008000430010080000000000" + "0100"
) + bytes(256)
AK_TEMPLATE = bytes.fromhex("0023000b00050472000000100018000b00030010")
"""Without the unique part. Attributes: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA,
restricted, sign.
"""

_SECRET_ATTRIBUTES = 0x00000492
"""fixedTPM, fixedParent, adminWithPolicy, noDA; not userWithAuth, so that nothing but the policy opens it."""

_MAX_CERTIFICATE = 8192
_NV_CHUNK = 512
_READ_AT_ONCE = 8
"""Digests that fit into one answer (TPML_DIGEST)."""


class SealedSecretError(TpmError):
    """The sealed secret is absent, is there already, or does not open."""

    code = "sealed-secret"


def open_tpm(tcti: str = DEVICE) -> TpmBackend:
    """The backend on ``tcti`` (a TSS connection string). Raises ``TpmError``."""
    os.environ.setdefault("TSS2_LOG", "all+none")  # the TSS would write to the console
    defer()
    from tpm2_pytss import ESAPI

    with _refusing("Esys_Initialize"):
        return TpmBackend(ESAPI(tcti))


class TpmBackend:
    """``Backend`` on one open TPM. Not for several threads at once: callers hold a lock."""

    platform = Platform.TPM

    def __init__(self, esapi: Any) -> None:
        self._esapi = esapi
        self._attestation_key: Any = None
        self._identity: Identity | None = None

    def close(self) -> None:
        """Flush the attestation key and close the connection."""
        if self._attestation_key is not None:
            self._flush(self._attestation_key)
            self._attestation_key = None
        self._esapi.close()

    def extend(self, digests: Mapping[str, bytes]) -> None:
        """Extend PCR 14 with one digest for each of both banks."""
        from tpm2_pytss import ESYS_TR, TPML_DIGEST_VALUES

        if tuple(digests) != RUNTIME_BANKS:
            raise _error("TPM2_PCR_Extend", "needs one digest for each of both banks")
        values = (
            b"\x00\x0b"
            + _sized_digest(digests["sha256"], 32)
            + b"\x00\x0c"
            + _sized_digest(digests["sha384"], 48)
        )
        with _refusing("TPM2_PCR_Extend"):
            listed, _ = TPML_DIGEST_VALUES.unmarshal(b"\x00\x00\x00\x02" + values)
            self._esapi.pcr_extend(ESYS_TR(RUNTIME_PCR), listed)

    def runtime_register(self) -> dict[str, bytes]:
        """PCR 14 of both banks."""
        return {bank: self._read_bank(bank, (RUNTIME_PCR,))[RUNTIME_PCR] for bank in RUNTIME_BANKS}

    def read_registers(self) -> Registers:
        """PCR 0 to 14 of both banks."""
        return {bank: self._read_bank(bank, tuple(QUOTED_PCRS)) for bank in RUNTIME_BANKS}

    def identity(self) -> Identity:
        """The attestation key, made on first use, and the EK certificate."""
        if self._identity is None:
            _, public = self._ak()
            self._identity = Identity(ak_public=public, ek_certificate=self._read_certificate())
        return self._identity

    def quote(self, report_data: bytes) -> SignedQuote:
        """TPM2_Quote of PCR 0 to 14 of both banks with SHA-256 of ``report_data`` as qualifying data.

        Registers that change meanwhile are a refusal.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            raise _error("TPM2_Quote", f"report data of {len(report_data)} bytes")
        key, _ = self._ak()
        before = self.read_registers()
        with _refusing("TPM2_Quote"):
            attest, signature = self._esapi.quote(
                key, _selection(RUNTIME_BANKS), hashlib.sha256(report_data).digest()
            )
        if self.read_registers() != before:
            raise _error("TPM2_Quote", "registers changed while they were quoted")
        return SignedQuote(quote=bytes(attest), signature=signature.marshal(), registers=before)

    def activate(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        """TPM2_ActivateCredential: opens only if the credential names this TPM's EK and this boot's AK."""
        from tpm2_pytss import ESYS_TR, TPM2B_ENCRYPTED_SECRET, TPM2B_ID_OBJECT

        key, _ = self._ak()
        endorsement, transient = self._endorsement_key()
        try:
            with _refusing("TPM2_ActivateCredential"), self._policy_session() as session:
                blob = _whole(TPM2B_ID_OBJECT, id_object)
                secret = _whole(TPM2B_ENCRYPTED_SECRET, encrypted_secret)
                self._esapi.policy_secret(ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
                opened = self._esapi.activate_credential(
                    key, endorsement, blob, secret, session1=ESYS_TR.PASSWORD, session2=session
                )
                return bytes(opened)
        finally:
            if transient:
                self._flush(endorsement)

    def holds_secret(self) -> bool:
        """Whether the persistent handle of the sealed secret is taken."""
        return self._persistent(SECRET_HANDLE)

    def seal(self, secret: bytes) -> None:
        """Seal to the present PCR 0 to 14 of bank SHA-256. Raises ``SealedSecretError`` if one is kept."""
        from tpm2_pytss import ESYS_TR, TPM2B_SENSITIVE_CREATE, TPM2B_SENSITIVE_DATA, TPMS_SENSITIVE_CREATE

        if len(secret) != SECRET_SIZE:
            raise _sealed(f"is {len(secret)} bytes long, not {SECRET_SIZE}")
        if self.holds_secret():
            raise _sealed("is there already, and is never replaced")
        with _refusing("sealing", SealedSecretError):
            sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=TPM2B_SENSITIVE_DATA(secret)))
            template = _secret_template(self._pcr_policy())
            made, *_ = self._esapi.create_primary(sensitive, _public(template), ESYS_TR.OWNER)
            try:
                self._esapi.evict_control(ESYS_TR.OWNER, made, SECRET_HANDLE)
            finally:
                self._esapi.flush_context(made)

    def unseal(self) -> bytes:
        """The sealed secret. Raises ``SealedSecretError`` if there is none or a register differs."""
        from tpm2_pytss import TPM2_HANDLE

        if not self.holds_secret():
            raise _sealed("is not in this TPM")
        with _refusing("unsealing", SealedSecretError), self._policy_session() as session:
            handle = self._esapi.tr_from_tpmpublic(TPM2_HANDLE(SECRET_HANDLE))
            # Whoever owns the hierarchy can put an object there; only one that this policy guards is ours.
            public, *_ = self._esapi.read_public(handle)
            self._esapi.policy_pcr(session, b"", _selection(("sha256",)))
            policy = bytes(self._esapi.policy_get_digest(session))
            if not _same_but_unique(public.publicArea.marshal(), _secret_template(policy)):
                raise _sealed("was sealed under other registers: image, machine or app changed")
            secret = bytes(self._esapi.unseal(handle, session1=session))
        if len(secret) != SECRET_SIZE:
            raise _sealed(f"is {len(secret)} bytes long, not {SECRET_SIZE}")
        return secret

    def _ak(self) -> tuple[Any, bytes]:
        from tpm2_pytss import ESYS_TR

        with _refusing("attestation key"):
            if self._attestation_key is None:
                unique = b"".join(b"\x00\x20" + os.urandom(32) for _ in "xy")
                self._attestation_key, *_ = self._esapi.create_primary(
                    None, _public(AK_TEMPLATE + unique), ESYS_TR.ENDORSEMENT
                )
            public, *_ = self._esapi.read_public(self._attestation_key)
            return self._attestation_key, public.publicArea.marshal()

    def _endorsement_key(self) -> tuple[Any, bool]:
        """Handle of the EK, and whether it is to be flushed."""
        from tpm2_pytss import ESYS_TR, TPM2_HANDLE

        with _refusing("endorsement key"):
            if self._persistent(EK_HANDLE):
                return self._esapi.tr_from_tpmpublic(TPM2_HANDLE(EK_HANDLE)), False
            made, *_ = self._esapi.create_primary(None, _public(EK_TEMPLATE), ESYS_TR.ENDORSEMENT)
            return made, True

    def _read_certificate(self) -> bytes:
        from tpm2_pytss import TPM2_HANDLE

        with _refusing("EK certificate"):
            index = self._esapi.tr_from_tpmpublic(TPM2_HANDLE(EK_CERTIFICATE_INDEX))
            public, _ = self._esapi.nv_read_public(index)
            size = int(public.nvPublic.dataSize)
            if size > _MAX_CERTIFICATE:
                raise _error("EK certificate", f"NV index of {size} bytes")
            data = b""
            while len(data) < size:
                data += bytes(self._esapi.nv_read(index, min(_NV_CHUNK, size - len(data)), len(data), index))
        return trim_certificate(data)

    def _read_bank(self, bank: str, pcrs: tuple[int, ...]) -> dict[int, bytes]:
        values: dict[int, bytes] = {}
        with _refusing("TPM2_PCR_Read"):
            for start in range(0, len(pcrs), _READ_AT_ONCE):
                group = pcrs[start : start + _READ_AT_ONCE]
                _, _, digests = self._esapi.pcr_read(f"{bank}:{','.join(map(str, group))}")
                if len(digests) != len(group):
                    raise _error("TPM2_PCR_Read", f"bank {bank} is not active")
                values.update(zip(group, map(bytes, digests), strict=True))
        return values

    def _persistent(self, handle: int) -> bool:
        from tpm2_pytss import TPM2_CAP

        with _refusing("TPM2_GetCapability"):
            _, answer = self._esapi.get_capability(TPM2_CAP.HANDLES, handle, 1)
            return any(int(found) == handle for found in answer.data.handles)

    def _pcr_policy(self) -> bytes:
        """Policy digest of PolicyPCR over the registers as they are now."""
        from tpm2_pytss import TPM2_SE

        with self._policy_session(TPM2_SE.TRIAL) as session:
            self._esapi.policy_pcr(session, b"", _selection(("sha256",)))
            return bytes(self._esapi.policy_get_digest(session))

    @contextmanager
    def _policy_session(self, kind: Any = None) -> Iterator[Any]:
        from tpm2_pytss import ESYS_TR, TPM2_ALG, TPM2_SE, TPMT_SYM_DEF

        session = self._esapi.start_auth_session(
            ESYS_TR.NONE,
            ESYS_TR.NONE,
            TPM2_SE.POLICY if kind is None else kind,
            TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
            TPM2_ALG.SHA256,
        )
        try:
            yield session
        finally:
            self._flush(session)

    def _flush(self, handle: Any) -> None:
        from tpm2_pytss import TSS2_Exception

        # An object or session that a refused command took with it is gone already.
        try:
            self._esapi.flush_context(handle)
        except TSS2_Exception:
            return


def trim_certificate(data: bytes) -> bytes:
    """The DER certificate at the start of ``data``; an NV index may be longer, filled with one byte value.

    Raises ``TpmError`` unless a certificate of two length bytes (256 to 65535) begins there.
    """
    if len(data) < 4 or data[:2] != b"\x30\x82":
        raise _error("EK certificate", "does not begin as a DER certificate")
    size = 4 + int.from_bytes(data[2:4], "big")
    if size > len(data) or len(set(data[size:])) > 1:
        raise _error("EK certificate", "has another length than its DER says")
    return data[:size]


def _secret_template(policy: bytes) -> bytes:
    """TPMT_PUBLIC of the sealed secret, without its unique part: keyed hash without a scheme."""
    return (
        b"\x00\x08\x00\x0b"
        + _SECRET_ATTRIBUTES.to_bytes(4, "big")
        + b"\x00\x20"
        + policy
        + b"\x00\x10\x00\x00"
    )


def _same_but_unique(public: bytes, template: bytes) -> bool:
    """Whether two keyed-hash public areas are equal up to the unique part, which ends them."""
    return public[: len(template) - 2] == template[:-2]


def _selection(banks: tuple[str, ...]) -> str:
    return "+".join(f"{bank}:{','.join(map(str, QUOTED_PCRS))}" for bank in banks)


def _public(template: bytes) -> Any:
    from tpm2_pytss import TPM2B_PUBLIC, TPMT_PUBLIC

    return TPM2B_PUBLIC(publicArea=_whole(TPMT_PUBLIC, template))


def _whole(kind: Any, data: bytes) -> Any:
    value, used = kind.unmarshal(data)
    if used != len(data):
        raise _error(kind.__name__, "has bytes after its end")
    return value


def _sized_digest(digest: bytes, size: int) -> bytes:
    if len(digest) != size:
        raise _error("TPM2_PCR_Extend", f"digest of {len(digest)} bytes where {size} are needed")
    return digest


@contextmanager
def _refusing(subject: str, kind: type[TpmError] = TpmError) -> Iterator[None]:
    """What the TSS raises becomes a refusal."""
    from tpm2_pytss import TSS2_Exception

    try:
        yield
    except TSS2_Exception as error:
        raise _error(subject, str(error), kind) from error


def _error(subject: str, reason: str, kind: type[TpmError] = TpmError) -> TpmError:
    return kind(reason, subject=subject, advice="check that the machine's TPM is a working TPM 2.0")


def _sealed(reason: str) -> SealedSecretError:
    return SealedSecretError(
        reason, subject="sealed secret", advice="boot the image, machine and app that sealed it"
    )
