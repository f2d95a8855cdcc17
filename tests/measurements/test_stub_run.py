"""Files on the ESP that a stub takes up, what it measures of them, and what it hands to the kernel.

That whole boots with such files are as predicted is shown in ``tests/boot``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_builder.cpio import read_cpio
from measurements.errors import FormatError
from measurements.esp_files import Addon, EspFiles, sidecars
from measurements.events import Bank, MeasuredEvent, event_over
from measurements.events import EventType as Type
from measurements.smbios import Structure
from measurements.stub_run import kernel_command_line, prepare_run, stub_events
from measurements.systemd_stub import Uki
from tests.support.pe_images import synthetic_pe

OWN = "EFI/BOOT/BOOTX64.EFI.extra.d"
EXTRA = b"io.systemd.stub.kernel-cmdline-extra="
TYPE_1 = Structure(fields=b"\x01\x1b\x00\x01\x01" + bytes(19) + b"\x06\0\0", strings=(b"QEMU",))
OEM = Structure(fields=b"\x0b\x05\x00\x0e\x01", strings=(b"hello",))


def pe(**sections: bytes) -> bytes:
    """A PE image with these sections, enough for add-ons."""
    return synthetic_pe([(f".{name}", data) for name, data in sections.items()])


def uki(version: int, **sections: bytes) -> Uki:
    contents = {"linux": b"k", "cmdline": b"console=ttyS0", "initrd": b"base", **sections}
    return Uki(version=version, sections={f".{name}": data for name, data in contents.items()})


def events(
    image: Uki, files: Mapping[str, bytes], *, oem: Sequence[bytes] = (), tables: Sequence[Structure] = ()
) -> list[MeasuredEvent]:
    def load(addon: Addon) -> list[MeasuredEvent]:
        return [event_over(addon.image, pcr=4, event_type=Type.EV_ACTION, description="load", origin="x")]

    run = prepare_run(image, EspFiles(files=files))
    return list(stub_events(run, load=load, oem_strings=oem, smbios=lambda: tables))


def sha256(event: MeasuredEvent) -> bytes:
    return event.digests[Bank.SHA256]


def text(line: str) -> bytes:
    return hashlib.sha256(line.encode("utf-16-le") + b"\0\0").digest()


def test_an_image_without_files_measures_nothing_and_reads_no_tables() -> None:
    def tables() -> Sequence[Structure]:
        raise AssertionError

    run = prepare_run(uki(257), EspFiles())
    assert not list(stub_events(run, load=lambda _: [], oem_strings=(), smbios=tables))
    assert (run.command_line, run.initrd) == ("console=ttyS0", b"base")


def test_add_ons_are_global_first_then_by_the_order_of_their_names() -> None:
    files = {
        f"{OWN}/b.addon.efi": pe(cmdline=b" b=1 "),
        f"{OWN}/B.ADDON.EFI": pe(cmdline=b"upper"),
        "loader/addons/z.addon.efi": pe(cmdline=b"z=1\n"),
        f"{OWN}/notes.efi": pe(cmdline=b"no"),
        f"{OWN}/.hidden.addon.efi": pe(cmdline=b"no"),
        f"{OWN}/deeper/c.addon.efi": pe(cmdline=b"no"),
        "loader/addons/\u00e4.addon.efi": pe(cmdline=b"no"),
    }
    found = events(uki(257), files)
    assert [event.pcr for event in found] == [4, 4, 4, 12]
    assert sha256(found[3]) == text("z=1 upper b=1")
    line = kernel_command_line(prepare_run(uki(257), EspFiles(files=files)), ())
    assert line == "console=ttyS0 z=1 upper b=1"


def test_stub_254_measures_folder_by_folder() -> None:
    files = {"loader/addons/g.addon.efi": pe(cmdline=b"g"), f"{OWN}/u.addon.efi": pe(cmdline=b"u")}
    assert [event.pcr for event in events(uki(254), files)] == [4, 12, 4, 12]
    assert [event.pcr for event in events(uki(257), files)] == [4, 4, 12]
    assert not events(uki(252), files)


def test_an_add_on_for_another_kernel_is_loaded_and_ignored() -> None:
    files = {f"{OWN}/a.addon.efi": pe(cmdline=b"a", uname=b"6.1"), f"{OWN}/b.addon.efi": pe(linux=b"k")}
    assert [event.pcr for event in events(uki(257, uname=b"6.2"), files)] == [4, 4]
    assert [event.pcr for event in events(uki(257, uname=b"6.1"), files)] == [4, 4, 12]
    assert [event.pcr for event in events(uki(257, uname=b"6.12"), files)] == [4, 4, 12]
    assert [event.pcr for event in events(uki(257), files)] == [4, 4, 12]


def test_microcode_of_add_ons_comes_first_in_reverse_and_initrds_last() -> None:
    files = {
        f"{OWN}/a.addon.efi": pe(ucode=b"mc-a", initrd=b"rd-a"),
        f"{OWN}/b.addon.efi": pe(ucode=b"mc-b", initrd=b"rd-b"),
    }
    found = events(uki(257), files)
    assert [(event.pcr, event.event_type) for event in found[2:]] == [(12, Type.EV_EVENT_TAG)] * 4
    order = [b"mc-b", b"mc-a", b"rd-a", b"rd-b"]
    assert [sha256(event) for event in found[2:]] == [hashlib.sha256(data).digest() for data in order]
    assert prepare_run(uki(257), EspFiles(files=files)).initrd == b"mc-bmc-abaserd-ard-b"


@pytest.mark.parametrize(
    ("stub", "expected"),
    [
        (252, [("credentials", 12), ("global_credentials", 12), ("sysext", 13)]),
        (254, [("credentials", 12), ("global_credentials", 12), ("sysext", 13)]),
        (257, [("credentials", 12), ("global_credentials", 12), ("sysext", 13), ("confext", 12)]),
        (
            262,
            [
                *(("credentials", 12), ("global_credentials", 12), ("sysext", 13), ("global_sysext", 13)),
                *(("confext", 12), ("global_confext", 12)),
            ],
        ),
    ],
)
def test_files_become_archives_by_version(stub: int, expected: list[tuple[str, int]]) -> None:
    names = ("x.cred", "e.raw", "c.confext.raw")
    files = {f"{OWN}/{name}": name.encode() for name in names}
    files |= {"loader/credentials/g.cred": b"g", "loader/extensions/s.raw": b"s"}
    files |= {"loader/extensions/t.confext.raw": b"t"}
    found = sidecars(EspFiles(files=files), stub=stub)
    folders = [list(read_cpio(sidecar.data))[1].name.decode() for sidecar in found]
    pcrs = [sidecar.pcr for sidecar in found]
    assert list(zip(folders, pcrs, strict=True)) == [(f".extra/{name}", pcr) for name, pcr in expected]


def test_old_stubs_take_configuration_extensions_for_system_extensions() -> None:
    files = {f"{OWN}/c.confext.raw": b"c", f"{OWN}/e.raw": b"e"}
    (old,) = sidecars(EspFiles(files=files), stub=254)
    assert [entry.name for entry in read_cpio(old.data)][2:] == [
        b".extra/sysext/c.confext.raw",
        b".extra/sysext/e.raw",
    ]


@pytest.mark.parametrize(
    ("stub", "path"),
    [
        (258, "loader/extensions/s.raw"),
        (259, "loader/extensions/t.confext.raw"),
        (255, f"{OWN}/c.confext.raw"),
    ],
)
def test_files_of_which_no_boot_has_shown_what_becomes_are_refused(stub: int, path: str) -> None:
    with pytest.raises(FormatError, match="no boot has shown"):
        sidecars(EspFiles(files={path: b"x"}), stub=stub)


def test_credentials_are_for_root_only() -> None:
    (archive,) = sidecars(EspFiles(files={f"{OWN.lower()}/a.CRED": b"secret"}), stub=257)
    assert [(entry.name, entry.mode & 0o777) for entry in read_cpio(archive.data)] == [
        (b".extra", 0o555),
        (b".extra/credentials", 0o500),
        (b".extra/credentials/a.CRED", 0o400),
    ]


def test_the_host_s_command_line_is_measured_last_and_appended_last() -> None:
    files = {f"{OWN}/a.addon.efi": pe(cmdline=b"a")}
    oem = [b"other", EXTRA + b" first ", EXTRA + b"second"]
    found = events(uki(257), files, oem=oem)
    assert [sha256(event) for event in found[1:]] == [text("a"), text("first")]
    run = prepare_run(uki(257), EspFiles(files=files))
    assert kernel_command_line(run, oem) == "console=ttyS0 a first"
    assert kernel_command_line(prepare_run(uki(252), EspFiles()), oem) == "console=ttyS0"


def test_new_stubs_measure_smbios_without_the_reason_of_the_wake_up() -> None:
    other = Structure(fields=b"\x10\x04\0\0", strings=())
    first, second = events(uki(262), {}, tables=[TYPE_1, other, OEM])
    blank = Structure(fields=TYPE_1.fields[:0x18] + b"\0\0\0", strings=TYPE_1.strings)
    assert sha256(first) == hashlib.sha256(blank.encode()).digest()
    assert sha256(second) == hashlib.sha256(OEM.encode()).digest()
    assert {event.pcr for event in (first, second)} == {1}
    assert not events(uki(259), {}, tables=[TYPE_1, OEM])


def test_a_new_stub_s_own_console_argument_is_refused() -> None:
    with pytest.raises(FormatError, match="no console="):
        kernel_command_line(prepare_run(uki(262, cmdline=b"quiet myconsole=x"), EspFiles()), ())
    assert kernel_command_line(prepare_run(uki(259, cmdline=b"quiet"), EspFiles()), ()) == "quiet"


@pytest.mark.parametrize("stub", [252, 257, 262])
def test_a_random_seed_or_secret_on_a_writable_disk_is_refused(stub: int) -> None:
    files = {"LOADER/credentials/g.cred": b"g"}
    with pytest.raises(FormatError, match="random secret" if stub == 262 else "random seed on the disk$"):
        prepare_run(uki(stub), EspFiles(files=files, writable=True))
    assert prepare_run(uki(stub), EspFiles(files=files)).sidecars
    own = {f"{OWN}/x.cred": b"x"}
    assert prepare_run(uki(stub), EspFiles(files=own, writable=True)).sidecars


@pytest.mark.parametrize(
    ("image", "version", "reason"),
    [
        (pe(dtb=b"d"), 257, "device tree"),
        (pe(cmdline=b"\xff"), 257, "not ASCII"),
        (b"no image", 257, "start with MZ"),
        (pe(cmdline=b"a"), 255, "not known"),
    ],
)
def test_add_ons_that_cannot_be_predicted_are_refused(image: bytes, version: int, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        prepare_run(uki(version), EspFiles(files={f"{OWN}/a.addon.efi": image}))


@given(st.dictionaries(st.from_regex(r"[a-zA-Z0-9_.-]{1,12}\.cred", fullmatch=True), st.binary(max_size=40)))
def test_archives_hold_every_file_once_in_order(files: dict[str, bytes]) -> None:
    esp = EspFiles(files={f"{OWN}/{name}": data for name, data in files.items()})
    visible = {name: data for name, data in files.items() if not name.startswith(".")}
    found = sidecars(esp, stub=257)
    assert bool(found) == bool(visible)
    for sidecar in found:
        entries = list(read_cpio(sidecar.data))
        contents = {
            entry.name.decode().rpartition("/")[2]: sidecar.data[entry.offset : entry.offset + entry.size]
            for entry in entries[2:]
        }
        assert list(contents) == sorted(visible)
        assert contents == visible
        assert len(sidecar.data) % 4 == 0
