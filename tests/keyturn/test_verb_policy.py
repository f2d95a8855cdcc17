"""``keyturn policy`` and ``keyturn anchors`` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attestation.policy_document import parse_policy_document, policy_digest
from attestation.policy_file import parse_policy
from keyturn.cli import main
from keyturn.policy_inputs import PolicyUsageError, parse_moment, read_policy
from tests.attestation.test_policy_references import tdx_document


def call(*words: str | Path, status: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert (ended.value.code or 0) == status


def document(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 0) -> dict[str, Any]:
    call(*words, "--json", status=status)
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "policy.toml"
    call("policy", "init", "--platform", "tdx,snp", "--gpu", "--output", path)
    capsys.readouterr()
    return path


def test_init_writes_a_valid_policy_and_overwrites_nothing(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_policy(policy)
    assert found.platforms == {"tdx", "snp"}
    assert found.gpu is not None
    before = policy.read_bytes()
    error = document(capsys, "policy", "init", "--platform", "sim", "--output", policy, status=2)["error"]
    assert error["subject"] == str(policy)
    assert policy.read_bytes() == before


def test_init_to_stdout_is_the_policy_itself(capsys: pytest.CaptureFixture[str]) -> None:
    call("policy", "init", "--platform", "nitro")
    text = capsys.readouterr().out
    assert parse_policy(text.encode()).platforms == {"nitro"}
    assert document(capsys, "policy", "init", "--platform", "nitro")["policy"] == text


def test_init_of_a_policy_for_looking_at_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "look.toml"
    call("policy", "init", "--platform", "tdx", "--permissive", "--output", path)
    capsys.readouterr()
    found = document(capsys, "policy", "explain", path)
    assert found["environment"] == "dev"
    assert found["warnings"] > 4


@pytest.mark.parametrize("platforms", ["", "tdx,tdx", "sev", "tdx;snp"])
def test_init_refuses_what_is_no_platform(platforms: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = document(capsys, "policy", "init", "--platform", platforms, status=2)["error"]
    assert (error["code"], error["subject"]) == ("usage", "--platform")


def test_explain_in_words(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("policy", "explain", policy)
    text = capsys.readouterr().out
    for part in ("Intel TDX", "AMD SEV-SNP", "warns", "No measurement set is listed: nothing passes."):
        assert part in text
    assert "Intel SGX" not in text


def test_explain_at_another_time(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    window = '[[tdx.grace]]\nstatuses = ["OutOfDate"]\nuntil = 2027-01-31\n'
    policy.write_text(policy.read_text().replace("\ngrace = []\n", "\n", 1) + window)
    tones = []
    for now in ("2027-01-31", "2027-02-01"):
        found = document(capsys, "policy", "explain", policy, "--now", now)
        (tdx,) = (one for one in found["paragraphs"] if one["title"] == "Intel TDX")
        tones += [one["tone"] for one in tdx["sentences"] if "2027-01-31" in one["text"]]
    assert tones == ["ends", "warns"]
    assert found["warnings"] == sum(
        one["tone"] == "warns" for paragraph in found["paragraphs"] for one in paragraph["sentences"]
    )


def test_digest_of_file_and_document_are_the_same(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "policy.json"
    first = document(capsys, "policy", "digest", policy, "--output", written)
    assert first["digest"] == policy_digest(read_policy(policy)).hex()
    assert parse_policy_document(written.read_bytes()) == read_policy(policy)
    assert document(capsys, "policy", "digest", written)["digest"] == first["digest"]
    call("policy", "digest", policy)
    assert capsys.readouterr().out.strip() == first["digest"]


def test_reference_values_beside_the_policy(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (policy.parent / "ref.json").write_bytes(tdx_document(bytes(48)))
    table = '{name = "web", reference = "ref.json", registers = ["mrtd"]}'
    head, section, rest = policy.read_text().partition("[tdx]")
    policy.write_text(head + section + rest.replace("\nmeasurements = []", f"\nmeasurements = [{table}]", 1))
    shown = document(capsys, "policy", "digest", policy)["document"]
    assert shown["tdx"]["measurements"] == [{"name": "web", "registers": {"mrtd": "00" * 48}}]


def test_a_mistake_names_file_key_reason_and_remedy(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.write_text(policy.read_text().replace("\nmin-tcb-date", "\nmin-tcb-dat", 1))
    for verb in ("explain", "digest"):
        error = document(capsys, "policy", verb, policy, status=2)["error"]
        assert error == {
            "code": "policy",
            "subject": f"{policy}, tdx.min-tcb-dat",
            "reason": "the key is not known",
            "advice": "write a known key; the nearest known is min-tcb-date",
        }


def test_anchors(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "anchors")["anchors"]
    assert [one["purpose"] for one in found] == [
        "intel-dcap", "amd-milan", "amd-genoa", "amd-turin", "aws-nitro", "nvidia-device", "nvidia-rim",
    ]  # fmt: skip
    assert not any(one["own"] or one["development"] for one in found)
    call("anchors")
    assert "CN=Intel SGX Root CA" in capsys.readouterr().out


def test_anchors_of_a_policy_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.toml"
    call("policy", "init", "--platform", "sim", "--output", path)
    root = 'fingerprint = "{}"\nsubject = "CN=[mine]"\nsource = "me"\ndate = 2026-11-30\n'
    for number, purpose in enumerate(("sim", "tpm-ek")):
        text = f'\n[[roots]]\npurpose = "{purpose}"\n' + root.format(f"{number:064x}")
        path.write_text(path.read_text() + text)
    capsys.readouterr()
    found = document(capsys, "anchors", "--policy", path)["anchors"]
    assert [(one["purpose"], one["development"]) for one in found if one["own"]] == [
        ("tpm-ek", False),
        ("sim", True),
    ]
    call("anchors", "--policy", path)
    text = capsys.readouterr().out
    assert "CN=[mine]" in text
    assert "own, development" in text


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0", 0),
        ("1790000000", 1790000000),
        ("1970-01-02", 86400),
        ("1970-01-02T00:00:01Z", 86401),
        ("1970-01-02T00:00:01+00:00", 86401),
    ],
)
def test_moments(text: str, moment: int) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize(
    "text", ["", "-1", "x", "1970-01-02T00:00:00", "1970-01-02T00:00:00+01:00", "9" * 30]
)
def test_no_moments(text: str) -> None:
    with pytest.raises(PolicyUsageError):
        parse_moment(text)
