"""Keystores of the three people of a development chain: fresh keys, a shared password beside them."""

from __future__ import annotations

import secrets
from pathlib import Path

from contracts.dev_chain import DevChain
from contracts.signers import KeySigner

NAMES = ("proposer", "guardian", "payer")
PASSWORD_FILE = "password"  # noqa: S105 - a file name


def write_dev_keys(chain: DevChain, folder: Path) -> dict[str, str]:
    """Make ``NAME.json`` for each, funded on ``chain``; returns addresses. Refuses to replace a file."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    password = secrets.token_hex(16)
    secret = folder / PASSWORD_FILE
    secret.touch(mode=0o600, exist_ok=False)
    secret.write_text(password + "\n", encoding="utf-8")
    addresses = {}
    for name in NAMES:
        signer = KeySigner.create()
        signer.write_keystore(folder / f"{name}.json", password, stretch=False)
        chain.fund(signer.address)
        addresses[name] = signer.address.lower()
    return addresses
