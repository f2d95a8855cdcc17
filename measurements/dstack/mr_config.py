"""The configuration that dstack's host binds to a guest at launch: MRCONFIGID (TDX) or HOST_DATA (SEV-SNP).

Source: ``dstack/dstack-types/src/mr_config.rs``. The 48 bytes of MRCONFIGID are, by their first byte:

- ``01 ‖ compose hash (32) ‖ 0^15``;
- ``02 ‖ keccak-256(compose hash ‖ app id (20) ‖ u8 kind of key provider ‖ key provider id) ‖ 0^15``;
- ``03 ‖ SHA-256("dstack-mr-config-v3:" ‖ 00 ‖ document) ‖ 0^15``. The document is RFC 8785 JSON, and its
  hash is over the bytes as they were sent. HOST_DATA is the same hash alone;
- all zeros: the host bound nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from eth_hash.auto import keccak

from measurements.canonical import Json, encode_canonical
from measurements.dstack.errors import DstackInputError
from measurements.dstack.json_documents import closed_object, octets, parse_document, refuse, text
from measurements.dstack.runtime_events import APP_ID_SIZE, HASH_SIZE, INSTANCE_ID_SIZE

SIZE = 48
MAX_DOCUMENT = 1 << 16
_DOMAIN = b"dstack-mr-config-v3:\0"
_REQUIRED = frozenset({"version", "app_id", "compose_hash", "key_provider"})
_OPTIONAL = frozenset({"gpu_policy_hash", "key_provider_id", "instance_id", "init_script_hashes"})


class KeyProvider(StrEnum):
    """Who gives an app its keys; the order of the members is that of their numbers in version 2."""

    NONE = "none"
    LOCAL = "local"
    KMS = "kms"
    TPM = "tpm"

    @property
    def event_name(self) -> str:
        """Its name in the ``key-provider`` event."""
        return "local-sgx" if self is KeyProvider.LOCAL else self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class MrConfigV3:
    """The fields of a version 3 document; ``init_script_hashes`` and ``gpu_policy_hash`` are ``None`` where
    it has none.
    """

    app_id: bytes
    compose_hash: bytes
    key_provider: KeyProvider
    key_provider_id: bytes = b""
    instance_id: bytes = b""
    gpu_policy_hash: bytes | None = None
    init_script_hashes: tuple[bytes, ...] | None = None

    def document(self) -> bytes:
        """The canonical bytes, as a host writes them."""
        fields: dict[str, Json] = {
            "version": 3,
            "app_id": self.app_id.hex(),
            "compose_hash": self.compose_hash.hex(),
            "key_provider": self.key_provider.value,
            "key_provider_id": self.key_provider_id.hex(),
            "instance_id": self.instance_id.hex(),
        }
        if self.gpu_policy_hash is not None:
            fields["gpu_policy_hash"] = self.gpu_policy_hash.hex()
        if self.init_script_hashes is not None:
            fields["init_script_hashes"] = [item.hex() for item in self.init_script_hashes]
        return encode_canonical(fields)


def config_id_v1(compose_hash: bytes) -> bytes:
    """MRCONFIGID of version 1, the default of dstack's host."""
    _check("compose hash", compose_hash, HASH_SIZE)
    return _padded(1, compose_hash)


def config_id_v2(
    *, compose_hash: bytes, app_id: bytes, key_provider: KeyProvider, key_provider_id: bytes
) -> bytes:
    """MRCONFIGID of version 2."""
    _check("compose hash", compose_hash, HASH_SIZE)
    _check("app id", app_id, APP_ID_SIZE)
    kind = list(KeyProvider).index(key_provider)
    return _padded(2, keccak(compose_hash + app_id + bytes([kind]) + key_provider_id))


def config_id_v3(document: bytes) -> bytes:
    """MRCONFIGID of version 3, over the document as it was sent."""
    return _padded(3, host_data(document))


def host_data(document: bytes) -> bytes:
    """HOST_DATA (32 bytes) of an SEV-SNP guest with this document."""
    return hashlib.sha256(_DOMAIN + document).digest()


def parse_mr_config(document: bytes) -> MrConfigV3:
    """The fields of a version 3 document; raises ``DstackFormatError`` for others."""
    subject = "mr_config document"
    fields = closed_object(
        parse_document(document, subject=subject, limit=MAX_DOCUMENT),
        required=_REQUIRED,
        optional=_OPTIONAL,
        subject=subject,
    )
    if fields["version"] != 3 or type(fields["version"]) is not int:
        refuse(subject, f"has version {fields['version']!r}, not 3")
    provider = text(fields["key_provider"], subject=f"{subject}, key_provider")
    if provider not in set(KeyProvider):
        refuse(subject, f"has the unknown key provider {provider[:32]!r}")

    def field(name: str, *sizes: int) -> bytes:
        return octets(fields.get(name, ""), subject=f"{subject}, {name}", sizes=sizes)

    return MrConfigV3(
        app_id=field("app_id", APP_ID_SIZE),
        compose_hash=field("compose_hash", HASH_SIZE),
        key_provider=KeyProvider(provider),
        key_provider_id=field("key_provider_id"),
        instance_id=field("instance_id", 0, INSTANCE_ID_SIZE),
        gpu_policy_hash=field("gpu_policy_hash", HASH_SIZE) if "gpu_policy_hash" in fields else None,
        init_script_hashes=_scripts(fields["init_script_hashes"], subject)
        if "init_script_hashes" in fields
        else None,
    )


def _scripts(value: object, subject: str) -> tuple[bytes, ...]:
    if not isinstance(value, list):
        refuse(subject, "init_script_hashes is not a list")
    where = f"{subject}, init_script_hashes"
    return tuple(octets(item, subject=where, sizes=(HASH_SIZE,)) for item in value)


def _padded(version: int, digest: bytes) -> bytes:
    return (bytes([version]) + digest).ljust(SIZE, b"\0")


def _check(name: str, value: bytes, size: int) -> None:
    if len(value) != size or not any(value):
        raise DstackInputError(
            f"has {len(value)} bytes, or only zeros; {size} bytes are expected",
            subject=name,
            advice=f"give the {name} of the deployment",
        )
