"""Inline signatures: good ones by the keyring's keys count, nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pysequoia import Cert, SignatureMode, sign

from image_builder.openpgp import KeyringError, SignatureError, read_keyring, verify_inline
from tests.support.archive import archive_key, other_key, sign_text, write_keyring
from tests.support.tools import require_tool

TEXT = "Suite: stable\nDate: now\n"


@pytest.fixture
def keyring(tmp_path: Path) -> tuple[Cert, ...]:
    return read_keyring(write_keyring(tmp_path / "keyring.gpg", archive_key()))


def test_a_good_signature_gives_text_and_signer(keyring: tuple[Cert, ...]) -> None:
    signed = verify_inline(sign_text(TEXT, key=archive_key()), keyring=keyring, name="InRelease")
    assert signed.text.strip() == TEXT.strip().encode()
    assert signed.signers == (archive_key().extract_certificate().fingerprint,)


def test_one_of_several_certificates_is_enough(tmp_path: Path) -> None:
    keyring = read_keyring(write_keyring(tmp_path / "k.gpg", other_key(), archive_key()))
    signed = verify_inline(sign_text(TEXT, key=archive_key()), keyring=keyring, name="InRelease")
    assert signed.signers == (archive_key().extract_certificate().fingerprint,)


def test_an_armored_keyring_is_read(tmp_path: Path) -> None:
    path = tmp_path / "k.asc"
    path.write_text(str(archive_key().extract_certificate()))
    assert verify_inline(sign_text(TEXT, key=archive_key()), keyring=read_keyring(path), name="x").signers


def test_gpg_agrees_about_the_signature(tmp_path: Path) -> None:
    require_tool("gpgv", package="gpgv")
    keyring = write_keyring(tmp_path / "k.gpg", archive_key())
    (tmp_path / "InRelease").write_bytes(sign_text(TEXT, key=archive_key()))
    program = shutil.which("gpgv") or ""
    command = [program, "--keyring", str(keyring), str(tmp_path / "InRelease")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def wrong_documents() -> dict[str, bytes]:
    good = sign_text(TEXT, key=archive_key())
    return {
        "unsigned": TEXT.encode(),
        "empty": b"",
        "other key": sign_text(TEXT, key=other_key()),
        "changed text": good.replace(b"Suite: stable", b"Suite: sid---"),
        "changed signature": _flip(good),
        "text before": b"Suite: evil\n\n" + good,
        "text after": good + b"\nSuite: evil\n",
        "binary message": sign(archive_key().signer(), TEXT.encode(), mode=SignatureMode.INLINE),
        "cut": good[: len(good) // 2],
        "signature of nothing": good[good.index(b"-----BEGIN PGP SIGNATURE") :],
    }


def _flip(document: bytes) -> bytes:
    place = document.index(b"-----BEGIN PGP SIGNATURE") + 60
    return document[:place] + (b"A" if document[place : place + 1] != b"A" else b"B") + document[place + 1 :]


@pytest.mark.parametrize("which", sorted(wrong_documents()))
def test_everything_else_is_refused(keyring: tuple[Cert, ...], which: str) -> None:
    with pytest.raises(SignatureError) as caught:
        verify_inline(wrong_documents()[which], keyring=keyring, name="stable/InRelease")
    assert caught.value.subject == "stable/InRelease"
    assert "Stack backtrace" not in str(caught.value)


def test_a_second_message_adds_nothing(keyring: tuple[Cert, ...]) -> None:
    """Two messages in one file: only text below a good signature may come out."""
    document = sign_text("Suite: evil\n", key=other_key()) + sign_text(TEXT, key=archive_key())
    try:
        signed = verify_inline(document, keyring=keyring, name="x")
    except SignatureError:
        return
    assert b"evil" not in signed.text


@pytest.mark.parametrize("data", [b"", b"not a keyring", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxx\n"])
def test_a_bad_keyring_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "k.gpg"
    path.write_bytes(data)
    with pytest.raises(KeyringError, match=r"k\.gpg"):
        read_keyring(path)


def test_an_absent_keyring_says_which_package_has_it(tmp_path: Path) -> None:
    with pytest.raises(KeyringError) as caught:
        read_keyring(tmp_path / "absent.gpg")
    assert "debian-archive-keyring" in caught.value.advice


def test_the_keyring_may_have_either_suffix(tmp_path: Path) -> None:
    write_keyring(tmp_path / "k.pgp", archive_key())
    assert len(read_keyring(tmp_path / "k.gpg")) == 1
