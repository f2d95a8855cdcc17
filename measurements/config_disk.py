"""The config disk: all that the host may tell a guest (docs/formats.md, "Config disk").

Layout: ``KTCFG``, bytes 0, 0, 1 (8 bytes), length u32 little-endian (1 to 1 MiB), so many bytes of canonical
JSON, zeros up to the next multiple of 4096. Nothing follows. The bytes without frame are measured before they
are parsed.

The module ships in the guest: standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from typing import BinaryIO, NamedTuple

from measurements.app_manifest import AppManifest, ProviderMode
from measurements.canonical import Json, encode_canonical, parse_canonical
from measurements.errors import FormatError
from measurements.strict_fields import Fields

MAGIC = b"KTCFG\0\0\x01"
HEADER = struct.Struct("<8sI")
MAX_DOCUMENT = 1 << 20
BLOCK_SIZE = 4096
CONFIG_TYPE = "keyturn-config/1"
INSTANCE_ID_SIZE = 16

_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._~/-]*)?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class ConfigError(FormatError):
    """A config disk that is not well formed, or does not fit its app manifest."""

    code = "config-disk"


class Network(NamedTuple):
    """Static address with prefix length, and the gateway, as texts (IPv4)."""

    address: str
    gateway: str


class Config(NamedTuple):
    """What the host configures. ``app_manifest`` and ``envelope`` are raw bytes, ``instance_id`` 16 bytes;
    ``reference`` is ``{"platform", "shape", "banks"}`` and not checked further.
    """

    app_manifest: bytes
    instance_id: bytes
    network: Network | None
    kms_urls: tuple[str, ...]
    env: dict[str, str]
    envelope: bytes | None
    reference: dict[str, Json] | None


def config_hash(document: bytes) -> bytes:
    """Payload of the event ``config-hash``: SHA-256 of the bytes without frame."""
    return hashlib.sha256(document).digest()


def frame_config(document: bytes) -> bytes:
    """The disk that carries ``document``."""
    if not 1 <= len(document) <= MAX_DOCUMENT:
        raise _error(f"the document has {len(document)} bytes, not 1 to {MAX_DOCUMENT}")
    data = HEADER.pack(MAGIC, len(document)) + document
    return data + bytes(-len(data) % BLOCK_SIZE)


def read_frame(disk: BinaryIO) -> bytes:
    """The bytes that the disk carries; each byte is read once, and never more than a frame can hold."""
    header = disk.read(HEADER.size)
    if len(header) != HEADER.size:
        raise _error("ends inside its header")
    magic, length = HEADER.unpack(header)
    if magic != MAGIC:
        raise _error("does not begin with the config disk's magic")
    if not 1 <= length <= MAX_DOCUMENT:
        raise _error(f"says it holds {length} bytes, not 1 to {MAX_DOCUMENT}")
    rest = length + -(HEADER.size + length) % BLOCK_SIZE
    data = disk.read(rest)
    if len(data) != rest:
        raise _error("ends early")
    if any(data[length:]) or disk.read(1):
        raise _error("holds bytes behind its document")
    return data[:length]


def encode_config(config: Config) -> bytes:
    """The document's canonical bytes, without frame."""
    document = {
        "type": CONFIG_TYPE,
        "app_manifest": _b64(config.app_manifest),
        "instance_id": config.instance_id.hex(),
        "network": None if config.network is None else config.network._asdict(),
        "kms_urls": list(config.kms_urls),
        "env": config.env,
        "envelope": None if config.envelope is None else _b64(config.envelope),
        "reference": config.reference,
    }
    return encode_canonical(document, subject="config disk")


def parse_config(document: bytes) -> Config:
    """The configuration from the bytes of :func:`read_frame`.

    Raises ``ConfigError`` or ``CanonicalError``. Whether it fits the manifest, :func:`check_config` says.
    """
    fields = Fields(
        parse_canonical(document, subject="config disk"),
        ("type", *Config._fields),
        path="",
        refuse=_error,
    )
    fields.constant("type", CONFIG_TYPE)
    return Config(
        app_manifest=_base64(fields, "app_manifest"),
        instance_id=fields.not_zero("instance_id", fields.octets("instance_id", INSTANCE_ID_SIZE)),
        network=None if fields.is_null("network") else _network(fields.object("network", Network._fields)),
        kms_urls=fields.texts("kms_urls", _URL),
        env=fields.table("env", _ENV_NAME),
        envelope=None if fields.is_null("envelope") else _base64(fields, "envelope"),
        reference=None if fields.is_null("reference") else _reference(fields),
    )


def check_config(config: Config, manifest: AppManifest) -> None:
    """Refuse what the manifest does not let the host say."""
    allowed = {name for container in manifest.containers for name in container.allowed_env}
    for name in config.env:
        if name not in allowed:
            raise _error(f"env.{name} is not among the names that the app manifest allows")
    sealed = manifest.key_provider.mode is ProviderMode.TPM_SEAL
    if sealed != (not config.kms_urls):
        raise _error("kms_urls is empty exactly when the TPM seals the keys")
    if config.envelope is not None and manifest.owner_key is None:
        raise _error("there is an envelope, but the app manifest names no owner key")
    if config.envelope is None and manifest.owner_key is not None:
        raise _error("there is no envelope of the owner whom the app manifest names")


def _error(reason: str) -> ConfigError:
    return ConfigError(reason, subject="config disk", advice="write the disk with `keyturn app config`")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _base64(fields: Fields, key: str) -> bytes:
    value = fields.raw(key)
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if not data or _b64(data) != value:
        fields.fail(key, "is not base64 of at least one byte")
    return data


def _network(fields: Fields) -> Network:
    import ipaddress

    network = Network(address=fields.text("address"), gateway=fields.text("gateway"))
    try:
        own = ipaddress.IPv4Interface(network.address)
        gateway = ipaddress.IPv4Address(network.gateway)
    except ValueError as error:
        fields.fail("address", f"or gateway is not right: {error}")
    if str(own) != network.address or gateway not in own.network or gateway == own.ip:
        fields.fail(
            "gateway", f"{network.gateway} is not another address of the network of {network.address}"
        )
    return network


def _reference(fields: Fields) -> dict[str, Json]:
    reference = fields.object("reference", ("platform", "shape", "banks"))
    reference.constant("platform", "tpm")
    return {key: reference.raw(key) for key in ("platform", "shape", "banks")}
