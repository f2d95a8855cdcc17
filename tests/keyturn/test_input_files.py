"""Files of the command line: limits, certificates, and which certificate is a platform root."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keyturn import input_files
from keyturn.input_files import (
    InputFileError,
    PlatformRootError,
    platform_root,
    read_certificates,
    read_document,
    read_limited,
)
from measurements.errors import ExitStatus
from tests.support.paper_tpm import Authority

ROOT = Authority("root")
BELOW = Authority("below", parent=ROOT)


def pem(*certificates: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates)


def test_a_platform_root_is_the_hash_of_the_der(tmp_path: Path) -> None:
    (tmp_path / "root.der").write_bytes(ROOT.certificate)
    (tmp_path / "root.pem").write_bytes(pem(ROOT.certificate))
    digest = hashlib.sha256(ROOT.certificate).digest()
    assert platform_root(tmp_path / "root.der") == platform_root(tmp_path / "root.pem") == digest


def test_attack_intermediate_as_platform_root(tmp_path: Path) -> None:
    (tmp_path / "below.der").write_bytes(BELOW.certificate)
    with pytest.raises(PlatformRootError) as caught:
        platform_root(tmp_path / "below.der")
    assert caught.value.exit_status is ExitStatus.REFUSED


def test_attack_root_with_a_flipped_byte(tmp_path: Path) -> None:
    changed = bytearray(ROOT.certificate)
    changed[-1] ^= 1
    (tmp_path / "root.der").write_bytes(changed)
    with pytest.raises(PlatformRootError):
        platform_root(tmp_path / "root.der")


@pytest.mark.parametrize(
    "data",
    [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nAAAA\n", pem(ROOT.certificate, ROOT.certificate)],
)
def test_what_is_not_one_certificate(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(data)
    with pytest.raises(InputFileError):
        platform_root(tmp_path / "root")


def test_certificates_of_both_forms_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "one.der").write_bytes(ROOT.certificate)
    (tmp_path / "two.pem").write_bytes(pem(BELOW.certificate, ROOT.certificate))
    found = read_certificates([tmp_path / "two.pem", tmp_path / "one.der"])
    assert found == (BELOW.certificate, ROOT.certificate, ROOT.certificate)


def test_a_file_larger_than_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b'{"a":1}')
    assert read_document(tmp_path / "file") == {"a": 1}
    monkeypatch.setattr(input_files, "LARGEST_FILE", 6)
    with pytest.raises(InputFileError):
        read_limited(tmp_path / "file")
