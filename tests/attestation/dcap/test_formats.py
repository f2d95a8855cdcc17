"""Readers of what a quote and its collateral are made of: every length, name and value has one form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from attestation.dcap.enclave_report import parse_enclave_report
from attestation.dcap.pck_extension import SGX_EXTENSION, PckExtensionError, parse_pck_extension
from attestation.dcap.pem_chain import CA_NAMES, PCK_NAME, ROOT_NAME, Role, named_chain, read_chain
from attestation.dcap.qe_identity import parse_qe_identity
from attestation.dcap.quote import DcapQuoteError, parse_dcap_quote
from attestation.dcap.signed_json import SignedJsonError
from attestation.dcap.tcb_info import parse_tcb_info
from attestation.sim.platform import SimPlatform, sgx_extension
from attestation.sim.quote import SimEnclave, sgx_quote, sim_domain, td_quote
from attestation.sim.tcb import Tee
from attestation.x509_chain import CertificateError
from measurements.errors import FormatError, KeyturnError
from measurements.tdx.quote import BodyType
from tests.support.sim_pki import pki

V3 = sgx_quote(pki(), SimEnclave(cpu_svn=pki().plan.platform.cpu_svn))
V4 = td_quote(pki(), sim_domain())
V5 = td_quote(pki(), sim_domain(version=BodyType.TDX_1_5), version=5)
EXTENSION = sgx_extension(SimPlatform())
CHAIN = pki().pck_chain.encode()
ROOTS = frozenset({pki().anchor().fingerprint})
NAMES = ((PCK_NAME,), CA_NAMES, (ROOT_NAME,))
INFO, IDENTITY = pki().tcb_info(), pki().qe_identity()


@pytest.mark.parametrize("quote", [V3, V4, V5])
def test_no_quote_is_cut_or_extended(quote: bytes) -> None:
    assert parse_dcap_quote(quote).signed == quote[: len(parse_dcap_quote(quote).signed)]
    for size in range(len(quote)):
        with pytest.raises(DcapQuoteError):
            parse_dcap_quote(quote[:size])
    for more in (b"\0", b"x", quote):
        with pytest.raises(DcapQuoteError, match="belong to nothing"):
            parse_dcap_quote(quote + more)


@pytest.mark.parametrize(
    ("quote", "place", "value", "reason"),
    [
        (V4, 0, b"\2\0", "version 2"),
        (V4, 0, b"\3\0", "for enclaves"),
        (V4, 4, b"\x82\0\0\0", "TEE type 0x82"),
        (V5, 48, b"\1\0", "body of type 1"),
        (V5, 48, b"\5\0", "body of type 5"),
        (V5, 50, b"\x48\2\0\0", "has 648"),
        (V4, 632, b"\xff\xff\xff\xff", "ends at byte"),
        (V4, 632 + 4 + 128, b"\5\0", "type 5, 6 expected"),
        (V4, 632 + 4 + 128 + 2, b"\0\0\0\0", "signature data is followed by|belong to nothing"),
    ],
)
def test_a_length_or_type_that_is_wrong_is_refused(
    quote: bytes, place: int, value: bytes, reason: str
) -> None:
    with pytest.raises(DcapQuoteError, match=reason):
        parse_dcap_quote(quote[:place] + value + quote[place + len(value) :])


def test_a_quote_has_a_largest_size() -> None:
    with pytest.raises(DcapQuoteError, match="at most"):
        parse_dcap_quote(V4 + bytes(1 << 20))


@given(st.binary(max_size=2048))
def test_foreign_bytes_are_no_quote(data: bytes) -> None:
    with pytest.raises(DcapQuoteError):
        parse_dcap_quote(data)


def test_enclave_reports_have_one_size() -> None:
    for size in (0, 383, 385):
        with pytest.raises(FormatError, match="384 expected"):
            parse_enclave_report(bytes(size))


def test_the_extension_says_what_was_put_in() -> None:
    platform = SimPlatform(smt=True, pce_svn=0x1234, pce_id=b"\1\2", sgx_type=2)
    found = parse_pck_extension(sgx_extension(platform))
    for name in ("ppid", "components", "cpu_svn", "pce_svn", "pce_id", "fmspc", "sgx_type", "smt"):
        assert getattr(found, name) == getattr(platform, name)
    assert (found.dynamic_platform, found.cached_keys) == (False, False)
    bare = parse_pck_extension(sgx_extension(platform, processor_ca=True))
    assert (bare.platform_instance, bare.dynamic_platform, bare.smt) == (None, None, None)


def test_the_extension_is_that_of_the_certificate() -> None:
    leaf = named_chain(CHAIN, NAMES, ROOTS, what="chain", role=Role.END_ENTITY).leaf
    value = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(SGX_EXTENSION)).value
    assert isinstance(value, x509.UnrecognizedExtension)
    assert value.value == sgx_extension(pki().plan.platform)


@pytest.mark.parametrize("place", range(len(EXTENSION)))
def test_a_flipped_byte_of_the_extension_is_refused_or_seen(place: int) -> None:
    before = parse_pck_extension(EXTENSION)
    for flip in (1, 0x80, 0xFF):
        data = bytearray(EXTENSION)
        data[place] ^= flip
        try:
            assert parse_pck_extension(bytes(data)) != before
        except PckExtensionError:
            continue


def test_the_extension_is_not_cut_or_extended() -> None:
    for size in range(len(EXTENSION)):
        with pytest.raises(PckExtensionError):
            parse_pck_extension(EXTENSION[:size])
    for more in (b"\0", b"\5\0", EXTENSION):
        with pytest.raises(PckExtensionError):
            parse_pck_extension(EXTENSION + more)
    with pytest.raises(PckExtensionError, match="at most"):
        parse_pck_extension(bytes(1 << 20))


@pytest.mark.parametrize(("arc", "reason"), [(4, "twice"), (8, "unknown part 8"), (0x83, "not one arc")])
def test_an_identifier_occurs_once_and_is_known(arc: int, reason: str) -> None:
    pce_id = bytes.fromhex("2a864886f84d010d0103")
    assert EXTENSION.count(pce_id) == 1
    with pytest.raises(PckExtensionError, match=reason):
        parse_pck_extension(EXTENSION.replace(pce_id, pce_id[:-1] + bytes([arc])))


def test_components_must_be_the_cpu_svn() -> None:
    with pytest.raises(PckExtensionError, match="not those of its CPU SVN"):
        parse_pck_extension(EXTENSION.replace(SimPlatform().cpu_svn, bytes(16)))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\n\n", 1),
        lambda text: text + b"\n",
        lambda text: text + b"\0\0",
        lambda text: text.rstrip(b"\n"),
        lambda text: b"\n" + text,
        lambda text: b"# comment\n" + text,
        lambda text: text.replace(b"CERTIFICATE", b"X509 CERTIFICATE"),
        lambda text: text[:100] + b" " + text[100:],
        lambda text: text + text,
        lambda text: text[: len(text) // 2],
        lambda _: b"",
        lambda _: b"-----BEGIN CERTIFICATE-----\n" * 1000,
        lambda text: text * 100,
    ],
)
def test_a_chain_has_one_form(change: Callable[[bytes], bytes]) -> None:
    assert len(read_chain(CHAIN, what="chain", count=3)) == 3
    assert read_chain(CHAIN + b"\0", what="chain", count=3) == read_chain(CHAIN, what="chain", count=3)
    with pytest.raises(CertificateError):
        named_chain(change(CHAIN), NAMES, ROOTS, what="chain", role=Role.END_ENTITY)


def test_order_names_role_and_root_of_a_chain_count() -> None:
    blocks = CHAIN.decode().split("-----END CERTIFICATE-----\n")[:3]
    leaf, authority, root = (f"{one}-----END CERTIFICATE-----\n".encode() for one in blocks)
    wrong: list[tuple[bytes, Any, Any, Role]] = [
        (leaf + root + authority, NAMES, ROOTS, Role.END_ENTITY),
        (authority + leaf + root, NAMES, ROOTS, Role.END_ENTITY),
        (CHAIN, (("Intel SGX TCB Signing",), CA_NAMES, (ROOT_NAME,)), ROOTS, Role.END_ENTITY),
        (CHAIN, ((PCK_NAME,), ("Intel SGX PCK Processor CA",), (ROOT_NAME,)), ROOTS, Role.END_ENTITY),
        (CHAIN, NAMES, frozenset({bytes(32)}), Role.END_ENTITY),
        (CHAIN, NAMES, frozenset(), Role.END_ENTITY),
        (CHAIN, NAMES, ROOTS, Role.AUTHORITY),
        (authority + root, (CA_NAMES, (ROOT_NAME,)), ROOTS, Role.END_ENTITY),
    ]
    for text, names, roots, role in wrong:
        with pytest.raises(CertificateError):
            named_chain(text, names, roots, what="chain", role=role)
    named_chain(authority + root, (CA_NAMES, (ROOT_NAME,)), ROOTS, what="chain", role=Role.AUTHORITY)


def changed(text: str, **values: Any) -> str:
    document = json.loads(text)
    for key, value in values.items():
        if value is ...:
            del document[key]
        else:
            document[key] = value
    return json.dumps(document, separators=(",", ":"))


LEVEL = json.loads(INFO)["tcbLevels"][0]
MODULE = json.loads(INFO)["tdxModuleIdentities"][0]
WRONG_INFO: list[dict[str, Any]] = [
    {"id": "SGX2"},
    {"id": ...},
    {"version": 2},
    {"version": 4},
    {"version": "3"},
    {"version": True},
    {"tcbType": 1},
    {"fmspc": "00"},
    {"fmspc": "zz" * 6},
    {"pceId": ...},
    {"issueDate": "2026-09-21"},
    {"issueDate": "2026-13-21T00:00:00Z"},
    {"nextUpdate": "2026-09-21T00:00:00+02:00"},
    {"tcbEvaluationDataNumber": -1},
    {"tcbEvaluationDataNumber": 20.0},
    {"tcbLevels": []},
    {"tcbLevels": {}},
    {"tcbLevels": [LEVEL, LEVEL]},
    {"tcbLevels": [{**LEVEL, "tcbStatus": "Fine"}]},
    {"tcbLevels": [{**LEVEL, "tcbStatus": "TDRelaunchAdvised"}]},
    {"tcbLevels": [{**LEVEL, "tcb": {**LEVEL["tcb"], "pcesvn": 1 << 16}}]},
    {"tcbLevels": [{**LEVEL, "tcb": {**LEVEL["tcb"], "sgxtcbcomponents": [{"svn": 1}] * 15}}]},
    {"tcbLevels": [{**LEVEL, "tcb": {**LEVEL["tcb"], "tdxtcbcomponents": [{"svn": 256}] * 16}}]},
    {"tcbLevels": [{**LEVEL, "advisoryIDs": ["INTEL-SA-00001"] * 2}]},
    {"tcbLevels": [{**LEVEL, "advisoryIDs": [1]}]},
    {"tcbLevels": [LEVEL] * 300},
    {"tdxModule": ...},
    {"tdxModuleIdentities": ...},
    {"tdxModuleIdentities": [MODULE, MODULE]},
    {"tdxModuleIdentities": [{**MODULE, "id": "TDX_00"}]},
    {"tdxModuleIdentities": [{**MODULE, "id": "TDX_1"}]},
    {"tdxModuleIdentities": [{**MODULE, "tcbLevels": []}]},
    {"tdxModuleIdentities": [{**MODULE, "mrsigner": "00"}]},
]


@pytest.mark.parametrize("values", WRONG_INFO)
def test_tcb_info_that_is_not_as_intels_is_refused(values: dict[str, Any]) -> None:
    assert parse_tcb_info(changed(INFO)).tee == "TDX"
    with pytest.raises(SignedJsonError):
        parse_tcb_info(changed(INFO, **values))


@pytest.mark.parametrize(
    "values",
    [
        {"id": "QVE"},
        {"id": "QE", "version": 3},
        {"version": 4},
        {"miscselect": "00"},
        {"attributesMask": ...},
        {"mrsigner": "00" * 31},
        {"isvprodid": 1 << 16},
        {"tcbLevels": []},
        {"tcbLevels": [{**json.loads(IDENTITY)["tcbLevels"][0], "tcbStatus": "SWHardeningNeeded"}]},
    ],
)
def test_an_identity_that_is_not_as_intels_is_refused(values: dict[str, Any]) -> None:
    assert parse_qe_identity(changed(IDENTITY)).id == "TD_QE"
    assert parse_qe_identity(changed(IDENTITY, version=3)).id == "TD_QE"
    assert parse_qe_identity(pki().qe_identity(Tee.SGX)).id == "QE"
    with pytest.raises(SignedJsonError):
        parse_qe_identity(changed(IDENTITY, **values))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "{" * 100_000 + "}",
        '{"a":' * 100 + "1" + "}" * 100,
        INFO + " ",
        " " + INFO,
        INFO + INFO,
        INFO.replace('"id":"TDX"', '"id":"SGX","id":"TDX"'),
        INFO.replace('"version":3', '"version":3,"x":NaN'),
        INFO.replace('"version":3', '"version":3,"x":1.5'),
        INFO.replace("TDX", "TD\ud800"),
        '{"x":"' + "a" * (1 << 20) + '"}',
        '{"x":' + "9" * 200_000 + "}",
    ],
)
def test_text_that_is_no_document_is_refused(text: str) -> None:
    for parse in (parse_tcb_info, parse_qe_identity):
        with pytest.raises(KeyturnError):
            parse(text)


def test_levels_are_ordered_by_their_versions() -> None:
    levels = list(reversed(json.loads(INFO)["tcbLevels"]))
    assert parse_tcb_info(changed(INFO, tcbLevels=levels)) == replace(
        parse_tcb_info(INFO), sgx_labels=parse_tcb_info(changed(INFO, tcbLevels=levels)).sgx_labels
    )


@given(st.text(max_size=400))
def test_foreign_text_is_no_document(text: str) -> None:
    with pytest.raises(SignedJsonError):
        parse_tcb_info("{" + text + "}")
