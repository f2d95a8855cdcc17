"""What comes over the network or lies in the cache, and what evidence asks for. The first byte chooses the
reader.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import quote

from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.fetch.bodies import (
    UNEXPECTED,
    Content,
    certificate_chain,
    chip_certificate,
    manifest,
    ocsp_answer,
    revocation_list,
    signed_json,
)
from attestation.fetch.cache import FetchCache, KeptAnswer
from attestation.fetch.http import Answer
from attestation.fetch.needs import needs
from attestation.sim.pki import SimPki, make_pki, new_keys
from attestation.sim.plan import sim_plan
from attestation.sim.quote import sim_domain, td_quote
from measurements.errors import KeyturnError
from tests.support.revocation_lists import certificate
from tests.support.revocation_lists import ocsp_answer as make_answer
from tests.support.revocation_lists import revocation_list as make_list

NAME = "fetch"
_NOW = 1_781_000_000
_URL = "https://pccs.invalid/"
_HEADER = "TCB-Info-Issuer-Chain"
_PLATFORMS = (EvidencePlatform.TDX, EvidencePlatform.SNP)
_SERIAL = 7


@cache
def _pki() -> SimPki:
    return make_pki(sim_plan(_NOW), new_keys())


@cache
def _body() -> bytes:
    one = _pki().dcap()
    return f'{{"tcbInfo":{one.tcb_info},"signature":"{one.tcb_info_signature.hex()}"}}'.encode()


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="keyturn-fuzz-"))


def seeds() -> list[bytes]:
    """One input for each reader."""
    chain = _pki().dcap().tcb_info_issuer_chain.encode()
    kept = FetchCache(folder=_folder())
    kept.store(KeptAnswer(url=_URL, fetched=1, confirmed=2, headers={"etag": "a"}, body=b"body"))
    entry = next(_folder().iterdir()).read_bytes()[32:]
    return [
        bytes([place, *data])
        for place, data in enumerate(
            (
                _body(),
                make_list("Root CA", _NOW),
                chain,
                certificate("SEV-VCEK", _NOW),
                b'{"id":"x","rim":"PFNvZnR3YXJlSWRlbnRpdHkgbmFtZT0iWCIvPg=="}',
                make_answer(_NOW, certificate("leaf", _NOW, issuer="x", serial=_SERIAL)),
                td_quote(_pki(), sim_domain()),
                bytes(1184),
                entry,
                quote(chain).encode(),
            )
        )
    ]


def target(data: bytes) -> None:
    """Only refusals, texts as they came, and needs that stay in their form."""
    place, rest = data[:1] or b"\0", data[1:]
    number, cache_entry = place[0] % (len(_READERS) + 4), len(_READERS) + 2
    if number < len(_READERS):
        with suppress(*UNEXPECTED):
            found = _READERS[number](Answer(status=200, headers=_headers(), body=rest))
            assert found.start <= found.end or found.ders or found.text
            assert found.text.encode() in rest
    elif number < cache_entry:
        with suppress(KeyturnError):
            needs(EvidenceContainer(platform=_PLATFORMS[number - len(_READERS)], report=rest))
    elif number == cache_entry:
        _read_entry(rest)
    else:
        header = {_HEADER.lower(): rest.decode("latin-1")}
        with suppress(*UNEXPECTED):
            _READERS[0](Answer(status=200, headers=header, body=_body()))


def _read_entry(content: bytes) -> None:
    path = _folder() / hashlib.sha256(_URL.encode()).hexdigest()
    path.write_bytes(hashlib.sha256(content).digest() + content)
    kept = FetchCache(folder=_folder())
    found = kept.load(_URL)
    assert (found is None) == kept.is_damaged(_URL)
    if found is not None:
        kept.store(found)
        assert path.read_bytes()[32:] == content


@cache
def _headers() -> dict[str, str]:
    return {_HEADER.lower(): quote(_pki().dcap().tcb_info_issuer_chain)}


def _signed(answer: Answer) -> Content:
    fmspc = _pki().plan.platform.fmspc.hex()
    return signed_json(answer, key="tcbInfo", kind="TDX", fmspc=fmspc, header=_HEADER)


_READERS: tuple[Callable[[Answer], Content], ...] = (
    _signed,
    lambda answer: revocation_list(answer, issuer="CA"),
    lambda answer: certificate_chain(answer, names=frozenset({"Intel SGX TCB Signing", "Intel SGX Root CA"})),
    chip_certificate,
    manifest,
    lambda answer: ocsp_answer(answer, serial=_SERIAL),
)
