"""Collateral from files of any form: bundles, JSON, PEM, DER, XML."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields

from attestation.collateral import Collateral, DcapCollateral
from attestation.collateral_bundle import decode_bundle, encode_bundle
from attestation.collateral_import import import_collateral
from attestation.collateral_summary import summarise
from attestation.sim.pki import make_pki, new_keys
from attestation.sim.plan import sim_plan
from measurements.errors import KeyturnError
from tests.support.revocation_lists import certificate, ocsp_answer, revocation_list
from tests.support.vectors import vectors_folder

NAME = "collateral"
_NOW = 1_781_000_000
_VECTORS = (
    "attestation/dcap/collateral/tdx-90c06f000000-20260608-platform-96f0ebac908dc114.json",
    "attestation/snp/milan_ask_ark_asvk.pem",
    "attestation/nvidia/vbios_rim_1010_0200_882_96005E0001.swidtag",
)


def seeds() -> list[bytes]:
    """One file of each form."""
    one = make_pki(sim_plan(_NOW), new_keys()).collateral().dcap[0]
    crl, answer = revocation_list("ARK-Milan", _NOW), ocsp_answer(_NOW)
    rim = b'<SoftwareIdentity name="GH100"/>'
    bundle = encode_bundle(Collateral(early=(one,), crls=(crl,), rims=(rim,), ocsp=(answer,)))
    found = [bundle, _json(one), certificate("ARK-Milan", _NOW), crl, crl.hex().encode(), answer, rim]
    folder = vectors_folder()
    if folder is not None:
        found += [(folder / name).read_bytes() for name in _VECTORS if (folder / name).exists()]
    return found


def target(data: bytes) -> None:
    """What is imported can be bundled, and says what it is; a bundle has one encoding."""
    with suppress(KeyturnError):
        found = import_collateral(data)
        assert decode_bundle(encode_bundle(found)) == found
        assert all(item.state(_NOW).value for item in summarise(found))
    with suppress(KeyturnError):
        assert encode_bundle(decode_bundle(data)) == data


def _json(one: DcapCollateral) -> bytes:
    values = ((field.name, getattr(one, field.name)) for field in fields(one))
    return json.dumps({key: v if isinstance(v, str) else v.hex() for key, v in values}).encode()
