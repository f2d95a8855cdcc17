"""Real dstack deployments among the vectors, as their projects publish them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.support.vectors import vector

PAIRS = ("quote-report", "dstack-examples", "dstack-simulator")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Quote, event log (JSON) and the VM's configuration (JSON, or nothing) of one deployment."""

    quote: bytes
    event_log: bytes
    vm_config: bytes | None


def report(name: str) -> Report:
    """One of ``PAIRS``."""
    if name == "dstack-simulator":
        folder = "tdx-ccel-pairs/dstack-simulator"
        return Report(
            quote=bytes.fromhex(vector(f"{folder}/quote.hex").read_text().strip().removeprefix("0x")),
            event_log=vector(f"{folder}/eventlog.json").read_bytes(),
            vm_config=None,
        )
    path = {
        "quote-report": "dstack/quote-report.json",
        "dstack-examples": "tdx-ccel-pairs/dstack-examples/report.json",
    }[name]
    document = json.loads(vector(path).read_bytes())
    config = document.get("vm_config")
    return Report(
        quote=bytes.fromhex(document["quote"]),
        event_log=document["event_log"].encode(),
        vm_config=config.encode() if config else None,
    )


def attestation(name: str) -> bytes:
    """The SCALE container in ``tdx-lite-attestation`` or ``sev-snp-attestation``."""
    return bytes.fromhex(json.loads(vector(f"dstack/{name}.json").read_bytes())["attestation"])


def vm_config(name: str) -> bytes:
    """The configuration at the end of a container."""
    data = attestation(name)
    return data[data.index(b'{"os_image_hash"') :]
