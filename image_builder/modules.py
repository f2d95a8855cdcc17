"""What an image takes from its kernel packages: the kernel, its configuration, modules in order of loading.

Module files are ELF objects, plain or compressed (``.ko``, ``.ko.xz``, ``.ko.zst``). Their section
``.modinfo`` holds NUL-terminated ``key=value`` texts (Linux ``include/linux/moduleparam.h``): ``depends``
(names, by commas), ``softdep`` (``pre: a b post: c``). In names ``-`` and ``_`` are the same.

The image gets modules decompressed, so that no measured byte comes from a compressor; the signature at a
module's end is over the plain bytes and stays valid.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from image_builder.deb import decompressed
from image_builder.kept import NO_FACTS, KeptFacts
from image_builder.tar_format import TarType
from image_builder.tree import BytesContent, Content, read_content
from image_builder.unpack import Member, Unpacked
from measurements.errors import KeyturnError

KIND = "modinfo-1"
_FOLDER = re.compile(r"(?:usr/)?lib/modules/([^/]+)/(.+)")
_MODULE = re.compile(r".*/([^/]+)\.ko(\.xz|\.zst)?")
_CONFIG = re.compile(
    r"CONFIG_(?:IMA(?:_.*)?|TCG_(?:TPM|TIS|CRB)|EFI_STUB|MODULE_SIG(?:_.*)?|DM_VERITY(?:_.*)?"
    r"|EROFS_FS|CRYPTO_SHA(?:256|512)|INTEL_TDX_GUEST|AMD_MEM_ENCRYPT|TDX_GUEST_DRIVER|SEV_GUEST|SECURITY_LOCKDOWN_LSM)"
)


class KernelError(KeyturnError):
    """Kernel packages that lack something the image needs."""

    code = "kernel"


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One module: ``file_name`` ends in ``.ko``, ``content`` holds the plain bytes."""

    name: str
    file_name: str
    content: Content


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleInfo:
    """The parts of ``.modinfo`` that decide about loading; names with ``_``."""

    depends: tuple[str, ...]
    before: tuple[str, ...]


class KernelPackages:
    """The unpacked packages of one kernel release."""

    def __init__(self, packages: Sequence[Unpacked], *, facts: KeptFacts = NO_FACTS) -> None:
        self._facts = facts
        self._files: dict[str, tuple[Unpacked, Member]] = {}
        for package in sorted(packages, key=lambda each: each.name):
            for member in package.members:
                if member.type is TarType.FILE:
                    self._files[member.path] = (package, member)
        releases = sorted({match[1] for path in self._files if (match := _FOLDER.fullmatch(path))})
        if len(releases) != 1:
            _refuse("kernel packages", f"hold {len(releases)} kernel releases {releases}, not one")
        self.release: str = releases[0]

    @property
    def image(self) -> Content:
        """The kernel itself, a PE image (``vmlinuz``)."""
        return self._one("vmlinuz")

    @cached_property
    def config(self) -> Mapping[str, str]:
        """The configuration's options that matter to measurements: ``CONFIG_X`` → ``y``, ``m`` or a text.

        An option that is off is absent.
        """
        lines = read_content(self._one("config")).decode("ascii", "replace").splitlines()
        pairs = (line.partition("=")[::2] for line in lines if not line.startswith("#"))
        return {key: value.strip('"') for key, value in sorted(pairs) if _CONFIG.fullmatch(key)}

    @cached_property
    def builtin(self) -> frozenset[str]:
        """Names of modules that are part of the kernel."""
        lines = read_content(self._one("modules.builtin")).decode("ascii", "replace").splitlines()
        return frozenset(_module_name(line.rpartition("/")[2].removesuffix(".ko")) for line in lines)

    def load_order(self, names: Iterable[str]) -> tuple[Module, ...]:
        """``names`` and everything they depend on, each once, dependencies first; built-in ones are left out.

        Raises ``KernelError`` for a name that the kernel does not have, and for a circle.
        """
        order: dict[str, Module] = {}
        for name in names:
            self._visit(_module_name(name), order, ())
        return tuple(order.values())

    def _visit(self, name: str, order: dict[str, Module], path: tuple[str, ...]) -> None:
        if name in order or name in self.builtin:
            return
        if name in path:
            _refuse(f"module {name}", f"depends on itself: {' → '.join((*path, name))}")
        module, info = self._module(name, wanted_by=path[-1] if path else "")
        for dependency in info.depends:
            self._visit(dependency, order, (*path, name))
        for soft in info.before:
            if soft in self._modules:
                self._visit(soft, order, (*path, name))
        order[name] = module

    def _module(self, name: str, *, wanted_by: str) -> tuple[Module, ModuleInfo]:
        path = self._modules.get(name)
        if path is None:
            near = difflib.get_close_matches(name, sorted(self._modules), n=3)
            wanted = f", which {wanted_by} depends on" if wanted_by else ""
            _refuse(
                f"module {name}",
                f"kernel {self.release} has no such module{wanted}",
                advice=f"near names: {', '.join(near)}" if near else "correct kernel.modules in the recipe",
            )
        package, member = self._files[path]
        chunks = package.content(member).chunks()
        plain = b"".join(decompressed(chunks, name=path, package=package.name))
        module = Module(name=name, file_name=f"{name}.ko", content=BytesContent(plain))
        return module, read_module_info(plain, subject=path, facts=self._facts)

    @cached_property
    def _modules(self) -> Mapping[str, str]:
        """Paths of the module files by name."""
        found = ((match, path) for path in self._files if (match := _MODULE.fullmatch(path)))
        return {_module_name(match[1]): path for match, path in found}

    def _one(self, name: str) -> Content:
        candidates = (
            f"usr/lib/modules/{self.release}/{name}",
            f"lib/modules/{self.release}/{name}",
            f"boot/{name}-{self.release}",
        )
        path = next((path for path in candidates if path in self._files), None)
        if path is None:
            _refuse(f"kernel {self.release}", f"its packages have no {name}")
        package, member = self._files[path]
        return package.content(member)


def read_module_info(data: bytes, *, subject: str, facts: KeptFacts = NO_FACTS) -> ModuleInfo:
    """The dependencies in the plain module ``data``; raises ``KernelError`` if it has no ``.modinfo``."""
    depends, before = facts.of(
        KIND, hashlib.sha256(data).hexdigest(), lambda: _find_module_info(data, subject)
    )
    return ModuleInfo(depends=tuple(depends), before=tuple(before))


def _find_module_info(data: bytes, subject: str) -> tuple[list[str], list[str]]:
    """Names of the modules to load before: hard and soft dependencies."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
    except ELFError as error:
        _refuse(subject, f"is not a kernel module: {error}")
    if section is None:
        _refuse(subject, "is not a kernel module: no section .modinfo")
    pairs = [entry.partition("=")[::2] for entry in section.data().decode("utf-8", "replace").split("\0")]
    depends = [name for key, value in pairs if key == "depends" for name in value.split(",") if name]
    softdeps = [name for key, value in pairs if key == "softdep" for name in _before(value)]
    return list(map(_module_name, depends)), list(map(_module_name, softdeps))


def _before(softdep: str) -> Iterator[str]:
    """The names behind ``pre:``."""
    inside = False
    for word in softdep.split():
        if word.endswith(":"):
            inside = word == "pre:"
        elif inside:
            yield word


def _module_name(text: str) -> str:
    return text.replace("-", "_")


def _refuse(
    subject: str, reason: str, *, advice: str = "choose other kernel packages, and lock again"
) -> NoReturn:
    raise KernelError(reason, subject=subject, advice=advice)
