"""Keystores and external signers."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_keys.datatypes import PrivateKey

from contracts.signers import CommandSigner, KeySigner, SignerError

KEY = b"\x07" * 32
TRANSACTION: dict[str, Any] = {
    "type": "0x2",
    "chainId": 31337,
    "nonce": 3,
    "to": "0x" + "11" * 20,
    "value": 0,
    "data": "0x1234",
    "gas": 100000,
    "maxFeePerGas": 10**9,
    "maxPriorityFeePerGas": 1,
}
SIGNER = f"""
import json, sys
from eth_keys.datatypes import PrivateKey
key = PrivateKey(bytes.fromhex("{KEY.hex()}"))
question = json.load(sys.stdin)
if question["action"] == "address":
    print(json.dumps({{"address": key.public_key.to_address()}}))
else:
    assert question["transaction"]["nonce"] == 3
    digest = bytes.fromhex(question["digest"])
    print(json.dumps({{"signature": SIGNATURE}}))
"""
GOOD = "key.sign_msg_hash(digest).to_bytes().hex()"
OTHER_DIGEST = "key.sign_msg_hash(digest[::-1]).to_bytes().hex()"
OTHER_KEY = 'PrivateKey(b"\\x08" * 32).sign_msg_hash(digest).to_bytes().hex()'


def command(folder: Path, signature: str) -> list[str]:
    program = folder / "signer.py"
    program.write_text(SIGNER.replace("SIGNATURE", signature))
    return [sys.executable, str(program)]


def test_a_command_signs(tmp_path: Path) -> None:
    signer = CommandSigner(command(tmp_path, GOOD))
    assert signer.address == PrivateKey(KEY).public_key.to_checksum_address()
    raw = signer.sign(TRANSACTION)
    assert Account.recover_transaction(raw) == signer.address
    assert raw == KeySigner(Account.from_key(KEY)).sign(TRANSACTION)


@pytest.mark.parametrize(
    "signature", [OTHER_DIGEST, OTHER_KEY, '"00" * 65', '"ff" * 65', '"12"', '"zz"', "7"]
)
def test_a_command_that_does_not_sign_this_transaction_is_refused(tmp_path: Path, signature: str) -> None:
    signer = CommandSigner(command(tmp_path, signature))
    with pytest.raises(SignerError):
        signer.sign(TRANSACTION)


def test_a_command_that_fails_or_is_empty_is_refused(tmp_path: Path) -> None:
    for words in ([], [str(tmp_path / "absent")], [sys.executable, "-c", "raise SystemExit(1)"]):
        with pytest.raises(SignerError):
            CommandSigner(words)


def test_a_command_without_an_address_is_refused() -> None:
    for answer in ('{"address": "0x12"}', '{"address": 7}', "[]", "no"):
        with pytest.raises(SignerError):
            CommandSigner([sys.executable, "-c", f"print('{answer}')"])


def test_a_keystore_comes_back(tmp_path: Path) -> None:
    signer = KeySigner.create()
    path = tmp_path / "key.json"
    signer.write_keystore(path, "secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeySigner.from_keystore(path, "secret").address == signer.address
    with pytest.raises(FileExistsError):
        signer.write_keystore(path, "secret")
    with pytest.raises(SignerError):
        KeySigner.from_keystore(path, "wrong")


def test_a_file_that_is_no_keystore_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    for text in ("", "[]", "{}", json.dumps({"version": 3, "crypto": {}})):
        path.write_text(text)
        with pytest.raises(SignerError):
            KeySigner.from_keystore(path, "secret")


def test_a_key_is_not_shown() -> None:
    signer = KeySigner(Account.from_key(KEY))
    assert KEY.hex() not in repr(signer)
