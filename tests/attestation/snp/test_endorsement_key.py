"""Extensions of VCEK and VLEK certificates: each once, each value in its one encoding."""

from __future__ import annotations

from itertools import product as pairs

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestation.snp.endorsement_key import kind_of, read_endorsement_key
from attestation.snp.products import Product, product_of_cpu, product_of_name
from attestation.x509_chain import CertificateError
from measurements.errors import KeyturnError
from measurements.sev.cpu_models import CPU_MODELS
from measurements.sev.report import SigningKey, TcbVersion
from tests.support.snp_pki import CSP, LeafWishes, chip_of, der_integer, der_text, levels_of, pki


def read(product: Product, kind: SigningKey, **extensions: bytes | None) -> object:
    return read_endorsement_key(leaf(product, kind, **extensions))


def leaf(product: Product, kind: SigningKey, **extensions: bytes | None) -> bytes:
    changed = tuple((name.removeprefix("x").replace("_", "."), value) for name, value in extensions.items())
    return pki(product).leaf(LeafWishes(kind=kind, levels=levels_of(product), extensions=changed)).der


@pytest.mark.parametrize("kind", [SigningKey.VCEK, SigningKey.VLEK])
@pytest.mark.parametrize("product", Product)
def test_good_certificates(product: Product, kind: SigningKey) -> None:
    key = read_endorsement_key(leaf(product, kind))
    turin = product is Product.TURIN
    assert (key.kind, key.product, key.product_name) == (kind, product, product.label)
    assert key.tcb == TcbVersion(fmc=1 if turin else None, boot_loader=4, tee=1, snp=24, microcode=219)
    assert key.csp_id == (CSP if kind is SigningKey.VLEK else None)
    chip = chip_of(product)[: 8 if turin else 64]
    assert key.hardware_id == (None if kind is SigningKey.VLEK else chip)


