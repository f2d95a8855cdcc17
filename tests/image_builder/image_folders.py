"""Small but whole image folders for the tests of comparisons.

Real file systems, archives and disks, made-up packages.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from image_builder.cpio import cpio_bytes
from image_builder.disk import write_disk
from image_builder.erofs import write_erofs
from image_builder.image import Artefact
from image_builder.lockfile import Lock, LockedFile, LockedPackage, LockedWheel, PackageRole, lock_bytes
from image_builder.manifest import manifest_bytes
from image_builder.tree import BytesContent, Node, Tree
from image_builder.tree_paths import missing_parents
from image_builder.verity import VerityHasher, VerityStream, write_verity
from tests.image_builder.erofs_trees import directory, file, symlink, tree_of
from tests.support.pe_images import synthetic_pe

RECIPE = """\
[image]
name = "{name}"
version = "1"
[archive]
keyring = "keyring.gpg"
suites = ["trixie"]
[packages]
install = ["base"]
[boot]
stub-package = "systemd-boot-efi"
[kernel]
package = "linux-image"
command-line = [{command_line}]
[permissions]
setuid = [{setuid}]
[[user]]
name = "app"
uid = {uid}
gid = 1000
"""


def sha256(data: bytes) -> str:
    """Lower-case hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


@dataclass(kw_only=True)
class FakePackage:
    """A package with its files by path."""

    name: str
    version: str
    files: dict[str, bytes]
    role: PackageRole = PackageRole.ROOT

    @property
    def locked(self) -> LockedPackage:
        """The lock line."""
        content = repr((self.name, self.version, sorted(self.files.items()))).encode()
        return LockedPackage(
            name=self.name,
            version=self.version,
            architecture="amd64",
            role=self.role,
            size=len(content),
            sha256=sha256(content),
            path=f"pool/{self.name}_{self.version}.deb",
            suite="trixie",
            source=self.name,
            source_version=self.version,
        )


class FakeFiles:
    """Knows the files of the packages it was given, as the store would."""

    def __init__(self, *packages: FakePackage, wheels: Mapping[str, frozenset[str]] | None = None) -> None:
        self._packages = {package.locked.sha256: package for package in packages}
        self._wheels = wheels or {}

    def package(self, package: LockedPackage) -> Mapping[str, str] | None:
        """Paths and hashes."""
        found = self._packages.get(package.sha256)
        return {path: sha256(data) for path, data in found.files.items()} if found else None

    def wheel(self, wheel: LockedWheel) -> frozenset[str] | None:
        """Paths."""
        return self._wheels.get(wheel.sha256)


