"""OCSP answers for device and manifest chains. No recorded answer of NVIDIA's responder is public, so all of
them are of the generated PKI, the one on hold too.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.nvidia.device import load_device
from attestation.nvidia.ocsp import MAX_ANSWERS, MAX_SPEAKING, RevocationError, check_revocation
from attestation.x509_chain import CertificateError, Chain
from tests.attestation.nvidia.cases import Case, good_collateral
from tests.support.certificates import Issued
from tests.support.nvidia_pki import NOW, Answer, Device, answers, gpu, gpu_pki, responder

REVOKED = ocsp.OCSPCertStatus.REVOKED
HOLD = x509.ReasonFlags.certificate_hold


def chain_of(device: Device) -> Chain:
    roots = frozenset(one.fingerprint for one in gpu_pki().anchors)
    return load_device(device.ders, (), roots).chain


def answer_for(place: int, answer: Answer) -> tuple[bytes, ...]:
    """Good answers for the first device's chain, but for the certificate at ``place``."""
    chain = (*gpu().chain, gpu().root)
    return tuple(
        (answer if at == place else Answer()).sign(chain[at], chain[at + 1])
        for at in range(1, len(chain) - 1)
    )


def check(found: tuple[bytes, ...], *, now: int = NOW) -> None:
    check_revocation(chain_of(gpu()), found, first=1, now=now)


def test_answers_of_the_issuers_pass_with_their_windows() -> None:
    windows = check_revocation(chain_of(gpu()), answers(gpu()), first=1, now=NOW)
    assert [one.end for one in windows] == [NOW + 3600] * 3


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("reason", [None, x509.ReasonFlags.key_compromise])
def test_revoked_certificate_is_refused(place: int, reason: x509.ReasonFlags | None) -> None:
    with pytest.raises(RevocationError, match="is revoked"):
        check(answer_for(place, Answer(status=REVOKED, reason=reason)))


def test_certificate_on_hold_is_refused_saying_so() -> None:
    with pytest.raises(RevocationError, match="is on hold"):
        check(answer_for(1, Answer(status=REVOKED, reason=HOLD)))
    collateral = replace(
        good_collateral(), ocsp=(*answers(gpu())[3:], *answer_for(1, Answer(status=REVOKED, reason=HOLD)))
    )
    failed = Case(collateral=collateral).failed()
    assert set(failed) == {"gpu0-revocation"}
    assert "certificateHold" in failed["gpu0-revocation"].reason


