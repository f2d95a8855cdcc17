"""The registers that measurement sets may name are those that the verifiers find, with their sizes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from attestation.container import EvidencePlatform
from attestation.dcap.enclave_report import REPORT_SIZE, parse_enclave_report
from attestation.dcap.facts import registers_of as dcap_registers
from attestation.nitro.verify import registers_of as nitro_registers
from attestation.policy_measurements import REGISTERS
from attestation.snp.report_facts import registers_of as snp_registers
from measurements.nitro.cose import CoseSign1
from measurements.nitro.document import NitroDocument, NitroModule
from measurements.sev.report import parse_report
from measurements.tdx.quote import BodyType, parse_td_body
from tests.support.vectors import vector


def sizes(registers: Mapping[str, bytes]) -> dict[str, int]:
    return {name: len(value) for name, value in registers.items()}


def test_every_platform_has_registers() -> None:
    assert set(REGISTERS) == set(EvidencePlatform)


def test_trust_domains() -> None:
    body = parse_td_body(bytes(BodyType.TDX_1_5.size), BodyType.TDX_1_5)
    assert sizes(dcap_registers(body)) == REGISTERS[EvidencePlatform.TDX]
    assert REGISTERS[EvidencePlatform.SIM] == REGISTERS[EvidencePlatform.TDX]


def test_enclaves() -> None:
    report = parse_enclave_report(bytes(REPORT_SIZE))
    assert sizes(dcap_registers(report)) == REGISTERS[EvidencePlatform.SGX]


def test_snp_guests() -> None:
    report = parse_report(vector("attestation/snp/trustee-report.bin").read_bytes())
    assert sizes(snp_registers(report)) == REGISTERS[EvidencePlatform.SNP]


@pytest.mark.parametrize("kind", NitroModule)
def test_nitro_documents(kind: NitroModule) -> None:
    document = NitroDocument(
        message=CoseSign1(protected=b"", algorithm=-35, payload=b"", signature=b""),
        kind=kind,
        module="",
        instance="",
        timestamp=0,
        pcrs={number: bytes(48) for number in range(32)},
        certificate=b"",
        cabundle=(),
        public_key=None,
        user_data=None,
        nonce=None,
    )
    found = sizes(nitro_registers(document))
    assert len(found) == 32
    assert found.items() <= REGISTERS[EvidencePlatform.NITRO].items()
