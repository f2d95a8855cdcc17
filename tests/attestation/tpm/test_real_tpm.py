"""A real software TPM through the container's verifier, beside ``tpm2_checkquote`` and ``openssl``."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.container import EvidenceContainer, EvidencePlatform, TpmPart
from attestation.credential import new_secret
from attestation.policy import Measurements, MeasurementSet, Policy, RootPurpose
from attestation.report_data import qualifying_data
from attestation.tpm.activation import activation_value
from attestation.tpm_evidence import credential_for
from attestation.tpm_signature import public_key
from attestation.tpm_structures import parse_public
from tests.support.policies import only, permissive_policy
from tests.support.software_tpm_keys import AK, RSA_AK, SoftwareTpmKeys, software_tpm_keys
from tests.support.tools import require_tool
from tests.support.tpm_containers import anchor, failures, verify

pytestmark = pytest.mark.apt
REPORT_DATA = bytes(range(64))
QUALIFYING = qualifying_data(REPORT_DATA)
BANKS = {"sha256": 0x000B, "sha384": 0x000C}


@pytest.fixture(scope="module")
def tpm() -> Iterator[SoftwareTpmKeys]:
    with software_tpm_keys() as keys:
        for pcr in (0, 4, 7, 14):
            data = b"event %d" % pcr
            keys.extend(pcr, {bank: hashlib.new(bank, data).digest() for bank in ("sha256", "sha384")})
        yield keys


def evidence_of(tpm: SoftwareTpmKeys, template: bytes = AK) -> tuple[EvidenceContainer, Policy]:
    """Evidence with an opened credential, and a policy that was made with that credential."""
    key, public = tpm.create_ak(template)
    secret, certificate = new_secret(), tpm.ek_certificate()
    try:
        made = credential_for(ek_certificate=certificate, ak_public=public, secret=secret)
        opened = tpm.activate(key, made.id_object, made.encrypted_secret)
        quote, signature = tpm.quote(key, QUALIFYING)
    finally:
        tpm.flush(key)
    part = TpmPart(
        quote=quote,
        signature=signature,
        ak_public=public,
        pcrs=tpm.registers(),
        ek_certificate=certificate,
        activated_secret=opened,
    )
    evidence = EvidenceContainer(
        platform=EvidencePlatform.TPM, report=b"", certificates=(tpm.root, tpm.issuer), tpm=part
    )
    ek = x509.load_der_x509_certificate(certificate).public_key()
    ek_id = hashlib.sha256(ek.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    value = activation_value(secret=secret, ek_platform_id=ek_id, ak_name=parse_public(public).name)
    policy = permissive_policy(EvidencePlatform.TPM, roots=[anchor(tpm.root, RootPurpose.TPM_EK)])
    assert policy.tpm is not None
    registers = {f"{bank}:4": values[4] for bank, values in part.pcrs.items()}
    strict = replace(
        policy.tpm,
        banks=frozenset({"sha256", "sha384"}),
        pcrs=frozenset(range(15)),
        activation_secrets=only(value.hex()),
        platform_ids=only(ek_id.hex()),
        measurements=Measurements(sets=(MeasurementSet(name="booted", registers=registers),)),
    )
    return evidence, replace(policy, tpm=strict, report_data=only(REPORT_DATA.hex()))


def outcome(evidence: EvidenceContainer, policy: Policy) -> list[str]:
    return failures(verify(evidence, policy, now=int(time.time())))


@pytest.mark.parametrize("template", [AK, RSA_AK], ids=["ecc", "rsa"])
def test_a_real_tpm_passes_a_full_policy(tpm: SoftwareTpmKeys, template: bytes) -> None:
    evidence, policy = evidence_of(tpm, template)
    result = verify(evidence, policy, now=int(time.time()))
    assert failures(result) == []
    assert result.facts is not None
    assert result.facts.details["tpm"].startswith("id:00001014 swtpm")
    assert len(result.windows) == 3


def test_a_real_secret_of_one_request_is_refused_in_another(tpm: SoftwareTpmKeys) -> None:
    first, _ = evidence_of(tpm)
    _, second = evidence_of(tpm)
    assert outcome(first, second) == ["credential-activation"]


def serialized(part: TpmPart) -> bytes:
    """Registers as tpm2-tools keeps them: its own structures, little endian (tpm2-tools ``lib/pcr.c``):
    TPML_PCR_SELECTION with room for 16 banks, then lists of up to 8 digests with room for 64 bytes each.
    """
    banks = [
        struct.pack("<HB4sx", BANKS[bank], 3, sum(1 << pcr for pcr in values).to_bytes(4, "little"))
        for bank, values in part.pcrs.items()
    ]
    selection = struct.pack("<I", len(banks)) + b"".join(banks).ljust(16 * 8, b"\0")
    values = [value for bank in part.pcrs.values() for _, value in sorted(bank.items())]
    digests = [struct.pack("<H64s", len(value), value) for value in values]
    lists = [digests[at : at + 8] for at in range(0, len(digests), 8)]
    written = [struct.pack("<I", len(one)) + b"".join(one).ljust(8 * 66, b"\0") for one in lists]
    return selection + struct.pack("<I", len(lists)) + b"".join(written)


def checkquote(folder: Path, part: TpmPart, qualifying: bytes) -> bool:
    """Whether ``tpm2_checkquote`` accepts signature, qualifying data and registers."""
    program = require_tool("tpm2_checkquote", package="tpm2-tools")
    key = public_key(parse_public(part.ak_public))
    files = {
        "key": key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "message": part.quote,
        "signature": part.signature,
        "pcrs": serialized(part),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    command = [program, "-u", "key", "-m", "message", "-s", "signature", "-f", "pcrs"]
    command += ["-g", "sha256", "-q", qualifying.hex()]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def with_register(part: TpmPart, bank: str, pcr: int) -> TpmPart:
    values = {**part.pcrs[bank], pcr: flip(part.pcrs[bank][pcr], 0)}
    return replace(part, pcrs={**part.pcrs, bank: values})


Change = Callable[[TpmPart, TpmPart], TpmPart]
CHANGES: dict[str, tuple[Change, bytes]] = {
    "nothing": (lambda part, other: part, QUALIFYING),
    "another nonce": (lambda part, other: part, qualifying_data(bytes(64))),
    "a register of SHA-256": (lambda part, other: with_register(part, "sha256", 4), QUALIFYING),
    "a register of SHA-384": (lambda part, other: with_register(part, "sha384", 14), QUALIFYING),
    "the signature": (
        lambda part, other: replace(part, signature=flip(part.signature, len(part.signature) - 1)),
        QUALIFYING,
    ),
    "the clock": (lambda part, other: replace(part, quote=flip(part.quote, 80)), QUALIFYING),
    "the last byte of the digest": (
        lambda part, other: replace(part, quote=flip(part.quote, len(part.quote) - 1)),
        QUALIFYING,
    ),
    "the key": (lambda part, other: replace(part, ak_public=other.ak_public), QUALIFYING),
    "another key's quote": (
        lambda part, other: replace(part, quote=other.quote, signature=other.signature),
        QUALIFYING,
    ),
}


@pytest.mark.parametrize("template", [AK, RSA_AK], ids=["ecc", "rsa"])
def test_tpm2_checkquote_gives_the_same_answers(
    tpm: SoftwareTpmKeys, template: bytes, tmp_path: Path
) -> None:
    evidence, policy = evidence_of(tpm, template)
    other, _ = evidence_of(tpm, RSA_AK if template is AK else AK)
    assert evidence.tpm is not None
    assert other.tpm is not None
    assert policy.tpm is not None
    answers = {}
    for name, (change, qualifying) in CHANGES.items():
        part = change(evidence.tpm, other.tpm)
        asked = replace(policy, report_data=only(qualifying.hex()))
        ours = not outcome(replace(evidence, tpm=part), asked)
        answers[name] = (ours, checkquote(tmp_path, part, qualifying))
    assert answers == {name: (name == "nothing",) * 2 for name in CHANGES}


def openssl_verifies(folder: Path, leaf: bytes, *, root: bytes, others: list[bytes], now: int) -> bool:
    """Whether ``openssl verify`` finds the chain good at a time."""
    program = require_tool("openssl", package="openssl")
    pem = partial(x509.Certificate.public_bytes, encoding=Encoding.PEM)
    for name, ders in {"leaf": [leaf], "root": [root], "others": others or [root]}.items():
        data = b"".join(pem(x509.load_der_x509_certificate(der)) for der in ders)
        (folder / name).write_bytes(data)
    command = [program, "verify", "-no-CApath", "-no-CAstore", "-CAfile", "root", "-untrusted", "others"]
    command += ["-attime", str(now), "leaf"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def test_openssl_gives_the_same_answers_for_ek_chains(tpm: SoftwareTpmKeys, tmp_path: Path) -> None:
    evidence, policy = evidence_of(tpm)
    now = int(time.time())
    with software_tpm_keys() as stranger:
        cases = {
            "good": (tpm.root, [tpm.issuer], now),
            "another root": (stranger.root, [tpm.issuer], now),
            "another issuer": (tpm.root, [stranger.issuer], now),
            "no issuer": (tpm.root, [], now),
            "a year before": (tpm.root, [tpm.issuer], now - 366 * 86400),
        }
        answers = {}
        for name, (root, others, moment) in cases.items():
            asked = replace(policy, roots=(anchor(root, RootPurpose.TPM_EK),))
            given = replace(evidence, certificates=(root, *others))
            ours = failures(verify(given, asked, now=moment))
            theirs = openssl_verifies(tmp_path, tpm.ek_certificate(), root=root, others=others, now=moment)
            answers[name] = (not ours, theirs)
    assert answers["good"] == (True, True)
    assert {ours for ours, _ in list(answers.values())[1:]} == {False}
    assert [name for name, (ours, theirs) in answers.items() if ours != theirs] == []
