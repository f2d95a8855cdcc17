"""That a Nitro document is AWS's: its form, certificate chain and signature. What it says is not judged here.

Source: AWS Nitro Enclaves User Guide, "Verifying the root of trust", and Amazon EC2 User Guide, "Validate a
NitroTPM Attestation Document": the bundle lists the root first, then each authority down to the one that
issued the document's certificate; validity is checked for all of them; revocation lists are not used (both
guides say to turn them off).

Stricter than the guides: the bundle is exactly the chain, in its order; the certificate is for signatures
only and has a P-384 key; an enclave's certificate names the module of the document; the algorithm is ES384.
ECDSA signatures have two forms, r ‖ s and r ‖ n-s: a document's hash is no identity of what it says.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from attestation.anchors import Anchors
from attestation.policy import RootPurpose
from attestation.verdict import CheckList
from attestation.x509_chain import Chain, build_chain, check_windows, common_name, refuse
from measurements.nitro.document import NitroDocument, NitroModule, parse_document

ES384 = -35
DOCUMENT_CHECKS = (
    "document-form",
    "document-algorithm",
    "certificate-chain",
    "certificate-usage",
    "certificate-validity",
    "document-signature",
)
"""Names of the checks of ``check_document``, in their order."""

_LEAF_CRITICAL = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
_AGAIN = "take a new document from the module"


def check_document(
    checks: CheckList, data: bytes, *, anchors: Anchors, now: int
) -> tuple[NitroDocument, Chain]:
    """The document and its chain, after the checks of ``DOCUMENT_CHECKS``; each of them ends the list."""
    with checks.step("document-form", expected="a document as the User Guide describes it"):
        document = parse_document(data)
    checks.require(
        "document-algorithm",
        document.message.algorithm == ES384,
        expected=f"ES384 ({ES384})",
        found=str(document.message.algorithm),
        reason="AWS signs documents with ES384 only",
        advice=_AGAIN,
    )
    roots = anchors.fingerprints(RootPurpose.AWS_NITRO)
    with checks.step("certificate-chain", expected="a chain to a pinned root, as in the bundle"):
        chain = build_chain(
            document.certificate, document.cabundle, roots=roots, what="the document's certificate"
        )
        _check_bundle(chain, document.cabundle)
    with checks.step("certificate-usage", expected="a certificate for signatures, of this module"):
        _check_leaf(chain.leaf, document)
    with checks.step("certificate-validity", expected="all certificates valid"):
        check_windows(chain.windows, now)
    checks.require(
        "document-signature",
        document.message.is_signed_by(chain.leaf.public_key()),
        expected="signed by its certificate",
        found="another signature",
        reason="the document was changed, or is not of this module",
        advice=_AGAIN,
    )
    return document, chain


def _check_bundle(chain: Chain, bundle: Sequence[bytes]) -> None:
    if chain.ders[1:] != tuple(reversed(bundle)):
        refuse("the bundle is not exactly the chain, root first")


def _check_leaf(leaf: x509.Certificate, document: NitroDocument) -> None:
    try:
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        refuse(f"the document's certificate lacks an extension: {error}")
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        refuse("the document's certificate has a key that is not P-384")
    signs_more = usage.key_cert_sign or usage.crl_sign or usage.key_encipherment or usage.key_agreement
    if constraints.ca or not usage.digital_signature or signs_more:
        refuse("the document's certificate is not one for signatures only")
    if {one.oid for one in leaf.extensions if one.critical} - _LEAF_CRITICAL:
        refuse("the document's certificate has a critical extension that is not known")
    name = common_name(leaf)
    if document.kind is NitroModule.ENCLAVE and not name.startswith(f"{document.module}."):
        refuse(f"the document's certificate is of {name!r}, not of {document.module}")
