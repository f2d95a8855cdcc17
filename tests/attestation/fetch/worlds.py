"""Evidence, collateral and recorded answers that fit together, at one moment."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from functools import cache

from attestation.collateral import DcapCollateral
from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.fetch.fetcher import Fetcher
from attestation.fetch.http import HttpClient
from attestation.fetch.sources import Source, Sources
from attestation.sim.pki import SimPki, make_pki, new_keys
from attestation.sim.plan import sim_plan
from attestation.sim.quote import sim_domain, td_quote
from tests.support.collateral_server import CollateralServer, Reply, dcap_replies

NOW = 1_781_000_000
DAY = 86_400
HOUR = 3600


@cache
def pki() -> SimPki:
    """Collateral from a day before ``NOW`` for 30 days."""
    return make_pki(sim_plan(NOW), new_keys())


@cache
def early_set() -> DcapCollateral:
    """Of the same machine at the next evaluation."""
    plan = sim_plan(NOW)
    info = replace(plan.tcb_info, evaluation_number=plan.tcb_info.evaluation_number + 1)
    identity = replace(plan.qe_identity, evaluation_number=plan.qe_identity.evaluation_number + 1)
    changed = replace(plan, tcb_info=info, qe_identity=identity)
    return make_pki(changed, pki().keys).collateral().dcap[0]


@cache
def evidence() -> EvidenceContainer:
    """A quote of the simulated machine."""
    return EvidenceContainer(platform=EvidencePlatform.SIM, report=td_quote(pki(), sim_domain()))


@cache
def collateral_set() -> DcapCollateral:
    """Its collateral; signatures would be others each time."""
    return pki().collateral().dcap[0]


def fmspc() -> str:
    return pki().plan.platform.fmspc.hex()


def replies(one: DcapCollateral | None = None, edition: str = "update=standard") -> dict[str, Reply]:
    return dcap_replies(one or collateral_set(), tee="tdx", fmspc=fmspc(), ca="platform", edition=edition)


def tcb_target() -> str:
    return f"/tdx/certification/v4/tcb?fmspc={fmspc().upper()}&update=standard"


def local_sources(server: CollateralServer, *, pccs: bool = False) -> Sources:
    return Sources(bases=dict.fromkeys(Source, server.url), pccs=pccs)


def quick_client() -> HttpClient:
    """Asks once, so that trouble shows at once."""
    return HttpClient(timeout=5, attempts=1, sleep=lambda _: None)


def fetcher(server: CollateralServer, *, now: int = NOW, pccs: bool = False) -> Fetcher:
    """Without a cache."""
    return Fetcher(
        sources=local_sources(server, pccs=pccs), cache=None, client=quick_client(), clock=lambda: now
    )


def rim_reply(xml: bytes) -> Reply:
    body = {"id": "x", "rim": base64.b64encode(xml).decode(), "rim_format": "TCG", "request_id": "1"}
    return Reply(body=json.dumps(body).encode())
