"""TPM structures that evidence holds: a key's public area, a quote and its signature.

All integers are big-endian; a ``TPM2B`` is a u16 length and that many bytes. Layouts (TPM 2.0 Library part 2,
revision 1.59)::

    TPMT_PUBLIC (12.2.4)       u16 type | u16 name algorithm | u32 attributes (8.3) | TPM2B policy
                               | parameters | unique
      RSA (12.2.3.5)           symmetric | scheme | u16 bits | u32 exponent (0: 65537); unique: TPM2B modulus
      ECC (12.2.3.6)           symmetric | scheme | u16 curve | kdf; unique: TPM2B x | TPM2B y
      symmetric (11.1.7)       u16 algorithm, and unless it is NULL: u16 bits | u16 mode
      scheme, kdf              u16 algorithm, and unless it is NULL or RSAES: u16 hash
    TPMS_ATTEST (10.12.12)     u32 magic 0xff544347 | u16 type 0x8018 (quote) | TPM2B qualified signer
                               | TPM2B extra data | u64 clock | u32 resets | u32 restarts | u8 safe
                               | u64 firmware version | TPMS_QUOTE_INFO
      TPMS_QUOTE_INFO (10.12.1)  u32 count | count x (u16 hash | u8 size | bitmap) | TPM2B digest
    TPMT_SIGNATURE (11.3.4)    u16 algorithm | u16 hash | RSA: TPM2B signature; ECDSA: TPM2B r | TPM2B s

A name (part 1, section 16) is ``u16 algorithm ‖ H(TPMT_PUBLIC)``. Reading is strict: a structure is its whole
buffer, reserved bits are zero, and unknown algorithms are refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import TypeVar

from measurements.errors import FormatError

MAX_STRUCTURE = 4096
MAX_SELECTIONS = 4
QUOTE_MAGIC = 0xFF544347
QUOTE_TYPE = 0x8018
ENDORSEMENT_HIERARCHY = 0x4000000B
"""Handle of the endorsement hierarchy (part 2, section 7.4)."""

_DEFAULT_EXPONENT = 65537
_Number = TypeVar("_Number", bound=IntEnum)


class TpmStructureError(FormatError):
    """Bytes that are not the structure they should be."""

    code = "tpm-structure"


class HashAlgorithm(IntEnum):
    """Hash algorithms (part 2, section 6.3)."""

    SHA1 = 0x0004
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D

    @property
    def bank(self) -> str:
        """Name as ``hashlib`` writes it."""
        return self.name.lower()

    def digest(self, data: bytes) -> bytes:
        """Hash of ``data``."""
        return hashlib.new(self.bank, data).digest()


class KeyType(IntEnum):
    """Types of asymmetric keys."""

    RSA = 0x0001
    ECC = 0x0023


class Scheme(IntEnum):
    """Schemes of a key or a signature; only the first three sign."""

    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018
    NULL = 0x0010
    RSAES = 0x0015
    OAEP = 0x0017
    ECDH = 0x0019


class Curve(IntEnum):
    """Elliptic curves (part 2, section 6.4)."""

    P256 = 0x0003
    P384 = 0x0004

    @property
    def size(self) -> int:
        """Bytes of a coordinate."""
        return {3: 32, 4: 48}[self.value]


class Attributes(IntFlag):
    """TPMA_OBJECT."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


_ALL_ATTRIBUTES = sum(Attributes)


