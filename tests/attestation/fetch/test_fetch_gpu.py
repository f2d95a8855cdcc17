"""Manifests and OCSP answers of NVIDIA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.collateral import Collateral
from attestation.fetch.cache import FetchCache
from attestation.fetch.errors import FetchError
from attestation.fetch.fetcher import Fetcher, collect
from attestation.fetch.needs import OcspNeed, RimNeed
from measurements.errors import KeyturnError
from tests.attestation.fetch.worlds import DAY, HOUR, NOW, fetcher, rim_reply
from tests.support.collateral_server import CollateralServer, Reply
from tests.support.revocation_lists import certificate, ocsp_answer, revocation_list

ISSUER = certificate("NVIDIA GH100 Identity", NOW)
LEAF = certificate("GH100 Provisioner", NOW, issuer="NVIDIA GH100 Identity")
NEED = OcspNeed(certificate=LEAF, issuer=ISSUER)
ANSWER = ocsp_answer(NOW, LEAF, ISSUER)


def kept_in(folder: Path, server: CollateralServer, now: int = NOW) -> Fetcher:
    return replace(fetcher(server, now=now), cache=FetchCache(folder=folder))


def test_manifests_of_gpus(server: CollateralServer, tmp_path: Path) -> None:
    xml = b'<SoftwareIdentity name="GH100"/>'
    server.serve("/v1/rim/NV_GPU_DRIVER_GH100_590.12", rim_reply(xml))
    need = RimNeed(name="NV_GPU_DRIVER_GH100_590.12")
    assert collect([need], kept_in(tmp_path, server)) == Collateral(rims=(xml,))
    server.serve("/v1/rim/NV_GPU_DRIVER_GH100_590.12", Reply(status=500))
    assert collect([need], kept_in(tmp_path, server)) == Collateral(rims=(xml,))
    with pytest.raises(FetchError, match="holds until 9999"):
        collect([need], kept_in(tmp_path, server, NOW + 2 * DAY))


def test_the_responder_is_asked_for_the_certificate(server: CollateralServer) -> None:
    server.serve("/", Reply(body=ANSWER))
    assert collect([NEED], fetcher(server)) == Collateral(ocsp=(ANSWER,))
    (asked,) = server.asked
    assert asked.headers["content-type"] == "application/ocsp-request"
    request = ocsp.load_der_ocsp_request(asked.body)
    assert request.serial_number == x509.load_der_x509_certificate(LEAF).serial_number
    assert isinstance(request.hash_algorithm, SHA384)


def test_answers_are_kept_for_an_hour_each_on_its_own(server: CollateralServer, tmp_path: Path) -> None:
    other = certificate("GH100 other", NOW, issuer="NVIDIA GH100 Identity")
    needs = [NEED, OcspNeed(certificate=other, issuer=ISSUER)]
    both = (ANSWER, ocsp_answer(NOW, other, ISSUER))
    server.serve("/", *(Reply(body=one) for one in both))
    assert collect(needs, kept_in(tmp_path, server)).ocsp == both
    assert collect(needs, kept_in(tmp_path, server, NOW + HOUR)).ocsp == both
    assert len(server.asked) == 2
    with pytest.raises(FetchError, match="speaks of other certificates"):
        collect(needs, kept_in(tmp_path, server, NOW + HOUR + 1))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "no OCSP answer"),
        (revocation_list("x", NOW), "no OCSP answer"),
        (ocsp_answer(NOW), "speaks of other certificates"),
        (ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER), "says try_later"),
    ],
)
def test_other_answers_are_refused(server: CollateralServer, body: object, reason: str) -> None:
    data = body.public_bytes(Encoding.DER) if isinstance(body, ocsp.OCSPResponse) else body
    assert isinstance(data, bytes)
    server.serve("/", Reply(body=data))
    with pytest.raises(FetchError, match=reason):
        collect([NEED], fetcher(server))


def test_an_answer_that_ended_is_not_taken(server: CollateralServer) -> None:
    server.serve("/", Reply(body=ANSWER))
    with pytest.raises(FetchError, match="what it sends ended at"):
        collect([NEED], fetcher(server, now=NOW + 31 * DAY))


def test_what_is_no_certificate_is_not_asked_for() -> None:
    with pytest.raises(KeyturnError, match=r"no X\.509 certificate"):
        OcspNeed(certificate=b"none", issuer=ISSUER)
