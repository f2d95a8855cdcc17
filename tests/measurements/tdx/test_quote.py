"""TDX quotes and reports: fields of real ones, and one error for everything that is none."""

from __future__ import annotations

import contextlib
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.tdx.quote import BodyType, QuoteError, parse_quote
from measurements.tdx.td_report import TdReportError, parse_td_report
from tests.support.vectors import vector

QUOTES = "attestation/dcap/quotes"
PAIR = "tdx-ccel-pairs/cc-trusted-api/quote.bin"
REPORT = "attestation/tpm/azure-tdx-hcl-report.bin"
CUT_FROM_LARGER_FILES = (
    "quotes/automata-dcap-attestation-test-proof.bin",
    "quotes/dstack-tdx-lite-attestation.bin",
)


def synthetic(version: int = 4, kind: BodyType = BodyType.TDX_1_0, *, tail: bytes = b"") -> bytes:
    """A quote whose body counts up, with 7 bytes of signature data."""
    header = struct.pack("<HHIHH16s20s", version, 2, 0x81, 0, 0, b"v" * 16, b"u" * 20)
    between = struct.pack("<HI", kind, kind.size) if version == 5 else b""
    body = bytes(number & 0xFF for number in range(kind.size))
    return header + between + body + struct.pack("<I", 7) + b"signed!" + tail


def test_fields_of_real_quotes_are_those_of_another_parser() -> None:
    # The fields in cases.json were read by dcap-qvl 0.7.0.
    cases = json.loads(vector("attestation/dcap/cases.json").read_text())["cases"]
    compared = 0
    for case in cases:
        fields = case.get("fields", {})
        if "mr_td" not in fields or case["quote"] in CUT_FROM_LARGER_FILES:
            continue
        body = parse_quote(vector(f"attestation/dcap/{case['quote']}").read_bytes()).body
        assert body.mrtd.hex() == fields["mr_td"]
        assert [value.hex() for value in body.rtmrs] == [fields[f"rtmr{number}"] for number in range(4)]
        assert body.td_attributes.hex() == fields["td_attributes"]
        assert body.mrconfigid.hex() == fields["mr_config_id"]
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("name", CUT_FROM_LARGER_FILES)
def test_a_quote_with_foreign_bytes_behind_it_is_refused(name: str) -> None:
    with pytest.raises(QuoteError, match="bytes that are not zero"):
        parse_quote(vector(f"attestation/dcap/{name}").read_bytes())


def test_version_5_has_the_later_fields() -> None:
    data = vector(f"{QUOTES}/automata-dcap-attestation-tdx-quote-5.bin").read_bytes()
    quote = parse_quote(data)
    assert (quote.version, quote.body.kind) == (5, BodyType.TDX_1_5)
    assert quote.body.mrtd.hex().startswith("dfba221b")
    assert quote.body.tee_tcb_svn_2 == data[54 + 584 : 54 + 600]
    assert quote.body.mrservicetd == data[54 + 600 : 54 + 648]


def test_a_debug_quote_says_so() -> None:
    assert parse_quote(vector(f"{QUOTES}/trustee-tdx-quote-4-debug.bin").read_bytes()).body.debug
    assert not parse_quote(vector(PAIR).read_bytes()).body.debug


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("kind", list(BodyType))
def test_every_field_has_its_place(version: int, kind: BodyType) -> None:
    if version == 4:
        kind = BodyType.TDX_1_0
    quote = parse_quote(synthetic(version, kind, tail=bytes(100)))
    body = quote.body
    places = {
        "tee_tcb_svn": 0,
        "mrseam": 16,
        "mrsignerseam": 64,
        "seam_attributes": 112,
        "td_attributes": 120,
        "xfam": 128,
        "mrtd": 136,
        "mrconfigid": 184,
        "mrowner": 232,
        "mrownerconfig": 280,
        "report_data": 520,
        "tee_tcb_svn_2": 584,
        "mrservicetd": 600,
    }
    for name, place in places.items():
        value = getattr(body, name)
        if kind is BodyType.TDX_1_0 and place >= 584:
            assert value is None
        else:
            assert value[0] == place & 0xFF
    if kind is BodyType.TDX_1_5_EXTENDED:
        assert body.extension is not None
        assert body.extension.vm_index == 648 & 0xFF
        assert body.extension.td_id[0] == 649 & 0xFF
        assert body.extension.device_info[0] == 681 & 0xFF
        assert body.extension.initial_service_td_hash[0] == 729 & 0xFF
        assert body.extension.initial_service_td_attributes[0] == 777 & 0xFF
        assert body.extension.initial_cpu_svn[0] == 785 & 0xFF
        assert body.extension.initial_tee_tcb_svn[0] == 801 & 0xFF
        assert body.extension.initial_fmspc[0] == 817 & 0xFF
        assert body.extension.service_td_hash[0] == 829 & 0xFF
        assert body.extension.service_td_attributes[0] == 877 & 0xFF
    assert [value[0] for value in body.rtmrs] == [place & 0xFF for place in (328, 376, 424, 472)]
    assert body.registers()["rtmr2"] == body.rtmrs[2]
    assert quote.signature_data == b"signed!"