def test_unknown_certificate_is_refused() -> None:
    with pytest.raises(RevocationError, match="does not know"):
        check(answer_for(2, Answer(status=ocsp.OCSPCertStatus.UNKNOWN)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_absent_answer_is_refused(place: int) -> None:
    found = list(answers(gpu())[:3])
    del found[place]
    with pytest.raises(RevocationError, match="no valid OCSP answer"):
        check(tuple(found))


def test_answers_for_the_manifests_are_demanded_too() -> None:
    collateral = replace(good_collateral(), ocsp=answers(gpu())[:3])
    assert set(Case(collateral=collateral).failed()) == {"gpu0-manifests"}
    none = replace(good_collateral(), ocsp=())
    assert set(Case(collateral=none).failed()) == {"gpu0-revocation", "gpu0-manifests"}


def test_revoked_signer_of_a_manifest_is_refused() -> None:
    signer, authority = gpu_pki().rim_signer, gpu_pki().rim_authority
    bad = Answer(status=REVOKED, start=NOW - 60).sign(signer, authority)
    collateral = replace(good_collateral(), ocsp=(*good_collateral().ocsp, bad))
    failed = Case(collateral=collateral).failed()
    assert "Test Manifest Signer is revoked" in failed["gpu0-manifests"].reason


@pytest.mark.parametrize("now", [NOW - 3601, NOW + 3601])
def test_answer_outside_its_window_is_refused(now: int) -> None:
    with pytest.raises((RevocationError, CertificateError)):
        check(answers(gpu())[:3], now=now)


@pytest.mark.parametrize("now", [NOW - 3600, NOW + 3600])
def test_window_of_an_answer_holds_to_its_last_second(now: int) -> None:
    check(answers(gpu())[:3], now=now)


def test_answer_without_an_end_is_refused() -> None:
    with pytest.raises(RevocationError, match="no valid OCSP answer"):
        check(answer_for(1, Answer(end=None)))


def test_the_newest_answer_counts() -> None:
    older = answer_for(1, Answer(status=REVOKED, start=NOW - 7200))
    newer = answer_for(1, Answer(status=REVOKED, start=NOW - 60))
    good = answers(gpu())[:3]
    check((*older, *good))
    for found in ((*newer, *good), (*good, *newer)):
        with pytest.raises(RevocationError, match="is revoked"):
            check(found)


def test_of_two_answers_of_the_same_time_the_worse_counts() -> None:
    worse = answer_for(1, Answer(status=REVOKED))
    with pytest.raises(RevocationError, match="is revoked"):
        check((*answers(gpu())[:3], *worse))


def test_delegated_responder_of_the_issuer_or_above_passes() -> None:
    for authority in (gpu_pki().provisioner, gpu_pki().identity, gpu_pki().root):
        check(answer_for(1, Answer(responder=responder(authority))))


def stranger() -> Issued:
    """A responder of another hierarchy."""
    return responder(gpu_pki().rim_authority)


def test_responder_who_may_not_answer_is_refused() -> None:
    wrong = [
        responder(gpu_pki().provisioner, purpose=ExtendedKeyUsageOID.SERVER_AUTH),
        stranger(),
        gpu_pki().rim_root,
        gpu().leaf,
    ]
    for one in wrong:
        with pytest.raises(RevocationError, match="no valid OCSP answer"):
            check(answer_for(1, Answer(responder=one)))


def test_issuer_answers_only_for_its_own() -> None:
    chain = gpu().chain
    foreign = Answer().sign(chain[1], chain[3])
    with pytest.raises(RevocationError, match="no valid OCSP answer"):
        check((foreign, *answers(gpu())[1:3]))


def test_identifiers_of_sha1_do_not_count() -> None:
    with pytest.raises(RevocationError, match="no valid OCSP answer"):
        check(answer_for(1, Answer(algorithm=vars(hashes)["SHA1"]())))
    check(answer_for(1, Answer(algorithm=hashes.SHA256())))


@pytest.mark.parametrize("kind", list(ocsp.OCSPResponseStatus)[1:])
def test_answer_that_is_an_error_does_not_count(kind: ocsp.OCSPResponseStatus) -> None:
    error = ocsp.OCSPResponseBuilder.build_unsuccessful(kind)
    with pytest.raises(RevocationError, match="no valid OCSP answer"):
        check((error.public_bytes(Encoding.DER), *answers(gpu())[1:3]))


def test_garbage_among_the_answers_is_passed_over_but_bounded() -> None:
    check((b"", b"\x30\x03\x0a\x01\x00", bytes(1 << 20), *answers(gpu())[:3]))
    with pytest.raises(RevocationError, match="more than"):
        check(tuple(bytes((place,)) for place in range(MAX_ANSWERS + 1)))


def test_every_flipped_byte_of_an_answer_takes_it_away() -> None:
    first, *rest = answer_for(1, Answer(responder=responder(gpu_pki().provisioner)))
    for place in range(0, len(first), 3):
        changed = bytearray(first)
        changed[place] ^= 0x41
        with pytest.raises((RevocationError, CertificateError)):
            check((bytes(changed), *rest))


def test_a_flood_of_answers_for_one_certificate_is_refused_unverified() -> None:
    flood = [answer_for(1, Answer(start=NOW - 60 - at))[0] for at in range(MAX_SPEAKING + 1)]
    rest = answers(gpu())[1:3]
    check((*flood[1:], *rest))
    with pytest.raises(RevocationError, match="speak of certificate"):
        check((*flood, *rest))
