"""ID block and ID authentication: the owner's signed word on which launch digest a guest must have.

The secure processor refuses to finish a launch whose digest is not that of the ID block, and reports the
digests of the keys that signed it. SEV Secure Nested Paging Firmware ABI (56860 revision 1.58), section 8.18,
keys and signatures chapter 10; little endian.

ID block, 96 bytes::

    48 bytes launch digest | 16 bytes family | 16 bytes image | u32 version 1 | u32 guest SVN | u64 policy

ID authentication, 4096 bytes::

    0x000 u32 algorithm of the ID key | u32 algorithm of the author key (1: ECDSA P-384, SHA-384; 0: no key)
    0x040 512 bytes signature of the ID block by the ID key       0x240 1028 bytes ID key
    0x680 512 bytes signature of the ID key by the author key     0x880 1028 bytes author key

Key, 1028 bytes: ``u32 curve 2 (P-384) | 72 bytes x | 72 bytes y``. Signature, 512 bytes: ``72 bytes r |
72 bytes s``. The rest is zero. A key's digest is the SHA-384 of its 1028 bytes. Signatures are deterministic
(RFC 6979): the same keys and block give the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from measurements.errors import FormatError, KeyturnError, RefusedError
from measurements.sev.guest_policy import GuestPolicy
from measurements.sev.launch_digest import DIGEST_SIZE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

BLOCK_SIZE = 96
AUTHENTICATION_SIZE = 4096
KEY_SIZE = 1028
SIGNATURE_SIZE = 512
MAX_KEY_FILE = 1 << 16

_BLOCK = struct.Struct("<48s16s16sIIQ")
_VERSION = 1
_ALGORITHM_ECDSA_P384 = 1
_CURVE_P384 = 2
_NUMBER_SIZE = 72

_BLOCK_SIGNATURE = 0x040
_ID_KEY = 0x240
_ID_KEY_SIGNATURE = 0x680
_AUTHOR_KEY = 0x880


class IdBlockError(FormatError):
    """Bytes that are no ID block or no ID authentication, or values that none can hold."""

    code = "id-block"


class IdKeyError(KeyturnError):
    """A key file that cannot sign an ID block."""

    code = "id-key"


class IdSignatureError(RefusedError):
    """A signature that is not of this block or key."""

    code = "id-signature"


@dataclass(frozen=True, kw_only=True, slots=True)
class IdBlock:
    """What the owner says about the guest; ``family_id`` and ``image_id``: 16 bytes of the owner's choice."""

    launch_digest: bytes
    policy: int
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    guest_svn: int = 0

    def __post_init__(self) -> None:
        sizes = (len(self.launch_digest), len(self.family_id), len(self.image_id))
        if sizes != (DIGEST_SIZE, 16, 16):
            raise _error(f"has digest, family and image of {sizes} bytes, not (48, 16, 16)", "ID block")
        if not any(self.launch_digest):
            raise _error("has a launch digest of zeros, which no guest has", "ID block")
        if not 0 <= self.guest_svn < 1 << 32:
            raise _error(f"has guest SVN {self.guest_svn}, which does not fit into 32 bits", "ID block")
        GuestPolicy.parse(self.policy)

    def pack(self) -> bytes:
        """Its 96 bytes."""
        return _BLOCK.pack(
            self.launch_digest, self.family_id, self.image_id, _VERSION, self.guest_svn, self.policy
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class IdAuthentication:
    """Keys (1028 bytes each) and signatures (512 bytes each); both author fields are None without one."""

    block_signature: bytes
    id_key: bytes
    id_key_signature: bytes | None
    author_key: bytes | None

    def pack(self) -> bytes:
        """Its 4096 bytes."""
        data = bytearray(AUTHENTICATION_SIZE)
        struct.pack_into(
            "<II", data, 0, _ALGORITHM_ECDSA_P384, _ALGORITHM_ECDSA_P384 if self.author_key else 0
        )
        _put(data, _BLOCK_SIGNATURE, self.block_signature)
        _put(data, _ID_KEY, self.id_key)
        _put(data, _ID_KEY_SIGNATURE, self.id_key_signature or b"")
        _put(data, _AUTHOR_KEY, self.author_key or b"")
        return bytes(data)

    @property
    def id_key_digest(self) -> bytes:
        """What a report says in ``ID_KEY_DIGEST`` (48 bytes)."""
        return hashlib.sha384(self.id_key).digest()

    @property
    def author_key_digest(self) -> bytes:
        """What a report says in ``AUTHOR_KEY_DIGEST`` (48 bytes): zeros without an author key."""
        return hashlib.sha384(self.author_key).digest() if self.author_key else bytes(DIGEST_SIZE)


def load_key(pem: bytes, *, name: str) -> EllipticCurvePrivateKey:
    """The private key in a PEM file, unencrypted, on P-384; raises IdKeyError for any other."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem[:MAX_KEY_FILE], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise _key_error("holds no unencrypted private key in PEM", name) from problem
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _key_error("holds a key that is not on the curve P-384, the only one that SNP knows", name)
    return key


def sign_id_block(
    block: IdBlock, *, id_key: EllipticCurvePrivateKey, author_key: EllipticCurvePrivateKey | None = None
) -> IdAuthentication:
    """The authentication of ``block`` by the ID key, and of the ID key by the author key if there is one."""
    key = pack_public_key(id_key.public_key())
    return IdAuthentication(
        block_signature=_sign(id_key, block.pack()),
        id_key=key,
        id_key_signature=_sign(author_key, key) if author_key else None,
        author_key=pack_public_key(author_key.public_key()) if author_key else None,
    )


def pack_public_key(key: EllipticCurvePublicKey) -> bytes:
    """The 1028 bytes of a public key on P-384."""
    numbers = key.public_numbers()
    point = b"".join(number.to_bytes(_NUMBER_SIZE, "little") for number in (numbers.x, numbers.y))
    return (_CURVE_P384.to_bytes(4, "little") + point).ljust(KEY_SIZE, b"\0")


def parse_id_block(data: bytes, *, name: str = "ID block") -> IdBlock:
    """An ID block; raises IdBlockError unless it is one of version 1."""
    if len(data) != BLOCK_SIZE:
        raise _error(f"has {len(data)} bytes, not {BLOCK_SIZE}", name)
    digest, family, image, version, svn, policy = _BLOCK.unpack(data)
    if version != _VERSION:
        raise _error(f"is of version {version} at byte 0x50, not {_VERSION}", name)
    return IdBlock(launch_digest=digest, policy=policy, family_id=family, image_id=image, guest_svn=svn)


def parse_id_authentication(data: bytes, *, name: str = "ID authentication") -> IdAuthentication:
    """An ID authentication; raises IdBlockError unless it has exactly the layout's bytes."""
    if len(data) != AUTHENTICATION_SIZE:
        raise _error(f"has {len(data)} bytes, not {AUTHENTICATION_SIZE}", name)
    algorithms = struct.unpack_from("<II", data)
    if algorithms not in ((_ALGORITHM_ECDSA_P384, 0), (_ALGORITHM_ECDSA_P384, _ALGORITHM_ECDSA_P384)):
        raise _error(f"has the key algorithms {algorithms} at byte 0, not 1 (ECDSA P-384) and 1 or 0", name)
    with_author = algorithms[1] != 0
    found = IdAuthentication(
        block_signature=_cut(data, _BLOCK_SIGNATURE, SIGNATURE_SIZE),
        id_key=_cut(data, _ID_KEY, KEY_SIZE),
        id_key_signature=_cut(data, _ID_KEY_SIGNATURE, SIGNATURE_SIZE) if with_author else None,
        author_key=_cut(data, _AUTHOR_KEY, KEY_SIZE) if with_author else None,
    )
    if found.pack() != data:
        raise _error("has bytes that are not zero where the layout has none", name)
    return found


def check_id_block(block: IdBlock, authentication: IdAuthentication) -> None:
    """Check both signatures, as the secure processor does; raises IdSignatureError or IdBlockError."""
    _verify(authentication.id_key, authentication.block_signature, block.pack(), what="ID block")
    if authentication.author_key is not None and authentication.id_key_signature is not None:
        _verify(
            authentication.author_key, authentication.id_key_signature, authentication.id_key, what="ID key"
        )


def _sign(key: EllipticCurvePrivateKey, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA384

    encoded = key.sign(message, ec.ECDSA(SHA384(), deterministic_signing=True))
    numbers = utils.decode_dss_signature(encoded)
    parts = b"".join(number.to_bytes(_NUMBER_SIZE, "little") for number in numbers)
    return parts.ljust(SIGNATURE_SIZE, b"\0")


def _verify(key: bytes, signature: bytes, message: bytes, *, what: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA384

    curve, x, y = struct.unpack_from("<I72s72s", key)
    r, s = struct.unpack_from("<72s72s", signature)
    point, pair = ([int.from_bytes(part, "little") for part in parts] for parts in ((x, y), (r, s)))
    if curve != _CURVE_P384 or any(key[148:]) or any(signature[144:]):
        raise _error(f"has a key of curve {curve} or bytes past the end of key or signature", what)
    try:
        public = ec.EllipticCurvePublicNumbers(point[0], point[1], ec.SECP384R1()).public_key()
    except ValueError as problem:
        raise _error("is signed by a key that is no point on P-384", what) from problem
    try:
        public.verify(utils.encode_dss_signature(pair[0], pair[1]), message, ec.ECDSA(SHA384()))
    except InvalidSignature as problem:
        raise IdSignatureError(
            "is not what its key signed",
            subject=what,
            advice="sign it again: keyturn sev id-block",
        ) from problem


def _cut(data: bytes, offset: int, size: int) -> bytes:
    return data[offset : offset + size]


def _put(data: bytearray, offset: int, part: bytes) -> None:
    data[offset : offset + len(part)] = part


def _error(reason: str, name: str) -> IdBlockError:
    return IdBlockError(reason, subject=name, advice="make it again: keyturn sev id-block")


def _key_error(reason: str, name: str) -> IdKeyError:
    return IdKeyError(
        reason,
        subject=name,
        advice="make one and keep it safe: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384",
    )
