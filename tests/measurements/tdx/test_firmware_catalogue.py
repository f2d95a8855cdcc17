"""The firmware catalogue: its data are right, read strictly, and chosen by hash or by what a build tells."""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements import firmware_catalogue
from measurements.firmware_catalogue import (
    CatalogueError,
    EventGroup,
    InitrdArgument,
    Proof,
    UnknownFirmwareError,
    catalogue,
    edk2_release,
    hypervisor,
    parse_firmware_files,
    parse_hypervisors,
    parse_releases,
    recognise,
    release_of,
)
from measurements.ovmf import DXE_VOLUME, PEI_VOLUME, inner_volumes
from measurements.tdx.dxe_volume import read_dxe_facts
from measurements.tdx.mrtd import PageOrder, compute_mrtd
from measurements.tdx.quote import parse_quote
from measurements.tdx.tdvf import parse_tdvf
from tests.support.debian_packages import debian_package
from tests.support.vectors import vector

PROFILES = Path(firmware_catalogue.__file__).parent / "profiles"
UBUNTU = "9e807cb2cd4313406a3aa4becc0836671a5c64ca7bdc08a45e15260184b446bf"
PACKAGES = (
    ("ovmf", "bookworm", "OVMF.fd"),
    ("ovmf", "trixie", "OVMF.fd"),
    ("ovmf-generic", "sid", "OVMF.fd"),
    ("ovmf-inteltdx", "sid", "OVMF.inteltdx.ms.fd"),
    ("ovmf-amdsev", "sid", "OVMF.amdsev.fd"),
)


def text(name: str) -> str:
    return (PROFILES / name).read_text()


def test_known_values_are_those_of_the_vectors() -> None:
    files = json.loads(vector("tdx-platform/firmware_mrtd.json").read_text())
    compared = 0
    for package in files.values():
        for file in package.values():
            known = catalogue().files[file["sha256"]]
            assert known.mrtd[PageOrder.SINGLE_PASS].hex() == file["mrtd_single_pass"]
            assert known.mrtd[PageOrder.TWO_PASS].hex() == file["mrtd_two_pass"]
            assert [known.cfv.hex()] == file["cfv_sha384"]
            compared += 1
    assert compared == 12


@pytest.mark.network
@pytest.mark.parametrize(("package", "suite", "file"), PACKAGES)
def test_todays_packages_are_recognised_and_give_their_known_values(
    package: str, suite: str, file: str
) -> None:
    data = next(debian_package(package, suite=suite).rglob(file)).read_bytes()
    facts = read_dxe_facts(data, name=file)
    digest = hashlib.sha256(data).hexdigest()
    if facts.version and release_of(facts.version) not in catalogue().releases:
        # The suite has moved on to a release that the data do not know.
        with pytest.raises(UnknownFirmwareError):
            recognise(name=file, sha256=digest, version_text=facts.version)
        return
    build = recognise(name=file, sha256=digest, version_text=facts.version)
    firmware = parse_tdvf(data, name=file)
    if build.known is None:
        # A newer file of a known release: recognised by its version, with an MRTD that no other file has.
        value = compute_mrtd(firmware, order=PageOrder.SINGLE_PASS).value
        assert all(value not in known.mrtd.values() for known in catalogue().files.values())
        return
    for order, value in build.known.mrtd.items():
        assert compute_mrtd(firmware, order=order).value == value
    assert firmware.configuration is not None
    assert hashlib.sha384(firmware.contents(firmware.configuration)).digest() == build.known.cfv
    assert build.known.dxe == facts