@dataclass(frozen=True, kw_only=True, slots=True)
class RsaParameters:
    """RSA key: modulus as a number."""

    bits: int
    exponent: int
    modulus: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EccParameters:
    """Point on a curve."""

    curve: Curve
    x: int
    y: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Public:
    """A key's public area; ``raw`` is the whole structure, which the name hashes."""

    name_algorithm: HashAlgorithm
    attributes: Attributes
    policy: bytes
    scheme: Scheme
    scheme_hash: HashAlgorithm | None
    parameters: RsaParameters | EccParameters
    raw: bytes

    @property
    def name(self) -> bytes:
        """The object's name."""
        return self.name_algorithm.to_bytes(2, "big") + self.name_algorithm.digest(self.raw)

    def qualified_name(self, hierarchy: int = ENDORSEMENT_HIERARCHY) -> bytes:
        """Qualified name as a primary key of ``hierarchy`` (part 1, section 16): ``u16 algorithm ‖
        H(handle ‖ name)``.
        """
        digest = self.name_algorithm.digest(hierarchy.to_bytes(4, "big") + self.name)
        return self.name_algorithm.to_bytes(2, "big") + digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Registers of one bank, ascending."""

    algorithm: HashAlgorithm
    pcrs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """What a quote says."""

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    firmware_version: int
    selections: tuple[Selection, ...]
    digest: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """A signature: RSA bytes in ``rsa``, or ECDSA numbers in ``r`` and ``s``."""

    scheme: Scheme
    hash_algorithm: HashAlgorithm
    rsa: bytes = b""
    r: int = 0
    s: int = 0


@lru_cache(maxsize=256)
def parse_public(data: bytes) -> Public:
    """Read a TPMT_PUBLIC of an RSA or ECC key. Raises ``TpmStructureError``, as all of these do."""
    reader = _Reader(data, "TPMT_PUBLIC")
    key_type = reader.enum(KeyType, "a key type")
    name_algorithm = reader.enum(HashAlgorithm, "a name algorithm")
    attributes = reader.number(4)
    if attributes & ~_ALL_ATTRIBUTES:
        raise reader.error(f"has reserved attributes set in {attributes:#010x}")
    policy = reader.sized(64)
    _symmetric(reader)
    scheme, scheme_hash = _scheme(reader)
    parameters = _rsa(reader) if key_type is KeyType.RSA else _ecc(reader)
    reader.end()
    return Public(
        name_algorithm=name_algorithm,
        attributes=Attributes(attributes),
        policy=policy,
        scheme=scheme,
        scheme_hash=scheme_hash,
        parameters=parameters,
        raw=bytes(data),
    )


def parse_quote(data: bytes) -> Quote:
    """Read a TPMS_ATTEST of type quote."""
    reader = _Reader(data, "TPMS_ATTEST")
    magic, kind = reader.number(4), reader.number(2)
    if magic != QUOTE_MAGIC:
        raise reader.error(f"has magic {magic:#010x}: it was not made by a TPM")
    if kind != QUOTE_TYPE:
        raise reader.error(f"has type {kind:#06x}: it is no quote")
    signer, extra = reader.sized(68), reader.sized(64)
    clock, resets, restarts, safe = reader.number(8), reader.number(4), reader.number(4), reader.number(1)
    if safe > 1:
        raise reader.error("has a clock that is neither safe nor unsafe")
    firmware = reader.number(8)
    count = reader.number(4)
    if count > MAX_SELECTIONS:
        raise reader.error(f"selects registers of {count} banks")
    selections = tuple(_selection(reader) for _ in range(count))
    digest = reader.sized(64)
    reader.end()
    return Quote(
        qualified_signer=signer,
        extra_data=extra,
        clock=clock,
        reset_count=resets,
        restart_count=restarts,
        firmware_version=firmware,
        selections=selections,
        digest=digest,
    )


def parse_signature(data: bytes) -> Signature:
    """Read a TPMT_SIGNATURE: RSASSA, RSAPSS or ECDSA."""
    reader = _Reader(data, "TPMT_SIGNATURE")
    scheme = reader.enum(Scheme, "a scheme")
    hash_algorithm = reader.enum(HashAlgorithm, "a hash algorithm")
    if scheme in (Scheme.RSASSA, Scheme.RSAPSS):
        signature = Signature(scheme=scheme, hash_algorithm=hash_algorithm, rsa=reader.sized(512))
    elif scheme is Scheme.ECDSA:
        r, s = int.from_bytes(reader.sized(66), "big"), int.from_bytes(reader.sized(66), "big")
        signature = Signature(scheme=scheme, hash_algorithm=hash_algorithm, r=r, s=s)
    else:
        raise reader.error(f"has scheme {scheme.name}, which does not sign")
    reader.end()
    return signature


class _Reader:
    """The buffer of one structure with a position; every read is bounded."""

    def __init__(self, data: bytes, subject: str) -> None:
        self._data = data
        self._at = 0
        self._subject = subject
        if len(data) > MAX_STRUCTURE:
            raise self.error(f"is larger than {MAX_STRUCTURE} bytes")

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise self.error("is cut short")
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self, limit: int) -> bytes:
        size = self.number(2)
        if size > limit:
            raise self.error(f"holds a field of {size} bytes, at most {limit} expected")
        return self.take(size)

    def enum(self, kind: type[_Number], what: str) -> _Number:
        number = self.number(2)
        known = next((member for member in kind if member == number), None)
        if known is None:
            raise self.error(f"has {what} {number:#06x}, which is not known")
        return known

    def end(self) -> None:
        if self._at != len(self._data):
            raise self.error("has bytes after its end")

    def error(self, reason: str) -> TpmStructureError:
        return TpmStructureError(
            f"{reason} (at byte {self._at})", subject=self._subject, advice="take it from the TPM again"
        )


def _symmetric(reader: _Reader) -> None:
    """Keys that protect children have a cipher; its size says nothing about the key itself."""
    if reader.number(2) != Scheme.NULL:
        reader.take(4)


def _scheme(reader: _Reader) -> tuple[Scheme, HashAlgorithm | None]:
    scheme = reader.enum(Scheme, "a scheme")
    if scheme in (Scheme.NULL, Scheme.RSAES):
        return scheme, None
    return scheme, reader.enum(HashAlgorithm, "a hash algorithm")


def _rsa(reader: _Reader) -> RsaParameters:
    bits, exponent = reader.number(2), reader.number(4)
    modulus = reader.sized(512)
    if len(modulus) * 8 != bits or not modulus or not modulus[0] >> 7:
        raise reader.error(f"has a modulus that is not {bits} bits long")
    return RsaParameters(
        bits=bits, exponent=exponent or _DEFAULT_EXPONENT, modulus=int.from_bytes(modulus, "big")
    )


def _ecc(reader: _Reader) -> EccParameters:
    curve = reader.enum(Curve, "a curve")
    if reader.number(2) != Scheme.NULL:
        raise reader.error("has a key derivation scheme")
    x, y = reader.sized(curve.size), reader.sized(curve.size)
    return EccParameters(curve=curve, x=int.from_bytes(x, "big"), y=int.from_bytes(y, "big"))


def _selection(reader: _Reader) -> Selection:
    algorithm = reader.enum(HashAlgorithm, "a bank")
    size = reader.number(1)
    if size > 4:
        raise reader.error(f"selects registers with {size} bytes")
    bitmap = int.from_bytes(reader.take(size), "little")
    return Selection(algorithm=algorithm, pcrs=tuple(pcr for pcr in range(8 * size) if bitmap >> pcr & 1))
