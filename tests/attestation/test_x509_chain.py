"""Chains of certificates: what makes one, and every way in which it is none."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.x509_chain import (
    MAX_DEPTH,
    MAX_NAMESAKES,
    MAX_POOL,
    CertificateError,
    build_chain,
    check_windows,
    is_usable_key,
    load_certificate,
    load_pem_certificates,
    load_revocation_list,
)
from tests.support.certificates import END, START, Issued, Wish, issue, name_of, revocation_list
from tests.support.limits import BUSY_SECONDS
from tests.support.paper_tpm import key_usage

SHORT = 1024
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=3072)
NOW = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
ROOT = issue(Wish(name="root", ca=True))
MIDDLE = issue(Wish(name="middle", ca=True, path_length=0, serial=11), by=ROOT)
LEAF = issue(Wish(name="leaf"), by=MIDDLE)


def pinned(root: Issued) -> frozenset[bytes]:
    return frozenset({hashlib.sha256(root.der).digest()})


def refused(match: str, leaf: Issued, *pool: Issued, root: Issued = ROOT) -> None:
    with pytest.raises(CertificateError, match=match):
        build_chain(leaf.der, [one.der for one in pool], roots=pinned(root), what="the leaf")


def test_a_chain_is_found_in_any_order() -> None:
    for pool in ([ROOT.der, MIDDLE.der], [MIDDLE.der, b"no certificate", ROOT.der, LEAF.der]):
        chain = build_chain(LEAF.der, pool, roots=pinned(ROOT), what="the leaf")
        assert chain.ders == (LEAF.der, MIDDLE.der, ROOT.der)
        assert [link.issuer for link in chain.links] == ["middle", "root", "root"]
        assert chain.fingerprint in pinned(ROOT)
        check_windows(chain.windows, NOW)


def test_a_root_of_the_same_name_and_another_key_is_none() -> None:
    refused("does not chain", LEAF, MIDDLE, issue(Wish(name="root", ca=True)))


def test_a_root_that_is_not_pinned() -> None:
    refused("does not chain", LEAF, MIDDLE, ROOT, root=issue(Wish(name="root", ca=True)))


def test_a_missing_intermediate() -> None:
    refused("leaf has no issuer", LEAF, ROOT)


@pytest.mark.parametrize(
    "wish",
    [
        {"ca": False, "cert_sign": True},
        {"ca": True, "cert_sign": False},
        {"ca": True, "constraints": False},
        {"ca": True, "usage": False},
        {
            "ca": True,
            "extensions": [
                (x509.NameConstraints(permitted_subtrees=[x509.DNSName("a")], excluded_subtrees=None), True)
            ],
        },
        {"ca": True, "key": rsa.generate_private_key(65537, SHORT)},
    ],
    ids=["no-ca", "no-cert-sign", "no-constraints", "no-usage", "name-constraints", "short-key"],
)
def test_an_issuer_that_may_not_issue(wish: dict[str, Any]) -> None:
    middle = issue(Wish(name="middle", **wish), by=ROOT)
    refused("leaf has no issuer", issue(Wish(name="leaf"), by=middle), middle, ROOT)


def test_a_path_that_is_longer_than_allowed() -> None:
    lower = issue(Wish(name="lower", ca=True), by=MIDDLE)
    refused("lower has no issuer", issue(Wish(name="leaf"), by=lower), lower, MIDDLE, ROOT)


def test_a_leaf_that_poses_as_issuer() -> None:
    refused("below has no issuer", issue(Wish(name="below"), by=LEAF), LEAF, MIDDLE, ROOT)


def test_issuers_in_a_circle_end() -> None:
    one = issue(Wish(name="one", ca=True), issuer_name="two")
    two = issue(Wish(name="two", ca=True), by=one)
    one = issue(Wish(name="one", ca=True, key=one.key), by=two)
    refused("does not chain|does not reach", issue(Wish(name="leaf"), by=one), one, two)


def test_a_weak_leaf() -> None:
    weak = issue(Wish(name="leaf", key=rsa.generate_private_key(65537, SHORT)), by=MIDDLE)
    refused("too weak", weak, MIDDLE, ROOT)


def test_a_huge_pool() -> None:
    pool = [str(number).encode() for number in range(MAX_POOL + 1)]
    with pytest.raises(CertificateError, match="more than"):
        build_chain(LEAF.der, pool, roots=pinned(ROOT), what="the leaf")


def test_a_crowd_of_one_name_is_not_tried() -> None:
    crowd = [issue(Wish(name="middle", ca=True)) for _ in range(MAX_NAMESAKES)]
    refused("certificates are called middle", LEAF, *crowd, MIDDLE, ROOT)


def test_keys_that_cost_much_time_are_not_tried() -> None:
    """An exponent as long as the modulus makes one signature cost 8 ms, and a crowd of issuers many: only
    bytes that nobody signed are needed for it.
    """
    numbers = RSA_KEY.public_key().public_numbers()
    slow = rsa.RSAPublicNumbers((1 << 3000) + 1, numbers.n).public_key()
    assert is_usable_key(RSA_KEY.public_key())
    assert not is_usable_key(rsa.RSAPublicNumbers(65537, (1 << 16383) + 1).public_key())
    assert not is_usable_key(slow)
    crowd = [
        _authority(level, key)
        for level in range(MAX_DEPTH - 1)
        for key in [slow] * (MAX_NAMESAKES - 1) + [RSA_KEY.public_key()]
    ]
    leaf = issue(Wish(name="leaf", key=RSA_KEY), issuer_name="level 0")
    started = time.process_time()
    with pytest.raises(CertificateError, match="does not reach"):
        build_chain(leaf.der, crowd, roots=pinned(ROOT), what="the leaf")
    assert time.process_time() - started < BUSY_SECONDS


def _authority(level: int, key: rsa.RSAPublicKey) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(f"level {level}"))
        .issuer_name(name_of(f"level {level + 1}"))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(key_cert_sign=True), critical=True)
    )
    return builder.sign(RSA_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("moment", [datetime(2025, 12, 31, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC)])
def test_a_window_that_does_not_hold_now(moment: datetime) -> None:
    chain = build_chain(LEAF.der, [MIDDLE.der, ROOT.der], roots=pinned(ROOT), what="the leaf")
    with pytest.raises(CertificateError, match=r"certificate leaf is (expired|not valid yet)"):
        check_windows(chain.windows, int(moment.timestamp()))


@pytest.mark.parametrize("victim", [LEAF, MIDDLE, ROOT], ids=["leaf", "middle", "root"])
def test_a_flipped_byte_anywhere_breaks_the_chain(victim: Issued) -> None:
    for place in range(len(victim.der)):
        changed = bytearray(victim.der)
        changed[place] ^= 0x01
        ders = [bytes(changed) if one is victim else one.der for one in (LEAF, MIDDLE, ROOT)]
        with pytest.raises(CertificateError):
            build_chain(ders[0], ders[1:], roots=pinned(ROOT), what="the leaf")


def test_bytes_after_a_certificate() -> None:
    with pytest.raises(CertificateError):
        load_certificate(LEAF.der + b"\0")


def test_certificates_in_pem() -> None:
    text = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in (LEAF, MIDDLE, ROOT))
    assert load_pem_certificates(text + b"\0") == (LEAF.der, MIDDLE.der, ROOT.der)
    for wrong in (b"", text[:-30], b"words\n" + text, text.replace(b"M", b"!", 1), text + b"x"):
        with pytest.raises(CertificateError):
            load_pem_certificates(wrong)


class TestRevocationLists:
    def load(self, data: bytes, issuer: Issued = ROOT) -> Any:
        return load_revocation_list(data, issuer.der, what="the list")

    def test_a_list_names_its_serials_and_window(self) -> None:
        found = self.load(revocation_list(ROOT, [3, 4], extensions=[(x509.CRLNumber(9), False)]))
        assert (found.serials, found.number) == ({3, 4}, 9)
        check_windows([found.window], NOW)
        with pytest.raises(CertificateError, match="the list is expired"):
            check_windows([found.window], NOW + 365 * 86400)

    def test_a_list_of_another_authority(self) -> None:
        other = issue(Wish(name="root", ca=True))
        with pytest.raises(CertificateError, match="not signed by"):
            self.load(revocation_list(other))
        with pytest.raises(CertificateError, match="not a list of"):
            self.load(revocation_list(MIDDLE))

    def test_an_authority_that_may_not_sign_lists(self) -> None:
        quiet = issue(Wish(name="quiet", ca=True, crl_sign=False))
        with pytest.raises(CertificateError, match="not a list of"):
            self.load(revocation_list(quiet), quiet)

    def test_a_partial_list(self) -> None:
        scope = x509.IssuingDistributionPoint(
            full_name=None,
            relative_name=None,
            only_contains_user_certs=True,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        )
        with pytest.raises(CertificateError, match="critical extension"):
            self.load(revocation_list(ROOT, extensions=[(scope, True)]))

    def test_a_list_with_a_flipped_byte(self) -> None:
        data = revocation_list(ROOT, [3])
        for place in range(len(data)):
            changed = bytearray(data)
            changed[place] ^= 0x80
            with pytest.raises(CertificateError):
                self.load(bytes(changed))


def test_names_are_compared_whole() -> None:
    assert name_of("root") == ROOT.certificate.subject