REFUSED = {
    "less than a quote's header": b"\x04\0" * 10,
    "has version 3; 4 or 5 is expected": b"\x03" + synthetic()[1:],
    "is of an SGX enclave": synthetic()[:4] + bytes(4) + synthetic()[8:],
    "TEE type 0x82": synthetic()[:4] + b"\x82" + synthetic()[5:],
    "attestation key type 3": synthetic()[:2] + b"\x03" + synthetic()[3:],
    "ends at byte 600, inside of its body": synthetic()[:600],
    r"signature data to byte 643 \(size at byte 632\), but 642 bytes": synthetic()[:-1],
    r"signature data to byte 4294967931": synthetic()[:632] + b"\xff" * 4 + b"signed!",
    r"signature data to byte 636 ": synthetic()[:632] + bytes(4),
    "followed by 1 bytes that are not zero": synthetic(tail=b"x"),
    "larger than": bytes(70_000),
    "before the type of its body": synthetic(5)[:50],
    "body of type 1 ": synthetic(5)[:48] + b"\x01" + synthetic(5)[49:],
    "body of type 5 ": synthetic(5)[:48] + b"\x05" + synthetic(5)[49:],
    "885 expected": synthetic(5)[:48] + b"\x04" + synthetic(5)[49:],
    "body of 648 bytes": synthetic(5)[:50] + b"\x88\x02" + synthetic(5)[52:],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_tdx_quote_is_refused(reason: str) -> None:
    with pytest.raises(QuoteError, match=reason):
        parse_quote(REFUSED[reason])


@given(st.sampled_from([4, 5]), st.integers(0, 800))
def test_a_truncated_quote_is_refused(version: int, size: int) -> None:
    whole = synthetic(version, BodyType.TDX_1_5 if version == 5 else BodyType.TDX_1_0)
    with pytest.raises(QuoteError):
        parse_quote(whole[: min(size, len(whole) - 1)])


@given(st.binary(max_size=900), st.integers(0, 660))
def test_foreign_bytes_raise_one_error_or_are_fields(junk: bytes, place: int) -> None:
    data = synthetic()
    with contextlib.suppress(QuoteError):
        quote = parse_quote((data[:place] + junk)[: len(data)].ljust(len(data), b"\0"))
        assert len(quote.body.mrtd) == 48


def real_report() -> bytes:
    return vector(REPORT).read_bytes()[32 : 32 + 1024]


def test_a_real_report_holds_the_quotes_fields() -> None:
    # confidential-containers/trustee, az-tdx-vtpm: both come from the same paravisor.
    report = parse_td_report(real_report())
    quote = parse_quote(vector(f"{QUOTES}/trustee-az-td-quote.bin").read_bytes())
    assert report.mrtd == quote.body.mrtd
    assert report.mrseam == quote.body.mrseam
    assert report.rtmrs == quote.body.rtmrs
    assert report.registers().keys() == quote.body.registers().keys()
    assert not report.debug


@given(st.integers(0, 1023), st.integers(1, 255))
def test_a_flipped_byte_of_a_report_is_refused_or_seen(place: int, flip: int) -> None:
    data = bytearray(real_report())
    before = parse_td_report(bytes(data))
    data[place] ^= flip
    try:
        after = parse_td_report(bytes(data))
    except TdReportError:
        return
    # CPU SVN, report data, MAC and reserved bytes are covered by the MAC alone.
    assert place < 256 or 495 <= place < 512
    assert after.registers() == before.registers()


@pytest.mark.parametrize("size", [0, 1023, 1025])
def test_a_report_has_one_size(size: int) -> None:
    with pytest.raises(TdReportError, match="1024 expected"):
        parse_td_report(bytes(size))


def test_a_report_of_another_kind_is_refused() -> None:
    with pytest.raises(TdReportError, match="type 0x0"):
        parse_td_report(bytes(1024))
