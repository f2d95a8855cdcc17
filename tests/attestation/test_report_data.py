"""Report data against a second, direct computation, and its fields one by one."""

from __future__ import annotations

import hashlib
import struct

import pytest
import rfc8785

from attestation.report_data import (
    KeyRelease,
    KeyRequest,
    ReportDataError,
    key_release_report_data,
    kms_identity_data,
    qualifying_data,
    quote_report_data,
)

RELEASE = KeyRelease(
    role="app",
    kms_nonce=b"\x01" * 32,
    client_nonce=b"\x02" * 32,
    kms_id=b"\x03" * 32,
    chain_id=31337,
    contract=b"\x04" * 20,
    app_id=b"\x05" * 20,
    instance_id=b"\x06" * 16,
    hpke_public=b"\x07" * 1216,
    keys=(KeyRequest("disk", "raw-256", "instance"), KeyRequest("sign", "ed25519", "app")),
    app_manifest=b"{}",
)


def lp(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def test_key_release_is_the_hash_of_all_fields_with_their_lengths() -> None:
    keys = rfc8785.dumps([{"path": k.path, "kind": k.kind, "scope": k.scope} for k in RELEASE.keys])
    expected = b"".join(
        map(
            lp,
            [
                b"keyturn-key-release/1",
                b"app",
                RELEASE.kms_nonce,
                RELEASE.client_nonce,
                RELEASE.kms_id,
                struct.pack(">Q", 31337),
                RELEASE.contract,
                RELEASE.app_id,
                RELEASE.instance_id,
                hashlib.sha256(RELEASE.hpke_public).digest(),
                hashlib.sha256(keys).digest(),
                hashlib.sha256(b"{}").digest(),
                hashlib.sha256(b"").digest(),
            ],
        )
    )
    assert key_release_report_data(RELEASE) == hashlib.sha512(expected).digest()


CHANGES: dict[str, object] = {
    "kms_nonce": b"\x09" * 32,
    "client_nonce": b"\x09" * 32,
    "kms_id": b"\x09" * 32,
    "chain_id": 1,
    "contract": b"\x09" * 20,
    "app_id": b"\x09" * 20,
    "instance_id": b"\x09" * 16,
    "hpke_public": b"\x09",
    "keys": RELEASE.keys[::-1],
    "app_manifest": b"[]",
    "gpu_evidence": b"x",
}


def test_every_field_changes_the_report_data() -> None:
    assert set(CHANGES) | {"role"} == set(KeyRelease._fields)
    changed = {key_release_report_data(RELEASE._replace(**{k: v})) for k, v in CHANGES.items()}  # type: ignore[arg-type]
    assert len(changed | {key_release_report_data(RELEASE)}) == len(CHANGES) + 1


@pytest.mark.parametrize(
    "release",
    [
        RELEASE._replace(role="kms"),
        RELEASE._replace(kms_nonce=bytes(32)),
        RELEASE._replace(client_nonce=b"\x01" * 31),
        RELEASE._replace(kms_id=b""),
        RELEASE._replace(chain_id=0),
        RELEASE._replace(chain_id=1 << 64),
        RELEASE._replace(contract=bytes(20)),
        RELEASE._replace(app_id=b"\x01" * 21),
        RELEASE._replace(instance_id=bytes(16)),
        RELEASE._replace(hpke_public=b""),
        RELEASE._replace(app_manifest=b""),
    ],
)
def test_absent_and_zero_fields_are_refused(release: KeyRelease) -> None:
    with pytest.raises(ReportDataError):
        key_release_report_data(release)


def test_other_purposes_have_their_own_domain() -> None:
    expected = hashlib.sha512(lp(b"keyturn-quote/1") + lp(b"app") + lp(b"data")).digest()
    assert quote_report_data("app", b"data") == expected
    assert quote_report_data("app", b"data") != quote_report_data("appd", b"ata")
    with pytest.raises(ReportDataError):
        quote_report_data("", b"data")


def test_the_identity_of_a_kms_binds_nonce_and_id() -> None:
    assert kms_identity_data(b"\1" * 32, b"\2" * 32) == b"keyturn-kms-identity/1" + b"\1" * 32 + b"\2" * 32
    with pytest.raises(ReportDataError):
        kms_identity_data(bytes(32), b"\2" * 32)


def test_qualifying_data_is_the_hash_of_whole_report_data() -> None:
    assert qualifying_data(b"\1" * 64) == hashlib.sha256(b"\1" * 64).digest()
    with pytest.raises(ReportDataError):
        qualifying_data(b"\1" * 32)
