"""What systemd-stub measures and hands on, against systemd's own tool and published values."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from pathlib import Path

import pytest

from image_builder.cpio import read_cpio
from image_builder.uki import SectionName, UkiSection, build_uki
from measurements.errors import FormatError
from measurements.events import Bank, EventType, replay
from measurements.linux_stub import check_kernel_release, kernel_stub_events
from measurements.systemd_stub import (
    Uki,
    final_command_line,
    final_initrd,
    measures_inner_kernel,
    parse_uki,
    section_events,
)
from tests.support.oracle_boots import stub_file
from tests.support.pe_images import synthetic_pe
from tests.support.tools import require_tool

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
SECTIONS = {".linux": b"kernel", ".osrel": b"ID=x\n", ".cmdline": b"quiet", ".initrd": b"initrd!"}


def uki(version: int, **sections: bytes) -> Uki:
    return Uki(version=version, sections={f".{name}": data for name, data in sections.items()})


@pytest.fixture(scope="module")
def built() -> bytes:
    """A UKI on the installed stub; its own stub stands in for the kernel, which must be a PE image."""
    if not STUB.exists():
        pytest.skip("no systemd-stub (package systemd-boot-efi)")
    stub = STUB.read_bytes()
    sections = {**SECTIONS, ".linux": stub}
    return build_uki(stub, [UkiSection(name=SectionName(name), data=data) for name, data in sections.items()])


@pytest.mark.apt
def test_pcr_11_equals_that_of_systemd_measure(built: bytes, tmp_path: Path) -> None:
    tool = require_tool("systemd-measure", package="systemd")
    parsed = parse_uki(built)
    command = [tool, "calculate", "--json=short"]
    for name in (".linux", ".osrel", ".cmdline", ".initrd"):
        path = tmp_path / name[1:]
        path.write_bytes(parsed.sections[name])
        command.append(f"--{name[1:]}={path}")
    command += [f"--bank={bank.value}" for bank in Bank]
    shown = subprocess.run([*command, "--phase="], check=True, capture_output=True, text=True).stdout
    theirs = json.loads(shown)
    ours = replay(section_events(parsed), pcrs=[11])
    for bank in Bank:
        (entry,) = [entry for entry in theirs[bank.value] if entry["pcr"] == 11]
        assert entry["hash"] == ours[bank][11].hex()


def test_pcr_11_of_published_digests() -> None:
    events = section_events(uki(252, linux=b"a", initrd=b"b"))
    names = [b".linux\0", b"", b".initrd\0", b""]
    given = [
        hashlib.sha256(name).digest() if name else bytes([index // 2]) * 32
        for index, name in enumerate(names)
    ]
    register = bytes(32)
    for digest in given:
        register = hashlib.sha256(register + digest).digest()
    assert register.hex().startswith("9dfe399f")
    assert [events[0].digests[Bank.SHA256], events[2].digests[Bank.SHA256]] == [given[0], given[2]]


def test_pcr_9_of_a_published_command_line_and_initrd() -> None:
    (event,) = kernel_stub_events(
        command_line="console=tty0", initrd=b"", command_line_origin="c", initrd_origin="i"
    )
    register = hashlib.sha256(bytes(32) + event.digests[Bank.SHA256]).digest()
    assert hashlib.sha256(register + bytes(32)).hexdigest().startswith("eb4f7bca")


def test_sections_come_in_the_order_of_the_stub_and_the_signature_never() -> None:
    shuffled = uki(257, sbat=b"s", uname=b"u", pcrsig=b"p", linux=b"l", cmdline=b"c", osrel=b"o", initrd=b"i")
    names = [event.origin.split()[1] for event in section_events(shuffled)[::2]]
    assert names == [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"]


def test_a_section_that_the_version_does_not_know_is_not_measured() -> None:
    names = [
        event.origin.split()[1] for event in section_events(uki(252, linux=b"l", sbat=b"s", uname=b"u"))[::2]
    ]
    assert names == [".linux"]


@pytest.mark.parametrize(
    ("version", "secure_boot", "measured"),
    [(252, False, True), (252, True, False), (257, False, True), (257, True, False), (258, False, False)],
)
def test_the_inner_kernel_is_measured_by_old_stubs_without_secure_boot(
    version: int, secure_boot: bool, measured: bool
) -> None:
    assert measures_inner_kernel(uki(version, linux=b"l"), secure_boot=secure_boot) is measured


def test_a_single_initrd_is_handed_on_as_it_is() -> None:
    assert final_initrd(uki(252, linux=b"l", osrel=b"o", initrd=b"12345")) == b"12345"
    assert final_initrd(uki(252, linux=b"l")) == b""


def test_a_new_stub_appends_the_os_release_as_an_archive() -> None:
    whole = final_initrd(uki(257, linux=b"l", osrel=b"ID=x\n", initrd=b"12345"))
    assert whole.startswith(b"12345" + bytes(3) + b"070701")
    archive = whole[8:]
    members = {entry.name: entry for entry in read_cpio(archive)}
    assert list(members) == [b".extra", b".extra/os-release"]
    file = members[b".extra/os-release"]
    assert archive[file.offset : file.offset + file.size] == b"ID=x\n"


@pytest.mark.apt
def test_cpio_reads_the_appended_archive() -> None:
    tool = require_tool("cpio", package="cpio")
    archive = final_initrd(uki(257, linux=b"l", osrel=b"ID=x\n"))
    listing = subprocess.run([tool, "-tv"], input=archive, check=True, capture_output=True).stdout.decode()
    lines = [line.split() for line in io.StringIO(listing)]
    assert [(line[0], line[-1]) for line in lines] == [
        ("dr-xr-xr-x", ".extra"),
        ("-r--r--r--", ".extra/os-release"),
    ]


def test_parts_come_in_order_with_microcode_first() -> None:
    whole = final_initrd(uki(257, linux=b"l", initrd=b"base", ucode=b"code", pcrsig=b"{}", pcrpkey=b"key"))
    assert whole.startswith(b"codebase070701")
    assert whole.index(b"tpm2-pcr-signature.json") < whole.index(b"tpm2-pcr-public-key.pem")


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [(b"  a b \n", "a b"), (b"a\tb\x7f", "a b"), (b"", ""), (b"quiet\0junk", "quiet"), (b"a  b", "a  b")],
)
def test_command_lines_lose_white_space_at_the_ends(given: bytes, handed_on: str) -> None:
    assert final_command_line(uki(257, linux=b"l", cmdline=given)) == handed_on


def test_a_command_line_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(FormatError, match="not ASCII"):
        final_command_line(uki(257, linux=b"l", cmdline=b"\xe4"))


@pytest.mark.apt
def test_a_stub_whose_rules_are_unknown_is_refused(built: bytes) -> None:
    version = parse_uki(built).version
    for unknown in (b"251", b"253", b"260", b"263"):
        changed = built.replace(b"systemd-stub %d" % version, b"systemd-stub " + unknown, 1)
        with pytest.raises(FormatError, match="measurements are not known"):
            parse_uki(changed)


def profiles(version: int, *sections: tuple[str, bytes]) -> bytes:
    """A PE image with these sections in this order, which is as much of a UKI as is read."""
    magic = (".sdmagic", b"#### LoaderInfo: systemd-stub %d ####" % version)
    return synthetic_pe([(".text", b"code"), magic, *sections])


def test_the_first_profile_goes_before_the_base() -> None:
    sections = [
        *((".linux", b"kernel"), (".cmdline", b"base"), (".osrel", b"ID=x")),
        *((".profile", b"ID=a"), (".cmdline", b"first")),
        *((".profile", b"ID=b"), (".cmdline", b"second"), (".osrel", b"ID=y")),
    ]
    parsed = parse_uki(profiles(257, *sections))
    assert parsed.sections == {
        ".linux": b"kernel",
        ".cmdline": b"first",
        ".osrel": b"ID=x",
        ".profile": b"ID=a",
    }
    assert final_command_line(parsed) == "first"


@pytest.mark.parametrize(
    ("version", "sections"),
    [
        (257, [(".linux", b"k"), (".cmdline", b"a"), (".cmdline", b"b")]),
        (257, [(".linux", b"k"), (".profile", b"p"), (".cmdline", b"a"), (".cmdline", b"b")]),
        (255, [(".linux", b"k"), (".cmdline", b"a"), (".profile", b"p"), (".cmdline", b"b")]),
    ],
)
def test_a_section_that_is_there_twice_is_refused(version: int, sections: list[tuple[str, bytes]]) -> None:
    with pytest.raises(FormatError, match=r"\.cmdline twice"):
        parse_uki(profiles(version, *sections))


@pytest.mark.apt
def test_a_stub_without_a_kernel_is_refused() -> None:
    if not STUB.exists():
        pytest.skip("no systemd-stub (package systemd-boot-efi)")
    with pytest.raises(FormatError, match="no kernel"):
        parse_uki(STUB.read_bytes())


def test_kernel_events_are_tagged_events_of_pcr_9() -> None:
    events = kernel_stub_events(command_line="a", initrd=b"i", command_line_origin="c", initrd_origin="i")
    assert [(event.pcr, event.event_type) for event in events] == [(9, EventType.EV_EVENT_TAG)] * 2
    assert events[0].digests[Bank.SHA384] == hashlib.sha384(b"a\0\0\0").digest()


@pytest.mark.parametrize("release", ["6.1.0-50-cloud-amd64", "6.12.107+deb13-cloud-amd64", "7.3.4+deb13"])
def test_known_kernels_are_accepted(release: str) -> None:
    check_kernel_release(release)


@pytest.mark.parametrize("release", ["5.10.0-1-amd64", "6.0.1", "six", ""])
def test_old_and_odd_kernels_are_refused(release: str) -> None:
    with pytest.raises(FormatError):
        check_kernel_release(release)


@pytest.mark.apt
@pytest.mark.parametrize(("version", "knows"), [(252, False), (254, False), (257, True), (262, True)])
def test_stubs_tell_whether_they_measure_in_trust_domains(version: int, knows: bool) -> None:
    stub = stub_file(version).read_bytes()
    sections = [
        UkiSection(name=SectionName.LINUX, data=stub),
        UkiSection(name=SectionName.CMDLINE, data=b"a"),
    ]
    assert parse_uki(build_uki(stub, sections)).trust_domains is knows
