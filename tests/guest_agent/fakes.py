"""A backend in memory: what a TPM does, without one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from guest_agent.backend import Backend, Identity, Platform, SignedQuote
from guest_agent.tpm_commands import TpmError


class MemoryBackend:
    """Registers as a hash chain; a quote is its report data, readable for the test."""

    platform = Platform.SIM

    def __init__(self) -> None:
        self.register = {"sha256": bytes(32), "sha384": bytes(48)}
        self.fails = False
        self.secret: bytes | None = None
        self.credentials: dict[tuple[bytes, bytes], bytes] = {}

    def extend(self, digests: Mapping[str, bytes]) -> None:
        if self.fails:
            raise TpmError("the TPM is gone", subject="TPM", advice="")
        for bank, digest in digests.items():
            self.register[bank] = hashlib.new(bank, self.register[bank] + digest).digest()

    def runtime_register(self) -> dict[str, bytes]:
        return dict(self.register)

    def identity(self) -> Identity:
        return Identity(b"ak public", b"ek certificate")

    def quote(self, report_data: bytes) -> SignedQuote:
        registers = {
            bank: {**{pcr: bytes([pcr]) * len(value) for pcr in range(14)}, 14: value}
            for bank, value in self.register.items()
        }
        return SignedQuote(quote=report_data, signature=b"signature", registers=registers)

    def activate(self, id_object: bytes, encrypted_secret: bytes) -> bytes:
        if (id_object, encrypted_secret) not in self.credentials:
            raise TpmError("another key's credential", subject="TPM", advice="")
        return self.credentials[id_object, encrypted_secret]

    def holds_secret(self) -> bool:
        return self.secret is not None

    def seal(self, secret: bytes) -> None:
        self.secret = secret

    def unseal(self) -> bytes:
        assert self.secret is not None
        return self.secret

    def close(self) -> None:
        pass


_: type[Backend] = MemoryBackend
