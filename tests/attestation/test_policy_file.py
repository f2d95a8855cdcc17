"""Policies in TOML: nothing is assumed, and every mistake is named with its place and remedy."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from typing import Any

import pytest

from attestation.container import EvidencePlatform
from attestation.policies import permissive_template, policy_template
from attestation.policy import Allowed, Environment, Policy, PolicyError
from attestation.policy_file import MAX_FILE, parse_policy
from tests.support.policies import CENTURY, permissive_policy

TEMPLATE = policy_template(list(EvidencePlatform), gpu=True)
TDX = policy_template([EvidencePlatform.TDX])


def edit(old: str, new: str, text: str = TDX) -> bytes:
    """The template with one edit, which must hit; at the start of a line if it can, past the comments."""
    if f"\n{old}" in text:
        old, new = f"\n{old}", f"\n{new}"
    assert old in text
    return text.replace(old, new, 1).encode()


def refused(data: bytes, **more: Any) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse_policy(data, subject="p.toml", **more)
    assert caught.value.advice
    return caught.value


@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_templates_are_valid_and_strict(count: int) -> None:
    for platforms in combinations(EvidencePlatform, count):
        policy = parse_policy(policy_template(platforms).encode())
        assert policy.platforms == frozenset(platforms)
        assert policy.report_data == Allowed(values=frozenset())
        assert (policy.environment is Environment.DEV) == (EvidencePlatform.SIM in platforms)
        for platform in platforms:
            assert getattr(policy, platform.value).measurements.sets == ()
            assert not getattr(policy, platform.value).measurements.any


@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_permissive_templates_allow_what_tests_call_permissive(count: int) -> None:
    for platforms in combinations(EvidencePlatform, count):
        policy = parse_policy(permissive_template(platforms, gpu=True).encode())
        first, *more = platforms or EvidencePlatform
        expected = permissive_policy(first, *more, gpu=True)
        assert (policy.environment, policy.platforms) == (Environment.DEV, frozenset(platforms))
        assert policy.gpu == expected.gpu
        for platform in platforms:
            assert _without_age(getattr(policy, platform)) == _without_age(getattr(expected, platform))
    assert parse_policy(permissive_template().encode()).tpm is None


def _without_age(section: Any) -> Any:
    """The section without the longest age, which is ever so long in either."""
    ages = [name for name in ("max_collateral_age", "max_crl_age", "max_age") if hasattr(section, name)]
    assert all(getattr(section, name) >= CENTURY for name in ages)
    return dataclasses.replace(section, **dict.fromkeys(ages, 0))


def test_dates_and_durations() -> None:
    text = TDX.replace("grace = []", "")
    text += '[[tdx.grace]]\nstatuses = ["OutOfDate"]\nuntil = 2027-01-31\n'
    text += '[[tdx.grace]]\nstatuses = ["OutOfDate"]\nuntil = 2027-01-31T12:00:00Z\n'
    section = parse_policy(text.encode()).tdx
    assert section is not None
    assert [window.until for window in section.grace] == [1801439999, 1801396800]
    assert section.min_tcb_date == 1747180800
    assert section.max_collateral_age == 30 * 86400
    for text, seconds in (("1 second", 1), ("5 minutes", 300), ("2 hours", 7200), ("1 day", 86400)):
        section = parse_policy(edit('"30 days"', f'"{text}"')).tdx
        assert section is not None
        assert section.max_collateral_age == seconds


@pytest.mark.parametrize(
    ("old", "new", "subject", "reason"),
    [
        ("version = 1", "version = 2", "p.toml, version", "only version 1"),
        ("version = 1", "", "p.toml, version", "is missing"),
        ("version = 1", "version = true", "p.toml, version", "only version 1"),
        ('name = "my policy"', 'name = ""', "p.toml, name", "not a name"),
        ('name = "my policy"', 'name = "a\\nb"', "p.toml, name", "not a name"),
        ('name = "my policy"', 'name = "a\\u202eb"', "p.toml, name", "not a name"),
        ('name = "my policy"', 'name = "a\\u009b2Jb"', "p.toml, name", "not a name"),
        ('environment = "release"', 'environment = "prod"', "p.toml, environment", "not known"),
        ("report-data = []", "", "p.toml, report-data", "missing"),
        ("report-data = []", 'report-data = "all"', "p.toml, report-data", "not a list"),
        ("report-data = []", "report-data = [1]", "p.toml, report-data.0", "hexadecimal"),
        ("report-data = []", 'report-data = ["AB"]', "p.toml, report-data.0", "lower-case"),
        ("report-data = []", 'report-data = ["abc"]', "p.toml, report-data.0", "hexadecimal"),
        ("report-data = []", 'report-data = [""]', "p.toml, report-data.0", "has 0 bytes"),
        ("report-data = []", 'report-data = ["00", "00"]', "p.toml, report-data", "twice"),
        ("report-data = []", 'report-data = ["any", "00"]', "p.toml, report-data", 'lists "any"'),
        ("report-data = []", 'report-data = ["any"]', "p.toml, report-data", 'lists "any"'),
        ('app-hashes = "any"', 'app-hashes = ["00"]', "p.toml, app-hashes.0", "has 1 bytes"),
        ('statuses = ["UpToDate"]', 'statuses = "UpToDate"', "p.toml, tdx.statuses", "not a list"),
        ('statuses = ["UpToDate"]', 'statuses = ["Uptodate"]', "p.toml, tdx.statuses.0", "not known"),
        ('statuses = ["UpToDate"]', 'statuses = ["Revoked"]', "p.toml, tdx.statuses.0", "always refused"),
        ("min-tcb-date = 2025-05-14", 'min-tcb-date = "2025-05-14"', "p.toml, tdx.min-tcb-date", "no date"),
        (
            "min-tcb-date = 2025-05-14",
            "min-tcb-date = 2025-05-14T00:00:00+01:00",
            "p.toml, tdx.min-tcb-date",
            "UTC",
        ),
        (
            "min-tcb-date = 2025-05-14",
            "min-tcb-date = 2025-05-14T00:00:00",
            "p.toml, tdx.min-tcb-date",
            "UTC",
        ),
        ("min-tcb-date = 2025-05-14", "min-tcb-date = 1969-12-31", "p.toml, tdx.min-tcb-date", "1970"),
        (
            "min-evaluation-number = 20",
            "min-evaluation-number = -1",
            "p.toml, tdx.min-evaluation-number",
            "0",
        ),
        (
            "min-evaluation-number = 20",
            "min-evaluation-number = true",
            "p.toml, tdx.min-evaluation-number",
            "0",
        ),
        ('"30 days"', '"30"', "p.toml, tdx.max-collateral-age", "no duration"),
        ('"30 days"', '"0 days"', "p.toml, tdx.max-collateral-age", "no duration"),
        ('"30 days"', "30", "p.toml, tdx.max-collateral-age", "no duration"),
        (
            "advisories-denied = []",
            'advisories-denied = "any"',
            "p.toml, tdx.advisories-denied",
            "not a list",
        ),
        (
            "advisories-denied = []",
            'advisories-denied = ["SA-1"]',
            "p.toml, tdx.advisories-denied.0",
            "INTEL",
        ),
        ("smt = true", "smt = 1", "p.toml, tdx.smt", "neither true nor false"),
        ("smt = true", "smt = true\ndebug = false", "p.toml, tdx.debug", "debug is never allowed"),
        ("smt = true", "smt = true\nmeasurments = []", "p.toml, tdx.measurments", "not known"),
        ('ppids = "any"', 'ppids = ["00"]', "p.toml, tdx.ppids.0", "has 1 bytes"),
        ("\nmeasurements = []", '\nmeasurements = "all"', "p.toml, tdx.measurements", "neither tables"),
        ("\nmeasurements = []", "\nmeasurements = [1]", "p.toml, tdx.measurements", "neither tables"),
        ("grace = []", "grace = [{}]", "p.toml, tdx.grace.0.statuses", "missing"),
        ("[tdx]", "[snp]", "p.toml, snp.statuses", "not known"),
        ('platforms = ["tdx"]', 'platforms = ["tdx", "snp"]', "p.toml, platforms", "no section [snp]"),
        ('platforms = ["tdx"]', "platforms = []", "p.toml, tdx", "does not list tdx"),
        ('platforms = ["tdx"]', 'platforms = ["tdx", "sev"]', "p.toml, platforms.1", "not known"),
        ("[tdx]", "debug = true\n[tdx]", "p.toml, debug", "debug is never allowed"),
    ],
)
def test_mistakes_are_named_with_their_place(old: str, new: str, subject: str, reason: str) -> None:
    error = refused(edit(old, new))
    assert error.subject == subject
    assert reason in error.reason


@pytest.mark.parametrize(
    ("old", "new", "subject", "reason"),
    [
        ("vmpls = [0]", "vmpls = [4]", "p.toml, snp.vmpls.0", "0 to 3"),
        ("floors = {}", "floors = {genoa = {}}", "p.toml, snp.floors.genoa.boot-loader", "missing"),
        ("floors = {}", "floors = {rome = {}}", "p.toml, snp.floors.rome", "not known"),
        (
            "floors = {}",
            "floors = {genoa = {fmc = 0, boot-loader = 0, tee = 0, snp = 0, microcode = 0}}",
            "p.toml, snp.floors.genoa.fmc",
            "not known",
        ),
        (
            "floors = {}",
            "floors = {turin = {boot-loader = 0, tee = 0, snp = 0, microcode = 0}}",
            "p.toml, snp.floors.turin.fmc",
            "missing",
        ),
        (
            "floors = {}",
            "floors = {milan = {boot-loader = 256, tee = 0, snp = 0, microcode = 0}}",
            "p.toml, snp.floors.milan.boot-loader",
            "0 to 255",
        ),
        ('chip-ids = "any"', 'chip-ids = ["any"]', "p.toml, snp.chip-ids", 'lists "any"'),
        ("csp-ids = []", 'csp-ids = ["any", "x", "any"]', "p.toml, snp.csp-ids", 'lists "any"'),
        ("csp-ids = []", 'csp-ids = ["any", "a b"]', "p.toml, snp.csp-ids.0", "not a word"),
        ('module-ids = "any"', 'module-ids = ["any"]', "p.toml, nitro.module-ids", 'lists "any"'),
        (
            "activation-secrets = []",
            'activation-secrets = ["00"]',
            "p.toml, tpm.activation-secrets.0",
            "1 bytes",
        ),
        (
            "required-platform-info = []",
            'required-platform-info = ["ec"]',
            "p.toml, snp.required-platform-info.0",
            "not known",
        ),
        (
            "activation-secrets = []",
            'activation-secrets = "any"',
            "p.toml, tpm.activation-secrets",
            "not a list",
        ),
        ('banks = ["sha256", "sha384"]', 'banks = ["sha1"]', "p.toml, tpm.banks.0", "not known"),
        ("pcrs = [0,", "pcrs = [24,", "p.toml, tpm.pcrs.0", "0 to 23"),
        ('ak-proofs = ["credential"]', 'ak-proofs = ["ek"]', "p.toml, tpm.ak-proofs.0", "not known"),
        ("count = 1", "count = 0", "p.toml, gpu.count", "1 to 64"),
        ('environment = "dev"', 'environment = "release"', "p.toml, sim", "simulated"),
    ],
)
def test_mistakes_of_other_platforms(old: str, new: str, subject: str, reason: str) -> None:
    error = refused(edit(old, new, TEMPLATE))
    assert error.subject == subject
    assert reason in error.reason


def test_the_nearest_key_is_named() -> None:
    error = refused(edit("smt = true", "smt = true\nmeasurments = []"))
    assert error.advice.endswith("the nearest known is measurements")


def test_every_key_is_needed() -> None:
    lines = TEMPLATE.splitlines(keepends=True)
    keys = [line for line in lines if line[0].islower() and not line.startswith("floors") and "=" in line]
    assert len(keys) > 70
    for line in keys:
        first = line.split(" ")[0]
        error = refused("".join(one for one in lines if one is not line).encode())
        assert error.subject.endswith(first)
        assert "missing" in error.reason


def test_milan_chips_beside_any_other() -> None:
    chip = "ab" * 64
    policy = parse_policy(edit('chip-ids = "any"', f'chip-ids = ["any", "{chip}"]', TEMPLATE))
    assert policy.snp is not None
    assert policy.snp.chip_ids == Allowed(values=frozenset({chip}), any=True)


ROOT = """
[[roots]]
purpose = "{purpose}"
fingerprint = "{fingerprint}"
subject = "CN=mine"
source = "my own"
date = {date}
"""


def test_own_roots() -> None:
    root = ROOT.format(purpose="tpm-ek", fingerprint="ab" * 32, date="2026-11-30")
    (anchor,) = parse_policy((TDX + root).encode()).roots
    assert (anchor.purpose, anchor.fingerprint, anchor.date) == ("tpm-ek", b"\xab" * 32, "2026-11-30")


@pytest.mark.parametrize(
    ("purpose", "fingerprint", "date", "subject"),
    [
        ("sim", "ab" * 32, "2026-11-30", "p.toml, roots.0.purpose"),
        ("tpm", "ab" * 32, "2026-11-30", "p.toml, roots.0.purpose"),
        ("tpm-ek", "ab" * 31, "2026-11-30", "p.toml, roots.0.fingerprint"),
        ("tpm-ek", "ab" * 32, '"2026-11-30"', "p.toml, roots.0.date"),
        ("tpm-ek", "ab" * 32, "2026-11-30T00:00:00Z", "p.toml, roots.0.date"),
    ],
)
def test_wrong_roots(purpose: str, fingerprint: str, date: str, subject: str) -> None:
    root = ROOT.format(purpose=purpose, fingerprint=fingerprint, date=date)
    assert refused((TDX + root).encode()).subject == subject


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"a = ",
        b"a = 1\na = 2",
        b"a = " + b"[" * 20000,
        b"#" * (MAX_FILE + 1),
        b"a." * 10000 + b"a = 1",
    ],
)
def test_what_is_no_toml_is_refused(data: bytes) -> None:
    assert refused(data).subject == "p.toml"


def test_two_sets_of_one_name_are_refused() -> None:
    one = f'{{name = "web", registers = {{mrtd = "{"00" * 48}"}}}}'
    error = refused(edit("\nmeasurements = []", f"\nmeasurements = [{one}, {one}]"))
    assert "same name" in error.reason


@pytest.mark.parametrize(
    "registers", ["{}", '{mrtd = "00"}', "{mrtd = 1}", '{rtmr4 = "00"}', "[]", '{mrtd = "any"}']
)
def test_attack_a_set_that_demands_less(registers: str) -> None:
    one = f'{{name = "web", registers = {registers}}}'
    assert refused(edit("\nmeasurements = []", f"\nmeasurements = [{one}]"))


def test_attack_a_platform_by_the_sections_name_alone() -> None:
    text = TEMPLATE.replace('platforms = ["tdx", "sgx", "snp", "nitro", "tpm", "sim"]', 'platforms = ["tdx"]')
    assert "does not list" in refused(text.encode()).reason


def test_a_tpm_section_may_stand_beside_other_platforms() -> None:
    text = policy_template([EvidencePlatform.TDX, EvidencePlatform.TPM])
    policy = parse_policy(text.replace('["tdx", "tpm"]', '["tdx"]').encode())
    assert isinstance(policy, Policy)
    assert policy.platforms == {EvidencePlatform.TDX}
    assert policy.tpm is not None
