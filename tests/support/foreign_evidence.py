"""Evidence in foreign formats of which no vector is at hand, written by the descriptions of those formats."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.support.containers import FULL

RUNTIME_TYPE = 0x08000001


def msgpack(value: Any) -> bytes:
    """MessagePack of a value, as rmp-serde writes it: shortest lengths, ``list`` for byte vectors."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, str):
        data = value.encode()
        return _head(len(data), 0xA0, 32, {1: 0xD9, 2: 0xDA, 4: 0xDB}) + data
    if isinstance(value, bytes):
        return _head(len(value), None, 0, {1: 0xC4, 2: 0xC5, 4: 0xC6}) + value
    if isinstance(value, list):
        return _head(len(value), 0x90, 16, {2: 0xDC, 4: 0xDD}) + b"".join(map(msgpack, value))
    head = _head(len(value), 0x80, 16, {2: 0xDE, 4: 0xDF})
    return head + b"".join(msgpack(key) + msgpack(item) for key, item in value.items())


def _integer(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes([value])
    if -32 <= value < 0:
        return bytes([256 + value])
    sizes = ((">b", 0xD0), (">h", 0xD1), (">i", 0xD2), (">q", 0xD3))
    if value >= 0:
        sizes = ((">B", 0xCC), (">H", 0xCD), (">I", 0xCE), (">Q", 0xCF))
    for form, first in sizes:
        try:
            return bytes([first]) + struct.pack(form, value)
        except struct.error:
            continue
    raise ValueError(value)


def _head(length: int, fixed: int | None, below: int, sized: dict[int, int]) -> bytes:
    if fixed is not None and length < below:
        return bytes([fixed | length])
    width = next(width for width in sized if length < 1 << 8 * width)
    return bytes([sized[width]]) + length.to_bytes(width, "big")


def quote(signature: bytes = b"signature") -> bytes:
    """The outline of a TD quote, version 4."""
    head = struct.pack("<HHI", 4, 2, 0x81) + bytes(40)
    return head + bytes(584) + len(signature).to_bytes(4, "little") + signature


def dstack_document(kind: str = "tdx", **changes: Any) -> dict[str, Any]:
    """A version 1 attestation of dstack; ``changes`` replace fields of the platform's data."""
    tpm = FULL.tpm
    assert tpm is not None
    event = {
        "imr": 3,
        "event_type": RUNTIME_TYPE,
        "digest": b"",
        "event": "app-id",
        "event_payload": bytes(20),
    }
    tpm_quote = {
        "message": tpm.quote,
        "signature": tpm.signature,
        "pcr_values": [{"index": 0, "algorithm": "sha256", "value": bytes(32)}],
        "ak_cert": b"",
        "platform": "gcp",
        "event_log": [],
    }
    data: dict[str, dict[str, Any]] = {
        "tdx": {"quote": list(quote()), "event_log": [event]},
        "gcp-tdx": {"quote": list(quote()), "event_log": [event], "tpm_quote": tpm_quote},
        "nitro-enclave": {"nsm_quote": []},
        "aws-nitro-tpm": {"attestation_doc": []},
        "sev-snp": {"report": list(bytes(1184)), "cert_chain": [[1, 2, 3]], "mr_config": "{}"},
    }
    stack = {
        "report_data": list(bytes(64)),
        "runtime_events": [{"event": "app-id", "payload": bytes(20)}],
        "config": '{"cpu_count":2}',
    }
    return {
        "version": 1,
        "platform": {"kind": kind, "data": data[kind] | changes},
        "stack": {"kind": "dstack", "data": stack},
    }


def dstack_msgpack(kind: str = "tdx", **changes: Any) -> bytes:
    """The same as bytes."""
    return msgpack(dstack_document(kind, **changes))


def _tcb(word: bytes, *, turin: bool | None) -> dict[str, Any]:
    parts: dict[str, Any]
    if turin:
        parts = {"fmc": word[0], "bootloader": word[1], "tee": word[2], "snp": word[3]}
    else:
        parts = {"bootloader": word[0], "tee": word[1], "snp": word[6]}
        parts |= {"_reserved": list(word[2:6])} if turin is None else {"fmc": None}
    return parts | {"microcode": word[7]}


def snp_fields(report: bytes, *, new: bool = False, turin: bool = False) -> dict[str, Any]:
    """The fields of a report as the virtee/sev crate writes them, of its older or newer form."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(report[at : at + size], "little")

    fields: dict[str, Any] = {
        "version": number(0, 4),
        "guest_svn": number(4, 4),
        "policy": number(8, 8),
        "family_id": list(report[0x10:0x20]),
        "image_id": list(report[0x20:0x30]),
        "vmpl": number(0x30, 4),
        "sig_algo": number(0x34, 4),
        "plat_info": number(0x40, 8),
        "report_data": list(report[0x50:0x90]),
        "measurement": list(report[0x90:0xC0]),
        "host_data": list(report[0xC0:0xE0]),
        "id_key_digest": list(report[0xE0:0x110]),
        "author_key_digest": list(report[0x110:0x140]),
        "report_id": list(report[0x140:0x160]),
        "report_id_ma": list(report[0x160:0x180]),
        "chip_id": list(report[0x1A0:0x1E0]),
    }
    kind = turin if new else None
    for name, at in (("current", 0x38), ("reported", 0x180), ("committed", 0x1E0), ("launch", 0x1F0)):
        fields[f"{name}_tcb"] = _tcb(report[at : at + 8], turin=kind)
    signature: dict[str, Any] = {"r": list(report[0x2A0:0x2E8]), "s": list(report[0x2E8:0x330])}
    if new:
        fields |= {"key_info": number(0x48, 4), "signature": signature}
        fields |= {"cpuid_fam_id": report[0x188], "cpuid_mod_id": report[0x189], "cpuid_step": report[0x18A]}
        for name, at in (("current", 0x1E8), ("committed", 0x1EC)):
            fields[name] = {"build": report[at], "minor": report[at + 1], "major": report[at + 2]}
        fields |= {"launch_mit_vector": None, "current_mit_vector": None}
        return fields
    fields |= {"_author_key_en": number(0x48, 4), "_reserved_0": 0, "_reserved_1": list(report[0x188:0x1A0])}
    for name, at in (("current", 0x1E8), ("committed", 0x1EC)):
        fields |= {f"{name}_build": report[at], f"{name}_minor": report[at + 1]}
        fields |= {f"{name}_major": report[at + 2]}
    fields |= {"_reserved_2": 0, "_reserved_3": 0, "_reserved_4": list(report[0x1F8:0x2A0])}
    fields["signature"] = signature | {"_reserved": list(bytes(368))}
    return fields


def snp_json(report: bytes, *, chain: Any = None, new: bool = False, turin: bool = False) -> bytes:
    """CoCo's evidence of an SEV-SNP guest."""
    fields = snp_fields(report, new=new, turin=turin)
    return json.dumps({"attestation_report": fields, "cert_chain": chain}).encode()
