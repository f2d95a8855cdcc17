"""Templates of policies: parts of a strict one, one for each platform, and one for looking at evidence."""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files

from attestation.container import EvidencePlatform
from attestation.policy import Environment


def policy_template(platforms: Collection[EvidencePlatform], *, gpu: bool = False) -> str:
    """A commented TOML policy for ``platforms``, valid as it is and as strict as it can be: nothing is
    allowed that has to be listed, until it is listed.
    """
    environment = Environment.DEV if EvidencePlatform.SIM in platforms else Environment.RELEASE
    listed = [platform.value for platform in EvidencePlatform if platform in platforms]
    head = (
        _part("head")
        .replace("@platforms@", ", ".join(f'"{name}"' for name in listed))
        .replace("@environment@", environment.value)
    )
    sections = [
        _part("dcap").replace("@platform@", name) if name in _DCAP else _part(name) for name in listed
    ]
    return "\n".join([head, *sections, *([_part("gpu")] if gpu else [])])


def permissive_template() -> str:
    """A TOML policy that lets everything pass whose signatures hold: for looking at evidence only."""
    return _part("permissive")


_DCAP = ("tdx", "sgx", "sim")


def _part(name: str) -> str:
    return files("attestation.policies").joinpath(f"{name}.toml").read_text(encoding="utf-8")
