"""Addresses that collateral may come from."""

from __future__ import annotations

import pytest

from attestation.fetch.errors import FetchError
from attestation.fetch.sources import VENDORS, Source, is_loopback, sources


def test_vendors_are_the_default_and_https() -> None:
    found = sources()
    assert found.bases == VENDORS
    assert not found.pccs
    assert all(base.startswith("https://") and not base.endswith("/") for base in found.bases.values())


@pytest.mark.parametrize(
    "text",
    [
        "https://pccs.example:8081",
        "https://pccs.example:8081/",
        "https://pccs.example:8081/sgx/certification/v4",
        "https://pccs.example:8081/sgx/certification/v4/",
        "https://pccs.example:8081/tdx/certification/v4/",
    ],
)
def test_a_pccs_is_named_with_or_without_its_path(text: str) -> None:
    found = sources(pccs=text)
    assert found.bases[Source.INTEL] == found.bases[Source.ROOT_CRL] == "https://pccs.example:8081"
    assert found.pccs
    assert found.bases[Source.AMD] == VENDORS[Source.AMD]
    assert found.url(Source.INTEL, "/x?y=1") == "https://pccs.example:8081/x?y=1"


def test_each_service_has_its_own_address() -> None:
    found = sources(kds="https://kds.example/mirror/", rim="http://127.0.0.1:8080")
    assert found.bases[Source.AMD] == "https://kds.example/mirror"
    assert found.bases[Source.NVIDIA] == "http://127.0.0.1:8080"
    assert found.bases[Source.INTEL] == VENDORS[Source.INTEL]


@pytest.mark.parametrize(
    "base", ["http://localhost:1", "http://127.0.0.1", "http://127.9.9.9", "http://[::1]:80"]
)
def test_http_is_for_this_machine(base: str) -> None:
    assert sources(pccs=base).bases[Source.INTEL] == base


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://pccs.example", "not https"),
        ("http://10.0.0.1", "not https"),
        ("http://localhost.example", "not https"),
        ("http://127.0.0.1.example", "not https"),
        ("http://2130706433", "not https"),
        ("ftp://127.0.0.1", "not https"),
        ("file:///etc/passwd", "is not https://host"),
        ("pccs.example", "is not https://host"),
        ("//pccs.example", "not https"),
        ("https://", "is not https://host"),
        ("https://user@pccs.example", "name or password"),
        ("https://:secret@pccs.example", "name or password"),
        ("https://pccs.example?x=1", "is not https://host"),
        ("https://pccs.example?", "is not https://host"),
        ("https://pccs.example#x", "is not https://host"),
        ("https://pccs.example:port", "is no address"),
        ("https://pccs.example:99999", "is no address"),
        ("https://[::1", "is no address"),
        ("https://pccs.example/a b", "printable ASCII"),
        ("https://pccs.example/\r\nX: y", "printable ASCII"),
        ("https://pccs.exämple", "printable ASCII"),
        ("https://pccs.example/" + "x" * 600, "printable ASCII"),
    ],
)
def test_other_addresses_are_refused(text: str, reason: str) -> None:
    with pytest.raises(FetchError, match=reason) as refused:
        sources(pccs=text)
    assert refused.value.subject == "--pccs"


def test_loopback_is_judged_by_the_address() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("127.0.0.1.example")
    assert not is_loopback("::ffff:10.0.0.1")