@pytest.mark.network
def test_modules_start_in_the_order_that_the_order_of_events_rests_on() -> None:
    whole = next(debian_package("ovmf-generic", suite="sid").rglob("OVMF.fd")).read_bytes()
    volumes = {volume.name: volume for volume in inner_volumes(whole)}
    early = [file.name for file in volumes[PEI_VOLUME].files()]
    assert early.index("TdTcg2Pei") < early.index("PlatformPei")
    reader = next(file for file in volumes[PEI_VOLUME].files() if file.name == "PlatformPei")
    assert any(b"QEMU FW CFG\0" in section.payload for section in reader.sections)
    only_tdx = next(debian_package("ovmf-inteltdx", suite="sid").rglob("*.ms.fd")).read_bytes()
    for data in (whole, only_tdx):
        drivers = next(volume for volume in inner_volumes(data) if volume.name == DXE_VOLUME)
        late = [file.name for file in drivers.files()]
        assert late.index("TdTcg2Dxe") < late.index("SmbiosMeasurementDxe")


def test_the_quoted_firmware_is_known_with_its_facts() -> None:
    data = lzma.decompress(vector("firmware/OVMF-2025.02-3ubuntu2.fd.xz").read_bytes())
    build = recognise(name="OVMF.fd", sha256=hashlib.sha256(data).hexdigest())
    assert build.known is not None
    assert build.known.proof is Proof.HARDWARE_QUOTE
    assert build.known.dxe == read_dxe_facts(data, name="OVMF.fd")
    assert build.release.name == "2025.02"


def test_every_known_file_is_of_a_known_release() -> None:
    for file in catalogue().files.values():
        assert file.release in catalogue().releases
        assert (file.dxe is None) or file.dxe.version[:7] in (file.release, "")
    values = [value for file in catalogue().files.values() for value in file.mrtd.values()]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("2025.02-8+deb13u1", "2025.02"),
        ("2026.08+ds-2", "2026.08"),
        ("edk2-stable202505", "2025.05"),
        ("2024.02", "2024.02"),
        ("2025.021", None),
        ("2025.02.1", None),
        ("0.0.0", None),
        ("", None),
        ("unknown", None),
    ],
)
def test_the_release_is_read_from_the_version_that_a_build_tells(version: str, release: str | None) -> None:
    assert release_of(version) == release


def test_firmware_is_recognised_by_hash_version_or_name_of_its_release() -> None:
    assert recognise(name="x", sha256=UBUNTU).release.name == "2025.02"
    assert recognise(name="x", sha256="00" * 32, version_text="2026.08-1").release.name == "2026.08"
    assert (
        recognise(name="x", sha256="00" * 32, version_text="own", release="2024.11").release.name == "2024.11"
    )


@pytest.mark.parametrize(
    ("version", "release", "reason"),
    [
        (None, None, "does not tell its version"),
        ("own build", None, "gives its version as 'own build'"),
        ("2031.02-1", None, "the edk2 release '2031.02' is not known"),
        ("2025.02", "2020.02", "the edk2 release '2020.02' is not known"),
    ],
)
def test_unknown_firmware_is_refused_with_what_to_do(
    version: str | None, release: str | None, reason: str
) -> None:
    with pytest.raises(UnknownFirmwareError, match=reason) as caught:
        recognise(name="OVMF.fd", sha256="00" * 32, version_text=version, release=release)
    assert caught.value.subject == "OVMF.fd"
    assert "2025.02" in caught.value.advice


def test_unknown_hypervisors_are_refused() -> None:
    with pytest.raises(UnknownFirmwareError, match="hypervisor 'xen' is not known"):
        hypervisor("xen")
    assert hypervisor("canonical-8.2").orders == (PageOrder.TWO_PASS,)


def test_rules_that_changed_between_releases() -> None:
    order = list(catalogue().releases)
    assert order == sorted(order)
    for name, release in catalogue().releases.items():
        if release.unsupported:
            assert name < "2023.02"
            continue
        old_separator = name < "2024.11"
        assert release.rtmr0.count(EventGroup.SEPARATOR) == 1 + old_separator
        assert (EventGroup.SEPARATOR in release.rtmr1_direct) is not old_separator
        assert (EventGroup.SEPARATOR in release.rtmr1_disk) is not old_separator
        assert (EventGroup.FW_CFG in release.rtmr0) is (name >= "2025.05")
        assert (EventGroup.SMBIOS in release.rtmr0) is (name >= "2025.05")
        assert (release.initrd_argument is InitrdArgument.PREFIX) is (name >= "2025.08")
        assert release.named_kernel is (name >= "2025.02")
    assert edk2_release("2025.11").legacy_loader.value == "not-in-tdx"


