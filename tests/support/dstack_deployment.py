"""A whole dstack deployment on TDX for tests: image, machine, app, and the report that fits them.

The quote has no signature, which nothing that is tested with it looks at. Every part can be changed before
the report is made (the report then fits the change) or after (then it does not).
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import cbor2

from measurements.dstack.app_compose import Deployment, boot_events, parse_app_compose
from measurements.dstack.boot_log import (
    AcpiDigests,
    Measured,
    empty_variable_store,
    rtmr0_events,
    rtmr1_events,
    rtmr2_events,
    sha384,
)
from measurements.dstack.event_log import replay_digests
from measurements.dstack.lite import parse_witness
from measurements.dstack.mr_config import config_id_v1
from measurements.dstack.runtime_events import RuntimeEvent

WITNESS = bytes.fromhex("80100904000609020b021010")
MEMORY = 4 << 30
COMPOSE = json.dumps(
    {"manifest_version": 2, "name": "demo", "runner": "docker-compose", "kms_enabled": True}
).encode()
ACPI = AcpiDigests(loader=b"\x0a" * 48, rsdp=b"\x0b" * 48, tables=b"\x0c" * 48, origin="test")
DOCUMENT: dict[str, Any] = {
    "version": 3,
    "image": {
        "cmdline_sha384": b"\x01" * 48,
        "kernel_authenticode": b"\x02" * 48,
        "initrd_sha384": b"\x03" * 48,
    },
    "tdvf": {
        "ovmf": "pre202505",
        "mrtd": {"single_pass": b"\x04" * 48, "two_pass": b"\x05" * 48},
        "td_hob": WITNESS,
    },
}


@dataclass
class DstackGuest:
    """The parts; ``report`` puts them together."""

    mrtd: bytes = b"\x04" * 48
    acpi: AcpiDigests = ACPI
    compose: bytes = COMPOSE
    document: dict[str, Any] = field(default_factory=lambda: DOCUMENT)
    config_id: bytes | None = None
    td_attributes: bytes = bytes.fromhex("0000001000000000")
    report_data: bytes = b"nonce".ljust(64, b"\0")
    vm: dict[str, Any] = field(default_factory=dict)
    app_events: tuple[RuntimeEvent, ...] = ()
    stripped_digests: bool = False

    @property
    def measurement(self) -> bytes:
        """``measurement.tdx.cbor``."""
        return cbor2.dumps(self.document)

    @property
    def checksum_file(self) -> bytes:
        """``sha256sum.txt``, which names the measurement document alone."""
        return f"{hashlib.sha256(self.measurement).hexdigest()}  measurement.tdx.cbor\n".encode()

    @property
    def image_hash(self) -> bytes:
        """The OS image's hash."""
        return hashlib.sha256(self.checksum_file).digest()

    def vm_config(self) -> dict[str, Any]:
        """The host's configuration."""
        return {
            "os_image_hash": self.image_hash.hex(),
            "cpu_count": 2,
            "memory_size": MEMORY,
            "qemu_version": "9.2.1",
            "tdx_measurement": {
                "measurement": base64.b64encode(self.measurement).decode(),
                "checksum_file": base64.b64encode(self.checksum_file).decode(),
            },
            **self.vm,
        }

    def runtime(self) -> tuple[RuntimeEvent, ...]:
        """The runtime events of the boot and of the app."""
        deployment = Deployment(instance_id=b"\x06" * 20, provider_id="ab", os_image_hash=self.image_hash)
        return (*boot_events(parse_app_compose(self.compose), deployment), *self.app_events)

    def firmware_digests(self) -> list[list[bytes]]:
        """The digests of RTMR0 to RTMR2."""
        image = DOCUMENT["image"]
        assert isinstance(image, dict)

        def measured(digest: bytes) -> Measured:
            return Measured(digest=digest, origin="test")

        hob = measured(sha384(parse_witness(WITNESS).td_hob(MEMORY)))
        variables = measured(sha384(empty_variable_store()))
        events = (
            rtmr0_events(td_hob=hob, variables=variables, acpi=self.acpi),
            rtmr1_events(measured(image["kernel_authenticode"])),
            rtmr2_events(
                command_line=measured(image["cmdline_sha384"]), initrd=measured(image["initrd_sha384"])
            ),
        )
        return [[event.digests["sha384"] for event in register] for register in events]

    def log(self) -> list[dict[str, Any]]:
        """The event log, RTMR by RTMR."""
        entries = [
            {"imr": register, "event_type": 4, "digest": digest.hex(), "event": "", "event_payload": ""}
            for register, found in enumerate(self.firmware_digests())
            for digest in found
        ]
        entries += [
            {
                "imr": 3,
                "event_type": 134217729,
                "digest": "" if self.stripped_digests else event.digest().hex(),
                "event": event.name,
                "event_payload": event.payload.hex(),
            }
            for event in self.runtime()
        ]
        return entries

    def quote(self) -> bytes:
        """A quote of version 4 over the registers."""
        registers = [replay_digests(found) for found in self.firmware_digests()]
        registers.append(replay_digests(event.digest() for event in self.runtime()))
        config_id = config_id_v1(hashlib.sha256(self.compose).digest())
        body = bytes(16) + bytes(48) * 2 + bytes(8) + self.td_attributes + bytes(8) + self.mrtd
        body += (config_id if self.config_id is None else self.config_id) + bytes(96)
        body += b"".join(registers) + self.report_data
        header = struct.pack("<HHIHH16s20s", 4, 2, 0x81, 0, 0, bytes(16), bytes(20))
        return header + body + struct.pack("<I", 4) + b"sign"

    def report(self, **changes: Any) -> bytes:
        """The report as JSON, with other fields where ``changes`` says."""
        document = {
            "quote": self.quote().hex(),
            "event_log": json.dumps(self.log()),
            "report_data": self.report_data.hex(),
            "vm_config": json.dumps(self.vm_config()),
        }
        return json.dumps({**document, **changes}).encode()
