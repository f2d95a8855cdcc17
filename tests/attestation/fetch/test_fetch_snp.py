"""Certificates and lists of AMD's key distribution service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.collateral import Collateral
from attestation.fetch.cache import FetchCache
from attestation.fetch.errors import FetchError
from attestation.fetch.fetcher import collect
from attestation.fetch.needs import SnpNeed
from attestation.fetch.resources import CERTIFICATE_AGE, LIST_AGE
from attestation.snp.products import Product
from measurements.sev.report import TcbVersion
from tests.attestation.fetch.worlds import NOW, fetcher, quick_client
from tests.support.collateral_server import CollateralServer, Reply
from tests.support.revocation_lists import certificate, revocation_list

CHIP = bytes(range(64)).hex()
TCB = TcbVersion(fmc=None, boot_loader=4, tee=0, snp=24, microcode=219)
LEVELS = "blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"


def kds(server: CollateralServer, product: str, *, key: str = "vcek") -> tuple[bytes, bytes, bytes]:
    """Serve a product's chain and list; returns intermediate, root and list."""
    signer = f"SEV-VLEK-{product}" if key == "vlek" else f"SEV-{product}"
    ders = (certificate(signer, NOW, issuer=f"ARK-{product}"), certificate(f"ARK-{product}", NOW))
    pem = b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in ders)
    crl = revocation_list(f"ARK-{product}", NOW)
    server.serve(f"/{key}/v1/{product}/cert_chain", Reply(body=pem))
    server.serve(f"/{key}/v1/{product}/crl", Reply(body=crl))
    return (*ders, crl)


def test_a_report_gets_its_chip_certificate_chain_and_list(server: CollateralServer) -> None:
    intermediate, root, crl = kds(server, "Genoa")
    vcek = certificate("SEV-VCEK", NOW, issuer="SEV-Genoa")
    server.serve(f"/vcek/v1/Genoa/{CHIP}?{LEVELS}", Reply(body=vcek))
    need = SnpNeed(products=(Product.GENOA,), vlek=False, chip_id=CHIP, tcb=TCB)
    found = collect([need], fetcher(server))
    assert found == Collateral(certificates=(vcek, intermediate, root), crls=(crl,))


def test_a_report_of_either_product_takes_the_one_that_knows_the_chip(server: CollateralServer) -> None:
    kds(server, "Milan")
    _, root, crl = kds(server, "Genoa")
    vcek = certificate("SEV-VCEK", NOW, issuer="SEV-Genoa")
    server.serve(f"/vcek/v1/Genoa/{CHIP}?{LEVELS}", Reply(body=vcek))
    need = SnpNeed(products=(Product.MILAN, Product.GENOA), vlek=False, chip_id=CHIP, tcb=TCB)
    found = collect([need], fetcher(server))
    assert root in found.certificates
    assert found.crls == (crl,)


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_chip_that_nobody_knows_is_an_error(server: CollateralServer, status: int) -> None:
    for product in ("Milan", "Genoa"):
        server.serve(f"/vcek/v1/{product}/{CHIP}?{LEVELS}", Reply(status=status))
    need = SnpNeed(products=(Product.MILAN, Product.GENOA), vlek=False, chip_id=CHIP, tcb=TCB)
    with pytest.raises(FetchError) as refused:
        collect([need], fetcher(server))
    assert refused.value.status == status
    assert len(server.asked) == (1 if status == 500 else 2)


def test_a_cloud_key_has_a_chain_of_its_own(server: CollateralServer) -> None:
    intermediate, root, crl = kds(server, "Milan", key="vlek")
    need = SnpNeed(products=(Product.MILAN,), vlek=True, chip_id=None, tcb=TCB)
    found = collect([need], fetcher(server))
    assert found == Collateral(certificates=(intermediate, root), crls=(crl,))


def test_certificates_stay_longer_than_lists(server: CollateralServer, tmp_path: Path) -> None:
    kds(server, "Milan", key="vlek")
    need = SnpNeed(products=(Product.MILAN,), vlek=True, chip_id=None, tcb=TCB)
    cache = FetchCache(folder=tmp_path)
    collect([need], replace(fetcher(server), cache=cache))
    server.asked.clear()
    collect([need], replace(fetcher(server, now=NOW + LIST_AGE + 1), cache=cache))
    assert server.targets() == ["/vlek/v1/Milan/crl"]
    assert CERTIFICATE_AGE > LIST_AGE


def test_a_busy_service_is_left_alone_as_long_as_it_asks(server: CollateralServer) -> None:
    _, _, crl = kds(server, "Milan", key="vlek")
    server.serve(
        "/vlek/v1/Milan/crl",
        Reply(status=429, headers={"Retry-After": "10"}),
        Reply(body=crl),
    )
    taken: list[float] = []
    asking = replace(
        fetcher(server), client=replace(quick_client(), attempts=3, timeout=30, sleep=taken.append)
    )
    need = SnpNeed(products=(Product.MILAN,), vlek=True, chip_id=None, tcb=TCB)
    assert collect([need], asking).crls == (crl,)
    assert taken == [10.0]
