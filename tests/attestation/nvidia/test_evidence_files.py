"""Files of GPU evidence: those that NVIDIA and others write, and hostile ones."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.nvidia.evidence_files import (
    MAX_FILE,
    GpuEvidenceError,
    looks_like_gpu_evidence,
    read_gpu_evidence,
)
from measurements.errors import KeyturnError
from tests.attestation.nvidia.cases import good_part
from tests.attestation.nvidia.samples import BAD_SIGNATURE, FOLDER, SAMPLES, sample
from tests.support.nvidia_pki import DRIVER, VBIOS
from tests.support.vectors import vector


def pem() -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in good_part().certificates
    )


def entry(**changes: Any) -> dict[str, Any]:
    part = good_part()
    return {
        "arch": part.architecture,
        "nonce": part.nonce.hex(),
        "evidence": base64.b64encode(part.report).decode("ascii"),
        "certificate": base64.b64encode(pem()).decode("ascii"),
        **changes,
    }


def encoded(*entries: dict[str, Any]) -> bytes:
    return json.dumps(list(entries)).encode("ascii")


def test_array_of_the_sdk_is_read() -> None:
    assert read_gpu_evidence(encoded(entry())) == (good_part(),)
    assert read_gpu_evidence(encoded(entry(), entry())) == (good_part(), good_part())
    stated = entry(version="1.0", driver_version=DRIVER, vbios_version=VBIOS)
    assert read_gpu_evidence(encoded(stated)) == (good_part(),)


def test_report_and_chain_in_files_are_read() -> None:
    part = good_part()
    assert read_gpu_evidence(part.report, certificates=pem()) == (part,)
    assert read_gpu_evidence(part.report.hex().encode("ascii") + b"\n", certificates=pem()) == (part,)


@pytest.mark.parametrize("name", [*SAMPLES, BAD_SIGNATURE])
def test_published_samples_are_read(name: str) -> None:
    parts = sample(name)
    assert len(parts) == SAMPLES.get(name, ("", 1))[1]
    assert looks_like_gpu_evidence(vector(f"{FOLDER}/{name}").read_bytes())


@pytest.mark.parametrize("name", ["dstack-gpu_attestation_h100.json"])
def test_claims_without_a_report_are_refused_saying_so(name: str) -> None:
    with pytest.raises(GpuEvidenceError, match="no report of a device"):
        read_gpu_evidence(vector(f"{FOLDER}/{name}").read_bytes())


@pytest.mark.parametrize("name", ["hopperClaimsv3_decoded.json", "hopperClaimsv3_detached_eat.json"])
def test_claims_of_nvidia_s_service_are_no_evidence(name: str) -> None:
    with pytest.raises(GpuEvidenceError):
        read_gpu_evidence(vector(f"{FOLDER}/{name}").read_bytes())


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "AMPERE"},
        {"arch": 1},
        {"nonce": ""},
        {"nonce": "00"},
        {"nonce": "A" * 64},
        {"evidence": "!"},
        {"evidence": "QQ"},
        {"evidence": "QR=="},
        {"evidence": "é"},
        {"evidence": "QUFB" * 8000},
        {"certificate": "QUFB"},
        {"certificate": ""},
        {"surprise": "x"},
        {"driver_version": "1.0"},
        {"vbios_version": "96.00.00.00.00"},
        {"version": "2.0"},
        {"version": None},
    ],
)
def test_entry_that_is_malformed_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(KeyturnError):
        read_gpu_evidence(encoded(entry(**changes)))


@pytest.mark.parametrize("key", ["arch", "nonce", "evidence", "certificate"])
def test_entry_that_lacks_a_key_is_refused(key: str) -> None:
    short = entry()
    del short[key]
    with pytest.raises(GpuEvidenceError, match="nothing unknown"):
        read_gpu_evidence(encoded(short))


def test_key_that_stands_twice_is_refused() -> None:
    twice = encoded(entry()).replace(b'"arch"', b'"arch": "LS10", "arch"')
    with pytest.raises(GpuEvidenceError, match="twice"):
        read_gpu_evidence(twice)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{}",
        b"[1]",
        b"[" * 100_000,
        b"[" + b"{}," * 40 + b"{}]",
        b'[{"a":' * 1000,
        b"[NaN]",
        b"[\xff]",
        b"[" + b" " * MAX_FILE,
        b"",
        b"11e001ff",
        bytes(4000),
    ],
)
def test_what_is_no_evidence_is_refused(data: bytes) -> None:
    with pytest.raises(KeyturnError):
        read_gpu_evidence(data)
    with pytest.raises(KeyturnError):
        read_gpu_evidence(data, certificates=pem())


def test_chain_beside_json_and_report_without_chain_are_refused() -> None:
    with pytest.raises(GpuEvidenceError, match="one too many"):
        read_gpu_evidence(encoded(entry()), certificates=pem())
    with pytest.raises(GpuEvidenceError, match="without its certificates"):
        read_gpu_evidence(good_part().report)


def test_truncated_files_are_refused() -> None:
    data = encoded(entry())
    for end in range(0, len(data), 61):
        with pytest.raises(KeyturnError):
            read_gpu_evidence(data[:end])


def test_other_files_do_not_look_like_it() -> None:
    for data in (b"", b"{}", b"[1]", b"\x04\0\2\0", b"<a/>", b'{"claims": []}'):
        assert not looks_like_gpu_evidence(data)
