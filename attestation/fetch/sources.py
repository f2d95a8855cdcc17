"""Where collateral comes from. Base addresses come from options or are the vendors'; evidence never chooses
one.

============  =======================================================================================
source        API
============  =======================================================================================
``INTEL``     Intel Provisioning Certification Service, version 4, or a PCCS (same paths)
``ROOT_CRL``  host of Intel's root certificate and its revocation list; a PCCS serves it itself
``AMD``       AMD Key Distribution Service (AMD 57230, revision 1.00)
``NVIDIA``    NVIDIA Reference Integrity Manifest service, version 1
``OCSP``      OCSP responder of NVIDIA's device certificates
============  =======================================================================================
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn
from urllib.parse import urlsplit

from attestation.fetch.errors import FetchError


class Source(StrEnum):
    """Who is asked."""

    INTEL = "intel"
    ROOT_CRL = "root-crl"
    AMD = "amd"
    NVIDIA = "nvidia"
    OCSP = "ocsp"


VENDORS: Mapping[Source, str] = {
    Source.INTEL: "https://api.trustedservices.intel.com",
    Source.ROOT_CRL: "https://certificates.trustedservices.intel.com",
    Source.AMD: "https://kdsintf.amd.com",
    Source.NVIDIA: "https://rim.attestation.nvidia.com",
    Source.OCSP: "https://ocsp.ndis.nvidia.com",
}
_API_PATHS = ("/sgx/certification/v4", "/tdx/certification/v4")
_MAX_LENGTH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Base addresses without a slash at the end. ``pccs`` says that ``INTEL`` is a PCCS, which has the
    root's revocation list under its own path.
    """

    bases: Mapping[Source, str]
    pccs: bool = False

    def url(self, source: Source, target: str) -> str:
        """The address of ``target`` (a path, which may have a query) at ``source``."""
        return f"{self.bases[source]}{target}"


def sources(
    *, pccs: str | None = None, kds: str | None = None, rim: str | None = None, ocsp: str | None = None
) -> Sources:
    """The vendors, but for what is given; raises ``FetchError`` for an address that may not be used."""
    bases = dict(VENDORS)
    if pccs is not None:
        base = parse_base(pccs, "--pccs")
        for path in _API_PATHS:
            base = base.removesuffix(path)
        bases[Source.INTEL] = bases[Source.ROOT_CRL] = base
    if kds is not None:
        bases[Source.AMD] = parse_base(kds, "--kds")
    if rim is not None:
        bases[Source.NVIDIA] = parse_base(rim, "--rim")
    if ocsp is not None:
        bases[Source.OCSP] = parse_base(ocsp, "--ocsp")
    return Sources(bases=bases, pccs=pccs is not None)


def parse_base(text: str, option: str) -> str:
    """A base address: ``https://host[:port][/path]``, or ``http`` to this machine; raises ``FetchError``."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        _refuse(option, f"{text!r} is no address: {error}")
    if not text.isascii() or len(text) > _MAX_LENGTH or any(character <= " " for character in text):
        _refuse(option, "is no address of printable ASCII characters")
    if not host or parts.query or parts.fragment or "?" in text or "#" in text:
        _refuse(option, f"{text!r} is not https://host[:port][/path]")
    if parts.username is not None or parts.password is not None:
        _refuse(option, "has a name or password in the address")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        _refuse(option, f"{text!r} is not https, and not on this machine")
    return text.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse(option: str, reason: str) -> NoReturn:
    raise FetchError(reason, subject=option, advice="give https://host[:port], as the service names itself")
