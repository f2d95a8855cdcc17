"""File capabilities: the value of the extended attribute ``security.capability``.

Layout (Linux ``include/uapi/linux/capability.h``, ``struct vfs_cap_data``, revision 2; little-endian): u32
magic 0x02000000 with bit 0 set if the capabilities become effective, u32 permitted 0-31, u32 inheritable
0-31, u32 permitted 32-63, u32 inheritable 32-63.
"""

from __future__ import annotations

import struct

from measurements.errors import KeyturnError

XATTR = "security.capability"
_REVISION = 0x02000000
_EFFECTIVE = 1
_NAMES = (
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
)
_NUMBERS = {f"cap_{name}": number for number, name in enumerate(_NAMES)}


class CapabilityError(KeyturnError):
    """A capability that Linux does not have."""

    code = "capability"


def encode_capabilities(text: str) -> bytes:
    """``cap_net_raw,cap_net_admin+ep`` (one clause of cap_from_text(3)) → attribute value of 20 bytes."""
    names, plus, flags = text.replace("=", "+").partition("+")
    unknown = [name for name in names.split(",") if name not in _NUMBERS]
    if unknown or not plus or not flags or set(flags) - set("eip"):
        raise CapabilityError(
            f"unknown capability {unknown[0]}" if unknown else "no flags out of e, i, p",
            subject=text,
            advice="use names of capabilities(7), as in cap_net_raw+ep",
        )
    mask = sum(1 << _NUMBERS[name] for name in set(names.split(",")))
    permitted = mask if "p" in flags else 0
    inheritable = mask if "i" in flags else 0
    magic = _REVISION | (_EFFECTIVE if "e" in flags else 0)
    low = 0xFFFFFFFF
    return struct.pack("<5I", magic, permitted & low, inheritable & low, permitted >> 32, inheritable >> 32)
