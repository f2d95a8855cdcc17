"""What a keyturn host binds at launch on platforms that have a field for it: the config disk.

docs/formats.md, "Launch binding". The guest's host chooses the config disk; a quote then shows which one
before anything in the guest has run.

- TDX MRCONFIGID (48 bytes): ``"keyturn-launch/1" ‖ config-hash``. The text tells it from dstack's values,
  which start with the bytes 1 to 3. MROWNER and MROWNERCONFIG are zero: the owner is named in the app
  manifest, which the config disk carries.
- SEV-SNP HOSTDATA (32 bytes): ``config-hash``.
"""

from __future__ import annotations

from collections.abc import Mapping

from measurements.config_disk import config_hash

PREFIX = b"keyturn-launch/1"
REGISTER_SIZE = 48


def mr_config_id(config: bytes) -> bytes:
    """MRCONFIGID for the bytes of a config disk's document (without frame)."""
    return PREFIX + config_hash(config)


def host_data(config: bytes) -> bytes:
    """HOSTDATA for the same."""
    return config_hash(config)


def trust_domain_launch(config: bytes) -> Mapping[str, bytes]:
    """The registers of a trust domain that its host sets, by name."""
    return {
        "mrconfigid": mr_config_id(config),
        "mrowner": bytes(REGISTER_SIZE),
        "mrownerconfig": bytes(REGISTER_SIZE),
    }
