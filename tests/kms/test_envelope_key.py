"""The key that an owner's envelopes are sealed to: released exactly when the manifest names an owner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attestation.report_data import KeyRequest
from kms.messages import listed_keys
from kms.release import JournalledRefusalError
from kms.verification import verify_bundle
from measurements.app_manifest import KeyKind, KeyScope, parse_manifest
from measurements.errors import FormatError
from tests.kms.bundles import anchors_of, make_bundle
from tests.kms.fake_chain import NOW
from tests.kms.guests import ENVELOPE, SIGNING, STORAGE, World, app_manifest
from tests.kms.receipts import APP_ID, ROOT

OWNED = app_manifest(owner_key="ab" * 32)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, manifest=OWNED)
    yield made
    made.kms.journal.close()


def test_listed_keys() -> None:
    listed = listed_keys(parse_manifest(OWNED))
    assert tuple(ENVELOPE) in listed
    assert listed - {tuple(ENVELOPE)} == listed_keys(parse_manifest(app_manifest()))


def test_it_is_the_key_whose_public_half_everybody_gets(world: World) -> None:
    issued = world.guest(keys=[SIGNING, STORAGE, ENVELOPE]).ask()
    key = ROOT.app_key(
        app_id=APP_ID, scope=KeyScope.APP, scope_id=b"", path=ENVELOPE.path, kind=KeyKind.X25519, epoch=1
    )
    assert issued.recorded.receipt.outcome.keys[-1].public == key.public


def test_a_release_with_it_verifies(world: World) -> None:
    guest = world.guest(keys=[SIGNING, STORAGE, ENVELOPE])
    tree = verify_bundle(make_bundle(world, guest), anchors_of(world), now=NOW)
    assert not tree.failures


def test_an_app_without_owner_does_not_get_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(JournalledRefusalError) as caught:
        world.guest(keys=[ENVELOPE]).ask()
    assert caught.value.code == "unlisted-key"
    world.kms.journal.close()


@pytest.mark.parametrize(
    "key",
    [
        ENVELOPE._replace(scope="instance"),
        ENVELOPE._replace(kind="raw-256"),
        ENVELOPE._replace(path="keyturn/other"),
    ],
    ids=str,
)
def test_no_other_key_of_the_agent_s_own(world: World, key: KeyRequest) -> None:
    with pytest.raises(FormatError, match="not a path that may be asked for"):
        world.guest(keys=[key]).ask()
