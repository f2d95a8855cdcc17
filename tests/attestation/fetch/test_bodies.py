"""Answers that are, and are not, what was asked for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation.fetch.bodies import (
    UNEXPECTED,
    Content,
    certificate_chain,
    chip_certificate,
    manifest,
    revocation_list,
    signed_json,
    unexpected,
)
from attestation.fetch.http import Answer
from tests.attestation.fetch.worlds import NOW, collateral_set, fmspc, rim_reply
from tests.support.revocation_lists import certificate
from tests.support.revocation_lists import revocation_list as make_list

SET = collateral_set()
CHAIN = SET.tcb_info_issuer_chain
HEADER = "TCB-Info-Issuer-Chain"
SIGNATURE = SET.tcb_info_signature.hex()


def answer(body: bytes | str, **headers: str) -> Answer:
    data = body.encode() if isinstance(body, str) else body
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return Answer(status=200, headers=named, body=data)


def tcb_info(body: str, chain: str | None = None) -> Content:
    return signed_json(
        answer(body, TCB_Info_Issuer_Chain=quote(CHAIN) if chain is None else chain),
        key="tcbInfo",
        kind="TDX",
        fmspc=fmspc(),
        header=HEADER,
    )


@pytest.mark.parametrize(
    "form",
    [
        '{{"tcbInfo":{text},"signature":"{signature}"}}',
        ' {{ "tcbInfo" : {text} ,\r\n"signature":\t"{signature}" }} \n',
        '{{"signature":"{signature}","tcbInfo":{text}}}',
    ],
)
def test_the_exact_text_is_cut_out(form: str) -> None:
    found = tcb_info(form.format(text=SET.tcb_info, signature=SIGNATURE))
    assert found.text == SET.tcb_info
    assert found.signature == SET.tcb_info_signature
    assert found.chain == CHAIN
    assert found.start < NOW < found.end


def test_what_json_would_write_anew_stays_as_it_was() -> None:
    text = SET.tcb_info.replace('":', '" : \t').replace('"TDX"', '"T\\u0044X"')
    assert json.loads(text)["id"] == "TDX"
    assert text != json.dumps(json.loads(text))
    assert tcb_info(f'{{"tcbInfo":{text},"signature":"{SIGNATURE.upper()}"}}').text == text


def test_services_that_name_the_header_otherwise() -> None:
    body = f'{{"tcbInfo":{SET.tcb_info},"signature":"{SIGNATURE}"}}'
    found = signed_json(
        answer(body, SGX_TCB_Info_Issuer_Chain=quote(CHAIN)),
        key="tcbInfo",
        kind="TDX",
        fmspc=fmspc(),
        header=HEADER,
    )
    assert found.chain == CHAIN


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "no JSON object"),
        ("<html>", "no JSON object"),
        ("[]", "no JSON object"),
        ("{}", "each key once"),
        ('{"tcbInfo":{}', "no JSON object"),
        ('{"tcbInfo":', "no whole JSON"),
        ('{"tcbInfo":{"a":', "no whole JSON"),
        ('{"tcbInfo":{},"tcbInfo":{}}', "each key once"),
        (f'{{"tcbInfo":{{}},"signature":"{SIGNATURE}"}} x', "exactly the keys"),
        (f'{{"tcbInfo":{{}},"signature":"{SIGNATURE}","more":1}}', "exactly the keys"),
        (f'{{"enclaveIdentity":{{}},"signature":"{SIGNATURE}"}}', "exactly the keys"),
        ('{"tcbInfo":{},"signature":"00"}', "64 bytes in hex"),
        ('{"tcbInfo":{},"signature":7}', "64 bytes in hex"),
        (f'{{"tcbInfo":7,"signature":"{SIGNATURE}"}}', "not an object"),
        (f'{{"tcbInfo":{{}},"signature":"{SIGNATURE}"}}', "has no id"),
        ("[" * 100_000, "nests deeper"),
        ('{"tcbInfo":' * 1000, "nests deeper"),
        ("\xff", "no JSON object"),
        ("{" + " " * 300_000, "more than"),
    ],
)
def test_bodies_that_are_no_signed_json(body: str, reason: str) -> None:
    with pytest.raises(UNEXPECTED, match=reason):
        tcb_info(body)


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_truncated_json(cut: int) -> None:
    whole = f'{{"tcbInfo":{SET.tcb_info},"signature":"{SIGNATURE}"}}'
    with pytest.raises(UNEXPECTED):
        tcb_info(whole[: len(whole) * cut // 40])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"TDX"', '"SGX"', "is for SGX, and TDX was asked for"),
        (fmspc().upper(), "00A067110000", "is for FMSPC 00a067110000"),
        ("issueDate", "issuedDate", "no issueDate"),
    ],
)
def test_another_platform_is_not_what_was_asked_for(old: str, new: str, reason: str) -> None:
    text = SET.tcb_info.replace(old, new, 1)
    assert text != SET.tcb_info
    with pytest.raises(UNEXPECTED, match=reason):
        tcb_info(f'{{"tcbInfo":{text},"signature":"{SIGNATURE}"}}')


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ("", "no header TCB-Info-Issuer-Chain"),
        ("text", "not certificates in PEM"),
        ("%FF", "is no text"),
        (quote(CHAIN) + "x", "not certificates in PEM"),
        (quote(CHAIN)[:-40], "not certificates in PEM"),
        (quote(CHAIN.replace("MII", "AAA", 1)), "no PEM"),
        ("%0A" * 40_000, "characters"),
    ],
)
def test_chains_that_are_none(chain: str, reason: str) -> None:
    body = f'{{"tcbInfo":{SET.tcb_info},"signature":"{SIGNATURE}"}}'
    with pytest.raises(UNEXPECTED, match=reason):
        tcb_info(body, chain)


LIST = make_list("ARK-Milan", NOW)


@pytest.mark.parametrize(
    "write",
    [
        bytes,
        lambda der: der.hex().encode(),
        lambda der: der.hex().upper().encode() + b"\n",
        lambda der: x509.load_der_x509_crl(der).public_bytes(Encoding.PEM),
    ],
)
def test_a_list_in_every_form(write: Callable[[bytes], bytes]) -> None:
    found = revocation_list(answer(write(LIST)), issuer="ARK-Milan")
    assert found.ders == (LIST,)
    assert found.start < NOW < found.end


@pytest.mark.parametrize("body", [b"", b"<html>", b"00", LIST[:-1], b"-----BEGIN X509 CRL-----", b"30820120"])
def test_no_list(body: bytes) -> None:
    with pytest.raises(UNEXPECTED, match="no revocation list"):
        revocation_list(answer(body), issuer="ARK-Milan")


def test_the_list_of_another_authority() -> None:
    with pytest.raises(UNEXPECTED, match="is a revocation list of ARK-Milan, and one of ARK-Genoa"):
        revocation_list(answer(LIST), issuer="ARK-Genoa")


def pem(*ders: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)


def test_a_chain_of_exactly_these_names() -> None:
    ders = (certificate("SEV-Milan", NOW, issuer="ARK-Milan"), certificate("ARK-Milan", NOW))
    names = frozenset({"SEV-Milan", "ARK-Milan"})
    assert certificate_chain(answer(pem(*ders)), names=names).ders == ders
    for wrong in (ders[:1], (*ders, certificate("SEV-Genoa", NOW))):
        with pytest.raises(UNEXPECTED, match="were asked for"):
            certificate_chain(answer(pem(*wrong)), names=names)
    with pytest.raises(UNEXPECTED):
        certificate_chain(answer(b"<html>"), names=names)


def test_the_certificate_of_a_chip() -> None:
    der = certificate("SEV-VCEK", NOW, issuer="SEV-Milan")
    assert chip_certificate(answer(der)).ders == (der,)
    for wrong in (certificate("ARK-Milan", NOW), pem(der), der + b"\0", b""):
        with pytest.raises(UNEXPECTED):
            chip_certificate(answer(wrong))


def test_a_manifest() -> None:
    xml = b'<SoftwareIdentity name="GH100"/>'
    assert manifest(Answer(status=200, headers={}, body=rim_reply(xml).body)).ders == (xml,)
    for wrong in (b"<SoftwareIdentity/>", b"[]", b'{"rim":1}', b'{"rim":"AA"}', b"{", b'{"rim":1.5}'):
        with pytest.raises(UNEXPECTED):
            manifest(answer(wrong))


def test_the_error_shows_what_came() -> None:
    wrong = answer(b"<!DOCTYPE html><title>Sign in", content_type="text/html")
    error = unexpected(ValueError("is no JSON"), wrong, "https://x.example/y")
    assert error.subject == "https://x.example/y"
    assert "text/html" in error.reason
    assert "<!DOCTYPE html>" in error.reason
    assert "login page" in error.advice


@given(st.binary(max_size=300), st.text(max_size=60))
def test_garbage_gives_only_refusals(body: bytes, chain: str) -> None:
    given_answer = Answer(status=200, headers={HEADER.lower(): chain}, body=body)
    readers: list[Callable[[Answer], Content]] = [
        lambda one: signed_json(one, key="tcbInfo", kind="TDX", fmspc=fmspc(), header=HEADER),
        lambda one: revocation_list(one, issuer="CA", header=HEADER),
        lambda one: certificate_chain(one, names=frozenset()),
        chip_certificate,
        manifest,
    ]
    for read in readers:
        with contextlib.suppress(*UNEXPECTED):
            read(given_answer)
