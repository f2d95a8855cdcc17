"""PCR 7 against published predictions, real logs, and images signed by a third-party tool."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from uuid import UUID

import pytest

from measurements.efi_variable import (
    GLOBAL_VARIABLE,
    IMAGE_SECURITY_DATABASE,
    SECURE_BOOT_ENABLE,
    EfiVariable,
    parse_variable_data,
)
from measurements.errors import FormatError
from measurements.eventlog import Algorithm, parse_event_log
from measurements.events import Bank, EventType, replay
from measurements.image_signature import image_signatures
from measurements.pe import authenticode_digest
from measurements.secure_boot import (
    SecureBootPolicy,
    StartedImage,
    authority_events,
    policy_events,
    secure_boot_policy,
)
from measurements.signature_list import SHA256, X509, Signature, parse_signature_lists, write_signature_list
from measurements.varstore import VariableStore, parse_variable_store
from tests.support.secure_boot_keys import OWNER, SigningKey, enrol, make_key, sign_image
from tests.support.vectors import vector

OWNER_GUID = UUID(OWNER)
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
TEMPLATE = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
PREDICTIONS = "tpm-pcr-predictions/compute-pcrs/qemu-ovmf/fedora-42"


def need(path: Path, package: str) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not installed (package {package})")
    return path


def store_of(**variables: bytes) -> VariableStore:
    vendors = {"db": IMAGE_SECURITY_DATABASE, "dbx": IMAGE_SECURITY_DATABASE, "dbt": IMAGE_SECURITY_DATABASE}
    vendors["SecureBootEnable"] = SECURE_BOOT_ENABLE
    return VariableStore(
        variables=tuple(
            EfiVariable(name=name, vendor=vendors.get(name, GLOBAL_VARIABLE), data=data)
            for name, data in variables.items()
        )
    )


def test_an_empty_store_gives_the_published_events_of_firmware_without_keys() -> None:
    published = json.loads(vector(f"{PREDICTIONS}/fedora-42.20250929.3.0/pcr7-sb-disabled.json").read_text())[
        "events"
    ]
    events = policy_events(secure_boot_policy(store_of(), supported=True), origin="store")
    assert [event.digests[Bank.SHA256].hex() for event in events] == [e["hash"] for e in published[:6]]
    assert [event.event_type.name for event in events] == [e["name"] for e in published[:6]]


def test_secure_boot_on_gives_the_published_first_event() -> None:
    published = json.loads(vector(f"{PREDICTIONS}/fedora-42.20250929.3.0/pcr7-sb-enabled.json").read_text())[
        "events"
    ]
    events = policy_events(secure_boot_policy(store_of(PK=b"key"), supported=True), origin="store")
    assert events[0].digests[Bank.SHA256].hex() == published[0]["hash"]


@pytest.mark.parametrize(
    ("variables", "supported", "enforced", "mode"),
    [
        ({}, True, False, b"\0"),
        ({}, False, False, b""),
        ({"PK": b"key"}, True, True, b"\1"),
        ({"PK": b"key"}, False, False, b""),
        ({"PK": b"key", "SecureBootEnable": b"\0"}, True, False, b"\0"),
        ({"PK": b"key", "SecureBootEnable": b"\1"}, True, True, b"\1"),
        ({"SecureBootEnable": b"\1"}, True, False, b"\0"),
    ],
)
def test_the_mode_follows_from_the_store(
    variables: dict[str, bytes], supported: bool, enforced: bool, mode: bytes
) -> None:
    policy = secure_boot_policy(store_of(**variables), supported=supported)
    assert (policy.enforced, policy.variables[0].data) == (enforced, mode)


def test_the_optional_time_stamp_database_is_measured_only_if_present() -> None:
    names = [v.name for v in secure_boot_policy(store_of(dbt=b"x"), supported=True).variables]
    assert names == ["SecureBoot", "PK", "KEK", "db", "dbx", "dbt"]
    assert len(secure_boot_policy(store_of(), supported=True).variables) == 5


@pytest.mark.parametrize(
    "name",
    [
        "go-tpm-tools/rhel8-uefi.bin",
        "go-tpm-tools/cos-101-amd-sev.bin",
        "go-tpm-tools/ubuntu-2104-no-dbx.bin",
    ],
)
def test_variables_of_real_logs_hash_to_their_events(name: str) -> None:
    log = parse_event_log(vector(f"tpm-eventlogs/{name}").read_bytes())
    kinds = (EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, EventType.EV_EFI_VARIABLE_AUTHORITY)
    checked = 0
    for event in log.events:
        if event.pcr == 7 and event.event_type in kinds:
            measured = parse_variable_data(event.data).measured_bytes()
            assert hashlib.sha256(measured).digest() == event.digests[Algorithm.SHA256]
            checked += 1
    assert checked >= 5


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SigningKey]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder, name) for name in ("platform", "exchange", "first", "second")}


@pytest.fixture(scope="module")
def signed(keys: dict[str, SigningKey], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    stub = need(STUB, "systemd-boot-efi")
    return sign_image(keys["second"], stub, tmp_path_factory.mktemp("signed") / "stub.efi").read_bytes()


def policy_with(*, db: list[Signature], dbx: list[Signature] | None = None) -> SecureBootPolicy:
    store = store_of(PK=b"key", db=write_signature_list(db), dbx=write_signature_list(dbx or []))
    return secure_boot_policy(store, supported=True)


def certificate_entry(key: SigningKey) -> Signature:
    return Signature(kind=X509, owner=OWNER_GUID, content=key.certificate_der())


@pytest.mark.apt
def test_an_enrolled_store_gives_keys_and_the_authority_of_a_signed_image(
    keys: dict[str, SigningKey], signed: bytes, tmp_path: Path
) -> None:
    path = enrol(
        need(TEMPLATE, "ovmf"),
        tmp_path / "vars.fd",
        platform=keys["platform"],
        exchange=keys["exchange"],
        db=[keys["first"], keys["second"]],
    )
    policy = secure_boot_policy(parse_variable_store(path.read_bytes()), supported=True)
    assert policy.enforced
    assert [s.content for s in parse_signature_lists(policy.database("db"))] == [
        keys["first"].certificate_der(),
        keys["second"].certificate_der(),
    ]
    events = authority_events(policy, [StartedImage(name="image", data=signed)] * 2, origin="store")
    authority = EfiVariable(
        name="db",
        vendor=IMAGE_SECURITY_DATABASE,
        data=OWNER_GUID.bytes_le + keys["second"].certificate_der(),
    )
    assert len(events) == 1
    assert events[0].digests[Bank.SHA384] == hashlib.sha384(authority.measured_bytes()).digest()
    assert set(replay(events, pcrs=[7])[Bank.SHA256]) == {7}


@pytest.mark.apt
def test_the_signature_of_a_third_party_tool_verifies(signed: bytes, keys: dict[str, SigningKey]) -> None:
    (signature,) = image_signatures(signed, subject="image")
    assert signature.bank is Bank.SHA256
    assert "second" in signature.chain[0].subject.rfc4514_string()


@pytest.mark.apt
def test_an_unsigned_image_is_accepted_by_its_digest() -> None:
    stub = need(STUB, "systemd-boot-efi").read_bytes()
    entry = Signature(kind=SHA256, owner=OWNER_GUID, content=authenticode_digest(stub, Bank.SHA256))
    events = authority_events(policy_with(db=[entry]), [StartedImage(name="image", data=stub)], origin="s")
    assert len(events) == 1


@pytest.mark.apt
def test_images_that_firmware_would_refuse_are_refused(signed: bytes, keys: dict[str, SigningKey]) -> None:
    image = [StartedImage(name="image", data=signed)]
    tampered = bytearray(signed)
    tampered[0x1000] ^= 1
    second = certificate_entry(keys["second"])
    with pytest.raises(FormatError, match="no signature and no digest that db accepts"):
        authority_events(policy_with(db=[certificate_entry(keys["first"])]), image, origin="store")
    changed = [StartedImage(name="image", data=bytes(tampered))]
    with pytest.raises(FormatError, match="over other bytes"):
        authority_events(policy_with(db=[second]), changed, origin="store")
    with pytest.raises(FormatError, match="certificate that dbx forbids"):
        authority_events(policy_with(db=[second], dbx=[second]), image, origin="store")
    digest = Signature(kind=SHA256, owner=OWNER_GUID, content=authenticode_digest(signed, Bank.SHA256))
    with pytest.raises(FormatError, match="digest that dbx forbids"):
        authority_events(policy_with(db=[second], dbx=[digest]), image, origin="store")


@pytest.mark.apt
def test_nothing_is_measured_while_secure_boot_is_off(signed: bytes) -> None:
    policy = secure_boot_policy(store_of(), supported=True)
    assert authority_events(policy, [StartedImage(name="image", data=signed)], origin="store") == []


@pytest.mark.apt
def test_a_certificate_table_that_is_cut_is_refused(signed: bytes) -> None:
    for size in (len(signed) - 8, len(signed) - 1):
        with pytest.raises(FormatError):
            list(image_signatures(signed[:size], subject="image"))
