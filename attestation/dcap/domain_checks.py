"""What a quote's header and body must say before anything is fetched or any signature counts.

=======================  ================================================================================
check                    passes if (each ends the list if it fails)
=======================  ================================================================================
``tee-type``             TDX quotes for ``tdx``, SGX quotes for ``sgx``, either for ``sim``
``quote-version``        SGX in version 3, TDX in version 4 or 5: what dcap-qvl verifies
``key-type``             2, ECDSA on P-256
``qe-vendor``            Intel's
``reserved-fields``      bytes 8 to 11 of the header are zero from version 4 on
``debug``                TDX: the whole first byte of the TD attributes (TUD) is zero; SGX: no DEBUG, and INIT
``reserved-attributes``  TDX: no reserved bit of the TD attributes is set
``sept-ve-disable``      TDX: set, so that the host cannot feed a domain pages unnoticed
``seam-attributes``      TDX: zero, so no debug module (TCB info is compared as well, later)
``migratable``           TDX: not set, unless the policy allows it
``service-td``           TDX: no service TD is bound, unless the policy lists its hash
``certification``        of type 5: the PCK's chain is in the quote
=======================  ================================================================================

TD attributes: Intel TDX Module ABI Specification 348551-008US, table 3.23, as in dcap-qvl 0.7.0,
``src/quote.rs``: bits 0 to 7 TUD, 16 ICSSD, 17 SERVTD_EXT, 18 to 22 free for use that needs no verifier, 27
LASS, 28 SEPT_VE_DISABLE, 29 MIGRATABLE, 30 PKS, 31 KL, 62 TPA, 63 PERFMON.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from attestation.container import EvidencePlatform
from attestation.dcap.enclave_report import ATTRIBUTE_DEBUG, ATTRIBUTE_INIT, EnclaveReport
from attestation.dcap.kept import Kept, keep
from attestation.dcap.quote import DcapQuote, QuoteHeader, TeeType
from attestation.policy import Allowed, DcapPolicy
from attestation.verdict import CheckList
from measurements.tdx.quote import TdBody

HEADER_CHECKS = ("tee-type", "quote-version", "key-type", "qe-vendor", "reserved-fields")
ENCLAVE_CHECKS = ("debug", "certification")
DOMAIN_CHECKS = (
    "debug",
    "reserved-attributes",
    "sept-ve-disable",
    "seam-attributes",
    "migratable",
    "service-td",
    "certification",
)

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_ECDSA_P256 = 2
_PCK_CHAIN = 5
_CERTIFICATIONS = {
    1: "the PPID in the clear",
    2: "the PPID encrypted with RSA 2048",
    3: "the PPID encrypted with RSA 3072",
    4: "the PCK certificate alone",
}
_TEE_TYPES = {
    EvidencePlatform.TDX: (TeeType.TDX,),
    EvidencePlatform.SGX: (TeeType.SGX,),
    EvidencePlatform.SIM: (TeeType.TDX, TeeType.SGX),
}
_VERSIONS = {TeeType.SGX: (3,), TeeType.TDX: (4, 5)}
_RESERVED = sum(1 << bit for bit in (*range(1, 4), *range(7, 16), *range(23, 27), *range(32, 62)))
_SERVTD_EXT, _SEPT_VE_DISABLE, _MIGRATABLE = 1 << 17, 1 << 28, 1 << 29
_NO_SERVICE_TD = bytes(48)
_TAKE_AGAIN = "take the quote again from the platform's own driver"


@dataclass(frozen=True, slots=True)
class DomainSettings:
    """What of a trust domain's body is judged here. ``service_tds`` are hashes, those of when it was created
    and of now, without zeros.
    """

    attributes: bytes
    seam_attributes: bytes
    service_tds: tuple[bytes, ...]
    extended: bool

    @property
    def migratable(self) -> bool:
        """Whether a migration TD may move the domain."""
        return bool(int.from_bytes(self.attributes, "little") & _MIGRATABLE)

    @property
    def more_service_tds(self) -> bool:
        """Whether service TDs may be bound after the domain's creation (SERVTD_EXT)."""
        return bool(int.from_bytes(self.attributes, "little") & _SERVTD_EXT)


def settings_of(body: TdBody) -> DomainSettings:
    """Those of ``body``."""
    hashes = [body.mrservicetd]
    if body.extension is not None:
        hashes += [body.extension.initial_service_td_hash, body.extension.service_td_hash]
    bound = tuple(dict.fromkeys(one for one in hashes if one is not None and one != _NO_SERVICE_TD))
    return DomainSettings(body.td_attributes, body.seam_attributes, bound, body.extension is not None)


@lru_cache(maxsize=256)
def check_header(header: QuoteHeader, platform: EvidencePlatform) -> Kept[bool]:
    """Checks of ``HEADER_CHECKS``, kept."""

    def make(checks: CheckList) -> bool:
        _check_header(checks, header, platform)
        return True

    return keep(make)


