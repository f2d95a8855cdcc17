"""Attributes, service TDs and extended bodies of trust domains, and disagreement with dcap-qvl."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

import attestation.dcap.verify
from attestation.anchors import anchors_for
from attestation.collateral import Collateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.dcap.library import LibraryVerdict, library_verdict
from attestation.dcap.verify import verify_dcap
from attestation.platform_verification import PlatformVerification
from attestation.policy import Allowed, TcbStatus
from attestation.sim.quote import SimEnclave, sgx_quote, sim_domain, td_quote
from measurements.tdx.quote import BodyType, TdBody, TdExtension
from tests.support.dcap_cases import SGX_V3, TDX_V4, case, extended_case, failed_checks, failed_names
from tests.support.policies import ANY, NONE, only, permissive_dcap, permissive_policy
from tests.support.sim_pki import NOW, pki

HASH, OTHER = bytes(range(48)), bytes(range(1, 49))
SEPT_VE_DISABLE, SERVTD_EXT, MIGRATABLE = 1 << 28, 1 << 17, 1 << 29
PLAIN = TdExtension(
    vm_index=0,
    td_id=bytes(32),
    device_info=bytes(48),
    initial_service_td_hash=bytes(48),
    initial_service_td_attributes=bytes(8),
    initial_cpu_svn=bytes(16),
    initial_tee_tcb_svn=bytes(16),
    initial_fmspc=bytes(12),
    service_td_hash=bytes(48),
    service_td_attributes=bytes(8),
)


def judge(quote: bytes, **rules: Any) -> PlatformVerification:
    section = replace(permissive_dcap(), **rules)
    policy = replace(permissive_policy(EvidencePlatform.SIM, roots=[pki().anchor()]), sim=section)
    return verify_dcap(
        EvidenceContainer(platform=EvidencePlatform.SIM, report=quote),
        collateral=pki().collateral(),
        anchors=anchors_for(policy),
        policy=policy,
        now=NOW,
    )


def domain(attributes: int = SEPT_VE_DISABLE, kind: BodyType = BodyType.TDX_1_0, **fields: Any) -> TdBody:
    body = sim_domain(version=min(kind, BodyType.TDX_1_5))
    extension = PLAIN if kind is BodyType.TDX_1_5_EXTENDED else None
    return replace(
        body, kind=kind, td_attributes=attributes.to_bytes(8, "little"), **{"extension": extension, **fields}
    )


def failing(body: TdBody, **rules: Any) -> list[str]:
    version = 4 if body.kind is BodyType.TDX_1_0 else 5
    return failed_names(judge(td_quote(pki(), body, version=version), **rules))


@pytest.mark.parametrize("bit", range(64))
def test_every_attribute_bit_has_its_rule(bit: int) -> None:
    if bit < 8:
        expected = ["debug"]
    elif bit in (*range(8, 16), *range(23, 27), *range(32, 62)):
        expected = ["reserved-attributes"]
    else:
        expected = {17: ["service-td"], 29: ["migratable"]}.get(bit, [])
    assert failing(domain(SEPT_VE_DISABLE | 1 << bit), migratable=False, service_tds=NONE) == expected


def test_nothing_but_sept_ve_disable_has_to_be_set() -> None:
    assert failing(domain(0)) == ["sept-ve-disable"]
    assert failing(domain()) == []


def test_a_module_with_attributes_is_refused() -> None:
    assert failing(domain(seam_attributes=b"\1" + bytes(7))) == ["seam-attributes"]
    assert failing(domain(mrsignerseam=b"\1" + bytes(47))) == ["tdx-module"]


def test_an_extended_body_is_verified() -> None:
    result = judge(td_quote(pki(), domain(kind=BodyType.TDX_1_5_EXTENDED), version=5))
    assert failed_names(result) == []
    assert result.facts is not None
    assert result.facts.details["tcb_status_now"] == "UpToDate"


def test_a_real_extended_body_is_verified() -> None:
    one = extended_case()
    result = one.verify(one.policy(statuses=frozenset({TcbStatus.UP_TO_DATE}), service_tds=NONE))
    assert failed_names(result) == []
    assert one.library().status == "UpToDate"
    assert result.facts is not None
    assert result.facts.registers["mrtd"].hex().startswith("2a674327c50218db")
    place = 54 + 648 + 1
    assert failed_names(one.verify(quote=one.quote[:place] + b"\0" + one.quote[place + 1 :])) == [
        "quote-signature"
    ]


@pytest.mark.parametrize("name", ["initial_service_td_hash", "service_td_hash"])
def test_service_tds_of_an_extended_body_have_to_be_listed(name: str) -> None:
    hashes: dict[str, Any] = {name: HASH}
    extension = replace(PLAIN, **hashes)
    body = domain(kind=BodyType.TDX_1_5_EXTENDED, extension=extension)
    assert failing(body, service_tds=NONE) == ["service-td"]
    assert failing(body, service_tds=only(OTHER.hex())) == ["service-td"]
    assert failing(body, service_tds=only(HASH.hex())) == []


@pytest.mark.parametrize(("allowed", "expected"), [(NONE, ["service-td"]), (only(HASH.hex()), []), (ANY, [])])
def test_a_service_td_that_may_come_later_has_to_be_in_the_body(
    allowed: Allowed, expected: list[str]
) -> None:
    attributes = SEPT_VE_DISABLE | SERVTD_EXT
    bound = replace(PLAIN, service_td_hash=HASH)
    extended = domain(attributes, BodyType.TDX_1_5_EXTENDED, mrservicetd=HASH, extension=bound)
    assert failing(extended, service_tds=allowed) == expected
    unknown = [] if allowed.any else ["service-td"]
    assert failing(domain(attributes, BodyType.TDX_1_5), service_tds=allowed) == unknown


def test_the_library_refuses_what_the_policy_allows_and_the_verdict_says_so() -> None:
    result = judge(td_quote(pki(), domain(SEPT_VE_DISABLE | MIGRATABLE)))
    assert failed_names(result) == []
    (check,) = [one for group in result.groups for one in group.checks if one.name == "library-agrees"]
    assert check.found == "refused (TD migration is enabled)"


def test_a_quote_that_was_changed_has_no_valid_signature() -> None:
    quote = td_quote(pki(), domain(SEPT_VE_DISABLE | MIGRATABLE))
    place = 48 + 136
    assert failed_names(judge(quote[:place] + b"\xff" + quote[place + 1 :])) == ["quote-signature"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "OutOfDate"},
        {"advisories": frozenset({"INTEL-SA-00001"})},
        {"date": 1},
        {"evaluation_number": 1},
        {"refusal": "anything"},
        {"refusal": "TD migration is enabled"},
        {"refusal": "Invalid MR service TD"},
    ],
)
@pytest.mark.parametrize("identifier", [TDX_V4, SGX_V3])
def test_disagreement_with_the_library_is_a_refusal_that_names_both(
    monkeypatch: pytest.MonkeyPatch, identifier: str, change: dict[str, Any]
) -> None:
    def other(*arguments: Any, **named: Any) -> LibraryVerdict:
        return replace(library_verdict(*arguments, **named), **change)

    monkeypatch.setattr(attestation.dcap.verify, "library_verdict", other)
    (failure,) = failed_checks(case(identifier).verify())
    assert failure.name == "library-agrees"
    assert failure.expected in failure.reason
    assert failure.found in failure.reason
    assert failure.expected != failure.found


def test_the_level_is_asked_of_the_library_for_each_platform() -> None:
    for _ in range(2):
        for one in (case(TDX_V4), case("dcap-qvl-quote-hex@2025-09-02"), case(SGX_V3)):
            assert failed_names(one.verify()) == []


def test_enclaves_have_to_be_initialised_and_not_debugged() -> None:
    for first, expected in ((0x05, []), (0x07, ["debug"]), (0x04, ["debug"])):
        enclave = SimEnclave(
            cpu_svn=pki().plan.platform.cpu_svn, attributes=bytes([first]) + bytes(7) + b"\xe7" + bytes(7)
        )
        assert failed_names(judge(sgx_quote(pki(), enclave))) == expected


@pytest.mark.parametrize(
    ("place", "value", "check"),
    [
        (2, b"\3\0", "key-type"),
        (8, b"\1\0", "reserved-fields"),
        (10, b"\1\0", "reserved-fields"),
        (12, b"\0", "qe-vendor"),
    ],
)
def test_fields_of_the_header_have_one_value(place: int, value: bytes, check: str) -> None:
    quote = td_quote(pki(), sim_domain())
    assert failed_names(judge(quote[:place] + value + quote[place + len(value) :])) == [check]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6, 7, 0])
def test_only_the_chain_of_the_pck_certifies(number: int) -> None:
    one = case(TDX_V4)
    place = one.quote.index(b"-----BEGIN") - 6
    changed = one.quote[:place] + number.to_bytes(2, "little") + one.quote[place + 2 :]
    (failure,) = failed_checks(one.verify(quote=changed))
    assert failure.name == "certification"
    assert "looked up" in failure.reason


def hostile() -> dict[str, dict[str, Any]]:
    """Changes of a good case whose parts are large."""
    one, mega = case(TDX_V4), 1 << 20
    begin = "-----BEGIN CERTIFICATE-----\n"
    place = one.quote.index(b"-----BEGIN") - 4
    padded = (begin * 2000).encode()[: 60 << 10]
    collateral: dict[str, dict[str, Any]] = {
        "zeros": {"tcb_info": "0" * mega},
        "nested": {"tcb_info": "{" + "[" * (mega - 2) + "}"},
        "digits": {"tcb_info": '{"a":' + "9" * (200 << 10) + "}"},
        "keys": {"qe_identity": "{" + ",".join(f'"{n}":0' for n in range(20_000)) + "}"},
        "blocks": {"tcb_info_issuer_chain": begin * (mega // len(begin))},
        "list": {"pck_crl": b"\x30\x83\x0f\xff\xf0" + bytes(mega - 16)},
        "root list": {"root_ca_crl": b"\x30\x84" * (mega // 2)},
    }
    found: dict[str, dict[str, Any]] = {
        name: {"collateral": replace(one.collateral, **parts)} for name, parts in collateral.items()
    }
    found["quote"] = {"quote": one.quote + bytes(mega)}
    found["blocks in the quote"] = {"quote": one.quote[:place] + len(padded).to_bytes(4, "little") + padded}
    return found


@pytest.mark.parametrize(
    "name",
    [
        "zeros",
        "nested",
        "digits",
        "keys",
        "blocks",
        "list",
        "root list",
        "quote",
        "blocks in the quote",
    ],
)
def test_large_inputs_are_refused_at_once(name: str) -> None:
    changes = hostile()[name]
    case(TDX_V4).verify()
    start = time.thread_time()
    result = case(TDX_V4).verify(**changes)
    assert time.thread_time() - start < 0.2
    assert not result.passed


def test_too_many_sets_are_not_looked_through() -> None:
    one = case(TDX_V4)
    policy = one.policy()
    sets = tuple(replace(one.collateral, pck_crl=bytes([number])) for number in range(70))
    result = verify_dcap(
        EvidenceContainer(platform=one.platform, report=one.quote),
        collateral=Collateral(dcap=(one.collateral, *sets)),
        anchors=anchors_for(policy),
        policy=policy,
        now=one.now,
    )
    assert failed_names(result) == ["collateral-found"]
