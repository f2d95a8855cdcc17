"""The bundle of certificate authorities: ``/etc/ssl/certs/ca-certificates.crt``.

The certificates of ``/usr/share/ca-certificates`` and ``/usr/local/share/ca-certificates``, each PEM text
ending in a newline, joined in the order of their paths. The folder of hashed links is left out; programs read
the bundle.
"""

from __future__ import annotations

from image_builder.tree import BytesContent, Kind, Node, Tree, read_content
from measurements.errors import KeyturnError

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
FOLDERS = ("usr/local/share/ca-certificates/", "usr/share/ca-certificates/")
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"


class CertificateError(KeyturnError):
    """A certificate file that is not PEM text."""

    code = "certificates"


def certificate_nodes(tree: Tree) -> Tree:
    """The bundle, if ``tree`` has certificates; raises ``CertificateError``."""
    pieces = [_certificate(node) for path, node in sorted(tree.items()) if _is_certificate(path, node)]
    if not pieces:
        return {}
    content = BytesContent(b"".join(pieces))
    return {BUNDLE: Node(path=BUNDLE, kind=Kind.FILE, mode=0o644, content=content, origin="certificates")}


def _is_certificate(path: str, node: Node) -> bool:
    return path.startswith(FOLDERS) and path.endswith(".crt") and node.kind is Kind.FILE


def _certificate(node: Node) -> bytes:
    data = read_content(node.content).strip() if node.content is not None else b""
    if not data.startswith(_BEGIN) or not data.endswith(_END):
        raise CertificateError(
            "not a certificate in PEM form",
            subject=f"/{node.path}",
            advice="give one PEM certificate per file, without text around it",
        )
    return data.replace(b"\r\n", b"\n") + b"\n"
