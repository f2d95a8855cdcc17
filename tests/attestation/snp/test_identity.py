"""Which machine: every combination of key, masked chip id, product and lists."""

from __future__ import annotations

import pytest

from attestation.policy import Allowed
from attestation.snp.products import Product
from measurements.sev.report import SigningKey
from tests.support.policies import ANY, NONE, only
from tests.support.snp_cases import failed, good_case
from tests.support.snp_pki import CSP, Wishes, chip_of

MASKED = bytes(64)
CHIP_LISTED, ZEROS_LISTED, CSP_LISTED = "chip", "zeros", "csp"


def chips(name: str, product: Product) -> Allowed:
    listed = {CHIP_LISTED: only(chip_of(product).hex()), ZEROS_LISTED: only(MASKED.hex())}
    return {"any": ANY, "none": NONE}.get(name) or listed[name]


def providers(name: str) -> Allowed:
    return {"any": ANY, "none": NONE, CSP_LISTED: only(CSP)}[name]


VCEK = [
    # masked, Milan, chips allowed, whether it passes
    (False, False, CHIP_LISTED, True),
    (False, False, "any", True),
    (False, False, "none", False),
    (False, True, CHIP_LISTED, True),
    (False, True, "any", False),
    (False, True, "none", False),
    (True, False, CHIP_LISTED, False),
    (True, False, ZEROS_LISTED, False),
    (True, False, "any", True),
    (True, True, CHIP_LISTED, False),
    (True, True, ZEROS_LISTED, False),
    (True, True, "any", False),
]


@pytest.mark.parametrize(("masked", "milan", "allowed", "passes"), VCEK)
def test_vcek(masked: bool, milan: bool, allowed: str, passes: bool) -> None:
    product = Product.MILAN if milan else Product.GENOA
    wishes = Wishes(product=product, chip_id=MASKED if masked else None)
    case = good_case(wishes).demanding(chip_ids=chips(allowed, product), csp_ids=NONE, vlek=False)
    assert failed(case.verify()) == (set() if passes else {"chip-id"})


def test_any_chip_and_listed_ones_of_milan() -> None:
    mixed = Allowed(values=frozenset([chip_of(Product.MILAN).hex()]), any=True)
    for product in Product:
        assert failed(good_case(Wishes(product=product)).demanding(chip_ids=mixed).verify()) == set()
    other = Allowed(values=frozenset([chip_of(Product.GENOA).hex()]), any=True)
    assert failed(good_case(Wishes(product=Product.MILAN)).demanding(chip_ids=other).verify()) == {"chip-id"}


VLEK = [
    # masked, Milan, chips allowed, providers allowed, what fails
    (True, False, "any", "any", set()),
    (True, False, "any", CSP_LISTED, set()),
    (True, False, "none", CSP_LISTED, set()),
    (True, False, CHIP_LISTED, CSP_LISTED, set()),
    (True, False, "none", "any", {"chip-id"}),
    (True, False, ZEROS_LISTED, "any", {"chip-id"}),
    (True, False, "any", "none", {"csp-id"}),
    (True, False, "none", "none", {"chip-id", "csp-id"}),
    (True, True, "any", CSP_LISTED, set()),
    (True, True, "none", CSP_LISTED, set()),
    (True, True, "any", "any", {"csp-id"}),
    (True, True, "none", "any", {"chip-id", "csp-id"}),
    (False, False, CHIP_LISTED, "any", set()),
    (False, False, "any", CSP_LISTED, set()),
    (False, False, "none", CSP_LISTED, {"chip-id"}),
    (False, True, CHIP_LISTED, CSP_LISTED, set()),
    (False, True, CHIP_LISTED, "any", {"csp-id"}),
    (False, True, "none", CSP_LISTED, {"chip-id"}),
]


@pytest.mark.parametrize(("masked", "milan", "allowed", "csp", "fails"), VLEK)
def test_vlek(masked: bool, milan: bool, allowed: str, csp: str, fails: set[str]) -> None:
    product = Product.MILAN if milan else Product.GENOA
    chip_id = MASKED if masked else chip_of(product)
    case = good_case(Wishes(product=product, kind=SigningKey.VLEK, chip_id=chip_id))
    allowing = case.demanding(chip_ids=chips(allowed, product), csp_ids=providers(csp))
    assert failed(allowing.verify()) == fails


def test_vlek_has_to_be_allowed_as_such() -> None:
    case = good_case(Wishes(kind=SigningKey.VLEK))
    assert failed(case.demanding(vlek=False).verify()) == {"vlek"}


def test_masked_chip_is_no_identity() -> None:
    found = good_case(Wishes(chip_id=MASKED)).demanding(chip_ids=ANY).verify()
    assert found.facts is not None
    assert found.facts.identity == {}
    assert found.facts.details["hardware_id"] == chip_of(Product.GENOA).hex()


def test_chip_of_turin_has_eight_bytes() -> None:
    chip = chip_of(Product.TURIN)
    assert failed(good_case(Wishes(product=Product.TURIN)).verify()) == set()
    more = good_case(Wishes(product=Product.TURIN, chip_id=chip[:8] + b"\1" + bytes(55)))
    assert failed(more.demanding(chip_ids=ANY).verify()) == {"key-chip"}
