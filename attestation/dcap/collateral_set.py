"""One set of DCAP collateral, checked as far as that goes without a quote and a time. Kept by its bytes.

========================  ===============================================================================
check                     passes if (each ends the list if it fails)
========================  ===============================================================================
``tcb-info-form``         the text is TCB info as Intel's API gives it
``tcb-info-chain``        signer named "Intel SGX TCB Signing" under a pinned root, PEM in its one form
``tcb-info-signature``    the signer signed exactly this text
``qe-identity-form``      the text is an enclave identity
``qe-identity-chain``     as for TCB info
``qe-identity-signature`` as for TCB info
``pck-crl-chain``         a PCK CA under the same root, PEM in its one form
``root-crl``              list of that root, signed by it
``pck-crl``               list of that PCK CA, signed by it
``signers-not-revoked``   neither signer, PCK CA nor root is on the root's list
========================  ===============================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attestation.collateral import DcapCollateral
from attestation.dcap.kept import Kept, keep
from attestation.dcap.pem_chain import CA_NAMES, ROOT_NAME, TCB_SIGNING_NAME, Role, named_chain
from attestation.dcap.qe_identity import QeIdentity, parse_qe_identity
from attestation.dcap.signatures import signed_by_certificate
from attestation.dcap.tcb_info import TcbInfo, parse_tcb_info
from attestation.limited_cache import limited_cache
from attestation.platform_verification import ChainLink, Window
from attestation.verdict import CheckList
from attestation.x509_chain import Chain, RevocationList, load_revocation_list, refuse

SET_CHECKS = (
    "tcb-info-form",
    "tcb-info-chain",
    "tcb-info-signature",
    "qe-identity-form",
    "qe-identity-chain",
    "qe-identity-signature",
    "pck-crl-chain",
    "root-crl",
    "pck-crl",
    "signers-not-revoked",
)

_SIGNER_NAMES = ((TCB_SIGNING_NAME,), (ROOT_NAME,))
_AUTHORITY_NAMES = (CA_NAMES, (ROOT_NAME,))
_ADVICE = "fetch collateral again: keyturn collateral fetch"


@dataclass(frozen=True, kw_only=True, eq=False)
class VerifiedSet:
    """A set whose signatures hold. ``windows`` are those of everything in it. It is kept, so it is compared
    by identity.
    """

    tcb_info: TcbInfo
    qe_identity: QeIdentity
    signers: tuple[Chain, ...]
    authority: Chain
    root_der: bytes
    root_crl: RevocationList
    pck_crl: RevocationList
    windows: tuple[Window, ...]
    links: tuple[ChainLink, ...]

    @property
    def evaluation_number(self) -> int:
        """The lower of the two numbers in it."""
        return min(self.tcb_info.evaluation_number, self.qe_identity.evaluation_number)

    @property
    def oldest_issue(self) -> int:
        """When the oldest of TCB info, QE identity and PCK CRL was issued."""
        return min(self.tcb_info.issue_date, self.qe_identity.issue_date, self.pck_crl.window.start)


@limited_cache(maxsize=64, largest=64 << 10)
def tcb_info_of(text: str) -> TcbInfo:
    """Read and keep; raises ``SignedJsonError``."""
    return parse_tcb_info(text)


@limited_cache(maxsize=64, largest=64 << 10)
def qe_identity_of(text: str) -> QeIdentity:
    """Read and keep; raises ``SignedJsonError``."""
    return parse_qe_identity(text)


@limited_cache(maxsize=64, largest=256 << 10)
def check_set(given: DcapCollateral, roots: frozenset[bytes]) -> Kept[VerifiedSet]:
    """Check a set under one of ``roots`` (SHA-256 fingerprints)."""
    return keep(lambda checks: _check(checks, given, roots))


def _check(checks: CheckList, given: DcapCollateral, roots: frozenset[bytes]) -> VerifiedSet:
    with checks.step("tcb-info-form", expected="TCB info of version 3"):
        info = tcb_info_of(given.tcb_info)
    signer = _signer(checks, "tcb-info", given.tcb_info_issuer_chain, roots)
    _check_signature(checks, "tcb-info", signer, given.tcb_info_signature, given.tcb_info)
    with checks.step("qe-identity-form", expected="the identity of a quoting enclave"):
        identity = qe_identity_of(given.qe_identity)
    roots = frozenset({signer.fingerprint})
    qe_signer = _signer(checks, "qe-identity", given.qe_identity_issuer_chain, roots)
    _check_signature(checks, "qe-identity", qe_signer, given.qe_identity_signature, given.qe_identity)
    with checks.step("pck-crl-chain", expected=f"{' or '.join(CA_NAMES)}, under the same root"):
        authority = named_chain(
            given.pck_crl_issuer_chain.encode("utf-8", "replace"),
            _AUTHORITY_NAMES,
            roots,
            what="chain of the PCK CRL",
            role=Role.AUTHORITY,
        )
    with checks.step("root-crl", expected=f"a list that {ROOT_NAME} signed"):
        root_crl = load_revocation_list(given.root_ca_crl, signer.ders[-1], what="root CRL")
    with checks.step("pck-crl", expected="a list that the PCK CA signed"):
        pck_crl = load_revocation_list(given.pck_crl, authority.ders[0], what="PCK CRL")
    with checks.step("signers-not-revoked", expected="none of them on the root's list"):
        check_revocation((signer, qe_signer, authority), root_crl)
    documents = (
        Window(name="TCB info", start=info.issue_date, end=info.next_update),
        Window(name="QE identity", start=identity.issue_date, end=identity.next_update),
    )
    lists = (_list_window(pck_crl), _list_window(root_crl))
    chains = (*signer.windows, *qe_signer.windows, *authority.windows)
    return VerifiedSet(
        tcb_info=info,
        qe_identity=identity,
        signers=(signer, qe_signer),
        authority=authority,
        root_der=signer.ders[-1],
        root_crl=root_crl,
        pck_crl=pck_crl,
        windows=tuple(dict.fromkeys((*documents, *lists, *chains))),
        links=_links(info, identity, signer, qe_signer, authority),
    )


def check_revocation(chains: tuple[Chain, ...], root_crl: RevocationList) -> None:
    """Raises ``CertificateError`` if the root's list names a certificate that the root issued."""
    for chain in chains:
        for certificate in chain.certificates:
            issued = certificate.issuer == chain.certificates[-1].subject
            if issued and certificate.serial_number in root_crl.serials:
                refuse(f"{certificate.subject.rfc4514_string()} is revoked by {root_crl.window.name}")


