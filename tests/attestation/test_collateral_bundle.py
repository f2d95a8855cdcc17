"""The file form of collateral: one encoding, limits, and nothing else is read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.collateral import Collateral, DcapCollateral
from attestation.collateral_bundle import (
    MAX_BUNDLE,
    MAX_CHAIN,
    MAX_ITEMS,
    MAX_SIGNED_JSON,
    TYPE,
    BundleError,
    collateral_document,
    decode_bundle,
    encode_bundle,
    parse_collateral_document,
)
from attestation.x509_chain import MAX_CERTIFICATE
from measurements.errors import FormatError
from measurements.strict_cbor import CborError

SET = DcapCollateral(
    pck_crl_issuer_chain="pck chain",
    root_ca_crl=b"root crl",
    pck_crl=b"pck crl",
    tcb_info_issuer_chain="tcb chain",
    tcb_info='{"id":"TDX"}',
    tcb_info_signature=bytes(64),
    qe_identity_issuer_chain="qe chain",
    qe_identity='{"id":"TD_QE"}',
    qe_identity_signature=bytes([1]) * 64,
)
COLLATERAL = Collateral(
    dcap=(SET, replace(SET, pck_crl=b"another")),
    early=(SET,),
    certificates=(b"second", b"first"),
    crls=(b"crl",),
    rims=(b"<rim/>",),
    ocsp=(b"answer",),
)


def document() -> dict[str, Any]:
    return dict(collateral_document(COLLATERAL))


def file_of(item: object) -> bytes:
    return cbor2.dumps(item, canonical=True)


def test_a_bundle_is_read_back_in_its_order() -> None:
    data = encode_bundle(COLLATERAL)
    assert decode_bundle(data) == COLLATERAL
    assert encode_bundle(decode_bundle(data)) == data


def test_nothing_is_a_bundle_too() -> None:
    assert decode_bundle(encode_bundle(Collateral())) == Collateral()


def test_the_structure_inside_other_documents_has_no_type() -> None:
    assert sorted(document()) == ["certificates", "crls", "dcap", "early", "ocsp", "rims"]
    assert parse_collateral_document(document(), "evidence.collateral") == COLLATERAL


def test_what_stands_twice_is_written_once() -> None:
    twice = replace(COLLATERAL, crls=(b"crl", b"crl"))
    assert decode_bundle(encode_bundle(twice)) == COLLATERAL


def test_keys_are_in_the_order_of_rfc_8949() -> None:
    """Section 4.2.1: bytewise order of the encoded keys."""
    written = cbor2.loads(encode_bundle(COLLATERAL))
    for item in (written, written["dcap"][0]):
        keys = [cbor2.dumps(key) for key in item]
        assert keys == sorted(keys)


def test_every_field_of_a_set_is_in_the_document() -> None:
    assert set(document()["dcap"][0]) == {field.name for field in fields(DcapCollateral)}


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "where", "reason"),
    [
        (lambda d: d.pop("ocsp"), "collateral", "lacks the key ocsp"),
        (lambda d: d.update(more=1), "collateral", "unknown key 'more'"),
        (lambda d: d.update({7: 1}), "collateral", "unknown key 7"),
        (lambda d: d.update(dcap={}), "collateral.dcap", "not a list"),
        (lambda d: d.update(dcap=[[]]), "collateral.dcap[0]", "not a map"),
        (lambda d: d.update(crls=["text"]), "collateral.crls[0]", "not bytes"),
        (lambda d: d.update(crls=[b""]), "collateral.crls[0]", "has 0 bytes"),
        (lambda d: d.update(rims=[b"a", b"b", b"a"]), "collateral.rims", "twice"),
        (
            lambda d: d.update(certificates=[bytes(MAX_CERTIFICATE + 1)]),
            "collateral.certificates[0]",
            "not 1 to",
        ),
        (
            lambda d: d.update(ocsp=[bytes([n]) for n in range(MAX_ITEMS + 1)]),
            "collateral.ocsp",
            "more than 64",
        ),
        (lambda d: d["dcap"][1].pop("tcb_info"), "collateral.dcap[1]", "lacks the key tcb_info"),
        (lambda d: d["dcap"][0].update(tcb_info=b"x"), "collateral.dcap[0].tcb_info", "not a text"),
        (lambda d: d["dcap"][0].update(tcb_info=""), "collateral.dcap[0].tcb_info", "empty"),
        (lambda d: d["dcap"][0].update(tcb_info="\ud800"), "collateral.dcap[0].tcb_info", "surrogate"),
        (
            lambda d: d["dcap"][0].update(qe_identity="x" * (MAX_SIGNED_JSON + 1)),
            "collateral.dcap[0].qe_identity",
            "more than",
        ),
        (
            lambda d: d["dcap"][0].update(pck_crl_issuer_chain="é"),
            "collateral.dcap[0].pck_crl_issuer_chain",
            "not ASCII",
        ),
        (
            lambda d: d["dcap"][0].update(pck_crl_issuer_chain="x" * (MAX_CHAIN + 1)),
            "collateral.dcap[0].pck_crl_issuer_chain",
            "more than",
        ),
        (
            lambda d: d["early"][0].update(tcb_info_signature=bytes(63)),
            "collateral.early[0].tcb_info_signature",
            "not 64 to 64",
        ),
    ],
)
def test_what_is_not_of_the_form_is_refused(change: Change, where: str, reason: str) -> None:
    changed = document()
    change(changed)
    with pytest.raises(BundleError, match=reason) as refused:
        parse_collateral_document(changed, "collateral")
    assert refused.value.subject == where


def test_what_would_not_be_read_is_not_written() -> None:
    with pytest.raises(BundleError, match="not 64 to 64"):
        encode_bundle(Collateral(dcap=(replace(SET, tcb_info_signature=b"short"),)))


def test_a_bundle_beyond_the_limit_is_not_written() -> None:
    large = Collateral(rims=tuple(bytes([number]) * (2 << 20) for number in range(9)))
    with pytest.raises(BundleError, match=f"more than {MAX_BUNDLE}"):
        encode_bundle(large)
    with pytest.raises(CborError, match="more than"):
        decode_bundle(bytes(MAX_BUNDLE + 1))


@pytest.mark.parametrize("kind", ["keyturn-collateral/2", "keyturn-evidence/2", 1, None])
def test_other_types_are_refused(kind: object) -> None:
    with pytest.raises(BundleError, match="not of type"):
        decode_bundle(file_of({"type": kind, **document()}))
    with pytest.raises(BundleError, match="not of type"):
        decode_bundle(file_of(document()))


def test_other_encodings_are_refused() -> None:
    whole = {"type": TYPE, **document()}
    shuffled = cbor2.dumps(dict(reversed(list(cbor2.loads(file_of(whole)).items()))))
    assert cbor2.loads(shuffled) == whole
    with pytest.raises(CborError, match="deterministic"):
        decode_bundle(shuffled)
    indefinite = b"\xbf" + encode_bundle(COLLATERAL)[1:] + b"\xff"
    assert cbor2.loads(indefinite) == whole
    with pytest.raises(CborError, match="deterministic"):
        decode_bundle(indefinite)


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(CborError):
        decode_bundle(encode_bundle(COLLATERAL) + b"\0")


def test_truncated_at_every_length() -> None:
    data = encode_bundle(Collateral(dcap=(SET,), crls=(b"crl",)))
    for length in range(len(data)):
        with pytest.raises(FormatError):
            decode_bundle(data[:length])


def test_every_flipped_byte_gives_another_collateral_or_a_refusal() -> None:
    collateral = Collateral(dcap=(SET,), crls=(b"crl",))
    data = encode_bundle(collateral)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with contextlib.suppress(FormatError):
            assert decode_bundle(bytes(changed)) != collateral


@given(st.binary(max_size=256))
def test_garbage_gives_only_refusals(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_bundle(data)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4) | st.binary(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*collateral_document(COLLATERAL), "type"]), inner)
        ),
    )
)
def test_any_structure_gives_only_refusals(value: object) -> None:
    with contextlib.suppress(BundleError):
        parse_collateral_document(value, "collateral")


def test_json_is_no_bundle() -> None:
    with pytest.raises(FormatError):
        decode_bundle(json.dumps({"type": TYPE}).encode())