def _check_header(checks: CheckList, header: QuoteHeader, platform: EvidencePlatform) -> None:
    tee = TeeType(header.tee_type)
    allowed = _TEE_TYPES[platform]
    checks.require(
        "tee-type",
        tee in allowed,
        expected=" or ".join(one.name for one in allowed),
        found=tee.name,
        reason=f"evidence of {platform.value} holds a quote of {tee.name}",
        advice="name the platform that made the quote",
    )
    versions = _VERSIONS[tee]
    checks.require(
        "quote-version",
        header.version in versions,
        expected=" or ".join(str(one) for one in versions),
        found=str(header.version),
        reason=f"quotes of {tee.name} in version {header.version} are not verified by dcap-qvl",
        advice="have the platform make a quote of another version",
    )
    checks.require(
        "key-type",
        header.key_type == _ECDSA_P256,
        expected=f"{_ECDSA_P256} (ECDSA on P-256)",
        found=str(header.key_type),
        reason="the attestation key is of a type that is not supported",
        advice=_TAKE_AGAIN,
    )
    checks.equal(
        "qe-vendor",
        expected=INTEL_QE_VENDOR,
        found=header.qe_vendor,
        reason="the quoting enclave is not Intel's",
        advice="use Intel's quoting enclave",
    )
    reserved = (header.qe_svn, header.pce_svn) if header.version > 3 else (0, 0)
    checks.require(
        "reserved-fields",
        not any(reserved),
        expected="zero",
        found=f"{reserved[0]}, {reserved[1]}",
        reason="a reserved field of the header is used",
        advice=_TAKE_AGAIN,
    )


def check_body(quote: DcapQuote, policy: DcapPolicy) -> Kept[bool]:
    """Checks of ``DOMAIN_CHECKS`` or ``ENCLAVE_CHECKS``, kept."""
    body = quote.body
    if isinstance(body, EnclaveReport):
        return _check_enclave(body.attributes, quote.certification_type)
    return _check_domain(settings_of(body), policy.migratable, policy.service_tds, quote.certification_type)


def _check_certification(checks: CheckList, kind: int) -> None:
    checks.require(
        "certification",
        kind == _PCK_CHAIN,
        expected=f"{_PCK_CHAIN} (chain of the PCK certificate)",
        found=str(kind),
        reason="the certificate would have to be looked up at a service: in place of the chain the quote "
        f"carries {_CERTIFICATIONS.get(kind, 'what is unknown')}",
        advice="let the platform fetch its PCK certificate, so that its quotes carry the chain (type 5)",
    )


@lru_cache(maxsize=256)
def _check_enclave(attributes: bytes, certification: int) -> Kept[bool]:
    def make(checks: CheckList) -> bool:
        checks.require(
            "debug",
            attributes[0] & (ATTRIBUTE_INIT | ATTRIBUTE_DEBUG) == ATTRIBUTE_INIT,
            expected="an initialised enclave without DEBUG",
            found=f"attributes {attributes.hex()}",
            reason="the host can read and change the enclave (DEBUG), or it was never initialised",
            advice="build the enclave for production: debug is never allowed",
        )
        _check_certification(checks, certification)
        return True

    return keep(make)


@lru_cache(maxsize=256)
def _check_domain(
    domain: DomainSettings, migratable: bool, allowed: Allowed, certification: int
) -> Kept[bool]:
    def make(checks: CheckList) -> bool:
        _check_attributes(checks, domain)
        checks.require(
            "migratable",
            migratable or not domain.migratable,
            expected="any" if migratable else "not migratable",
            found="migratable" if domain.migratable else "not migratable",
            reason="the domain can be moved to another machine by its migration TD",
            advice="start the domain without migration, or set migratable = true in the policy",
        )
        _check_service_td(checks, domain, allowed)
        _check_certification(checks, certification)
        return True

    return keep(make)


def _check_attributes(checks: CheckList, domain: DomainSettings) -> None:
    attributes = int.from_bytes(domain.attributes, "little")
    shown = f"TD attributes {domain.attributes.hex()}"
    checks.require(
        "debug",
        attributes & 0xFF == 0,
        expected="first byte of the TD attributes zero",
        found=shown,
        reason="the domain is under debug or profiling (TUD), so the host sees into it",
        advice="start the domain without debug attributes: debug is never allowed",
    )
    checks.require(
        "reserved-attributes",
        attributes & _RESERVED == 0,
        expected="no reserved bit",
        found=shown,
        reason="the domain has attributes whose meaning is not known",
        advice="start the domain without them",
    )
    checks.require(
        "sept-ve-disable",
        bool(attributes & _SEPT_VE_DISABLE),
        expected="SEPT_VE_DISABLE (bit 28)",
        found=shown,
        reason="the host could make the domain's kernel handle faults on its private memory",
        advice="start the domain with SEPT_VE_DISABLE, as QEMU does by default for TDX",
    )
    checks.equal(
        "seam-attributes",
        expected=bytes(8),
        found=domain.seam_attributes,
        reason="the TDX module has attributes that production modules do not have",
        advice="ask the host's operator to load Intel's production TDX module",
    )


def _check_service_td(checks: CheckList, domain: DomainSettings, allowed: Allowed) -> None:
    unknown = domain.more_service_tds and not domain.extended and not allowed.any
    shown = "; ".join(one.hex() for one in domain.service_tds) or "none"
    checks.require(
        "service-td",
        not unknown and all(allowed.holds(one.hex()) for one in domain.service_tds),
        expected=f"none, or of: {allowed}",
        found=f"{shown}, and others may be bound" if domain.more_service_tds else shown,
        reason="a service TD is bound to the domain, which can act on it, and the policy does not list it",
        advice="start the domain without service TDs, or list the hash in service_tds",
    )
