"""What of this project ships in the guest: a listed, closed set of files.

The guest agent may import the standard library and these files, nothing else; a test walks the imports and
fails when the list is too short or too long. The folder ``usr/lib/keyturn`` is run as a program (``python3 -I
-S -B /usr/lib/keyturn``), so its ``__main__.py`` is the entry point and the folder itself the only addition
to the module search path.
"""

from __future__ import annotations

FOLDER = "usr/lib/keyturn"
"""Where the agent lives in the image, without a leading slash."""

_MODULES = (
    "guest_agent/__init__.py",
    "guest_agent/agent.py",
    "guest_agent/console.py",
    "guest_agent/facts.py",
    "guest_agent/mounts.py",
    "guest_agent/phases.py",
    "guest_agent/power.py",
    "guest_agent/registers.py",
    "guest_agent/tpm_commands.py",
    "measurements/__init__.py",
    "measurements/boot_report.py",
    "measurements/errors.py",
    "measurements/image_facts.py",
    "measurements/runtime_events.py",
)

PAYLOAD: tuple[tuple[str, str], ...] = (
    ("guest_agent/main.py", f"{FOLDER}/__main__.py"),
    *((module, f"{FOLDER}/{module}") for module in _MODULES),
)
"""(source path relative to the distribution root, path in the image without a leading slash), one pair per
file.
"""
