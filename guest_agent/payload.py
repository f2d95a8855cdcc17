"""What of this project ships in the guest: a listed, closed set of files.

The guest agent may import the standard library and these files, and for apps ``tpm2_pytss`` and
``cryptography``; a test walks the imports and fails when the list is too short or too long. The folder
``usr/lib/keyturn`` is run as a program (``python3 -I -S -B /usr/lib/keyturn``), so its ``__main__.py`` is the
entry point and the folder itself the only addition to the module search path, until an app is booted.
"""

from __future__ import annotations

FOLDER = "usr/lib/keyturn"
"""Where the agent lives in the image, without a leading slash."""

_MODULES = (
    "attestation/__init__.py",
    "attestation/evidence.py",
    "attestation/report_data.py",
    "guest_agent/__init__.py",
    "guest_agent/agent.py",
    "guest_agent/app_boot.py",
    "guest_agent/app_machine.py",
    "guest_agent/backend.py",
    "guest_agent/console.py",
    "guest_agent/container_logs.py",
    "guest_agent/container_roots.py",
    "guest_agent/containers.py",
    "guest_agent/deferred_modules.py",
    "guest_agent/device_tables.py",
    "guest_agent/facts.py",
    "guest_agent/http_message.py",
    "guest_agent/key_client.py",
    "guest_agent/key_transport.py",
    "guest_agent/keys.py",
    "guest_agent/kms_receipt.py",
    "guest_agent/mounts.py",
    "guest_agent/network.py",
    "guest_agent/oci_config.py",
    "guest_agent/owner_envelope.py",
    "guest_agent/phases.py",
    "guest_agent/power.py",
    "guest_agent/programs.py",
    "guest_agent/register_log.py",
    "guest_agent/registers.py",
    "guest_agent/release_machine.py",
    "guest_agent/sealed_keys.py",
    "guest_agent/seccomp_profile.py",
    "guest_agent/socket_api.py",
    "guest_agent/socket_server.py",
    "guest_agent/storage.py",
    "guest_agent/storage_layout.py",
    "guest_agent/supervision.py",
    "guest_agent/timeline.py",
    "guest_agent/tpm_backend.py",
    "guest_agent/tpm_commands.py",
    "measurements/__init__.py",
    "measurements/app_manifest.py",
    "measurements/app_manifest_reader.py",
    "measurements/boot_report.py",
    "measurements/boot_timeline.py",
    "measurements/canonical.py",
    "measurements/config_disk.py",
    "measurements/envelope.py",
    "measurements/errors.py",
    "measurements/image_facts.py",
    "measurements/json_text.py",
    "measurements/reference_digest.py",
    "measurements/runtime_events.py",
    "measurements/strict_fields.py",
)

PAYLOAD: tuple[tuple[str, str], ...] = (
    ("guest_agent/main.py", f"{FOLDER}/__main__.py"),
    *((module, f"{FOLDER}/{module}") for module in _MODULES),
)
"""(source path relative to the distribution root, path in the image without a leading slash), one pair per
file.
"""