REFUSED = {
    "is no TOML": ("edk2.toml", 'schema = "', "schema = "),
    "schema is not keyturn-edk2-profiles/1": ("edk2.toml", "profiles/1", "profiles/2"),
    "unknown key extra": ("edk2.toml", 'proof = "source"', 'proof = "source"\nextra = 1'),
    "key named-kernel is missing": ("edk2.toml", "named-kernel = true", ""),
    "'hob', which is no group": ("edk2.toml", '"td-hob"', '"hob"'),
    "'acpi' twice": ("edk2.toml", '"acpi"', '"acpi", "acpi"'),
    "unsupported goes with empty": ("edk2.toml", 'unsupported = ""', 'unsupported = "why"'),
    "has an entry twice": ("edk2.toml", 'name = "2025.02"', 'name = "2025.05"'),
    "neither true nor false": ("edk2.toml", "named-kernel = true", "named-kernel = 1"),
    "initrd-argument is not one of": ("edk2.toml", '"prefix"', '"infix"'),
    "orders is not a list": ("hypervisors.toml", '["single-pass"]', '["three-pass"]'),
    "orders is not a list of": ("hypervisors.toml", '["single-pass"]', "[]"),
    "proof is not one of": ("hypervisors.toml", 'proof = "source"', 'proof = "hope"'),
    "sha256 has 62 hex": ("firmware.toml", "9e807cb2", "9e807c"),
    "mrtd.two-pass has 0": ("firmware.toml", 'two-pass = "7ce4cec5', 'two-pass = ""\n#'),
    "decides nothing": ("firmware.toml", '"Shell"', '"Shelf"'),
    "do not agree": ("firmware.toml", ', "SmbiosMeasurementDxe"', ""),
    "build .* is not of the form": ("firmware.toml", '"OvmfPkgX64"', '"OvmfPkgIa32"'),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_data_that_are_not_exactly_right_are_refused(reason: str) -> None:
    name, old, new = REFUSED[reason]
    changed = text(name).replace(old, new)
    assert changed != text(name)
    with pytest.raises(CatalogueError, match=reason) as caught:
        read(name, changed)
    assert caught.value.subject == name


def read(name: str, data: str) -> None:
    readers = {
        "edk2.toml": parse_releases,
        "hypervisors.toml": parse_hypervisors,
        "firmware.toml": parse_firmware_files,
    }
    readers[name](data)


@given(st.sampled_from(["edk2.toml", "hypervisors.toml"]), st.integers(0, 9000), st.integers(0, 60))
def test_cut_data_raise_one_error_or_are_whole(name: str, place: int, size: int) -> None:
    whole = text(name)
    with contextlib.suppress(CatalogueError):
        read(name, whole[:place] + whole[place + size :])


@pytest.mark.parametrize(
    ("quote", "words"),
    [
        ("dcap-qvl-tdx-quote-48cf.bin", "Canonical ovmf 2024.02-3+tdx1.0"),
        ("oasis-core-quote-v4-tdx-ecdsa-p256.bin", "Canonical ovmf 2024.02-3+tdx1.0"),
        ("dstack-tdx-quote.bin", "Canonical ovmf 2024.02-3+tdx1.0"),
        ("dcap-qvl-quote-hex.bin", "dstack image 0.5.4"),
        ("dstack-quote-report.bin", "dstack image of os_image_hash 14ad42d0"),
    ],
)
def test_public_quotes_have_the_known_values_of_unpublished_firmware(quote: str, words: str) -> None:
    mrtd = parse_quote(vector(f"attestation/dcap/quotes/{quote}").read_bytes()).body.mrtd
    assert [known.name.startswith(words) for known in catalogue().mrtds if known.mrtd == mrtd] == [True]
