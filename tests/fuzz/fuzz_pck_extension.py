"""Fuzz target: the SGX extension of PCK certificates."""

from __future__ import annotations

from attestation.dcap.pck_extension import parse_pck_extension
from attestation.sim.platform import SimPlatform, sgx_extension
from measurements.errors import KeyturnError

NAME = "pck-extension"


def seeds() -> list[bytes]:
    """Extensions of both certificate authorities."""
    return [
        sgx_extension(SimPlatform()),
        sgx_extension(SimPlatform(pce_svn=0x1234, smt=True, sgx_type=2)),
        sgx_extension(SimPlatform(), processor_ca=True),
    ]


def target(data: bytes) -> None:
    """What can be read has one encoding of each value, and the components are the CPU SVN."""
    try:
        found = parse_pck_extension(data)
    except KeyturnError:
        return
    assert bytes(found.components) == found.cpu_svn
    assert len(found.ppid) == 16
    flags = (found.dynamic_platform, found.cached_keys, found.smt)
    if found.platform_instance is not None and None not in flags:
        again = SimPlatform(
            ppid=found.ppid,
            components=found.components,
            pce_svn=found.pce_svn,
            pce_id=found.pce_id,
            fmspc=found.fmspc,
            sgx_type=found.sgx_type,
            platform_instance=found.platform_instance,
            dynamic_platform=bool(found.dynamic_platform),
            cached_keys=bool(found.cached_keys),
            smt=bool(found.smt),
        )
        assert parse_pck_extension(sgx_extension(again)) == found
