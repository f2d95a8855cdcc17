"""No changed byte of good TPM evidence is accepted: quote, signature, keys, registers, certificates, lists,
HCL reports, NitroTPM documents; no other length, no part of another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import pytest
from cryptography import x509

from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, TpmPart
from attestation.platform_verification import PlatformFacts
from attestation.policy import AkProof, Policy
from attestation.tpm.td_report import UNREAD
from tests.attestation.tpm.test_azure import policy_for
from tests.support import nitro_pki
from tests.support.azure_evidence import SNP_GENOA, TDX, azure_container, unverified_facts
from tests.support.nitro_pki import NITROTPM, NitroPki
from tests.support.paper_tpm import BOTH_BANKS, NOW
from tests.support.tpm_containers import REGISTERS, PaperMachine, container, verify

UNREAD_IN_HCL = [32 + at for at in UNREAD]
"""CPUSVN and MAC of the TDREPORT inside: only the CPU that made it can check them, and nothing reads them."""
FIELDS = ("quote", "signature", "ak_public")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Evidence that passes, with what it passes under; ``fields`` of its part are changed."""

    evidence: EvidenceContainer
    policy: Policy
    fields: tuple[str, ...]
    now: int = NOW
    tee: PlatformFacts | None = None

    @property
    def part(self) -> TpmPart:
        assert self.evidence.tpm is not None
        return self.evidence.tpm

    def passes(self, evidence: EvidenceContainer) -> bool:
        return verify(evidence, self.policy, now=self.now, tee=self.tee).passed

    def passes_with(self, field: str, data: bytes) -> bool:
        change: dict[str, bytes] = {field: data}
        return self.passes(replace(self.evidence, tpm=changed(self.part, **change)))


def changed(part: TpmPart, **fields: bytes) -> TpmPart:
    """The part with other bytes in some fields."""
    values = {name: getattr(part, name) for name in TpmPart.__slots__} | fields
    return TpmPart(**values)


@cache
def machine(number: int) -> PaperMachine:
    return PaperMachine()


@cache
def credential(number: int = 0) -> Case:
    mine = machine(number)
    fields = (*FIELDS, "ek_certificate", "activated_secret")
    return Case(evidence=container(mine, mine.part()), policy=mine.policy(), fields=fields)


@cache
def certified(number: int = 0) -> Case:
    mine = machine(number)
    part = mine.part(ak_certificate=mine.issue_ak(), ek_certificate=None, activated_secret=None)
    policy = mine.policy(ak_proofs=frozenset({AkProof.AK_CERTIFICATE}))
    return Case(evidence=container(mine, part), policy=policy, fields=(*FIELDS, "ak_certificate"))


@cache
def azure(name: str) -> Case:
    evidence = azure_container(name)
    tee = unverified_facts(evidence)
    return Case(evidence=evidence, policy=policy_for(tee), fields=(*FIELDS, "hcl_report"), tee=tee)


@cache
def nitrotpm() -> Case:
    mine, pki = machine(0), NitroPki(module=NITROTPM)
    registers = nitro_pki.registers(REGISTERS["sha384"])
    document = pki.document(public_key=mine.ak_info, nitrotpm_pcrs=registers)
    part = mine.part(
        {"sha384": REGISTERS["sha384"]},
        selections=BOTH_BANKS[1:],
        nitro_document=document,
        ek_certificate=None,
        activated_secret=None,
    )
    policy = replace(mine.policy(ak_proofs=frozenset({AkProof.NITRO_DOCUMENT})), roots=(pki.anchor,))
    fields = (*FIELDS, "nitro_document")
    return Case(evidence=container(mine, part), policy=policy, fields=fields, now=nitro_pki.NOW)


CASES: dict[str, Callable[[], Case]] = {
    "credential": credential,
    "certificate": certified,
    "azure snp": lambda: azure(SNP_GENOA),
    "azure tdx": lambda: azure(TDX),
    "nitrotpm": nitrotpm,
}


