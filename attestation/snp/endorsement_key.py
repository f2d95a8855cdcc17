"""The certificate of the key that signed a report: VCEK (of one chip) or VLEK (of one cloud provider).

Both speak of one TCB in extensions under 1.3.6.1.4.1.3704.1 (AMD 57230, the tables of VCEK and VLEK
certificate extensions), each of which stands there exactly once:

=======  ==============================================================================================
suffix   value
=======  ==============================================================================================
1        structure version, INTEGER: 0 before Turin, 1 from Turin on
2        product name, IA5String
3.1-3.3  security patch levels of boot loader, TEE and SNP firmware, INTEGER 0-255
3.4-3.7  reserved levels, INTEGER 0; 3.4 only in structure version 0
3.8      level of the microcode
3.9      level of the FMC, in structure version 1
4        VCEK only: hardware id, 64 bytes in structure version 0, 8 bytes in version 1
5        VLEK only: CSP id, IA5String ``CN=`` and the name of the provider's certificate
=======  ==============================================================================================

Values are DER in their one encoding. AMD writes the hardware id as plain bytes, without a tag of its own; an
OCTET STRING around it is read too, as go-sev-guest does (kds/kds.go, commit 130884d16fff). No extension of
AMD's that is unknown, and none at all that is critical, is accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.snp.products import Product, product_of_name
from attestation.x509_chain import common_name, load_certificate, refuse
from measurements.sev.report import SigningKey, TcbVersion

_ARC = "1.3.6.1.4.1.3704.1."
_LEVELS = {"boot_loader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8"}
_RESERVED = ("3.5", "3.6", "3.7")
_FMC, _OLD_RESERVED = "3.9", "3.4"
_HARDWARE_ID_SIZES = {0: 64, 1: 8}
_NAMES = {"SEV-VCEK": SigningKey.VCEK, "SEV-VLEK": SigningKey.VLEK}
_INTEGER, _OCTET_STRING, _IA5_STRING = 0x02, 0x04, 0x16
_SHORT = 0x80


@dataclass(frozen=True, kw_only=True, slots=True)
class EndorsementKey:
    """What a VCEK or VLEK certificate says. ``hardware_id`` (64 bytes, 8 from Turin on) is None for a VLEK,
    ``csp_id`` for a VCEK.
    """

    der: bytes
    kind: SigningKey
    product: Product
    product_name: str
    tcb: TcbVersion
    hardware_id: bytes | None
    csp_id: str | None
    public_key: ec.EllipticCurvePublicKey
    not_before: int
    """Seconds since 1970."""


@lru_cache(maxsize=256)
def kind_of(der: bytes) -> SigningKey | None:
    """Which kind of key a certificate (DER) is for, by its name; None if it is neither. Raises
    ``CertificateError`` if it cannot be read.
    """
    return _NAMES.get(common_name(load_certificate(der)))


@lru_cache(maxsize=256)
def read_endorsement_key(der: bytes) -> EndorsementKey:
    """Read the certificate (DER); raises ``CertificateError``. Its chain is for the caller to check."""
    certificate = load_certificate(der, what="the certificate of the signing key")
    kind = kind_of(der)
    if kind is None:
        refuse(f"{common_name(certificate) or 'the certificate'} is neither SEV-VCEK nor SEV-VLEK")
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP384R1
    ):
        refuse(f"the key of the {kind.name} certificate is not on the curve P-384")
    values = _extensions(certificate, kind)
    version = _integer(values, "1")
    if version not in _HARDWARE_ID_SIZES:
        refuse(f"the {kind.name} certificate has structure version {version}; known are 0 and 1")
    _check_present(values, kind, version)
    product_name = _text(values, "2")
    product = product_of_name(product_name)
    if product is None or (product is Product.TURIN) != (version == 1):
        refuse(f"the {kind.name} certificate is of product {product_name!r} in structure version {version}")
    vcek = kind is SigningKey.VCEK
    return EndorsementKey(
        der=der,
        kind=kind,
        product=product,
        product_name=product_name,
        tcb=_tcb(values, version),
        hardware_id=_octets(values, "4", _HARDWARE_ID_SIZES[version]) if vcek else None,
        csp_id=None if vcek else _csp_id(values),
        public_key=public_key,
        not_before=int(certificate.not_valid_before_utc.timestamp()),
    )


def _extensions(certificate: x509.Certificate, kind: SigningKey) -> dict[str, bytes]:
    """AMD's extensions by what follows the arc. That none stands twice was seen when it was loaded."""
    values = {}
    for extension in certificate.extensions:
        value = extension.value
        if extension.critical:
            refuse(f"the {kind.name} certificate has a critical extension {extension.oid.dotted_string}")
        if isinstance(value, x509.BasicConstraints) and value.ca:
            refuse(f"the {kind.name} certificate is one of an authority")
        if isinstance(value, x509.UnrecognizedExtension) and extension.oid.dotted_string.startswith(_ARC):
            values[extension.oid.dotted_string.removeprefix(_ARC)] = value.value
    return values


def _check_present(values: Mapping[str, bytes], kind: SigningKey, version: int) -> None:
    named = "4" if kind is SigningKey.VCEK else "5"
    extra = _FMC if version == 1 else _OLD_RESERVED
    expected = {"1", "2", *_LEVELS.values(), *_RESERVED, extra, named}
    if missing := expected - set(values):
        refuse(f"the {kind.name} certificate lacks the extensions {_oids(missing)}")
    if unknown := set(values) - expected:
        refuse(f"the {kind.name} certificate has the extensions {_oids(unknown)}, which do not belong there")


def _oids(suffixes: set[str]) -> str:
    return ", ".join(_ARC + one for one in sorted(suffixes)[:4])


def _tcb(values: Mapping[str, bytes], version: int) -> TcbVersion:
    reserved = (*_RESERVED, _OLD_RESERVED) if version == 0 else _RESERVED
    if any(_integer(values, one) for one in reserved):
        refuse("the certificate has a reserved security patch level that is not zero")
    return TcbVersion(
        fmc=_integer(values, _FMC) if version == 1 else None,
        **{name: _integer(values, suffix) for name, suffix in _LEVELS.items()},
    )


def _integer(values: Mapping[str, bytes], suffix: str) -> int:
    value = values.get(suffix, b"")
    number = int.from_bytes(value[2:])
    size = 1 if number < 0x80 else 2
    if number > 0xFF or value != bytes((_INTEGER, size)) + number.to_bytes(size):
        refuse(
            f"extension {_ARC}{suffix} of the certificate is no INTEGER between 0 and 255: {value[:8].hex()}"
        )
    return number


def _text(values: Mapping[str, bytes], suffix: str) -> str:
    value = values[suffix]
    content = value[2:]
    if len(content) >= _SHORT or value[:2] != bytes((_IA5_STRING, len(content))):
        refuse(f"extension {_ARC}{suffix} of the certificate is no IA5String")
    if not content or not all(0x20 < one < 0x7F for one in content):
        refuse(f"extension {_ARC}{suffix} of the certificate is not printable text")
    return content.decode("ascii")


def _csp_id(values: Mapping[str, bytes]) -> str:
    name = _text(values, "5").removeprefix("CN=")
    if not name:
        refuse("the VLEK certificate names no cloud provider")
    return name


def _octets(values: Mapping[str, bytes], suffix: str, size: int) -> bytes:
    value = values[suffix]
    if len(value) == size + 2 and value[:2] == bytes((_OCTET_STRING, size)):
        value = value[2:]
    if len(value) != size:
        refuse(f"extension {_ARC}{suffix} of the certificate has {len(value)} bytes, not {size}")
    return value
