"""Templates of policies: parts of a strict one, one for each platform, and one for looking at evidence."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.resources import files

from attestation.container import EvidencePlatform
from attestation.policy import Environment

LOOKED_AT = (EvidencePlatform.TDX, EvidencePlatform.SGX, EvidencePlatform.SNP, EvidencePlatform.NITRO)
"""Platforms whose evidence stands alone and needs no roots of one's own."""

_DCAP = ("tdx", "sgx", "sim")
_SECTION = re.compile(r"^\[([^\]]+)\]", re.MULTILINE)


def policy_template(platforms: Collection[EvidencePlatform], *, gpu: bool = False) -> str:
    """A commented TOML policy for ``platforms``, valid as it is and as strict as it can be: nothing is
    allowed that has to be listed, until it is listed.
    """
    environment = Environment.DEV if EvidencePlatform.SIM in platforms else Environment.RELEASE
    listed = _listed(platforms)
    head = _with_platforms(_part("head"), listed).replace("@environment@", environment.value)
    sections = [
        _part("dcap").replace("@platform@", name) if name in _DCAP else _part(name) for name in listed
    ]
    return "\n".join([head, *sections, *([_part("gpu")] if gpu else [])])


def permissive_template(platforms: Collection[EvidencePlatform] = LOOKED_AT, *, gpu: bool = False) -> str:
    """A TOML policy that lets everything of ``platforms`` pass whose signatures hold: for looking at evidence
    only.
    """
    listed = _listed(platforms)
    head, *sections = re.split(r"\n\n(?=(?:# .*\n)*\[)", _part("permissive").rstrip("\n"))
    texts = {match[1]: text for text in sections if (match := _SECTION.search(text))}
    names = [*listed, *(["gpu"] if gpu else [])]
    parts = [
        texts["@platform@"].replace("@platform@", name) if name in _DCAP else texts[name] for name in names
    ]
    return "\n\n".join([_with_platforms(head, listed), *parts]) + "\n"


def _listed(platforms: Collection[EvidencePlatform]) -> list[str]:
    return [platform.value for platform in EvidencePlatform if platform in platforms]


def _with_platforms(head: str, listed: list[str]) -> str:
    return head.replace("@platforms@", ", ".join(f'"{name}"' for name in listed))


def _part(name: str) -> str:
    return files("attestation.policies").joinpath(f"{name}.toml").read_text(encoding="utf-8")
