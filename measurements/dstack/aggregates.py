"""The SHA-256 values that dstack's policies and contracts name: over registers, and of identities.

Source: ``decode_app_info`` in ``dstack/dstack-attest/src/attestation.rs``; ``mr_image`` and ``mr_enclave``
are of the older kvinwang/dstack-mr. ``‖`` is concatenation of raw bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from measurements.dstack.errors import DstackInputError
from measurements.dstack.runtime_events import APP_ID_SIZE, INSTANCE_ID_SIZE

REGISTER_SIZE = 48
NO_KEY_PROVIDER = bytes(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class TdRegisters:
    """The registers of a trust domain, 48 bytes each; ``rtmr3`` at the end of the boot or at its boundary."""

    mrtd: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if len(getattr(self, name)) != REGISTER_SIZE:
                raise DstackInputError(
                    f"does not have {REGISTER_SIZE} bytes", subject=name, advice="give the whole register"
                )


def mr_aggregated(registers: TdRegisters) -> bytes:
    """``MRTD ‖ RTMR0 to 3``, and ``MRCONFIGID ‖ MROWNER ‖ MROWNERCONFIG`` if any of these is not zero.

    With RTMR3 replayed up to ``boot-mr-done`` this is the boot form, which the KMS signs certificates for.
    """
    launch = registers.mr_config_id + registers.mr_owner + registers.mr_owner_config
    return _sha256(_platform(registers), registers.rtmr3, launch if any(launch) else b"")


def mr_system(registers: TdRegisters, key_provider: bytes | None) -> bytes:
    """``MRTD ‖ RTMR0 to 2 ‖ SHA-256 of the key-provider payload``, or 32 zero bytes if there is none."""
    provider = NO_KEY_PROVIDER if key_provider is None else _sha256(key_provider)
    return _sha256(_platform(registers), provider)


def mr_image(registers: TdRegisters) -> bytes:
    """``MRTD ‖ RTMR1 ‖ RTMR2``: the image on any machine."""
    return _sha256(registers.mrtd, registers.rtmr1, registers.rtmr2)


def mr_enclave(registers: TdRegisters) -> bytes:
    """``MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2``: the image on one machine shape."""
    return _sha256(_platform(registers))


def snp_mr_system(measurement: bytes) -> bytes:
    """Of an SEV-SNP guest, over its launch measurement."""
    return _sha256(measurement)


def snp_mr_aggregated(measurement: bytes, host_data: bytes) -> bytes:
    """Of an SEV-SNP guest: ``MEASUREMENT ‖ HOST_DATA``."""
    return _sha256(measurement, host_data)


def gcp_mr_system(image_hash: bytes, key_provider: bytes | None) -> bytes:
    """Of a TDX guest on Google's cloud: ``OS image hash ‖ SHA-256 of the key-provider payload``, or zeros."""
    provider = NO_KEY_PROVIDER if key_provider is None else _sha256(key_provider)
    return _sha256(image_hash, provider)


def gcp_mr_aggregated(pcr0: bytes, pcr2: bytes, pcr14: bytes) -> bytes:
    """Of a TDX guest on Google's cloud, over PCRs of its vTPM's SHA-256 bank."""
    return _sha256(pcr0, pcr2, pcr14)


def nitro_mr(pcr0: bytes, pcr1: bytes, pcr2: bytes) -> bytes:
    """Of a Nitro enclave, both the system's and the aggregated value."""
    return _sha256(pcr0, pcr1, pcr2)


def compose_hash(app_compose: bytes) -> bytes:
    """Of the raw bytes of ``app-compose.json``."""
    return _sha256(app_compose)


def default_app_id(compose: bytes) -> bytes:
    """The app id of a deployment that was given none: the first 20 bytes of the compose hash."""
    return compose[:APP_ID_SIZE]


def instance_id(seed: bytes, app_id: bytes, *, tpm_key: bytes | None = None) -> bytes:
    """``SHA-256(seed ‖ app id)[:20]``; on clouds with a vTPM SHA-256 of the key's public area follows."""
    return _sha256(seed, app_id, b"" if tpm_key is None else _sha256(tpm_key))[:INSTANCE_ID_SIZE]


def device_id(ppid: bytes) -> bytes:
    """Of a TDX machine: SHA-256 of the PPID in its PCK certificate."""
    return _sha256(ppid)


def launch_token_hash(token: str) -> bytes:
    """What ``requirements.launch_token_hash`` of an app names: the token's digest, with a domain."""
    return _sha256(b"dstack-launch-token/v1:", token.encode("utf-8"))


def os_image_hash(checksum_file: bytes) -> bytes:
    """Of a release: SHA-256 of its ``sha256sum.txt``."""
    return _sha256(checksum_file)


def _platform(registers: TdRegisters) -> bytes:
    return registers.mrtd + registers.rtmr0 + registers.rtmr1 + registers.rtmr2


def _sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()
