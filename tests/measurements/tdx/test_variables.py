"""Variables of a trust domain: from the store in the file if the build has Secure Boot, else none."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest

from measurements.efi_variable import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE
from measurements.errors import FormatError
from measurements.firmware_volume import FirmwareError
from measurements.tdx.variables import trust_domain_policy
from tests.measurements.tdx.tdx_boots import ubuntu_firmware


def store_with(*variables: tuple[str, UUID, bytes]) -> bytes:
    """The empty store of a real firmware with ``variables``."""
    store = bytearray(ubuntu_firmware().store)
    place = store.index(b"\xff" * 64)
    for name, vendor, data in variables:
        text = (name + "\0").encode("utf-16-le")
        fields = (0x55AA, 0x3F, 0, 7, 0, bytes(16), 0, len(text), len(data), vendor.bytes_le)
        entry = struct.pack("<HBBIQ16sIII16s", *fields) + text + data
        store[place : place + len(entry)] = entry
        place += -(-len(entry) // 4) * 4
    return bytes(store)


ENROLLED = store_with(
    ("PK", GLOBAL_VARIABLE, b"platform"),
    ("db", IMAGE_SECURITY_DATABASE, b"allowed"),
    ("dbt", IMAGE_SECURITY_DATABASE, b"times"),
    ("dbr", IMAGE_SECURITY_DATABASE, b"recovery"),
)


def found(store: bytes, *, supported: bool) -> dict[str, bytes]:
    policy = trust_domain_policy(store, name="vars.fd", supported=supported)
    return {variable.name: variable.data for variable in policy.variables}


def test_a_build_with_secure_boot_takes_the_stores_variables() -> None:
    assert found(ENROLLED, supported=True) == {
        "SecureBoot": b"\1",
        "PK": b"platform",
        "KEK": b"",
        "db": b"allowed",
        "dbx": b"",
        "dbt": b"times",
    }
    assert trust_domain_policy(ENROLLED, name="vars.fd", supported=True).enforced


def test_a_build_without_secure_boot_starts_without_variables() -> None:
    assert found(ENROLLED, supported=False) == dict.fromkeys(("SecureBoot", "PK", "KEK", "db", "dbx"), b"")
    assert not trust_domain_policy(ENROLLED, name="vars.fd", supported=False).enforced


def test_an_empty_store_is_secure_boot_off() -> None:
    assert found(ubuntu_firmware().store, supported=True)["SecureBoot"] == b"\0"


def test_a_store_with_boot_entries_is_refused() -> None:
    used = store_with(("BootOrder", GLOBAL_VARIABLE, bytes(2)))
    with pytest.raises(FirmwareError, match="already holds BootOrder"):
        trust_domain_policy(used, name="vars.fd", supported=True)


def test_what_is_no_store_is_refused() -> None:
    with pytest.raises(FormatError, match=r"vars\.fd"):
        trust_domain_policy(bytes(0x84000), name="vars.fd", supported=False)
