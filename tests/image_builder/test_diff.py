"""Comparisons of images: every kind of difference is found, placed and put down to its cause."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_builder.comparison import CauseKind, Change, Comparison, Difference
from image_builder.diff import ImageFolderError, compare
from image_builder.diff_bytes import MOST_SPANS, differing_spans
from image_builder.diff_inputs import package_changes
from image_builder.lockfile import LockedWheel, LockError, lock_bytes
from tests.image_builder.image_folders import (
    FakeFiles,
    FakeImage,
    FakePackage,
    base_package,
    kernel_package,
    sha256,
    tool_package,
)

ALL = FakeFiles(
    base_package(),
    base_package("1.1", binary=b"ELF newer" * 1000),
    tool_package(),
    kernel_package(),
    kernel_package("6.13", text=b"other!" * 100, module=b"MODULE"),
)


def compared(before: FakeImage, after: FakeImage, tmp_path: Path, *, files: FakeFiles = ALL) -> Comparison:
    """The comparison of two images."""
    return compare(before.write(tmp_path / "old"), after.write(tmp_path / "new"), files=files)


def find(comparison: Comparison, *subjects: str) -> Difference:
    """The difference below the given subjects, which match by their beginnings."""
    level: tuple[Difference, ...] = comparison.differences
    found: Difference | None = None
    for subject in subjects:
        found = next((each for top in level for each in top.walk() if each.subject.startswith(subject)), None)
        assert found is not None, f"no {subject} in:\n" + "\n".join(comparison.lines())
        level = found.parts
    assert found is not None
    return found


def causes(comparison: Comparison) -> list[tuple[CauseKind, str]]:
    """Kinds of causes with the first words of their texts."""
    return [(cause.kind, cause.text) for cause in comparison.causes]


def test_same_image_is_identical(tmp_path: Path) -> None:
    result = compared(FakeImage(), FakeImage(), tmp_path)
    assert result.identical
    assert result.as_json()["identical"] is True
    assert list(result.lines()) == [f"identical: {tmp_path}/old and {tmp_path}/new"]


def test_upgraded_package_is_the_cause_of_its_files_and_of_nothing_else(tmp_path: Path) -> None:
    newer = FakeImage(
        packages=[base_package("1.1", binary=b"ELF newer" * 1000), tool_package(), kernel_package()]
    )
    result = compared(FakeImage(), newer, tmp_path)
    ((kind, text),) = causes(result)
    assert kind is CauseKind.PACKAGE
    assert "package base upgraded: 1.0 from trixie" in text
    assert "→ 1.1 from trixie" in text
    assert find(result, "root.erofs", "1 file", "/usr/bin/base", "size").after == "9000"
    paths = [each.subject for each in find(result, "root.erofs").walk() if each.subject.startswith("/")]
    assert paths == ["/usr/bin/base"]
    assert "keyturn.lock" in {each.subject for each in result.differences}


def test_what_is_made_from_the_root_says_so(tmp_path: Path) -> None:
    newer = FakeImage(
        packages=[base_package("1.1", binary=b"ELF newer" * 1000), tool_package(), kernel_package()]
    )
    result = compared(FakeImage(), newer, tmp_path)
    assert find(result, "root.erofs", "dm-verity").causes[0].text == "follows from the file system"
    assert find(result, "initrd", "1 file").causes[0].text == "follows from the root file system"
    assert find(result, "uki.efi", "section .initrd").causes[0].text == "follows from initrd"
    assert find(result, "disk.raw", "partition root").causes[0].text == "follows from root.erofs"
    assert find(result, "disk.raw", "partition esp").causes[0].text == "follows from uki.efi"


def test_byte_ranges_are_given_in_the_file_and_in_the_image(tmp_path: Path) -> None:
    changed = bytearray(b"ELF base" * 1000)
    changed[100:104] = b"!!!!"
    after = FakeImage(packages=[base_package("1.1", binary=bytes(changed)), tool_package(), kernel_package()])
    result = compared(FakeImage(), after, tmp_path)
    (part,) = find(result, "root.erofs", "/usr/bin/base").parts
    assert part.subject.startswith("bytes 0x64-0x68 (0x")
    offset = int(part.subject.split("(")[1].split("-")[0], 16)
    assert (tmp_path / "new" / "root.erofs").read_bytes()[offset : offset + 4] == b"!!!!"
    assert part.after == "'!!!!'"


def test_added_and_removed_packages(tmp_path: Path) -> None:
    extra = FakePackage(name="extra", version="3", files={"usr/bin/extra": b"x"})
    files = FakeFiles(base_package(), tool_package(), kernel_package(), extra)
    after = FakeImage(packages=[base_package(), kernel_package(), extra])
    result = compared(FakeImage(), after, tmp_path, files=files)
    assert {text.split(":")[0] for _, text in causes(result)} == {
        "package tool removed",
        "package extra added",
    }
    assert find(result, "root.erofs", "/usr/bin/extra").change is Change.ADDED
    assert find(result, "root.erofs", "/usr/bin/tool").change is Change.REMOVED


def test_changed_packages_that_the_store_lacks_are_named(tmp_path: Path) -> None:
    newer = FakeImage(
        packages=[base_package("1.1", binary=b"ELF newer" * 1000), tool_package(), kernel_package()]
    )
    result = compared(FakeImage(), newer, tmp_path, files=FakeFiles())
    assert ("not in the store: package base") in causes(result)[0][1]


def test_local_file_and_agent_file(tmp_path: Path) -> None:
    after = FakeImage(local={"etc/motd": b"bye\n"}, agent={"usr/lib/keyturn/agent.py": b"pass\n"})
    result = compared(FakeImage(), after, tmp_path)
    assert {kind for kind, _ in causes(result)} == {CauseKind.LOCAL_FILE, CauseKind.AGENT}
    assert find(result, "root.erofs", "/etc/motd").parts


def test_byte_code_follows_its_source_or_the_interpreter(tmp_path: Path) -> None:
    cached = "usr/lib/python3/__pycache__/tool.cpython-313.pyc"
    python = FakePackage(name="python3.13-minimal", version="1", files={})
    newer = FakePackage(name="python3.13-minimal", version="2", files={})
    old_tool = tool_package()
    new_tool = FakePackage(
        name="tool", version="2.1", files={**old_tool.files, "usr/lib/python3/tool.py": b"2"}
    )
    files = FakeFiles(python, newer, old_tool, new_tool, kernel_package(), base_package())
    before = FakeImage(packages=[kernel_package(), python, old_tool], extra={cached: b"pyc 1"})
    by_source = FakeImage(packages=[kernel_package(), python, new_tool], extra={cached: b"pyc 2"})
    result = compare(before.write(tmp_path / "a"), by_source.write(tmp_path / "b"), files=files)
    assert causes(result)[0][1].startswith("package tool upgraded")
    by_python = FakeImage(packages=[kernel_package(), newer, old_tool], extra={cached: b"pyc 2"})
    result = compare(tmp_path / "a", by_python.write(tmp_path / "c"), files=files)
    assert causes(result)[0][1].startswith("package python3.13-minimal upgraded")


def test_alternative_follows_the_program_that_it_leads_to(tmp_path: Path) -> None:
    editor = FakePackage(name="editor", version="1", files={"usr/bin/nano": b"x"})
    links = {"etc/alternatives/editor": "/bin/nano", "usr/bin/editor": "/etc/alternatives/editor"}
    files = FakeFiles(editor)
    after = FakeImage(packages=[*FakeImage().packages, editor], links=links)
    result = compared(FakeImage(), after, tmp_path, files=files)
    ((_, text),) = causes(result)
    assert text.startswith("package editor added: 1")
    assert find(result, "root.erofs", "/usr/bin/editor").after == "link to /etc/alternatives/editor"


def test_wheel(tmp_path: Path) -> None:
    path = "usr/lib/python3/dist-packages/w.py"
    old, new = (
        LockedWheel(
            name="w", version=version, filename=f"w-{version}.whl", size=1, sha256=sha256(version.encode())
        )
        for version in ("1", "2")
    )
    files = FakeFiles(wheels={wheel.sha256: frozenset({path}) for wheel in (old, new)})
    before = FakeImage(wheels=[old], extra={path: b"1"})
    result = compared(before, FakeImage(wheels=[new], extra={path: b"2"}), tmp_path, files=files)
    ((kind, text),) = causes(result)
    assert (kind, text.split(":")[0]) == (CauseKind.WHEEL, "wheel w changed")


def test_command_line(tmp_path: Path) -> None:
    result = compared(FakeImage(), FakeImage(command_line=("quiet", "debug")), tmp_path)
    ((kind, text),) = causes(result)
    assert kind is CauseKind.RECIPE
    assert text.startswith("recipe key kernel.command-line changed")
    assert find(result, "cmdline", "debug").change is Change.ADDED
    assert find(result, "uki.efi", "section .cmdline").causes[0].text == "follows from cmdline"
    assert "root.erofs" not in {each.subject for each in result.differences}


def test_recipe_user_is_the_cause_of_the_account_files(tmp_path: Path) -> None:
    result = compared(FakeImage(), FakeImage(uid=1001), tmp_path)
    ((_, text),) = causes(result)
    assert text == "recipe key user[app].uid changed: 1000 → 1001"
    assert find(result, "root.erofs", "/etc/passwd")


def test_recipe_permission_is_the_cause_of_a_mode(tmp_path: Path) -> None:
    after = FakeImage(setuid=("/usr/bin/tool",), modes={"usr/bin/tool": 0o4755})
    result = compared(FakeImage(), after, tmp_path)
    assert causes(result)[0][1].startswith("recipe key permissions.setuid changed")
    mode = find(result, "root.erofs", "/usr/bin/tool", "mode")
    assert (mode.before, mode.after) == ("0644", "4755")


def test_kernel_upgrade(tmp_path: Path) -> None:
    newer = kernel_package("6.13", text=b"other!" * 100, module=b"MODULE")
    result = compared(FakeImage(), FakeImage(packages=[base_package(), tool_package(), newer]), tmp_path)
    assert [text.split(":")[0] for _, text in causes(result)] == ["package linux-image (kernel) upgraded"]
    assert find(result, "kernel", "section .text", "bytes 0x0-")
    assert find(result, "initrd", "/modules/virtio_blk.ko")
    assert find(result, "uki.efi", "section .linux").causes[0].text == "follows from kernel"


def test_image_name_moves_the_disk(tmp_path: Path) -> None:
    result = compared(FakeImage(), FakeImage(name="other"), tmp_path)
    guid = find(result, "disk.raw", "disk GUID")
    assert guid.causes[0].text == "recipe key image.name changed: demo → other"
    assert find(result, "disk.raw", "entry of partition root", "guid").before


def test_build_tool_is_named_when_no_input_differs(tmp_path: Path) -> None:
    result = compared(FakeImage(), FakeImage(init=b"#!/bin/sh\n", tool="0.2.0"), tmp_path)
    assert causes(result) == [
        (CauseKind.BUILD_TOOL, "keyturn itself: built by version 0.1.0 and by version 0.2.0")
    ]


def test_recipe_with_another_comment(tmp_path: Path) -> None:
    FakeImage().write(tmp_path / "old")
    FakeImage().write(tmp_path / "new")
    recipe = tmp_path / "new" / "keyturn.toml"
    recipe.write_bytes(recipe.read_bytes() + b"# note\n")
    result = compare(tmp_path / "old", tmp_path / "new", files=ALL)
    assert find(result, "keyturn.toml").after == "only comments or spacing"


def flip(path: Path, at: int) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def content_at(path: Path, content: bytes) -> int:
    """Where ``content`` is in a file."""
    at = path.read_bytes().index(content)
    assert at > 0
    return at


ALTERATIONS: dict[str, tuple[str, Callable[[Path], int], tuple[str, ...]]] = {
    "file in the root": (
        "root.erofs",
        lambda p: content_at(p, b"ELF tool"),
        ("root.erofs", "/usr/bin/tool", "bytes"),
    ),
    "unused byte of the root": (
        "root.erofs",
        lambda _: 0,
        ("root.erofs", "bytes of no file", "bytes 0x0-0x1"),
    ),
    "superblock": ("root.erofs", lambda _: 1024, ("root.erofs", "not readable")),
    "hash tree": ("root.erofs", lambda p: p.stat().st_size - 4096, ("root.erofs", "dm-verity", "bytes")),
    "initrd file": (
        "initrd",
        lambda p: content_at(p, b"#!/bin/busybox"),
        ("initrd", "/init", "bytes 0x0-0x1"),
    ),
    "initrd header": ("initrd", lambda _: 0, ("initrd", "not readable")),
    "kernel": (
        "kernel",
        lambda p: content_at(p, b"kernelkernel"),
        ("kernel", "section .text", "bytes 0x0-0x1"),
    ),
    "uki header": ("uki.efi", lambda _: 0x30, ("uki.efi", "headers", "bytes 0x30-0x31")),
    "uki padding": (
        "uki.efi",
        lambda p: content_at(p, b"console=") + 200,
        ("uki.efi", "bytes of no known part"),
    ),
    "uki section": (
        "uki.efi",
        lambda p: content_at(p, b"stub"),
        ("uki.efi", "section .text", "bytes 0x0-0x1"),
    ),
    "cmdline": ("cmdline", lambda _: 0, ("cmdline", "bonsole=ttyS0")),
    "disk boot code": ("disk.raw", lambda _: 3, ("disk.raw", "bytes of no known part")),
    "disk table": ("disk.raw", lambda _: 512 + 57, ("disk.raw", "not readable")),
    "disk esp boot sector": (
        "disk.raw",
        lambda _: 1 << 20,
        ("disk.raw", "partition esp", "boot sectors", "bytes 0x0-0x1"),
    ),
    "disk esp table": (
        "disk.raw",
        lambda _: (1 << 20) + 32 * 512 + 9,
        (
            "disk.raw",
            "partition esp",
            "file allocation tables",
            "bytes 0x9-0xa (0x4009-0x400a of the partition)",
        ),
    ),
    "disk esp directory": (
        "disk.raw",
        lambda p: content_at(p, b"BOOTX64 EFI"),
        ("disk.raw", "partition esp", "directories", "bytes"),
    ),
    "disk esp program": (
        "disk.raw",
        lambda p: content_at(p, b"console=ttyS0"),
        ("disk.raw", "partition esp", "EFI/BOOT/BOOTX64.EFI", "section .cmdline", "bytes 0x0-0x1"),
    ),
    "disk esp free space": (
        "disk.raw",
        lambda _: 20 << 20,
        ("disk.raw", "partition esp", "free space", "bytes"),
    ),
    "disk root": (
        "disk.raw",
        lambda p: content_at(p, b"ELF tool"),
        ("disk.raw", "partition root", "/usr/bin/tool"),
    ),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_byte_changed_after_the_build_is_found(name: str, tmp_path: Path) -> None:
    artefact, place, subjects = ALTERATIONS[name]
    FakeImage().write(tmp_path / "old")
    FakeImage().write(tmp_path / "new")
    path = tmp_path / "new" / artefact
    flip(path, place(path))
    result = compare(tmp_path / "old", tmp_path / "new", files=ALL)
    assert find(result, *subjects)
    assert [each.subject for each in result.differences] == [artefact]
    assert {kind for kind, _ in causes(result)} == {CauseKind.ALTERED}
    assert any(
        f"new/{artefact} is not the file that its manifest names" in text for _, text in causes(result)
    )


def test_altered_file_of_a_package_is_put_down_to_the_side_that_changed(tmp_path: Path) -> None:
    FakeImage().write(tmp_path / "old")
    FakeImage(extra={"usr/bin/tool": b"backdoor"}).write(tmp_path / "new")
    result = compare(tmp_path / "old", tmp_path / "new", files=ALL)
    texts = [text for kind, text in causes(result) if kind is CauseKind.ALTERED]
    assert len(texts) == 1
    assert texts[0].startswith(
        f"{tmp_path}/new does not hold the bytes that its lock names for /usr/bin/tool (package tool"
    )


def test_missing_and_extra_artefacts(tmp_path: Path) -> None:
    FakeImage().write(tmp_path / "old")
    FakeImage().write(tmp_path / "new")
    (tmp_path / "old" / "kernel").unlink()
    (tmp_path / "new" / "note.txt").write_bytes(b"")
    result = compare(tmp_path / "old", tmp_path / "new", files=ALL)
    assert {(each.subject, each.change) for each in result.differences} == {
        ("kernel", Change.ADDED),
        ("note.txt", Change.ADDED),
    }


def test_json_has_everything_that_the_text_has(tmp_path: Path) -> None:
    newer = [base_package("1.1", binary=b"ELF newer" * 1000), tool_package(), kernel_package()]
    result = compared(FakeImage(), FakeImage(packages=newer), tmp_path)
    document = json.dumps(result.as_json(), ensure_ascii=False)
    lines = list(result.lines())
    assert lines[1] == "caused by:"
    assert lines[2].startswith("  1. package base upgraded: 1.0")
    shown = [line.strip()[2:] for line in lines[lines.index("differences:") + 1 :]]
    for text in shown:
        assert text.split(":")[0].split("  (")[0] in document or text.endswith("more (see --json)")


def test_text_refers_to_causes_by_number(tmp_path: Path) -> None:
    result = compared(FakeImage(), FakeImage(uid=1001, local={"etc/motd": b"bye\n"}), tmp_path)
    lines = [line.strip() for line in result.lines()]
    listed = {line.partition(". ")[0]: line for line in lines if line[:1].isdigit()}
    assert sorted(listed) == ["1", "2"]
    motd = next(number for number, line in listed.items() if "etc/motd" in line)
    assert lines[lines.index("~ /etc/motd") - 1] == f"~ 1 file  (cause {motd})"


def test_lock_files_are_compared(tmp_path: Path) -> None:
    old, new = tmp_path / "old.lock", tmp_path / "new.lock"
    old.write_bytes(lock_bytes(FakeImage().lock))
    new.write_bytes(lock_bytes(FakeImage(packages=[base_package("1.1"), kernel_package()], uid=1001).lock))
    result = compare(old, new, files=FakeFiles())
    groups = {each.subject: [part.subject for part in each.parts] for each in result.differences}
    assert groups == {"packages": ["package base", "package tool"], "recipe": ["lock key recipe-sha256"]}
    assert compare(old, old, files=FakeFiles()).identical


def test_folder_and_file_cannot_be_compared(tmp_path: Path) -> None:
    folder = FakeImage().write(tmp_path / "image")
    with pytest.raises(ImageFolderError, match="one is a folder and one a file"):
        compare(folder, folder / "keyturn.lock", files=ALL)


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    folder = FakeImage().write(tmp_path / "image")
    with pytest.raises(ImageFolderError, match=r"gone: does not exist"):
        compare(folder, tmp_path / "gone", files=ALL)


@pytest.mark.parametrize("name", ["manifest.json", "keyturn.lock", "keyturn.toml"])
def test_folder_that_is_no_image_is_refused(name: str, tmp_path: Path) -> None:
    folder, other = FakeImage().write(tmp_path / "image"), FakeImage().write(tmp_path / "other")
    (folder / name).unlink()
    with pytest.raises(ImageFolderError, match=f"has no {name}"):
        compare(folder, other, files=ALL)


def test_damaged_lock_is_refused(tmp_path: Path) -> None:
    folder, other = FakeImage().write(tmp_path / "image"), FakeImage().write(tmp_path / "other")
    (folder / "keyturn.lock").write_bytes(b"nonsense")
    with pytest.raises(LockError):
        compare(folder, other, files=ALL)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_spans_cover_exactly_what_differs_up_to_small_gaps(before: bytes, after: bytes) -> None:
    spans = differing_spans(before, after)
    covered = {at for span in spans for at in range(span.start, span.stop)}
    differing = {
        at for at in range(max(len(before), len(after))) if before[at : at + 1] != after[at : at + 1]
    }
    assert differing <= covered
    for span in spans:
        assert span.start in differing
        assert span.stop - 1 in differing
    assert bool(spans) == (before != after)


def test_spans_of_large_inputs_are_few() -> None:
    before, after = bytes(4 << 20), bytearray(4 << 20)
    after[::5000] = b"\1" * len(after[::5000])
    spans = differing_spans(before, after)
    assert len(spans) == MOST_SPANS
    assert spans[-1].stop >= len(after) - 5000


def test_document_changed_alone_is_not_put_down_to_artefacts(tmp_path: Path) -> None:
    FakeImage().write(tmp_path / "old")
    FakeImage().write(tmp_path / "new")
    (tmp_path / "new" / "sbom.cdx.json").write_text('{"components": [{"name": "extra"}]}')
    result = compare(tmp_path / "old", tmp_path / "new", files=ALL)
    assert find(result, "sbom.cdx.json", "components[extra].name").after == "extra"
    assert [kind for kind, _ in causes(result)] == [CauseKind.BUILD_TOOL]


@pytest.mark.parametrize(
    ("old", "new", "verb"),
    [("1.0", "1.1", "upgraded"), ("1.0", "1.0~rc1", "downgraded"), ("1.0", "1.0", "replaced")],
)
def test_versions_are_ordered_as_debian_does(old: str, new: str, verb: str, tmp_path: Path) -> None:
    paths = []
    for number, version in enumerate((old, new)):
        paths.append(tmp_path / str(number))
        package = base_package(version, binary=b"%d" % number)
        paths[-1].write_bytes(lock_bytes(FakeImage(packages=[package]).lock))
    ((change,),) = (each.parts for each in compare(*paths, files=FakeFiles()).differences)
    before = FakeImage(packages=[base_package(old, binary=b"0")]).lock
    after = FakeImage(packages=[base_package(new, binary=b"1")]).lock
    (cause,) = (change.cause for change in package_changes(before, after))
    assert change.subject == "package base"
    assert cause.text.startswith(f"package base {verb}: {old} from trixie")


def test_lock_with_another_comment_is_not_identical(tmp_path: Path) -> None:
    old, new = FakeImage().write(tmp_path / "old"), FakeImage().write(tmp_path / "new")
    lock = new / "keyturn.lock"
    lock.write_bytes(lock.read_bytes() + b"# note\n")
    for result in (compare(old, new, files=ALL), compare(old / "keyturn.lock", lock, files=ALL)):
        assert not result.identical
        assert find(result, "keyturn.lock").after == "only comments or spacing"


def test_lock_that_the_manifest_does_not_name_is_told(tmp_path: Path) -> None:
    old, new = FakeImage().write(tmp_path / "old"), FakeImage().write(tmp_path / "new")
    other = FakeImage(packages=[base_package("1.1"), kernel_package()]).lock
    (new / "keyturn.lock").write_bytes(lock_bytes(other))
    result = compare(old, new, files=ALL)
    (cause,) = find(result, "keyturn.lock").causes
    assert cause.kind is CauseKind.ALTERED
    assert cause.text.startswith(f"{new}/keyturn.lock is not the file that its manifest names")


def test_recipe_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    folder, other = FakeImage().write(tmp_path / "image"), FakeImage().write(tmp_path / "other")
    (folder / "keyturn.toml").write_bytes(b"\xff= nonsense")
    with pytest.raises(ImageFolderError, match="is not TOML"):
        compare(folder, other, files=ALL)


@pytest.mark.parametrize("artefacts", ['"text"', "[]", '{"kernel":"text"}', '{"kernel":{}}'])
def test_manifest_of_another_shape_does_no_harm(artefacts: str, tmp_path: Path) -> None:
    old, new = FakeImage().write(tmp_path / "old"), FakeImage().write(tmp_path / "new")
    manifest = json.loads((new / "manifest.json").read_bytes())
    manifest["artefacts"] = json.loads(artefacts)
    (new / "manifest.json").write_text(json.dumps(manifest, separators=(",", ":"), sort_keys=True))
    flip(new / "kernel", 1030)
    assert find(compare(old, new, files=ALL), "kernel")
