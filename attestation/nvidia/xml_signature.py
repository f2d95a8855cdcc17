"""Signed XML of one strict shape: an enveloped signature (XML-DSig 1.1) over the whole document.

``signxml`` verifies; before it sees a document, this module makes sure that it is

- ASCII of at most 256 KiB, in the one way in which libxml2 writes it (a newline or an XML declaration may
  surround it), so that a changed byte is another document or none,
- free of document types, entities, comments, processing instructions and character references,
- signed once, by the last child of its root, over all of it (``URI=""``) with exactly ECDSA on SHA-384,
  Canonical XML 1.1 and the enveloped-signature transform,
- accompanied by X.509 certificates, leaf first, and by nothing else in ``KeyInfo``.

Whose certificates these are is for the caller. lxml and signxml are imported on first use: they are large.
"""

from __future__ import annotations

import base64
import binascii
from importlib import import_module
from typing import Any, NoReturn

from cryptography import x509

from measurements.errors import RefusedError

MAX_DOCUMENT = 256 << 10
MAX_TAGS = 2048
MAX_ATTRIBUTES = 8192
MAX_CERTIFICATES = 8

DSIG = "{http://www.w3.org/2000/09/xmldsig#}"

_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'
_MAX_NAMESPACES = 64
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_SIGNED_INFO: tuple[str, dict[str, str], list[Any]] = (
    f"{DSIG}SignedInfo",
    {},
    [
        (f"{DSIG}CanonicalizationMethod", {"Algorithm": _C14N}, []),
        (
            f"{DSIG}SignatureMethod",
            {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"},
            [],
        ),
        (
            f"{DSIG}Reference",
            {"URI": ""},
            [
                (
                    f"{DSIG}Transforms",
                    {},
                    [
                        (
                            f"{DSIG}Transform",
                            {"Algorithm": "http://www.w3.org/2000/09/xmldsig#enveloped-signature"},
                            [],
                        ),
                        (f"{DSIG}Transform", {"Algorithm": _C14N}, []),
                    ],
                ),
                (
                    f"{DSIG}DigestMethod",
                    {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#sha384"},
                    [],
                ),
                (f"{DSIG}DigestValue", {}, []),
            ],
        ),
    ],
)


class SignedXmlError(RefusedError):
    """XML that is not of the one shape, or whose signature does not hold."""

    code = "signed-xml"


def parse_signed_xml(data: bytes) -> Any:
    """The root element (lxml); raises ``SignedXmlError``. Its signature has the right form, and is not
    verified yet.
    """
    body = data.removeprefix(_DECLARATION).removesuffix(b"\n")
    _check_text(data, body)
    etree = import_module("lxml.etree")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        refuse(f"is no XML: {error.msg}")
    if etree.tostring(root) != body:
        refuse("is not written in its one form")
    _check_signature(root)
    return root


def signing_certificates(root: Any) -> tuple[bytes, ...]:
    """DER of the certificates in the signature, leaf first; raises ``SignedXmlError``."""
    return tuple(_decoded(one.text) for one in root[-1][2][0])


def verified(root: Any, leaf: x509.Certificate) -> Any:
    """The signed element as the signature covers it, if the key of ``leaf`` made it; raises
    ``SignedXmlError``. Whether ``leaf`` is valid now is not asked here.
    """
    signxml = import_module("signxml")
    exceptions = import_module("signxml.exceptions")
    etree = import_module("lxml.etree")
    configuration = signxml.SignatureConfiguration(
        require_x509=True,
        location="./",
        expect_references=1,
        signature_methods=frozenset({signxml.SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({signxml.DigestAlgorithm.SHA384}),
        verification_time=leaf.not_valid_before_utc,
    )
    try:
        result = signxml.XMLVerifier().verify(
            root, x509_cert=leaf, expect_config=configuration, validate_schema=False
        )
    except (exceptions.SignXMLException, etree.LxmlError, ValueError) as error:
        refuse(f"is not signed by its signer: {error}")
    if result.signed_xml is None or result.signed_xml.tag != root.tag:
        refuse("is not signed as a whole")
    return result.signed_xml


def _check_text(data: bytes, body: bytes) -> None:
    if len(data) > MAX_DOCUMENT:
        refuse(f"is larger than {MAX_DOCUMENT} bytes")
    if not data.isascii() or b"\0" in data:
        refuse("holds other characters than ASCII")
    for mark, what in ((b"<!", "a declaration or a comment"), (b"<?", "an instruction"), (b"&", "an entity")):
        if mark in body:
            refuse(f"holds {what}")
    if body.count(b"<") > 2 * MAX_TAGS or body.count(b"=") > MAX_ATTRIBUTES:
        refuse("has too many elements or attributes")
    if body.count(b"xmlns") > _MAX_NAMESPACES:
        refuse("declares too many names")


def _check_signature(root: Any) -> None:
    signatures = list(root.iter(f"{DSIG}Signature"))
    if len(signatures) != 1 or not len(root) or root[-1] is not signatures[0]:
        refuse("does not have exactly one signature, at its end")
    signature = signatures[0]
    tags = [one.tag for one in signature]
    if tags != [f"{DSIG}SignedInfo", f"{DSIG}SignatureValue", f"{DSIG}KeyInfo"] or signature.attrib:
        refuse("has a signature of another shape")
    if _shape(signature[0]) != _SIGNED_INFO:
        refuse("is signed with other algorithms, or not as a whole")
    _decoded(signature[1].text)
    key_info = signature[2]
    if [one.tag for one in key_info] != [f"{DSIG}X509Data"]:
        refuse("does not name its signer by certificates alone")
    certificates = key_info[0]
    fits = 0 < len(certificates) <= MAX_CERTIFICATES and all(
        one.tag == f"{DSIG}X509Certificate" and not len(one) for one in certificates
    )
    bare = not any(one.attrib for one in (signature[1], *key_info.iter()))
    silent = all(one.text is None for one in (signature, key_info, certificates)) and all(
        one.tail is None for one in signature.iter()
    )
    if not fits or not bare or not silent or len(signature[1]):
        refuse("has a signature with something besides certificates")


def _shape(element: Any) -> tuple[str, dict[str, str], list[Any]]:
    return element.tag, dict(element.attrib), [_shape(one) for one in element]


def _decoded(text: str | None) -> bytes:
    """Base64 in its one form, newlines aside."""
    bare = (text or "").replace("\n", "")
    try:
        value = base64.b64decode(bare, validate=True)
    except (binascii.Error, ValueError):
        refuse("holds malformed base64")
    if not value or base64.b64encode(value).decode("ascii") != bare:
        refuse("holds base64 that is not in its one form")
    return value


def refuse(reason: str) -> NoReturn:
    """Raises ``SignedXmlError``."""
    raise SignedXmlError(
        reason, subject="manifest", advice="fetch the manifest again from NVIDIA's RIM service"
    )