GENOA_SUFFIXES = ("1", "2", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8")
TURIN_SUFFIXES = ("1", "2", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8", "3.9")
REQUIRED = [
    *((Product.GENOA, SigningKey.VCEK, suffix) for suffix in (*GENOA_SUFFIXES, "4")),
    *((Product.GENOA, SigningKey.VLEK, suffix) for suffix in (*GENOA_SUFFIXES, "5")),
    *((Product.TURIN, SigningKey.VCEK, suffix) for suffix in (*TURIN_SUFFIXES, "4")),
]


@pytest.mark.parametrize(("product", "kind", "suffix"), REQUIRED)
def test_each_extension_must_be_there(product: Product, kind: SigningKey, suffix: str) -> None:
    wishes = LeafWishes(kind=kind, levels=levels_of(product), extensions=((suffix, None),))
    with pytest.raises(CertificateError):
        read_endorsement_key(pki(product).leaf(wishes).der)


FOREIGN = [
    (Product.GENOA, SigningKey.VCEK, "3.9", der_integer(0)),
    (Product.GENOA, SigningKey.VCEK, "5", der_text("CN=provider")),
    (Product.GENOA, SigningKey.VLEK, "4", bytes(64)),
    (Product.GENOA, SigningKey.VCEK, "6", der_integer(0)),
    (Product.GENOA, SigningKey.VCEK, "3.10", der_integer(0)),
    (Product.TURIN, SigningKey.VCEK, "3.4", der_integer(0)),
]


@pytest.mark.parametrize(("product", "kind", "suffix", "value"), FOREIGN)
def test_extensions_that_do_not_belong(product: Product, kind: SigningKey, suffix: str, value: bytes) -> None:
    wishes = LeafWishes(kind=kind, levels=levels_of(product), extensions=((suffix, value),))
    with pytest.raises(CertificateError, match="do not belong"):
        read_endorsement_key(pki(product).leaf(wishes).der)


BAD_VALUES = {
    "level with a byte more": ("3.1", b"\x02\x01\x04\x00"),
    "level written too long": ("3.1", b"\x02\x02\x00\x04"),
    "negative level": ("3.1", b"\x02\x01\x84"),
    "level above 255": ("3.8", b"\x02\x02\x01\x00"),
    "level without a value": ("3.8", b"\x02\x00"),
    "level that is a text": ("3.3", b"\x16\x01\x18"),
    "plain level": ("3.3", b"\x18"),
    "no level": ("3.2", b""),
    "reserved level": ("3.5", der_integer(1)),
    "old reserved level": ("3.4", der_integer(1)),
    "structure version 1": ("1", der_integer(1)),
    "structure version 2": ("1", der_integer(2)),
    "unknown product": ("2", der_text("Venice")),
    "product with more": ("2", der_text("Genoa-B1x")),
    "product in small letters": ("2", der_text("genoa")),
    "product of another structure": ("2", der_text("Turin")),
    "product as UTF8String": ("2", b"\x0c\x05Genoa"),
    "product with a zero": ("2", der_text("Genoa\0")),
    "product with wrong length": ("2", b"\x16\x04Genoa"),
    "empty product": ("2", b"\x16\x00"),
    "short hardware id": ("4", bytes(63)),
    "long hardware id": ("4", bytes(65)),
    "hardware id of Turin": ("4", bytes(8)),
    "wrapped hardware id of wrong length": ("4", b"\x04\x3f" + bytes(64)),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_values_in_another_encoding(name: str) -> None:
    with pytest.raises(CertificateError):
        read_endorsement_key(pki(Product.GENOA).leaf(LeafWishes(extensions=(BAD_VALUES[name],))).der)


@pytest.mark.parametrize("value", [b"\x16\x00", der_text("CN="), b"\x16\x80" + b"a" * 128, b"\x16\x01\xe9"])
def test_provider_names_that_are_none(value: bytes) -> None:
    with pytest.raises(CertificateError):
        read(Product.GENOA, SigningKey.VLEK, x5=value)


def test_hardware_id_in_an_octet_string() -> None:
    chip = chip_of(Product.GENOA)
    key = read_endorsement_key(leaf(Product.GENOA, SigningKey.VCEK, x4=b"\x04\x40" + chip))
    assert key.hardware_id == chip


def test_names_and_curves() -> None:
    with pytest.raises(CertificateError, match="neither"):
        read_endorsement_key(pki(Product.GENOA).leaf(LeafWishes(name="SEV-VXEK")).der)
    with pytest.raises(CertificateError, match="neither"):
        read_endorsement_key(pki(Product.GENOA).ark.der)
    with pytest.raises(CertificateError, match="P-384"):
        read_endorsement_key(pki(Product.GENOA).leaf(LeafWishes(curve=ec.SECP256R1())).der)
    assert kind_of(pki(Product.GENOA).ask.der) is None


def test_an_extension_twice_is_refused() -> None:
    """The library that makes certificates refuses to write one twice, so the bytes are changed: 3.6 → 3.5."""
    der = leaf(Product.GENOA, SigningKey.VCEK)
    arc = bytes.fromhex("060a2b060104019c780103")
    assert der.count(arc + b"\6") == 1
    changed = der.replace(arc + b"\6", arc + b"\5")
    with pytest.raises(CertificateError):
        read_endorsement_key(changed)


@given(level=st.integers(0, 255))
def test_levels(level: int) -> None:
    wishes = LeafWishes(extensions=(("3.8", der_integer(level)),))
    assert read_endorsement_key(pki(Product.GENOA).leaf(wishes).der).tcb.microcode == level


@given(st.binary(max_size=2048))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(KeyturnError):
        read_endorsement_key(data)


def test_every_processor_has_one_product_or_none() -> None:
    found = {
        (family, model): product_of_cpu(family, model) for family, model in pairs(range(256), range(256))
    }
    counts = {one: sum(value is one for value in found.values()) for one in (*Product, None)}
    assert counts == {
        Product.MILAN: 16,
        Product.GENOA: 32,
        Product.TURIN: 18,
        None: 65536 - 66,
    }
    for name, product in (("EPYC-Milan", "milan"), ("EPYC-Genoa", "genoa"), ("EPYC-Turin", "turin")):
        assert product_of_cpu(CPU_MODELS[name].family, CPU_MODELS[name].model) == product
    assert product_of_cpu(CPU_MODELS["EPYC-Rome"].family, CPU_MODELS["EPYC-Rome"].model) is None


def test_product_names() -> None:
    assert product_of_name("Milan-B0") is Product.MILAN
    assert product_of_name("Siena") is product_of_name("Bergamo-A1") is Product.GENOA
    assert product_of_name("Turin-B1") is Product.TURIN
    assert product_of_name("") is product_of_name("Milan-") is product_of_name("Milan\n") is None
