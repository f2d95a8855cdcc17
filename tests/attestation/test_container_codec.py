"""One container, one encoding; limits for each part; errors that name the field."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.container import EvidenceContainer, EvidencePlatform, GpuPart, Log, LogFormat, TpmPart
from attestation.container_codec import (
    KEYS,
    MAX_CONTAINER,
    TPM_KEYS,
    ContainerError,
    container_document,
    container_hash,
    decode_container,
    encode_container,
)
from measurements.errors import KeyturnError
from measurements.strict_cbor import CborError
from tests.support.containers import FULL, SMALL

OCTETS = st.binary(min_size=1, max_size=40)
OPTIONAL = st.none() | OCTETS
REGISTERS = st.dictionaries(st.integers(0, 31), st.binary(min_size=32, max_size=32), min_size=1, max_size=4)
TPM_PARTS = st.builds(
    TpmPart,
    quote=OCTETS,
    signature=OCTETS,
    ak_public=OCTETS,
    pcrs=st.fixed_dictionaries({"sha256": REGISTERS}),
    ek_certificate=OPTIONAL,
    ak_certificate=OPTIONAL,
    hcl_report=OPTIONAL,
    nitro_document=OPTIONAL,
    activated_secret=OPTIONAL,
)
CONTAINERS = st.builds(
    EvidenceContainer,
    platform=st.sampled_from([one for one in EvidencePlatform if one is not EvidencePlatform.TPM]),
    report=OCTETS,
    certificates=st.lists(OCTETS, max_size=4, unique=True).map(tuple),
    tpm=st.none() | TPM_PARTS,
    logs=st.lists(st.builds(Log, format=st.sampled_from(LogFormat), data=OCTETS), max_size=3).map(tuple),
    gpus=st.lists(
        st.builds(
            GpuPart,
            architecture=st.sampled_from(["HOPPER", "LS10"]),
            report=OCTETS,
            certificates=st.lists(OCTETS, max_size=3, unique=True).map(tuple),
            nonce=OCTETS,
        ),
        max_size=2,
    ).map(tuple),
    collateral=st.sampled_from([FULL.collateral, SMALL.collateral]),
    app_manifest=OPTIONAL,
    shape=OPTIONAL,
    reference=OPTIONAL,
    origin=st.sampled_from(["keyturn", "dstack quote"]),
)


def changed(path: tuple[str | int, ...], value: Any) -> bytes:
    """CBOR of the full container with another value at ``path``; ``...`` removes what is there."""
    document: Any = container_document(FULL)
    at = document
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return cbor2.dumps(document, canonical=True)


@pytest.mark.parametrize("container", [FULL, SMALL])
def test_a_container_is_read_back(container: EvidenceContainer) -> None:
    data = encode_container(container)
    assert decode_container(data) == container
    assert encode_container(decode_container(data)) == data


@given(CONTAINERS)
def test_any_container_is_read_back(container: EvidenceContainer) -> None:
    assert decode_container(encode_container(container)) == container


def test_the_hash_has_its_domain() -> None:
    framed = b"\0\0\0\x12keyturn-evidence/2" + encode_container(SMALL)
    assert container_hash(SMALL) == hashlib.sha256(framed).digest()
    assert container_hash(SMALL) != container_hash(replace(SMALL, origin="other"))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_demanded(key: str) -> None:
    with pytest.raises(ContainerError, match=f"key {key} is missing"):
        decode_container(changed((key,), ...))


@pytest.mark.parametrize("key", TPM_KEYS)
def test_every_key_of_the_tpm_part_is_demanded(key: str) -> None:
    with pytest.raises(ContainerError, match=f"tpm: key {key} is missing"):
        decode_container(changed(("tpm", key), ...))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("surplus",), 1, "unknown key 'surplus'"),
        (("tpm", "surplus"), 1, "tpm: unknown key"),
        (("type",), "keyturn-evidence/3", "type is not keyturn-evidence/2"),
        (("platform",), "tdx2", "platform is not one of"),
        (("platform",), 7, "platform is not one of"),
        (("platform",), "tpm", "report is tpm, so report is empty"),
        (("origin",), "", "origin is not a text"),
        (("origin",), "a\nb", "origin is not a text"),
        (("origin",), "a" * 65, "origin is not a text"),
        (("report",), b"", "report is empty"),
        (("report",), "text", "report is not 0 to 65536 bytes"),
        (("report",), bytes(65537), "report is not 0 to 65536 bytes"),
        (("certificates",), None, "certificates is not a list"),
        (("certificates",), [b"a", b"a"], "certificates holds something twice"),
        (("certificates",), [b""], r"certificates\[0\] is not 1 to"),
        (("certificates",), [b"a", 1], r"certificates\[1\] is not 1 to"),
        (("certificates",), [bytes([n]) for n in range(65)], "certificates is not a list of up to 64"),
        (("tpm",), [], "tpm is not a map"),
        (("tpm", "quote"), bytes(4097), "tpm.quote is not 1 to 4096 bytes"),
        (("tpm", "signature"), None, "tpm.signature is not"),
        (("tpm", "ak_public"), b"", "tpm.ak_public is not"),
        (("tpm", "pcrs"), {}, "tpm.pcrs is not a map of one or more"),
        (("tpm", "pcrs"), {"md5": {0: bytes(16)}}, "tpm.pcrs has a bank 'md5'"),
        (("tpm", "pcrs"), {"sha256": {}}, "tpm.pcrs.sha256 is not a map"),
        (("tpm", "pcrs"), {"sha256": {32: bytes(32)}}, "tpm.pcrs.sha256 has a register 32"),
        (("tpm", "pcrs"), {"sha256": {-1: bytes(32)}}, "tpm.pcrs.sha256 has a register -1"),
        (("tpm", "pcrs"), {"sha256": {"0": bytes(32)}}, "tpm.pcrs.sha256 has a register '0'"),
        (("tpm", "pcrs"), {"sha256": {0: bytes(31)}}, "tpm.pcrs.sha256.0 is not 32 bytes"),
        (("tpm", "hcl_report"), bytes(16385), "tpm.hcl_report is not"),
        (("tpm", "nitro_document"), bytes(32769), "tpm.nitro_document is not"),
        (("tpm", "activated_secret"), b"", "tpm.activated_secret is not"),
        (("logs",), [{"format": "tcg2"}], r"logs\[0\]: key data is missing"),
        (("logs",), [{"format": "tcg1", "data": b"a"}], r"logs\[0\].format is not one of"),
        (("logs",), [{"format": "tcg2", "data": b""}], r"logs\[0\].data is not"),
        (("logs",), [{"format": "tcg2", "data": bytes((1 << 20) + 1)}], r"logs\[0\].data is not"),
        (("logs",), [{"format": "tcg2", "data": b"a"}] * 9, "logs is not a list of up to 8"),
        (("gpus", 0, "architecture"), "a b", r"gpus\[0\].architecture is not"),
        (("gpus", 0, "nonce"), bytes(65), r"gpus\[0\].nonce is not"),
        (("collateral",), None, "collateral: is not a map"),
        (("collateral", "dcap", 0, "pck_crl"), "text", r"collateral.dcap\[0\].pck_crl"),
        (("app_manifest",), b"", "app_manifest is not"),
        (("shape",), bytes(65537), "shape is not"),
        (("reference",), 1, "reference is not"),
    ],
)
def test_a_wrong_field_is_named(path: tuple[str | int, ...], value: Any, reason: str) -> None:
    with pytest.raises(KeyturnError, match=reason):
        decode_container(changed(path, value))


def test_a_tpm_has_its_part_and_no_report() -> None:
    tpm = replace(FULL, platform=EvidencePlatform.TPM, report=b"")
    assert decode_container(encode_container(tpm)) == tpm
    with pytest.raises(ContainerError, match="platform is tpm"):
        encode_container(replace(tpm, tpm=None))


def test_what_the_reader_refuses_is_not_written() -> None:
    with pytest.raises(ContainerError, match="report is not"):
        encode_container(replace(SMALL, report=bytes(1 << 17)))
    logs = tuple(Log(format=LogFormat.TCG2, data=bytes(1 << 20)) for _ in range(5))
    with pytest.raises(ContainerError, match=f"more than {MAX_CONTAINER}"):
        encode_container(replace(SMALL, logs=logs))


def test_another_order_of_keys_is_refused() -> None:
    document = container_document(FULL)
    shuffled = {key: document[key] for key in sorted(document)}
    with pytest.raises(CborError, match="the keys sorted"):
        decode_container(cbor2.dumps(shuffled))


def test_a_key_twice_is_refused() -> None:
    data = encode_container(SMALL)
    assert data[:1] == b"\xac"
    with pytest.raises(CborError, match="each key once"):
        decode_container(b"\xad" + data[1:] + cbor2.dumps("tpm") + b"\xf6")


def test_every_truncation_and_any_extension_is_refused() -> None:
    data = encode_container(replace(FULL, report=b"short"))
    for size in range(len(data)):
        with pytest.raises(CborError):
            decode_container(data[:size])
    for tail in (b"\0", b"\xf6", data):
        with pytest.raises(CborError):
            decode_container(data + tail)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_gives_another_container_or_a_refusal(draw: st.DataObject) -> None:
    good = encode_container(replace(FULL, report=b"short"))
    at = draw.draw(st.integers(0, len(good) - 1))
    data = good[:at] + bytes([good[at] ^ draw.draw(st.integers(1, 255))]) + good[at + 1 :]
    try:
        found = decode_container(data)
    except KeyturnError:
        return
    assert encode_container(found) == data