def flips(data: bytes, *, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """Each byte once, with a bit that changes with its place."""
    for at in range(0, len(data), step):
        yield at, data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


@pytest.mark.parametrize("name", CASES)
def test_no_flipped_byte_is_accepted(name: str) -> None:
    case = CASES[name]()
    assert case.passes(case.evidence)
    for field in case.fields:
        data = getattr(case.part, field)
        # Every byte of a document is tried in the tests of Nitro.
        step = 7 if field == "nitro_document" else 1
        accepted = [at for at, other in flips(data, step=step) if case.passes_with(field, other)]
        assert accepted == (UNREAD_IN_HCL if (name, field) == ("azure tdx", "hcl_report") else []), field


@pytest.mark.parametrize("name", CASES)
def test_no_other_length_is_accepted(name: str) -> None:
    """Except for more zeros behind an HCL report, which pad it to the size of its NV index."""
    case = CASES[name]()
    for field in case.fields:
        data = getattr(case.part, field)
        padding = len(data) - len(data.rstrip(b"\0")) if field == "hcl_report" else 0
        sizes = range(0, len(data) - padding, 1 if len(data) < 2000 else 7)
        assert [size for size in sizes if case.passes_with(field, data[:size])] == [], field
        assert not case.passes_with(field, data + b"\1"), field
        assert case.passes_with(field, data + b"\0") is (field == "hcl_report"), field


@pytest.mark.parametrize("name", ["credential", "azure snp"])
def test_no_flipped_register_is_accepted(name: str) -> None:
    case = CASES[name]()
    accepted = []
    for bank, values in case.part.pcrs.items():
        for pcr, value in values.items():
            at = pcr % len(value)
            other = value[:at] + bytes([value[at] ^ 0x80]) + value[at + 1 :]
            pcrs = {**case.part.pcrs, bank: {**values, pcr: other}}
            if case.passes(replace(case.evidence, tpm=replace(case.part, pcrs=pcrs))):
                accepted.append((bank, pcr))
    assert accepted == []


@pytest.mark.parametrize("name", ["credential", "certificate"])
@pytest.mark.parametrize("place", [0, 1], ids=["root", "issuer"])
def test_no_flipped_byte_of_an_authority_is_accepted(name: str, place: int) -> None:
    case = CASES[name]()
    pool = list(case.evidence.certificates)
    accepted = []
    for at, other in flips(pool[place]):
        pool_now = tuple(other if number == place else one for number, one in enumerate(pool))
        if case.passes(replace(case.evidence, certificates=pool_now)):
            accepted.append(at)
    assert accepted == []


def test_a_flipped_byte_of_a_revoking_list_lets_nothing_pass() -> None:
    """Except in the issuer's name: such a list is one of another authority, and lists are not demanded."""
    case, mine = credential(), machine(0)
    serial = x509.load_der_x509_certificate(mine.tpm.ek_certificate).serial_number
    der = mine.revocation_list(serial)
    accepted = []
    for at, other in [(-1, der), *flips(der)]:
        evidence = replace(case.evidence, collateral=Collateral(crls=(other,)))
        if case.passes(evidence):
            accepted.append(at)
    name = der.find(b"paper issuer")
    assert set(accepted) <= set(range(name - 7, name + len(b"paper issuer")))


@pytest.mark.parametrize("make", [credential, certified])
def test_no_part_of_another_machine_is_accepted(make: Callable[[int], Case]) -> None:
    mine, theirs = make(0), make(1)
    assert theirs.passes(theirs.evidence)
    for field in mine.fields:
        # Both machines opened a secret of the same bytes: what differs is whose keys it was for.
        other = getattr(theirs.part, field)
        assert mine.passes_with(field, other) is (other == getattr(mine.part, field)), field
    assert not mine.passes(replace(mine.evidence, tpm=theirs.part))
    assert not mine.passes(theirs.evidence)
