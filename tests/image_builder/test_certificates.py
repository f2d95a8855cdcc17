"""The certificate bundle."""

from __future__ import annotations

import pytest

from image_builder.certificates import BUNDLE, CertificateError, certificate_nodes
from image_builder.tree import BytesContent, Kind, Node, Tree, read_content


def pem(text: str) -> bytes:
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n".encode()


def tree(files: dict[str, bytes]) -> Tree:
    return {
        path: Node(path=path, kind=Kind.FILE, mode=0o644, content=BytesContent(data))
        for path, data in files.items()
    }


def test_the_bundle_is_sorted_by_path() -> None:
    files = {
        "usr/share/ca-certificates/mozilla/B.crt": pem("b"),
        "usr/share/ca-certificates/mozilla/A.crt": pem("a").rstrip(),
        "usr/local/share/ca-certificates/own.crt": pem("own").replace(b"\n", b"\r\n"),
        "usr/share/ca-certificates/mozilla/notes.txt": b"no certificate",
    }
    node = certificate_nodes(tree(files))[BUNDLE]
    assert node.content is not None
    assert read_content(node.content) == pem("own") + pem("a") + pem("b")
    reverse = dict(reversed(files.items()))
    again = certificate_nodes(tree(reverse))[BUNDLE].content
    assert again is not None
    assert read_content(again) == read_content(node.content)


def test_no_certificates_no_bundle() -> None:
    assert certificate_nodes(tree({"etc/x": b""})) == {}


@pytest.mark.parametrize("data", [b"", b"\x30\x82", b"text\n" + pem("x"), pem("x") + b"text"])
def test_refuses_what_is_not_pem(data: bytes) -> None:
    with pytest.raises(CertificateError, match=r"/usr/share/ca-certificates/x\.crt"):
        certificate_nodes(tree({"usr/share/ca-certificates/x.crt": data}))
