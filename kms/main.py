"""Entry point of the KMS: reads its pins from the environment, opens its root key and journal, serves HTTP.

=============================  ===========================================================================
``KEYTURN_CHAIN_ID``           decimal
``KEYTURN_REGISTRY``           address of the registry: ``0x`` and 40 hex digits
``KEYTURN_REGISTRY_CODE_HASH`` keccak-256 of the registry's code: 64 hex digits
``KEYTURN_APP_CODE_HASH``      keccak-256 of the code of apps' contracts: 64 hex digits
``KEYTURN_RPC_URL``            JSON-RPC of a node of that chain; not trusted with state
``KEYTURN_EK_CERTIFICATES``    DER in base64, separated by commas: self-signed ones are roots, others
                               intermediates; which roots count is decided on chain
``KEYTURN_LISTEN``             ``address:port``
``KEYTURN_DATA``               folder of the journal
``KEYTURN_POLICIES``           may be absent: policies that apps name as TCB rules, canonical documents in
                               base64, separated by commas; which one counts is decided on chain
=============================  ===========================================================================

In its guest the root key comes from the agent's socket. With ``--development`` it is a file in the data
folder and the KMS is another one: other domains in every derivation, and ``development`` in all it signs.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from kms.agent_socket import AgentSocket
from kms.chain_view import ChainPins
from kms.derivation import ROOT_SIZE
from kms.journal import Journal
from kms.release import Kms, TrustAnchors
from kms.root_key import ChainPin, RootKey, new_root
from kms.rpc import RpcNode
from kms.rules import Rules, read_rules
from kms.service import IdentityProof, create_app
from kms.strict_json import Fields
from measurements.errors import KeyturnError

DEVELOPMENT_ROOT_FILE = "development-root.key"
JOURNAL_FILE = "journal.sqlite"
MARKER = "DEVELOPMENT KMS: its root key is a file on this host; nothing it releases is protected"
_LARGEST_URL = 2048
_LARGEST_RULES = 1 << 17
"""Linux gives a program no longer text in its environment."""


class SettingsError(KeyturnError):
    """A setting that is missing or not of its form."""

    code = "kms-settings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the environment says."""

    pins: ChainPins
    rpc_url: str
    anchors: TrustAnchors
    rules: Rules
    address: str
    port: int
    data: Path


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in ``environment``; all but ``KEYTURN_POLICIES`` are needed. Raises ``SettingsError``."""
    try:
        return _read_settings(Fields(dict(environment), subject="environment"))
    except SettingsError:
        raise
    except (KeyturnError, ValueError) as error:
        raise _error(error.reason if isinstance(error, KeyturnError) else str(error)) from error


def development_root(folder: Path) -> bytes:
    """The root key in ``folder``, made on first use, readable for its owner only."""
    path = folder / DEVELOPMENT_ROOT_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        root = path.read_bytes()
    else:
        root = new_root()
        with os.fdopen(descriptor, "wb") as file:
            file.write(root)
    if len(root) != ROOT_SIZE:
        raise _error(f"{path.name} has {len(root)} bytes, not {ROOT_SIZE}")
    return root


def open_kms(settings: Settings, *, root: bytes, development: bool) -> Kms:
    """The KMS of ``settings``, with its journal open."""
    key = RootKey(root=root, pin=settings.pins.pin, development=development)
    return Kms(
        root=key,
        pins=settings.pins,
        node=RpcNode(settings.rpc_url),
        journal=Journal(settings.data / JOURNAL_FILE, key),
        anchors=settings.anchors,
        clock=lambda: int(time.time()),
        rules=settings.rules,
    )


def serve(settings: Settings, *, root: bytes, development: bool, proof: IdentityProof | None) -> None:
    """Serve until a signal ends the process."""
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if development:
        logging.getLogger("keyturn.kms").warning(MARKER)
    kms = open_kms(settings, root=root, development=development)
    try:
        uvicorn.run(
            create_app(kms, proof),
            host=settings.address,
            port=settings.port,
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=10,
            h11_max_incomplete_event_size=1 << 16,
        )
    finally:
        kms.journal.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the KMS; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        settings = read_settings(os.environ)
        if words == ["--development"]:
            serve(settings, root=development_root(settings.data), development=True, proof=None)
        elif not words:
            agent = AgentSocket()
            serve(settings, root=agent.root(), development=False, proof=agent)
        else:
            raise _error("the only argument is --development")
    except KeyturnError as error:
        sys.stderr.write(f"{error.code}: {error}\n{error.advice}\n")
        return int(error.exit_status)
    return 0


def _read_settings(fields: Fields) -> Settings:
    chain_id = fields.text("KEYTURN_CHAIN_ID", longest=20)
    pin = ChainPin(chain_id=int(chain_id), contract=fields.address("KEYTURN_REGISTRY"))
    pins = ChainPins(
        pin=pin,
        registry_code_hash=fields.hexadecimal("KEYTURN_REGISTRY_CODE_HASH", size=32),
        app_code_hash=fields.hexadecimal("KEYTURN_APP_CODE_HASH", size=32),
    )
    zero = not any(pin.contract) or not any(pins.registry_code_hash) or not any(pins.app_code_hash)
    if zero or str(pin.chain_id) != chain_id or pin.chain_id <= 0:
        raise _error("the registry, a code hash or the chain id is zero or not in plain form")
    address, separator, port = fields.text("KEYTURN_LISTEN").rpartition(":")
    if not separator or not address or not 0 < int(port) < 1 << 16:
        raise _error("KEYTURN_LISTEN is not address:port")
    data = Path(fields.text("KEYTURN_DATA", longest=4096))
    if not data.is_dir():
        raise _error("KEYTURN_DATA is not a folder")
    return Settings(
        pins=pins,
        rpc_url=fields.text("KEYTURN_RPC_URL", longest=_LARGEST_URL),
        anchors=read_anchors(fields.text("KEYTURN_EK_CERTIFICATES", longest=1 << 20)),
        rules=_read_rules(fields),
        address=address,
        port=int(port),
        data=data,
    )


def _read_rules(fields: Fields) -> Rules:
    """The rules; without any the KMS knows none, and refuses apps that name one."""
    name = "KEYTURN_POLICIES"
    return read_rules(fields.text(name, longest=_LARGEST_RULES)) if name in fields.document else {}


def read_anchors(text: str) -> TrustAnchors:
    """Certificates from comma-separated base64 DER."""
    roots: list[bytes] = []
    intermediates: list[bytes] = []
    for part in text.split(","):
        try:
            der = base64.b64decode(part.strip(), validate=True)
            certificate = x509.load_der_x509_certificate(der)
        except (binascii.Error, ValueError) as error:
            raise _error("KEYTURN_EK_CERTIFICATES is not DER certificates in base64") from error
        (roots if certificate.issuer == certificate.subject else intermediates).append(der)
    if not roots:
        raise _error("KEYTURN_EK_CERTIFICATES has no self-signed root")
    return TrustAnchors(roots=tuple(roots), intermediates=tuple(intermediates))


def _error(reason: str) -> SettingsError:
    return SettingsError(reason, subject="settings", advice="see the settings in kms.main")


if __name__ == "__main__":
    sys.exit(main())
