"""A simulated PKI as files of a folder, and back.

=====================  =================================================================================
``sim.json``           canonical JSON: type, a warning, what the plan was made from
``root.pem`` …         certificates, PEM: root, ca, pck, tcb-signing
``root.key.pem`` …     private keys (PKCS #8, not encrypted): of each certificate, and ``attestation``
``root-crl.der`` …     revocation lists: root-crl, pck-crl
``collateral.bundle``  everything that a verifier needs beside a quote (``attestation.collateral_bundle``)
``anchor.toml``        the root, as ``[[roots]]`` of a policy for development
=====================  =================================================================================

Pure: reading and writing the files is the caller's part. ``PRIVATE`` names those that nobody else may read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from attestation.collateral_bundle import encode_bundle
from attestation.policy import TcbStatus
from attestation.sim.pki import ORGANISATION, SimKeys, SimPki, make_pki, new_keys, pem
from attestation.sim.plan import CERTIFICATES, Part, SimPlan, sim_plan
from measurements.canonical import encode_canonical, parse_canonical
from measurements.errors import FormatError
from measurements.strict_fields import Fields

TYPE = "keyturn-simulated-pki/1"
WARNING = f"{ORGANISATION}: whoever has this folder can claim to be any machine"
SETTINGS, BUNDLE, ANCHOR = "sim.json", "collateral.bundle", "anchor.toml"
ATTESTATION_KEY = "attestation.key.pem"
MAX_DAYS = 3650

_LISTS = (Part.ROOT_CRL, Part.PCK_CRL)
_KEYS = ("type", "warning", "now", "days", "status", "advisories")


class SimFolderError(FormatError):
    """Files that are no simulated PKI."""

    code = "simulated-pki"


@dataclass(frozen=True, kw_only=True, slots=True)
class SimSettings:
    """What a plan is made from: a moment (seconds since 1970), how long collateral lasts, and the status."""

    now: int
    days: int
    status: TcbStatus = TcbStatus.UP_TO_DATE
    advisories: tuple[str, ...] = ()

    def plan(self) -> SimPlan:
        """The plan."""
        return sim_plan(self.now, status=self.status, advisories=self.advisories, collateral_days=self.days)


def key_file(part: Part) -> str:
    """Name of the file with a private key."""
    return f"{part.value}.key.pem"


PRIVATE = frozenset({ATTESTATION_KEY, *map(key_file, CERTIFICATES)})


def new_folder(settings: SimSettings) -> dict[str, bytes]:
    """All files of a new PKI, with new keys, by their names."""
    pki = make_pki(settings.plan(), new_keys())
    certificates = {f"{part.value}.pem": pem(pki.certificates[part]).encode() for part in CERTIFICATES}
    keys = {key_file(part): _key_pem(pki.keys.certificates[part]) for part in CERTIFICATES}
    return {
        SETTINGS: _settings_file(settings),
        **certificates,
        **keys,
        ATTESTATION_KEY: _key_pem(pki.keys.attestation),
        f"{Part.ROOT_CRL.value}.der": pki.root_crl,
        f"{Part.PCK_CRL.value}.der": pki.pck_crl,
        BUNDLE: encode_bundle(pki.collateral()),
        ANCHOR: _anchor_file(pki),
    }


def needed_files() -> tuple[str, ...]:
    """Names of the files that ``read_folder`` needs."""
    certificates = [f"{part.value}.pem" for part in CERTIFICATES]
    return (SETTINGS, *certificates, *sorted(PRIVATE), *(f"{part.value}.der" for part in _LISTS))


def read_folder(files: Mapping[str, bytes]) -> SimPki:
    """The PKI of ``needed_files``; raises ``SimFolderError`` or another ``FormatError``."""
    settings = _read_settings(files[SETTINGS])
    keys = SimKeys(
        certificates={part: _key(files, key_file(part)) for part in CERTIFICATES},
        attestation=_key(files, ATTESTATION_KEY),
    )
    certificates = {part: _certificate(files, f"{part.value}.pem") for part in CERTIFICATES}
    for part in CERTIFICATES:
        if certificates[part].public_key() != keys.certificates[part].public_key():
            _refuse(f"{part.value}.pem", f"does not have the key of {key_file(part)}")
    return SimPki(
        plan=settings.plan(),
        keys=keys,
        certificates={part: one.public_bytes(Encoding.DER) for part, one in certificates.items()},
        root_crl=files[f"{Part.ROOT_CRL.value}.der"],
        pck_crl=files[f"{Part.PCK_CRL.value}.der"],
    )


def _settings_file(settings: SimSettings) -> bytes:
    return encode_canonical(
        {
            "type": TYPE,
            "warning": WARNING,
            "now": settings.now,
            "days": settings.days,
            "status": settings.status.value,
            "advisories": list(settings.advisories),
        }
    )


def _read_settings(data: bytes) -> SimSettings:
    fields = Fields(parse_canonical(data, subject=SETTINGS), _KEYS, path="", refuse=_settings_error)
    fields.constant("type", TYPE)
    fields.constant("warning", WARNING)
    return SimSettings(
        now=fields.integer("now"),
        days=fields.integer("days", 1, MAX_DAYS),
        status=fields.choice("status", TcbStatus),
        advisories=fields.texts("advisories"),
    )


def _anchor_file(pki: SimPki) -> bytes:
    anchor = pki.anchor()
    lines = [
        f"# {WARNING}",
        "[[roots]]",
        f'purpose = "{anchor.purpose.value}"',
        f'fingerprint = "{anchor.fingerprint.hex()}"',
        f"subject = '{anchor.subject}'",
        f'source = "{anchor.source}"',
        f"date = {anchor.date}",
        "",
    ]
    return "\n".join(lines).encode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _key(files: Mapping[str, bytes], name: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(files[name], None)
    except (ValueError, TypeError) as error:
        _refuse(name, f"is no private key: {error}")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        _refuse(name, "is no key on P-256")
    return key


def _certificate(files: Mapping[str, bytes], name: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(files[name])
    except ValueError as error:
        _refuse(name, f"is no certificate: {error}")


def _settings_error(reason: str) -> SimFolderError:
    return _error(SETTINGS, reason)


def _error(subject: str, reason: str) -> SimFolderError:
    return SimFolderError(reason, subject=subject, advice="make the folder anew: keyturn sim pki FOLDER")


def _refuse(subject: str, reason: str) -> NoReturn:
    raise _error(subject, reason)
