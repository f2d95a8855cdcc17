"""Fuzz target: TCB info and QE identity, and the evaluation of whatever levels they hold."""

from __future__ import annotations

import contextlib

from attestation.dcap.qe_identity import parse_qe_identity
from attestation.dcap.tcb_components import components_of
from attestation.dcap.tcb_evaluation import PlatformSvns, evaluate
from attestation.dcap.tcb_info import parse_tcb_info
from attestation.sim.tcb import Tee
from measurements.errors import KeyturnError
from tests.support.sim_pki import pki

NAME = "tcb-info"


def seeds() -> list[bytes]:
    """Both documents for both kinds of TEE."""
    texts = [text for tee in Tee for text in (pki().tcb_info(tee), pki().qe_identity(tee))]
    return [text.encode() for text in texts]


def target(data: bytes) -> None:
    """What can be read has levels in order, and evaluates to one of them or to none."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(KeyturnError):
        identity = parse_qe_identity(text)
        svns = [one.isv_svn for one in identity.levels]
        assert svns == sorted(set(svns), reverse=True)
    with contextlib.suppress(KeyturnError):
        info = parse_tcb_info(text)
        assert [one.sgx for one in info.levels] == sorted((one.sgx for one in info.levels), reverse=True)
        tdx = bytes([5, 1, 4, *[0] * 13]) if info.tee == "TDX" else None
        platform = PlatformSvns(sgx=(4,) * 16, pce_svn=11, tdx=tdx, current=tdx, qe_isv_svn=8)
        levels = parse_qe_identity(pki().qe_identity()).levels
        assert len(components_of(info, levels, platform)) >= 16 + 1 + 1
        outcome = evaluate(info, levels, platform)
        assert outcome.level in info.levels
