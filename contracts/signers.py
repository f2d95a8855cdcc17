"""Who signs transactions: a keystore file, an external command, or a key made in this process.

A private key is never an argument or an environment variable. Keystore: Web3 Secret Storage version 3.
External command: gets one JSON document on stdin and writes one on stdout::

    {"action": "address"}                                         → {"address": "0x…"}
    {"action": "sign", "digest": hex (32), "transaction": {…}}    → {"signature": hex (r ‖ s ‖ v, 65 bytes)}

``transaction`` holds the EIP-1559 fields that ``digest`` commits to, for the signer to show or to check;
``v`` is 0 or 1 (27 and 28 are taken, too). The signature is checked here before anything is sent.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.address import is_address, to_checksum_address
from eth_utils.exceptions import ValidationError

from measurements.errors import KeyturnError
from measurements.json_text import json_text

COMMAND_SECONDS = 300
"""A person may have to press a button."""


class SignerError(KeyturnError):
    """A keystore that does not open or a command that does not sign."""

    code = "signer"


class Signer(Protocol):
    """Something that signs transactions for one address."""

    @property
    def address(self) -> str:
        """Checksummed address."""

    def sign(self, transaction: Mapping[str, Any]) -> bytes:
        """The raw signed transaction."""


@dataclass(frozen=True, slots=True)
class KeySigner:
    """Signs with a key that this process holds."""

    _account: LocalAccount = field(repr=False)

    @classmethod
    def create(cls) -> KeySigner:
        """A fresh key."""
        return cls(Account.create())

    @classmethod
    def from_keystore(cls, path: Path, password: str) -> KeySigner:
        """The key of a keystore file; raises ``SignerError``."""
        try:
            key = Account.decrypt(path.read_text(encoding="utf-8"), password)
        # eth-keyfile says NotImplementedError to a key derivation that it does not know.
        except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
            raise SignerError(
                f"does not open: {error}", subject=str(path), advice="check the file and the password"
            ) from error
        return cls(Account.from_key(key))

    @property
    def address(self) -> str:
        """Checksummed address."""
        return str(self._account.address)

    def sign(self, transaction: Mapping[str, Any]) -> bytes:
        """The raw signed transaction."""
        return bytes(self._account.sign_transaction(dict(transaction)).raw_transaction)

    def write_keystore(self, path: Path, password: str, *, stretch: bool = True) -> None:
        """Write the key, encrypted and for the owner's eyes only; refuses to replace a file.

        Without ``stretch`` the password itself must be random: it is then derived from in one round.
        """
        if stretch:
            document = Account.encrypt(self._account.key, password)
        else:
            document = Account.encrypt(self._account.key, password, kdf="pbkdf2", iterations=1)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(json.dumps(document) + "\n", encoding="utf-8")


class CommandSigner:
    """Asks an external program."""

    def __init__(self, command: Sequence[str]) -> None:
        if not command:
            raise SignerError("is empty", subject="signer command", advice="name the program that signs")
        self._command = list(command)
        address = self._ask({"action": "address"}, "address")
        if not is_address(address):
            raise self._error("answered no address")
        self._address = str(to_checksum_address(address))

    @property
    def address(self) -> str:
        """Checksummed address."""
        return self._address

    def sign(self, transaction: Mapping[str, Any]) -> bytes:
        """The raw signed transaction; raises ``SignerError`` unless ``address`` has signed it."""
        unsigned = TypedTransaction.from_dict(dict(transaction))
        digest = bytes(unsigned.hash())
        shown = {key: value for key, value in transaction.items() if key != "from"}
        answer = self._ask({"action": "sign", "digest": digest.hex(), "transaction": shown}, "signature")
        try:
            raw = bytes.fromhex(answer.removeprefix("0x"))
            signature = Signature(raw[:64] + bytes([raw[64] % 27]))
            signer = signature.recover_public_key_from_msg_hash(digest).to_checksum_address()
        except (ValueError, IndexError, BadSignature, ValidationError) as error:
            raise self._error("answered no signature") from error
        if signer != self.address:
            raise self._error(f"signed as {signer}")
        signed = {**transaction, "v": signature.v, "r": signature.r, "s": signature.s}
        return bytes(TypedTransaction.from_dict(signed).encode())

    def _ask(self, question: Mapping[str, Any], key: str) -> str:
        try:
            done = subprocess.run(
                self._command,
                input=json.dumps(question),
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=True,
            )
            answer = json.loads(json_text(done.stdout.encode()))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise self._error(f"failed: {error}") from error
        if not isinstance(answer, dict) or not isinstance(answer.get(key), str):
            raise self._error(f"answered without {key}")
        return str(answer[key])

    def _error(self, reason: str) -> SignerError:
        return SignerError(reason, subject=self._command[0], advice="run the signer command by hand")
