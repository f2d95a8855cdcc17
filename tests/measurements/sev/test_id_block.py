"""ID blocks and their authentication: test keys, sev-snp-measure's tool, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from sevsnpmeasure.id_block import snp_calc_id_block

from measurements.errors import KeyturnError
from measurements.sev.guest_policy import GuestPolicy, GuestPolicyError, PolicyFlag
from measurements.sev.id_block import (
    IdAuthentication,
    IdBlock,
    IdBlockError,
    IdKeyError,
    IdSignatureError,
    check_id_block,
    load_key,
    parse_id_authentication,
    parse_id_block,
    sign_id_block,
)
from tests.support.vectors import vector

DIGEST = base64.b64decode("B28FLQi9p6cAqipgjFyqawDrrSl7bWioWkWx5mmlWLZ+G5HShKMB/mPE+gdQRn7t")
BLOCK = IdBlock(launch_digest=DIGEST, policy=0x30000)


def key_file(who: str) -> bytes:
    return vector(f"snp/sev-snp-measure/{who}_key_test.pem").read_bytes()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def pem(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, *, password: bytes | None = None
) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.fixture(scope="module")
def signed() -> IdAuthentication:
    return sign_id_block(BLOCK, id_key=new_key(), author_key=new_key())


def test_values_of_sev_snp_measure() -> None:
    """virtee/sev-snp-measure, tests/test_id_block.py @ 2e514722."""
    found = sign_id_block(
        BLOCK,
        id_key=load_key(key_file("id"), name="id"),
        author_key=load_key(key_file("author"), name="author"),
    )
    assert base64.b64encode(BLOCK.pack()).decode() == (
        "B28FLQi9p6cAqipgjFyqawDrrSl7bWioWkWx5mmlWLZ+G5HShKMB/mPE+gdQRn7tAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"
        "AAAAAAAAAAAAAwAAAAAA"
    )
    assert base64.b64encode(found.id_key_digest).decode() == (
        "hwt+NcU/inLQ0yL3WrKvgmJ5Kq9leWIs5BMcPyHyied8sFYKXjuQs5MuZ07HCcsU"
    )
    assert base64.b64encode(found.author_key_digest).decode() == (
        "YxEcNLv8Ckk4+aAJvQdJgNgXIyPmFZnJ/TNtqGcySOHcqY0L6PdjdqEGuK/UwKBX"
    )


def test_against_the_tool_of_sev_snp_measure(tmp_path: Path) -> None:
    """Both sign; only the random part of the signatures differs, and each accepts what the other signed."""
    keys = {who: new_key() for who in ("id", "author")}
    for who, key in keys.items():
        (tmp_path / who).write_bytes(pem(key))
    text = snp_calc_id_block(DIGEST, str(tmp_path / "id"), str(tmp_path / "author"))
    fields = dict(re.findall(r"(id-block|id-auth)=([A-Za-z0-9+/=]+)", text))
    theirs = parse_id_authentication(base64.b64decode(fields["id-auth"]))
    block = parse_id_block(base64.b64decode(fields["id-block"]))
    assert block == BLOCK
    check_id_block(block, theirs)
    ours = sign_id_block(BLOCK, id_key=keys["id"], author_key=keys["author"])
    assert (ours.id_key, ours.author_key) == (theirs.id_key, theirs.author_key)
    different = [a == b for a, b in zip(ours.pack(), theirs.pack(), strict=True)]
    assert all(different[:0x40] + different[0xD0:0x680] + different[0x710:])


def test_signatures_are_the_same_each_time() -> None:
    key = new_key()
    assert sign_id_block(BLOCK, id_key=key).pack() == sign_id_block(BLOCK, id_key=key).pack()


def test_written_and_read_again(signed: IdAuthentication) -> None:
    assert parse_id_block(BLOCK.pack()) == BLOCK
    assert parse_id_authentication(signed.pack()) == signed
    assert signed.id_key_digest == hashlib.sha384(signed.id_key).digest()
    check_id_block(BLOCK, signed)


def test_without_an_author_key() -> None:
    found = sign_id_block(BLOCK, id_key=new_key())
    assert (found.author_key, found.id_key_signature, found.author_key_digest) == (None, None, bytes(48))
    assert parse_id_authentication(found.pack()) == found
    check_id_block(BLOCK, found)


def accepted(block: bytes, authentication: bytes) -> bool:
    try:
        check_id_block(parse_id_block(block), parse_id_authentication(authentication))
    except KeyturnError:
        return False
    return True


def test_a_flipped_bit_anywhere_is_refused(signed: IdAuthentication) -> None:
    block, authentication = BLOCK.pack(), signed.pack()
    assert accepted(block, authentication)
    for position in range(96):
        flipped = bytearray(block)
        flipped[position] ^= 1
        assert not accepted(bytes(flipped), authentication), position
    for position in (
        *range(0, 0xE0, 5),
        *range(0x240, 0x2E0, 7),
        0x643,
        0x67F,
        0x680,
        0x6C8,
        0x880,
        0x8D0,
        0xFFF,
    ):
        flipped = bytearray(authentication)
        flipped[position] ^= 1
        assert not accepted(block, bytes(flipped)), position


def test_an_id_key_of_another_author_is_refused(signed: IdAuthentication) -> None:
    other = sign_id_block(BLOCK, id_key=new_key(), author_key=new_key())
    mixed = IdAuthentication(
        block_signature=signed.block_signature,
        id_key=signed.id_key,
        id_key_signature=other.id_key_signature,
        author_key=other.author_key,
    )
    with pytest.raises(IdSignatureError, match="ID key: is not what its key signed"):
        check_id_block(BLOCK, mixed)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no unencrypted private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no unencrypted private key"),
        (pem(new_key(), password=b"secret"), "no unencrypted private key"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "not on the curve P-384"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "not on the curve P-384"),
    ],
    ids=["empty", "broken", "encrypted", "p256", "ed25519"],
)
def test_keys_that_cannot_sign(data: bytes, why: str) -> None:
    with pytest.raises(IdKeyError, match=why) as caught:
        load_key(data, name="id.pem")
    assert caught.value.subject == "id.pem"


@pytest.mark.parametrize("size", [0, 95, 97])
def test_blocks_of_another_size(size: int) -> None:
    with pytest.raises(IdBlockError, match="not 96"):
        parse_id_block(bytes(size))


@pytest.mark.parametrize("size", [0, 4095, 4097])
def test_authentications_of_another_size(size: int) -> None:
    with pytest.raises(IdBlockError, match="not 4096"):
        parse_id_authentication(bytes(size))


def test_blocks_that_cannot_be() -> None:
    for wrong in (
        {"launch_digest": bytes(48)},
        {"launch_digest": DIGEST[1:]},
        {"family_id": b"x"},
        {"guest_svn": -1},
    ):
        values: dict[str, Any] = {"launch_digest": DIGEST, "policy": 0x30000} | wrong
        with pytest.raises(IdBlockError):
            IdBlock(**values)
    with pytest.raises(GuestPolicyError, match="bit 17"):
        IdBlock(launch_digest=DIGEST, policy=0)


def test_policies() -> None:
    policy = GuestPolicy.parse(0xB1D05)
    assert (policy.abi_major, policy.abi_minor, policy.debug) == (0x1D, 5, True)
    assert policy.names == ("SMT", "DEBUG")
    assert not GuestPolicy.parse(0x30000).debug
    assert sum(PolicyFlag) == 0x3FD0000


@pytest.mark.parametrize("word", [0, 0x10000, 1 << 26 | 0x20000, 1 << 63 | 0x20000, -1])
def test_policies_that_no_guest_has(word: int) -> None:
    with pytest.raises(GuestPolicyError):
        GuestPolicy.parse(word)
