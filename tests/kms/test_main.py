"""The entry point: every setting is needed, and a development KMS is marked and another one."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from attestation.container import EvidencePlatform
from attestation.policy_document import encode_policy, policy_digest
from kms.main import DEVELOPMENT_ROOT_FILE, MARKER, SettingsError, development_root, read_settings
from kms.root_key import ChainPin, RootKey
from tests.kms.guests import AUTHORITY
from tests.kms.receipts import PIN
from tests.support.paper_tpm import Authority
from tests.support.policies import permissive_policy

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "KEYTURN_CHAIN_ID": str(PIN.chain_id),
        "KEYTURN_REGISTRY": f"0x{PIN.contract.hex()}",
        "KEYTURN_REGISTRY_CODE_HASH": "c0" * 32,
        "KEYTURN_APP_CODE_HASH": "c1" * 32,
        "KEYTURN_RPC_URL": "http://127.0.0.1:9",
        "KEYTURN_EK_CERTIFICATES": base64.b64encode(AUTHORITY.certificate).decode(),
        "KEYTURN_LISTEN": "127.0.0.1:8090",
        "KEYTURN_DATA": str(tmp_path),
    }


def test_settings(environment: dict[str, str], tmp_path: Path) -> None:
    settings = read_settings({**environment, "PATH": "/bin"})
    assert settings.pins.pin == PIN
    assert (settings.pins.registry_code_hash, settings.pins.app_code_hash) == (b"\xc0" * 32, b"\xc1" * 32)
    assert (settings.address, settings.port, settings.data) == ("127.0.0.1", 8090, tmp_path)
    assert settings.anchors.roots == (AUTHORITY.certificate,)
    assert settings.anchors.intermediates == ()


def test_issued_certificates_are_no_roots(environment: dict[str, str]) -> None:
    below = Authority("below", parent=AUTHORITY)
    both = f"{environment['KEYTURN_EK_CERTIFICATES']},{base64.b64encode(below.certificate).decode()}"
    settings = read_settings({**environment, "KEYTURN_EK_CERTIFICATES": both})
    assert settings.anchors.intermediates == (below.certificate,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEYTURN_CHAIN_ID", "0"),
        ("KEYTURN_CHAIN_ID", "01"),
        ("KEYTURN_CHAIN_ID", "0x1"),
        ("KEYTURN_REGISTRY", "0x" + "00" * 20),
        ("KEYTURN_REGISTRY", "5f" * 20),
        ("KEYTURN_REGISTRY_CODE_HASH", "00" * 32),
        ("KEYTURN_APP_CODE_HASH", "c1" * 31),
        ("KEYTURN_EK_CERTIFICATES", ""),
        ("KEYTURN_EK_CERTIFICATES", "AAAA"),
        ("KEYTURN_LISTEN", "8090"),
        ("KEYTURN_LISTEN", "127.0.0.1:0"),
        ("KEYTURN_LISTEN", "127.0.0.1:x"),
        ("KEYTURN_DATA", "absent-folder"),
    ],
)
def test_a_wrong_setting(environment: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(SettingsError):
        read_settings({**environment, name: value})


def test_policies_may_be_given(environment: dict[str, str]) -> None:
    policy = permissive_policy(EvidencePlatform.TPM)
    text = base64.b64encode(encode_policy(policy)).decode()
    assert read_settings(environment).rules == {}
    assert read_settings({**environment, "KEYTURN_POLICIES": text}).rules == {policy_digest(policy): policy}
    for wrong in ("", "AAAA", text + ",", f"{text},{text}", "A" * (1 << 17) + "AAAA"):
        with pytest.raises(SettingsError):
            read_settings({**environment, "KEYTURN_POLICIES": wrong})


def test_every_setting_is_needed(environment: dict[str, str]) -> None:
    for name in environment:
        with pytest.raises(SettingsError, match=name):
            read_settings({key: value for key, value in environment.items() if key != name})


def test_the_development_root_is_made_once_and_is_private(tmp_path: Path) -> None:
    root = development_root(tmp_path)
    assert development_root(tmp_path) == root
    path = tmp_path / DEVELOPMENT_ROOT_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(root[:63])
    with pytest.raises(SettingsError):
        development_root(tmp_path)


def test_a_development_kms_runs_marked(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "kms.main", "--development"],
        cwd=REPOSITORY,
        env={**os.environ, **environment, "KEYTURN_LISTEN": f"127.0.0.1:{port}"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            shown = fetch(f"http://127.0.0.1:{port}/v1/public-key", process)
        finally:
            process.terminate()
        assert process.stderr is not None
        log = process.stderr.read()
    assert MARKER in log
    assert shown["development"] is True
    root = (tmp_path / DEVELOPMENT_ROOT_FILE).read_bytes()
    pin = ChainPin(chain_id=PIN.chain_id, contract=PIN.contract)
    assert shown["kms_id"] == RootKey(root=root, pin=pin, development=True).identity.kms_id.hex()
    assert shown["kms_id"] != RootKey(root=root, pin=pin, development=False).identity.kms_id.hex()
    assert root.hex() not in log


def test_without_an_agent_there_is_no_release_kms(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kms.main"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("agent:")


def fetch(url: str, process: subprocess.Popen[str]) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                return dict(json.load(answer))
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the KMS does not answer")