@dataclass(kw_only=True)
class FakeImage:
    """What an image is made of.

    The defaults are two packages, a local file and the files that a build writes.
    """

    packages: list[FakePackage] = field(
        default_factory=lambda: [base_package(), tool_package(), kernel_package()]
    )
    local: dict[str, bytes] = field(default_factory=lambda: {"etc/motd": b"hello\n"})
    agent: dict[str, bytes] = field(default_factory=lambda: {"usr/lib/keyturn/agent.py": b"print()\n"})
    wheels: list[LockedWheel] = field(default_factory=list)
    extra: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    name: str = "demo"
    command_line: tuple[str, ...] = ("quiet",)
    setuid: tuple[str, ...] = ()
    uid: int = 1000
    init: bytes = b"#!/bin/busybox sh\n"
    tool: str = "0.1.0"

    @property
    def recipe(self) -> bytes:
        """The recipe's bytes."""
        words = ", ".join(f'"{word}"' for word in self.command_line)
        setuid = ", ".join(f'"{path}"' for path in self.setuid)
        return RECIPE.format(name=self.name, command_line=words, setuid=setuid, uid=self.uid).encode()

    @property
    def lock(self) -> Lock:
        """The lock."""
        return Lock(
            architecture="amd64",
            recipe_sha256=sha256(self.recipe),
            request_sha256=sha256(b"request"),
            packages=tuple(package.locked for package in self.packages),
            wheels=tuple(self.wheels),
            files=tuple(_locked_file(path, data) for path, data in self.local.items()),
            agent=tuple(_locked_file(path, data) for path, data in self.agent.items()),
        )

    def root_files(self) -> dict[str, bytes]:
        """Contents of the root by path."""
        found = {
            path: data
            for package in self.packages
            if package.role is PackageRole.ROOT
            for path, data in package.files.items()
        }
        passwd = f"app:x:{self.uid}:1000\n".encode()
        return {**found, **self.local, **self.agent, "etc/passwd": passwd, **self.extra}

    def write(self, folder: Path) -> Path:
        """Write the image folder and return it."""
        folder.mkdir()
        root = io.BytesIO()
        hasher = VerityHasher()
        tree = _tree(self.root_files())
        for path, mode in self.modes.items():
            tree[path] = Node(path=path, kind=tree[path].kind, mode=mode, content=tree[path].content)
        links = {path: symlink(path, target) for path, target in self.links.items()}
        write_erofs(tree | links | missing_parents(tree | links), VerityStream(root, hasher))
        verity = hasher.finish()
        write_verity(verity, root)
        command_line = " ".join(("console=ttyS0", *self.command_line)).encode()
        kernels = [package for package in self.packages if package.role is PackageRole.KERNEL]
        kernel = synthetic_pe([(".text", kernels[0].files["boot/vmlinuz"])])
        modules = {f"modules/{path}": data for path, data in kernels[0].files.items() if path.endswith(".ko")}
        constants = {"etc/keyturn/verity": verity.root_hash, "etc/keyturn/cmdline": command_line}
        initrd = cpio_bytes(_tree({"init": self.init, **constants, **modules}))
        sections = [(".text", b"stub"), (".cmdline", command_line), (".initrd", initrd), (".linux", kernel)]
        artefacts = {
            Artefact.ROOT: root.getvalue(),
            Artefact.CMDLINE: command_line,
            Artefact.KERNEL: kernel,
            Artefact.INITRD: initrd,
            Artefact.UKI: synthetic_pe(sections),
        }
        for name, data in artefacts.items():
            (folder / name).write_bytes(data)
        esp = {"EFI/BOOT/BOOTX64.EFI": BytesContent(artefacts[Artefact.UKI])}
        write_disk(folder / Artefact.DISK, name=self.name, esp_files=esp, root=folder / Artefact.ROOT)
        self._write_documents(folder)
        return folder

    def _write_documents(self, folder: Path) -> None:
        hashes = {name.value: {"sha256": sha256((folder / name).read_bytes())} for name in Artefact}
        lock = lock_bytes(self.lock)
        empty = dict.fromkeys(
            ("version", "architecture", "dev", "verity", "uki", "kernel", "disk", "cmdline"), ""
        )
        manifest = {
            **empty,
            "schema": "keyturn-image/1",
            "name": self.name,
            "lock_sha256": sha256(lock),
            "recipe_sha256": sha256(self.recipe),
            "artefacts": hashes,
        }
        provenance = {"predicate": {"runDetails": {"builder": {"version": {"keyturn": self.tool}}}}}
        (folder / "keyturn.toml").write_bytes(self.recipe)
        (folder / "keyturn.lock").write_bytes(lock)
        (folder / "provenance.json").write_text(json.dumps(provenance))
        (folder / "sbom.cdx.json").write_text("{}")
        (folder / "manifest.json").write_bytes(manifest_bytes(manifest))


def base_package(version: str = "1.0", *, binary: bytes = b"ELF base" * 1000) -> FakePackage:
    """An ordinary package."""
    return FakePackage(
        name="base", version=version, files={"usr/bin/base": binary, "usr/share/base": b"same"}
    )


def tool_package() -> FakePackage:
    """A package that stays as it is."""
    return FakePackage(
        name="tool", version="2.0", files={"usr/bin/tool": b"ELF tool", "usr/lib/python3/tool.py": b"1"}
    )


def kernel_package(
    version: str = "6.12", *, text: bytes = b"kernel" * 100, module: bytes = b"module"
) -> FakePackage:
    """The kernel."""
    return FakePackage(
        name="linux-image",
        version=version,
        files={"boot/vmlinuz": text, "virtio_blk.ko": module},
        role=PackageRole.KERNEL,
    )


def _locked_file(path: str, data: bytes) -> LockedFile:
    return LockedFile(
        path=f"/{path}",
        source=path,
        size=len(data),
        sha256=sha256(data),
        mode=0o644,
        owner="root",
        group="root",
    )


def _tree(contents: Mapping[str, bytes]) -> Tree:
    nodes = [file(path, data) for path, data in contents.items()]
    folders: dict[str, Node] = {}
    for node in nodes:
        parent = node.parent
        while parent:
            folders[parent] = directory(parent)
            parent = parent.rpartition("/")[0]
    return tree_of([*folders.values(), *nodes])
