"""``keyturn tpm make``: TPMs of one authority, and what a verifier is to trust."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keyturn.cli import main
from tests.support.tools import require_tool

pytestmark = pytest.mark.apt


def make(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    require_tool("swtpm_setup", package="swtpm-tools")
    require_tool("swtpm", package="swtpm")
    with pytest.raises(SystemExit) as ended:
        main(["tpm", "make", *words, "--json"])
    assert not ended.value.code
    return dict(json.loads(capsys.readouterr().out))


def certificate(path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(path).read_bytes())


def test_tpms_of_one_authority_share_its_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ("--authority", str(tmp_path / "ca"))
    first, second = (make(capsys, str(tmp_path / name), *shared) for name in ("one", "two"))
    assert {**first, "state": ""} == {**second, "state": ""}
    root, intermediate = certificate(first["root"]), certificate(first["intermediate"])
    assert first["platform_root"] == hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()
    intermediate.verify_directly_issued_by(root)
    states = [(tmp_path / name / "tpm2-00.permall").read_bytes() for name in ("one", "two")]
    assert states[0] != states[1]


def test_a_tpm_is_kept_and_has_its_own_authority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(capsys, str(tmp_path / "alone"))
    before = (tmp_path / "alone" / "tpm2-00.permall").read_bytes()
    assert make(capsys, str(tmp_path / "alone")) == made
    assert (tmp_path / "alone" / "tpm2-00.permall").read_bytes() == before
    assert Path(made["root"]).parent == tmp_path / "alone" / "ca"
