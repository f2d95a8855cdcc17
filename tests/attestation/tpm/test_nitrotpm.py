"""Keys in NitroTPM documents: only what the hypervisor signed is proven, since software names the key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from attestation.policy import AkProof, Policy
from tests.support import nitro_pki
from tests.support.nitro_pki import ENCLAVE, NITROTPM, Change, NitroPki
from tests.support.paper_tpm import BOTH_BANKS
from tests.support.tpm_containers import REGISTERS, PaperMachine, container, failures, verify

BANK = {"sha384": REGISTERS["sha384"]}
SELECTION = BOTH_BANKS[1:]


@cache
def machine() -> PaperMachine:
    return PaperMachine()


@cache
def pki(module: str) -> NitroPki:
    return NitroPki(module=module)


def policy() -> Policy:
    usual = machine().policy(ak_proofs=frozenset({AkProof.NITRO_DOCUMENT}))
    return replace(usual, roots=(pki(NITROTPM).anchor, pki(ENCLAVE).anchor))


def document(change: Change = dict, *, module: str = NITROTPM) -> bytes:
    field = "pcrs" if module == ENCLAVE else "nitrotpm_pcrs"
    quoted = nitro_pki.registers(BANK["sha384"])

    def fill(fields: dict[str, object]) -> None:
        fields |= {"public_key": machine().ak_info, field: dict(quoted)}
        change(fields)

    return pki(module).document(fill)


def outcome(data: bytes, *, now: int = nitro_pki.NOW, both: bool = False) -> list[str]:
    registers, selections = (REGISTERS, BOTH_BANKS) if both else (BANK, SELECTION)
    part = machine().part(
        registers,
        selections=selections,
        nitro_document=data,
        ek_certificate=None,
        activated_secret=None,
    )
    return failures(verify(container(machine(), part), policy(), now=now))


def test_a_key_in_a_document_passes_with_the_documents_registers() -> None:
    assert outcome(document()) == []


def test_registers_beyond_the_document_are_not_proven() -> None:
    """The key could be one of software, which signs any register."""
    assert outcome(document(), both=True) == ["document-registers"]
    assert outcome(document(lambda fields: fields["nitrotpm_pcrs"].pop(14))) == ["document-registers"]
    other = document(lambda fields: fields["nitrotpm_pcrs"].update({4: b"\1" * 48}))
    assert outcome(other) == ["document-registers"]


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (lambda: document(lambda fields: fields.update(public_key=None)), "document-key"),
        (lambda: document(lambda fields: fields.update(public_key=b"k")), "document-key"),
        (lambda: document(lambda fields: fields.update(public_key=PaperMachine().ak_info)), "document-key"),
        (lambda: document(module=ENCLAVE), "document-nitrotpm"),
        (lambda: NitroPki(module=NITROTPM).document(), "certificate-chain"),
        (lambda: document()[:-1], "document-form"),
        (lambda: document()[:-1] + b"\0", "document-signature"),
    ],
)
def test_other_documents_are_refused(data: Callable[[], bytes], check: str) -> None:
    assert outcome(data()) == [check]


def test_an_instance_that_measured_nothing_is_refused() -> None:
    failed = outcome(document(lambda fields: fields["nitrotpm_pcrs"].update({7: bytes(48)})))
    assert failed == ["debug", "document-registers"]


def test_the_documents_certificate_lives_for_hours() -> None:
    assert outcome(document(), now=nitro_pki.NOW + 3 * 3600) == ["certificate-validity"]
