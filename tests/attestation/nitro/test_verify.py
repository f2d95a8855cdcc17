"""Nitro documents: real ones at their own times, generated ones for all that no public document shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.nitro.verify import verify_nitro
from attestation.platform_verification import PlatformVerification
from attestation.policy import Measurements, MeasurementSet, Policy
from measurements.nitro.document import parse_document
from tests.measurements.nitro.test_document import DEBUG, DSTACK, EVERVAULT, document_bytes
from tests.support.nitro_pki import ENCLAVE, NITROTPM, NOW, Change, NitroPki, registers
from tests.support.paper_tpm import key_usage
from tests.support.policies import only, permissive_policy

# Times from the manifest of the vectors (attestation, section 2), in seconds.
TIMES = {
    "dstack-nsm.bin": 1766668537,
    "dstack-nsm-app.bin": 1766678659,
    "dstack-nsm-debug.bin": 1766650846,
    "evervault-valid.bin": 1665651482,
    "evervault-debug.bin": 1665582606,
    "evervault-valid-ga.b64": 1695049410,
}
POLICY = permissive_policy(EvidencePlatform.NITRO)


@cache
def pki(module: str = ENCLAVE) -> NitroPki:
    return NitroPki(module=module)


def verify(
    document: bytes, *, policy: Policy = POLICY, now: int = NOW, of: NitroPki | None = None
) -> PlatformVerification:
    trusted = replace(policy, roots=(of.anchor,)) if of else policy
    return verify_nitro(
        EvidenceContainer(platform=EvidencePlatform.NITRO, report=document),
        collateral=Collateral(),
        anchors=anchors_for(trusted),
        policy=trusted,
        now=now,
    )


def failures(result: PlatformVerification) -> list[str]:
    made = [check for group in result.groups for check in group.checks if not check.passed]
    assert all(check.reason and check.advice for check in made)
    assert result.passed is (not made) is (result.facts is not None)
    return [check.name for check in made if check.found != "not checked"]


def section(**changes: Any) -> Policy:
    assert POLICY.nitro is not None
    return replace(POLICY, nitro=replace(POLICY.nitro, **changes))


@pytest.mark.parametrize("name", [*DSTACK, *EVERVAULT])
def test_real_documents_at_their_own_time(name: str) -> None:
    result = verify(document_bytes(name), now=TIMES[name])
    assert failures(result) == (["debug"] if name in DEBUG else [])
    assert len(result.chain) == 5
    assert result.windows[0].start <= TIMES[name] <= result.windows[0].end


@pytest.mark.parametrize("name", [*DSTACK, *EVERVAULT])
def test_real_documents_are_refused_outside_their_certificates_hours(name: str) -> None:
    document = document_bytes(name)
    end = verify(document, now=TIMES[name]).windows[0].end
    last = failures(verify(document, now=end))
    assert "certificate-validity" not in last
    for now in (end + 1, TIMES[name] - 86400, 0, 1 << 34):
        assert failures(verify(document, now=now)) == ["certificate-validity"]


def test_facts_of_a_real_document() -> None:
    name = "evervault-valid.bin"
    document = parse_document(document_bytes(name))
    facts = verify(document_bytes(name), now=TIMES[name]).facts
    assert facts is not None
    assert facts.registers == {f"pcr{number}": document.pcrs[number] for number in range(16)}
    assert facts.identity == {"module_id": document.module, "instance_id": document.instance}
    assert document.nonce is not None
    assert (facts.report_data, facts.details["nonce"]) == (b"", document.nonce.hex())
    assert not facts.development


def test_age_is_counted_to_the_second() -> None:
    name = "dstack-nsm.bin"
    document = document_bytes(name)
    policy = section(max_age=60)
    for age, expected in ((0, []), (60, []), (61, ["document-age"]), (-1, ["document-age"])):
        assert failures(verify(document, policy=policy, now=TIMES[name] + age)) == expected


def test_the_policy_decides_on_module_measurements_and_user_data() -> None:
    document = pki().document()
    one = MeasurementSet(name="mine", registers={"pcr0": registers()[0], "pcr8": registers()[8]})
    other = MeasurementSet(name="other", registers={"pcr0": bytes(48)})
    strict = replace(
        section(module_ids=only(ENCLAVE), measurements=Measurements(sets=(other, one))),
        report_data=only(b"request".hex()),
    )
    assert failures(verify(document, policy=strict, of=pki())) == []
    wrong = replace(
        section(module_ids=only("i-1"), measurements=Measurements(sets=(other,))),
        report_data=only(b"another".hex()),
    )
    assert failures(verify(document, policy=wrong, of=pki())) == ["module-id", "measurements", "report-data"]
    assert failures(verify(pki().document(user_data=None), policy=strict, of=pki())) == ["report-data"]


def test_a_policy_without_nitro_refuses() -> None:
    policy = permissive_policy(EvidencePlatform.SNP)
    assert failures(verify(document_bytes("dstack-nsm.bin"), policy=policy)) == ["platform-allowed"]


def test_documents_of_a_generated_pki_need_its_root_in_the_policy() -> None:
    assert failures(verify(pki().document(), of=pki())) == []
    assert failures(verify(pki().document())) == ["certificate-chain"]
    assert failures(verify(pki().document(), of=pki(NITROTPM))) == ["certificate-chain"]


@pytest.mark.parametrize("missing", [[], ["public_key", "user_data", "nonce"]])
def test_a_nitrotpm_document(missing: list[str]) -> None:
    """The form of the EC2 User Guide; no document of a NitroTPM is among the vectors."""
    mine = pki(NITROTPM)
    document = mine.document(lambda fields: [fields.pop(name) for name in missing])
    result = verify(document, of=mine)
    assert failures(result) == []
    assert result.facts is not None
    assert result.facts.registers["nitrotpm_pcr4"] == registers()[4]
    assert "pcr4" not in result.facts.registers
    assert result.facts.details["kind"] == "NitroTPM"


@pytest.mark.parametrize(
    ("module", "zero", "refused"),
    [
        (ENCLAVE, [0, 1, 2], True),
        (ENCLAVE, [0], True),
        (ENCLAVE, [2], True),
        (ENCLAVE, [3, 5, 8], False),
        (NITROTPM, [4], True),
        (NITROTPM, [0, 7], True),
        (NITROTPM, [8, 12], False),
    ],
)
def test_registers_at_zero_mean_debug(module: str, zero: list[int], refused: bool) -> None:
    field = "pcrs" if module == ENCLAVE else "nitrotpm_pcrs"
    zeros = registers({number: bytes(48) for number in zero})
    document = pki(module).document(lambda fields: fields.update({field: zeros}))
    assert failures(verify(document, of=pki(module))) == (["debug"] if refused else [])


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(module_id=NITROTPM),
        lambda fields: fields.update(nitrotpm_pcrs=fields["pcrs"]),
        lambda fields: fields.update(nitrotpm_pcrs=fields.pop("pcrs")),
        lambda fields: fields.update(digest="SHA512"),
        lambda fields: fields["pcrs"].update({5: bytes(32)}),
        lambda fields: fields["pcrs"].update({5: bytes(64)}),
        lambda fields: fields["pcrs"].pop(0),
        lambda fields: fields.pop("nonce"),
    ],
)
def test_other_forms_are_refused(change: Change) -> None:
    assert failures(verify(pki().document(change), of=pki())) == ["document-form"]


@pytest.mark.parametrize(
    "bundle",
    [
        lambda mine: list(reversed(mine.bundle)),
        lambda mine: [*mine.bundle, mine.leaf],
        lambda mine: mine.bundle[1:],
        lambda mine: [mine.bundle[0], *mine.bundle],
        lambda mine: [mine.bundle[0], mine.bundle[2]],
        lambda mine: [*pki(NITROTPM).bundle[:1], *mine.bundle],
    ],
)
def test_the_bundle_is_exactly_the_chain(bundle: Callable[[NitroPki], list[bytes]]) -> None:
    document = pki().document(cabundle=bundle(pki()))
    assert failures(verify(document, of=pki())) == ["certificate-chain"]


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (lambda: NitroPki(leaf_usage=key_usage(key_cert_sign=True)), "certificate-usage"),
        (lambda: NitroPki(leaf_usage=key_usage(digital_signature=True, crl_sign=True)), "certificate-usage"),
        (
            lambda: NitroPki(leaf_usage=key_usage(digital_signature=True, key_agreement=True)),
            "certificate-usage",
        ),
        (lambda: NitroPki(leaf_ca=True), "certificate-usage"),
        (lambda: NitroPki(leaf_name="i-0123456789abcdef1-enc0.us-east-1.aws"), "certificate-usage"),
        (lambda: NitroPki(leaf_extension=x509.OCSPNoCheck()), "certificate-usage"),
        (lambda: NitroPki(leaf_life=3599), "certificate-validity"),
        (lambda: NitroPki(issuer_life=3599), "certificate-validity"),
        (lambda: NitroPki(issuer_ca=False), "certificate-chain"),
    ],
)
def test_certificates_in_another_role_are_refused(make: Callable[[], NitroPki], check: str) -> None:
    other = make()
    assert failures(verify(other.document(), of=other)) == [check]


@pytest.mark.parametrize(("curve", "algorithm"), [(ec.SECP256R1(), -7), (ec.SECP521R1(), -36)])
def test_other_algorithms_and_curves_are_refused(curve: ec.EllipticCurve, algorithm: int) -> None:
    other = NitroPki(leaf_curve=curve)
    assert failures(verify(other.document(algorithm=algorithm), of=other)) == ["document-algorithm"]


def test_a_key_of_another_curve_is_refused_under_the_right_algorithm() -> None:
    other = NitroPki(leaf_curve=ec.SECP256R1())
    assert failures(verify(other.document(), of=other)) == ["certificate-usage"]


@pytest.mark.parametrize("size", [0, 95, 97, 104])
def test_signatures_of_another_size_are_refused(size: int) -> None:
    protected, unprotected, payload, signature = cbor2.loads(pki().document())
    resized = (signature + bytes(8))[:size]
    message = cbor2.dumps([protected, unprotected, payload, resized])
    assert failures(verify(message, of=pki())) == ["document-signature"]


def test_signature_numbers_beyond_the_order_are_refused() -> None:
    protected, unprotected, payload, _ = cbor2.loads(pki().document())
    for signature in (bytes(96), b"\xff" * 96, bytes(48) + b"\1" * 48):
        message = cbor2.dumps([protected, unprotected, payload, signature])
        assert failures(verify(message, of=pki())) == ["document-signature"]


def test_a_payload_under_another_documents_signature_is_refused() -> None:
    first, second = cbor2.loads(pki().document()), cbor2.loads(pki().document(user_data=b"other"))
    assert failures(verify(cbor2.dumps([*first[:3], second[3]]), of=pki())) == ["document-signature"]


def test_what_is_no_document_is_refused() -> None:
    for data in (b"", b"\0", bytes(40000), b"\xff" * 100, cbor2.dumps([b"", {}, b"", b""])):
        assert failures(verify(data)) == ["document-form"]
