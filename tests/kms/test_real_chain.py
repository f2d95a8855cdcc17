"""The whole release against real contracts on a real node: allow, boot, revoke, anchor."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from attestation.verdict import CheckList
from contracts import binding, policy
from contracts.artefacts import ContractName, artefact
from contracts.binding import AppSettings, Call
from contracts.dev_chain import DevChain, dev_chain, find_anvil
from contracts.signers import KeySigner
from keyturn.proving_node import ProvingNode, fetch_anchoring
from kms.anchor_proof import check_anchor
from kms.anchors import SignedAnchor
from kms.bundle import parse_anchoring
from kms.chain_view import ChainPins
from kms.journal import Journal
from kms.receipt import ChainPosition
from kms.release import JournalledRefusalError, Kms, TrustAnchors
from kms.root_key import ChainPin, RootKey
from kms.rpc import RpcNode
from measurements.errors import MissingToolError
from tests.kms.fake_chain import IMAGE_ID
from tests.kms.guests import AUTHORITY, BOOTED, Guest, app_manifest, query_of
from tests.support.paper_tpm import reference_of
from tests.support.tools import unavailable

DELAY = 10


@dataclass(kw_only=True)
class RealWorld:
    """A registry, one app and a KMS."""

    chain: DevChain
    proposer: KeySigner
    guardian: KeySigner
    registry: str
    timelock: str
    app: str
    root: RootKey
    manifest: bytes
    app_id: bytes
    kms: Kms

    def govern(self, call: Call) -> None:
        """Allow something through the timelock."""
        web3 = binding.connect(self.chain.url)
        binding.propose(web3, self.proposer, timelock=self.timelock, call=call)
        self.chain.skip_time(DELAY)
        binding.execute(web3, self.guardian, timelock=self.timelock, call=call)

    def guard(self, call: Call) -> None:
        """Remove something at once, and let it become final."""
        binding.send(binding.connect(self.chain.url), self.guardian, call)
        self.chain.mine(3)

    def allow_everything(self) -> None:
        """Every entry that the release asks for."""
        identity = self.root.identity
        query = query_of(self.manifest, root=self.root, reference=reference_of(BOOTED[1]), app_id=self.app_id)
        for call in (
            policy.allow(self.registry, policy.RegistryList.IMAGE, IMAGE_ID),
            policy.allow_reference(self.registry, query.reference_digest, IMAGE_ID),
            policy.allow(self.registry, policy.RegistryList.PLATFORM_ROOT, query.platform_root),
            policy.allow_kms_node(
                self.registry,
                ed25519=identity.ed25519,
                secp256k1=identity.secp256k1,
                app_hash=b"\x01" * 32,
                evidence_hash=b"\x02" * 32,
            ),
            policy.allow_in_app(self.app, policy.AppList.IMAGE, IMAGE_ID),
            policy.allow_in_app(self.app, policy.AppList.APP_HASH, query.app_hash),
            policy.allow_in_app(self.app, policy.AppList.DEVICE, query.platform_id),
        ):
            self.govern(call)
        self.chain.mine(3)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealWorld]:
    try:
        find_anvil()
    except MissingToolError as error:
        unavailable(f"{error}: {error.advice}")
    with dev_chain(block_seconds=None) as chain:
        web3 = binding.connect(chain.url)
        proposer, guardian = KeySigner.create(), KeySigner.create()
        for signer in (proposer, guardian):
            chain.fund(signer.address)
        deployed = binding.deploy(
            web3, guardian, proposer=proposer.address, guardian=guardian.address, delay_seconds=DELAY
        )
        app = binding.create_app(
            web3,
            guardian,
            registry=deployed.registry,
            timelock=deployed.timelock,
            guardian=guardian.address,
            settings=AppSettings(),
        )
        pin = ChainPin(chain_id=chain.chain_id, contract=bytes.fromhex(deployed.registry[2:]))
        root = RootKey(root=bytes(range(64)), pin=pin, development=False)
        journal = Journal(tmp_path / "journal.sqlite", root)
        app_id = bytes.fromhex(app[2:])
        yield RealWorld(
            chain=chain,
            proposer=proposer,
            guardian=guardian,
            registry=deployed.registry,
            timelock=deployed.timelock,
            app=app,
            root=root,
            manifest=app_manifest(root, app_id),
            app_id=app_id,
            kms=Kms(
                root=root,
                pins=ChainPins(
                    pin=pin,
                    registry_code_hash=artefact(ContractName.REGISTRY).runtime_code_hash,
                    app_code_hash=artefact(ContractName.APP).runtime_code_hash,
                ),
                node=RpcNode(chain.url),
                journal=journal,
                anchors=TrustAnchors(roots=(AUTHORITY.certificate,)),
                clock=lambda: int(time.time()),
            ),
        )
        journal.close()


def refusal(world: RealWorld) -> str:
    with pytest.raises(JournalledRefusalError) as caught:
        Guest(world).ask()
    return caught.value.code


def test_from_the_first_allow_to_the_anchor(real: RealWorld) -> None:
    real.chain.mine(3)
    assert refusal(real) == "reference-not-allowed"
    real.allow_everything()
    guest = Guest(real)
    document = guest.key_request()
    issued = guest.ask(document)
    sealed = base64.b64encode(issued.sealed).decode()
    body = json.dumps({"sealed": sealed, "receipt": issued.recorded.envelope.as_json()}).encode()
    released = guest.open(body, document)
    assert released.format_permitted
    position = issued.recorded.receipt.outcome.chain
    assert position is not None
    assert position.policy_version > 0

    real.guard(policy.pause(ContractName.APP, real.app))
    assert refusal(real) == "app-paused"
    real.govern(policy.resume(ContractName.APP, real.app))
    real.guard(policy.bump_epoch(real.app))
    bumped = Guest(real).ask().recorded.receipt.outcome.keys
    assert [key.epoch for key in bumped] == [released.receipt.keys[0].epoch + 1] * 2
    assert bumped[0].public != released.receipt.keys[0].public
    real.guard(policy.revoke(real.registry, policy.RegistryList.IMAGE, IMAGE_ID))
    assert refusal(real) == "image-revoked"

    real.kms.journal.close_batches()
    (batch,) = real.kms.journal.batches()
    assert batch.anchor.to_seq == 5
    sent = policy.Anchor(
        kms_id=batch.anchor.kms_id,
        from_seq=batch.anchor.from_seq,
        to_seq=batch.anchor.to_seq,
        root=batch.anchor.root,
        signature=batch.signature,
    )
    web3 = binding.connect(real.chain.url)
    receipt = binding.send(web3, real.guardian, policy.anchor(real.registry, sent))
    assert receipt["status"] == 1
    assert_proven(real, batch, position)


def assert_proven(world: RealWorld, batch: SignedAnchor, position: ChainPosition) -> None:
    """The node's receipts yield the root in its header, and they hold the anchor, once it is final."""
    node = ProvingNode(world.chain.url)
    assert (
        fetch_anchoring(node, batch.as_json(), world.root.identity.pin.contract, first=position.block_number)
        is None
    )
    world.chain.mine(3)
    shown = fetch_anchoring(
        node, batch.as_json(), world.root.identity.pin.contract, first=position.block_number
    )
    checks = CheckList()
    check_anchor(checks, parse_anchoring(shown), batch.anchor, position)
    assert checks.verdict().passed
