"""``openssl ocsp`` and this verifier say the same of answers. OpenSSL judges an answer's window by its own
clock, so it is given slack for decades, and windows are not compared.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.nvidia.ocsp import RevocationError
from tests.attestation.nvidia.test_ocsp import answer_for, check, stranger
from tests.support.certificates import Issued
from tests.support.nvidia_pki import NOW, Answer, gpu, gpu_pki, responder
from tests.support.tools import require_tool

GOOD, REVOKED, UNTRUSTED = "good", "revoked", "untrusted"


def ours(answer: Answer) -> str:
    try:
        check(answer_for(1, answer))
    except RevocationError as error:
        return REVOKED if "revoked" in error.reason or "on hold" in error.reason else UNTRUSTED
    return GOOD


def openssl(answer: Answer, folder: Path) -> str:
    device, chain = gpu().chain[1], (*gpu().chain[2:], gpu().root)
    (folder / "answer.der").write_bytes(answer_for(1, answer)[0])
    for name, listed in (("device", [device]), ("issuer", chain[:1]), ("chain", chain), ("root", chain[-1:])):
        (folder / f"{name}.pem").write_bytes(b"".join(map(pem, listed)))
    command = [require_tool("openssl", package="openssl"), "ocsp", "-respin", "answer.der", "-sha384"]
    command += ["-issuer", "issuer.pem", "-cert", "device.pem", "-verify_other", "chain.pem"]
    command += ["-CAfile", "root.pem", "-attime", str(NOW), "-no_nonce", "-validity_period", str(10**9)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if "Response verify OK" not in result.stderr:
        return UNTRUSTED
    return GOOD if "device.pem: good" in result.stdout else REVOKED


def pem(one: Issued) -> bytes:
    return one.certificate.public_bytes(Encoding.PEM)


def held(reason: x509.ReasonFlags) -> Answer:
    return Answer(status=ocsp.OCSPCertStatus.REVOKED, reason=reason)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(), GOOD),
        (held(x509.ReasonFlags.certificate_hold), REVOKED),
        (held(x509.ReasonFlags.key_compromise), REVOKED),
        (Answer(responder=responder(gpu_pki().provisioner)), GOOD),
        (Answer(responder=stranger()), UNTRUSTED),
        (Answer(responder=gpu().leaf), UNTRUSTED),
        (Answer(responder=gpu_pki().rim_root), UNTRUSTED),
    ],
    ids=["good", "hold", "compromised", "delegated", "stranger", "device", "root"],
)
def test_openssl_says_the_same(answer: Answer, expected: str, tmp_path: Path) -> None:
    assert ours(answer) == openssl(answer, tmp_path) == expected


def test_responder_of_a_higher_authority_is_the_one_difference(tmp_path: Path) -> None:
    """OpenSSL wants a responder of the issuer itself; NVIDIA's own verifier takes one whose chain leads over
    the certificate's issuers (nvtrust, cc_admin_utils.py), and so does this one: who stands above an issuer
    could replace it anyway.
    """
    answer = Answer(responder=responder(gpu_pki().root))
    assert (ours(answer), openssl(answer, tmp_path)) == (GOOD, UNTRUSTED)
