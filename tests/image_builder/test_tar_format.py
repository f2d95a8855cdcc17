"""The tar reader agrees with the standard library's, and refuses what it does not understand."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_builder.tar_format import BytesArchive, TarType, read_tar
from measurements.errors import FormatError
from tests.image_builder.package_files import device, folder, link, regular, tar_bytes

names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300
).filter(lambda name: not name.endswith("/"))
members = st.lists(
    st.one_of(
        st.builds(regular, names, st.binary(max_size=2000), mode=st.integers(0, 0o7777)),
        st.builds(folder, names),
        st.builds(link, names, names),
        st.builds(link, names, names, hard=st.just(value=True)),
        st.builds(device, names),
    ),
    max_size=5,
)
TYPES = {
    tarfile.REGTYPE: TarType.FILE,
    tarfile.DIRTYPE: TarType.DIRECTORY,
    tarfile.SYMTYPE: TarType.SYMLINK,
    tarfile.LNKTYPE: TarType.HARD_LINK,
    tarfile.CHRTYPE: TarType.CHARACTER_DEVICE,
}


@settings(max_examples=60, deadline=None)
@given(members, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_reads_what_the_standard_library_writes(
    entries: list[tuple[tarfile.TarInfo, bytes]], form: int
) -> None:
    data = tar_bytes(entries, form=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = archive.getmembers()
    found = list(read_tar(BytesArchive(data), subject="demo"))
    assert [(member.name.rstrip("/"), member.mode, member.link, member.user) for member in found] == [
        (info.name, info.mode, info.linkname, info.uname) for info in expected
    ]
    assert [member.type for member in found] == [TYPES[info.type] for info in expected]
    for member, (info, content) in zip(found, entries, strict=True):
        if info.type == tarfile.REGTYPE:
            assert data[member.offset : member.offset + member.size] == content
            assert member.sha256 == hashlib.sha256(content).hexdigest()


def test_keeps_extended_attributes() -> None:
    info, content = regular("./file")
    info.pax_headers = {"SCHILY.xattr.user.b": "2", "SCHILY.xattr.user.a": "1"}
    (member,) = read_tar(BytesArchive(tar_bytes([(info, content)], form=tarfile.PAX_FORMAT)), subject="demo")
    assert member.xattrs == (("user.a", b"1"), ("user.b", b"2"))


def changed(data: bytes, offset: int, new: bytes) -> bytes:
    block = bytearray(data)
    block[offset : offset + len(new)] = new
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block[:512]):06o}\0 ".encode()
    return bytes(block)


GOOD = tar_bytes([regular("./file", b"abc")])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "without an end mark"),
        (GOOD[:1024], "without an end mark"),
        (GOOD[:514], "ends early"),
        (GOOD[:148] + b"0000000\0" + GOOD[156:], "checksum"),
        (changed(GOOD, 156, b"S"), "unknown type"),
        (changed(GOOD, 156, b"M"), "unknown type"),
        (changed(GOOD, 124, b"77777777777\0"), "ends early"),
        (changed(GOOD, 124, b"\xff" * 12), "negative"),
        (changed(GOOD, 124, b"12x\0"), "number"),
        (GOOD + b"\0" * 512 + b"hidden", "behind the end mark"),
    ],
)
def test_refuses_damage(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        list(read_tar(BytesArchive(data), subject="demo"))


@pytest.mark.parametrize(
    ("kind", "records", "reason"),
    [
        (b"x", b"19 GNU.sparse.a=b1\n", "sparse"),
        (b"g", b"12 path=abc\n", "global header"),
        (b"x", b"99 path=abc\n", "damaged extended"),
        (b"x", b"path\n", "damaged extended"),
        (b"x", b"12 size=abc\n", "gives size"),
    ],
)
def test_refuses_extended_headers(kind: bytes, records: bytes, reason: str) -> None:
    header = changed(tar_bytes([regular("./PaxHeader", records)]), 156, kind)[:1024]
    with pytest.raises(FormatError, match=reason):
        list(read_tar(BytesArchive(header + GOOD), subject="demo"))