def _list_window(found: RevocationList) -> Window:
    """Without the second of the next update itself, as dcap-qvl has it."""
    return replace(found.window, end=found.window.end - 1)


def _signer(checks: CheckList, name: str, text: str, roots: frozenset[bytes]) -> Chain:
    with checks.step(f"{name}-chain", expected=f"{TCB_SIGNING_NAME}, under a pinned root, in PEM"):
        return named_chain(
            text.encode("utf-8", "replace"),
            _SIGNER_NAMES,
            roots,
            what=f"chain of {name}",
            role=Role.END_ENTITY,
        )


def _check_signature(checks: CheckList, name: str, signer: Chain, signature: bytes, text: str) -> None:
    valid = signed_by_certificate(signer.leaf, signature, text.encode())
    checks.require(
        f"{name}-signature",
        valid,
        expected=f"{TCB_SIGNING_NAME} signed exactly this text",
        found="signed" if valid else "no valid signature",
        reason=f"the {name} was changed, or is not of this signer",
        advice=_ADVICE,
    )


def _links(
    info: TcbInfo, identity: QeIdentity, signer: Chain, qe_signer: Chain, authority: Chain
) -> tuple[ChainLink, ...]:
    documents = (
        ChainLink(
            subject="TCB info",
            issuer=TCB_SIGNING_NAME,
            detail=f"{info.tee}, FMSPC {info.fmspc.hex()}, evaluation {info.evaluation_number}",
        ),
        ChainLink(
            subject="QE identity",
            issuer=TCB_SIGNING_NAME,
            detail=f"{identity.id}, evaluation {identity.evaluation_number}",
        ),
        ChainLink(subject="PCK CRL", issuer=authority.links[0].subject),
        ChainLink(subject="root CRL", issuer=ROOT_NAME),
    )
    return tuple(dict.fromkeys((*documents, *signer.links, *qe_signer.links, *authority.links)))
